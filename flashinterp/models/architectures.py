"""The registry of architectures: per family, where up, gate, down, the norms and the head are, and what joins them.

To add one, add a `Family` here and a line to ``fixtures/architectures.py``: the probe and the table of tests in
``tests/models/test_architectures.py`` then prove it, or say at which joint it is wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

from flashinterp.errors import LayoutError

Stream = Literal["added", "parallel", "added, then normed"]
"""How an MLP's output joins the residual stream: to what it read; to what the attention read; or before a norm."""


@dataclass(frozen=True)
class Family:
    """One architecture. Module names are within a decoder layer unless they are whole paths.

    Attributes:
        layers: path of the list of decoder layers.
        mlp: the module that holds the matrices, in a layer; "" where the layer itself does.
        up, gate, down: the matrices in it; gate None where there is none, the same as up where they are fused,
            gate first. "up" is the first MLP matrix where there is no gate.
        transposed: Conv1D: weights are [in, out].
        experts: the module of routed experts in the MLP, in those layers that have one.
        shared: the MLP beside the routed experts, in the MLP.
        pre_norm, post_norm: the norms in front of the MLP and after it, in a layer.
        final_norm: path of the norm in front of the head.
        centred: LayerNorm, not RMSNorm.
        unit_offset: norms multiply by 1 + w.
        stream: how the output joins the residual stream.
        attention: the module whose output joins it together with that of a parallel MLP.
        head_projection: path of a matrix between the final norm and the head.
        activation: the config's field with the activation's name.
        multiplier: the config's field by which the MLP's output is multiplied before it is added.
        logit_scale, logit_divisor, softcap: the config's fields that change the logits; "" for none.
        swiglu_limit: the gpt_oss formula, with this limit and alpha where the config does not say.
        remark: what is special, for the table of supported models.
        models: some that people load.
    """

    layers: str = "model.layers"
    mlp: str = "mlp"
    up: str = "up_proj"
    gate: str | None = "gate_proj"
    down: str = "down_proj"
    transposed: bool = False
    experts: str = "experts"
    shared: str = "shared_experts"
    pre_norm: str | None = "post_attention_layernorm"
    post_norm: str | None = None
    final_norm: str | None = "model.norm"
    centred: bool = False
    unit_offset: bool = False
    stream: Stream = "added"
    attention: str = "self_attn"
    head_projection: str = ""
    activation: str = "hidden_act"
    multiplier: str = ""
    logit_scale: str = ""
    logit_divisor: str = ""
    softcap: str = ""
    swiglu_limit: tuple[float, float] | None = None
    remark: str = ""
    models: str = ""


_FUSED = "gate_up_proj"
_LLAMA = Family()
_MOE = replace(_LLAMA, remark="experts")
_GEMMA2 = Family(
    pre_norm="pre_feedforward_layernorm",
    post_norm="post_feedforward_layernorm",
    unit_offset=True,
    activation="hidden_activation",
    softcap="final_logit_softcapping",
    remark="norms 1 + w, a norm after the MLP, soft-capped logits",
)
_COHERE = Family(
    pre_norm="input_layernorm",
    centred=True,
    stream="parallel",
    logit_scale="logit_scale",
    remark="LayerNorm, MLP beside the attention, scaled logits",
)
_OPT = Family(
    layers="model.decoder.layers",
    mlp="",
    up="fc1",
    gate=None,
    down="fc2",
    pre_norm="final_layer_norm",
    final_norm="model.decoder.final_layer_norm",
    centred=True,
    head_projection="model.decoder.project_out",
    activation="activation_function",
    remark="no gate, LayerNorm",
    models="OPT",
)
_NEOX = Family(
    layers="gpt_neox.layers",
    up="dense_h_to_4h",
    gate=None,
    down="dense_4h_to_h",
    final_norm="gpt_neox.final_layer_norm",
    centred=True,
    stream="parallel",
    attention="attention",
    remark="no gate, LayerNorm, MLP beside the attention (or after it)",
    models="Pythia, GPT-NeoX",
)
_STABLELM = replace(
    _LLAMA, centred=True, remark="LayerNorm, MLP after the attention (or beside it)", models="StableLM 2, 3B"
)
_OLMO2 = replace(
    _LLAMA,
    pre_norm=None,
    post_norm="post_feedforward_layernorm",
    remark="no norm before the MLP, one after it",
    models="OLMo 2",
)


def _stablelm(config: Any) -> Family:
    if not config.use_parallel_residual:
        return _STABLELM
    return replace(_STABLELM, pre_norm="input_layernorm", stream="parallel")


def _neox(config: Any) -> Family:
    return _NEOX if config.use_parallel_residual else replace(_NEOX, stream="added")


def _opt(config: Any) -> Family:
    if config.do_layer_norm_before:
        return _OPT
    return replace(_OPT, pre_norm=None, post_norm="final_layer_norm", final_norm=None, stream="added, then normed")


FAMILIES: dict[str, Family | Callable[[Any], Family]] = {
    "llama": replace(_LLAMA, models="Llama 2, 3, 3.1, 3.2, 3.3, TinyLlama, SmolLM2"),
    "mistral": replace(_LLAMA, models="Mistral 7B, Nemo, Small (text)"),
    "qwen2": replace(_LLAMA, models="Qwen2, Qwen2.5, QwQ"),
    "qwen3": replace(_LLAMA, models="Qwen3, dense"),
    "smollm3": replace(_LLAMA, models="SmolLM3"),
    "seed_oss": replace(_LLAMA, models="Seed-OSS"),
    "ernie4_5": replace(_LLAMA, models="ERNIE 4.5, dense"),
    "arcee": replace(_LLAMA, gate=None, remark="no gate", models="AFM 4.5B"),
    "nemotron": Family(
        gate=None, centred=True, unit_offset=True, remark="no gate, LayerNorm with 1 + w", models="Nemotron-4, Minitron"
    ),
    "starcoder2": Family(
        up="c_fc", gate=None, down="c_proj", centred=True, remark="no gate, LayerNorm", models="StarCoder2"
    ),
    "phi": Family(
        up="fc1",
        gate=None,
        down="fc2",
        pre_norm="input_layernorm",
        final_norm="model.final_layernorm",
        centred=True,
        stream="parallel",
        remark="no gate, LayerNorm, MLP beside the attention, a bias on the logits",
        models="Phi-1, 1.5, 2",
    ),
    "stablelm": _stablelm,
    "gemma": replace(_LLAMA, unit_offset=True, remark="norms 1 + w", models="Gemma"),
    "gemma2": replace(_GEMMA2, models="Gemma 2"),
    "gemma3_text": replace(_GEMMA2, models="Gemma 3 270M, 1B"),
    # The multimodal class does not apply the soft-cap that its text config may name.
    "gemma3": replace(
        _GEMMA2,
        layers="model.language_model.layers",
        final_norm="model.language_model.norm",
        softcap="",
        remark="the text part; norms 1 + w, a norm after the MLP",
        models="Gemma 3 4B, 12B, 27B",
    ),
    "phi3": replace(_LLAMA, up=_FUSED, gate=_FUSED, remark="gate and up in one matrix", models="Phi-3, Phi-3.5, Phi-4"),
    "olmo2": _OLMO2,
    "olmo3": replace(_OLMO2, models="OLMo 3"),
    "exaone4": replace(_OLMO2, models="EXAONE 4"),
    "granite": replace(
        _LLAMA,
        multiplier="residual_multiplier",
        logit_divisor="logits_scaling",
        remark="scaled residual and logits",
        models="Granite 3",
    ),
    "cohere": replace(_COHERE, models="Command R, Aya"),
    "cohere2": replace(_COHERE, models="Command R7B, Command A"),
    "glm4": replace(
        _LLAMA,
        up=_FUSED,
        gate=_FUSED,
        post_norm="post_mlp_layernorm",
        remark="gate and up in one matrix, a norm after the MLP",
        models="GLM-4 0414",
    ),
    "gpt2": Family(
        layers="transformer.h",
        up="c_fc",
        gate=None,
        down="c_proj",
        transposed=True,
        pre_norm="ln_2",
        final_norm="transformer.ln_f",
        centred=True,
        attention="attn",
        activation="activation_function",
        remark="no gate, LayerNorm, matrices stored [in, out]",
        models="GPT-2, DistilGPT-2",
    ),
    "gpt_neox": _neox,
    "opt": _opt,
    "gptj": Family(
        layers="transformer.h",
        up="fc_in",
        gate=None,
        down="fc_out",
        pre_norm="ln_1",
        final_norm="transformer.ln_f",
        centred=True,
        stream="parallel",
        attention="attn",
        activation="activation_function",
        remark="no gate, LayerNorm, MLP beside the attention, a bias on the logits",
        models="GPT-J",
    ),
    "mixtral": replace(_MOE, models="Mixtral"),
    "qwen3_moe": replace(_MOE, remark="experts, dense layers among them", models="Qwen3 30B-A3B, 235B-A22B"),
    "olmoe": replace(_MOE, models="OLMoE"),
    "deepseek_v3": replace(_MOE, remark="dense layers first, then experts and a shared MLP", models="DeepSeek-V3, R1"),
    "gpt_oss": replace(
        _MOE,
        swiglu_limit=(7.0, 1.702),
        remark="experts; gate and up interleaved, with biases, cut at ±7; (u + 1) · act(g)",
        models="gpt-oss",
    ),
}
"""By the config's ``model_type``; a function where the config decides."""


def family_of(config: Any) -> Family:
    """The entry of a transformers config.

    Raises:
        LayoutError: there is none.
    """
    entry = FAMILIES[check_family(getattr(config, "model_type", None))]
    return entry if isinstance(entry, Family) else entry(config)


def check_family(model_type: Any) -> str:
    """Return an architecture's name if its layout is known.

    Raises:
        LayoutError: it is not.
    """
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise LayoutError(
            f"architecture {model_type!r} is not known: known are {', '.join(sorted(FAMILIES))}; "
            "a model of another family needs an entry in flashinterp/models/architectures.py"
        )
    return model_type
