"""Every architecture: what is read from its checkpoint, against what transformers' own modules hold and compute.

To add one, add a line to ``fixtures/architectures.py`` and, where its parts are called otherwise than Llama's, their
names to ``tests/by_hand.py`` and to the functions under "the model's own modules". They say again what the registry
says, in float64 and without it. Layouts made wrong are in ``test_architectures_refused.py``.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from fixtures.architectures import ARCHITECTURES, EPSILON, EXPERT_NEURONS, HIDDEN, NEURONS, make
from flashinterp.decoding.decode import decode
from flashinterp.decoding.lens_rows import lens_rows
from flashinterp.decoding.neuron_map import NeuronMap
from flashinterp.errors import LayoutError
from flashinterp.models.checkpoint import open_checkpoint
from flashinterp.models.layout_check import probe
from flashinterp.models.norms import cap
from flashinterp.neuron_index import NeuronIndex
from flashinterp.neurons import LENSES, Block, NeuronId
from tests.architecture_cases import DISTINCT, Case, by_kind, entry_of
from tests.by_hand import DOWN_NAMES, UP_NAMES, layers_of, matrix, named
from tests.helpers import assert_one_line_with_next_step, log_mean_top, log_sum_exp, n_hooks

CENTRED = ("cohere", "cohere2", "gpt2", "gpt_neox", "gptj", "opt", "phi", "starcoder2", "stablelm", "nemotron")


# --- the model's own modules ------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """One MLP as the live model has it: vectors [F, d] and the modules of its norms; biases of up, gate and down."""

    block: Block
    up: Tensor
    gate: Tensor | None
    down: Tensor
    biases: tuple[Tensor | None, Tensor | None, Tensor | None]
    pre: Any
    post: Any


def _parts(model: Any) -> list[Part]:
    """All MLPs of a model, in order."""
    kind, found = model.config.model_type, []
    for number, layer in enumerate(layers_of(model)):
        norms = _norms(layer, kind, model.config)
        mlp = getattr(layer, "mlp", layer)
        dense = getattr(mlp, "shared_experts", None) if hasattr(mlp, "experts") else mlp
        if dense is not None:
            found.append(Part(Block(number), *_dense(dense), *norms))
        if hasattr(mlp, "experts"):
            for expert in range(mlp.experts.down_proj.shape[0]):
                found.append(Part(Block(number, expert), *_expert(mlp.experts, expert, kind), *norms))
    return found


def _dense(mlp: Any) -> tuple[Tensor, Tensor | None, Tensor, tuple[Tensor | None, ...]]:
    """up, gate, down and their biases."""
    down = named(mlp, DOWN_NAMES)
    if hasattr(mlp, "gate_up_proj"):
        gate, up = mlp.gate_up_proj.weight.chunk(2)
        return up, gate, matrix(down).T, (None, None, None)
    up, gate = named(mlp, UP_NAMES), getattr(mlp, "gate_proj", None)
    biases = (up.bias, None if gate is None else gate.bias, down.bias)
    return matrix(up), None if gate is None else matrix(gate), matrix(down).T, biases


def _expert(experts: Any, e: int, kind: str) -> tuple[Tensor, Tensor | None, Tensor, tuple[Tensor | None, ...]]:
    if kind == "gpt_oss":
        both, bias = experts.gate_up_proj[e].T, experts.gate_up_proj_bias[e]
        return both[1::2], both[::2], experts.down_proj[e], (bias[1::2], bias[::2], experts.down_proj_bias[e])
    gate, up = experts.gate_up_proj[e].chunk(2)
    return up, gate, experts.down_proj[e].T, (None, None, None)


def _norms(layer: Any, kind: str, config: Any) -> tuple[Any, Any]:
    """The norm in front of a layer's MLP, and the one after it."""
    if kind in ("gemma2", "gemma3", "gemma3_text"):
        return layer.pre_feedforward_layernorm, layer.post_feedforward_layernorm
    if kind in ("olmo2", "olmo3", "exaone4"):
        return None, layer.post_feedforward_layernorm
    if kind == "opt":
        return (layer.final_layer_norm, None) if config.do_layer_norm_before else (None, layer.final_layer_norm)
    if kind == "stablelm" and config.use_parallel_residual:
        return layer.input_layernorm, None
    first = dict.fromkeys(("cohere", "cohere2", "phi"), "input_layernorm")
    names = {**first, "gpt2": "ln_2", "gptj": "ln_1"}
    return getattr(layer, names.get(kind, "post_attention_layernorm")), getattr(layer, "post_mlp_layernorm", None)


def _final_norm(model: Any) -> Any:
    decoder = model.get_decoder()
    names = ("norm", "ln_f", "final_layer_norm", "final_layernorm")
    return next(getattr(decoder, n) for n in names if hasattr(decoder, n))


def _gamma(norm: Any, kind: str) -> Tensor:
    weight = norm.weight.double()
    return 1 + weight if kind.startswith("gemma") or kind == "nemotron" else weight


def _normed(x: Tensor, norm: Any, kind: str) -> Tensor:
    """A final norm without its bias, as its family's paper writes it."""
    if kind in CENTRED:
        x = x - x.mean(-1, keepdim=True)
    return x / (x.pow(2).mean(-1, keepdim=True) + _epsilon(kind)).sqrt() * _gamma(norm, kind)


def _epsilon(kind: str) -> float:
    return 1e-5 if kind == "opt" else EPSILON


def _head(model: Any) -> Tensor:
    """U [V, d], float64."""
    kind, config, head = model.config.model_type, model.config, model.lm_head.weight.double()
    if kind == "opt" and model.get_decoder().project_out is not None:
        head = head @ model.get_decoder().project_out.weight.double()
    if kind in ("cohere", "cohere2"):
        head = head * config.logit_scale
    return head / config.logits_scaling if kind == "granite" else head


def _softcap(model: Any) -> float | None:
    return model.config.final_logit_softcapping if model.config.model_type in ("gemma2", "gemma3_text") else None


def _logits(model: Any, parts: list[Part], lens: str) -> NDArray[np.float64]:
    """[N, V] the logits of a lens."""
    kind, final, softcap, rows = model.config.model_type, _final_norm(model), _softcap(model), []
    for part in parts:
        vectors = {"paper": part.up, "read": part.up, "gate": part.gate}.get(lens, part.down)
        assert vectors is not None
        w = vectors.double()
        passed = {"read": part.pre, "gate": part.pre, "write": part.post}.get(lens)
        # opt-350m's second norm is of the whole stream, and no vector passes it alone.
        if passed is not None and not (kind == "opt" and lens == "write"):
            w = w * _gamma(passed, kind)
        rows.append(_normed(w, final, kind) if lens in ("read", "gate", "write") and final is not None else w)
    z = torch.cat(rows) @ _head(model).T
    return (z if softcap is None else softcap * (z / softcap).tanh()).numpy()


# --- folder and live model --------------------------------------------------------------------------


@pytest.mark.parametrize("name", by_kind(ARCHITECTURES))
def test_a_folder_and_the_live_model_have_the_modules_vectors(name: str, case: Callable[[str], Case]) -> None:
    one = case(name)
    for part in _parts(one.model):
        for checkpoint in (one.checkpoint, one.live):
            for kind, vectors, bias in zip(
                ("up", "gate", "down"), (part.up, part.gate, part.down), part.biases, strict=True
            ):
                if vectors is None:
                    continue
                assert torch.equal(checkpoint.rows(kind, part.block), vectors), (kind, part.block)  # type: ignore[arg-type]
                got = checkpoint.bias(kind, part.block)  # type: ignore[arg-type]
                assert (got is None) == (bias is None), (kind, part.block)
                assert bias is None or torch.equal(got, bias), (kind, part.block)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", by_kind(ARCHITECTURES))
def test_a_folder_and_the_live_model_have_the_modules_norms(name: str, case: Callable[[str], Case]) -> None:
    one = case(name)
    wanted = [("pre", part.block.layer, part.pre) for part in _parts(one.model)]
    wanted += [("post", part.block.layer, part.post) for part in _parts(one.model)]
    for kind, layer, module in [*wanted, ("final", None, _final_norm(one.model))]:
        for checkpoint in (one.checkpoint, one.live):
            norm = checkpoint.norm(kind, layer)  # type: ignore[arg-type]
            assert (norm is None) == (module is None), (kind, layer)
            if norm is None:
                continue
            assert norm.weight is not None
            torch.testing.assert_close(norm.weight.double(), _gamma(module, one.kind), rtol=1e-6, atol=0)
            bias = getattr(module, "bias", None)
            assert (norm.bias is None) == (bias is None), (kind, layer)
            assert bias is None or torch.equal(norm.bias, bias), (kind, layer)
            assert norm.eps == _epsilon(one.kind), (kind, layer)


@pytest.mark.parametrize("name", by_kind(ARCHITECTURES))
def test_a_folder_and_the_live_model_have_the_same_head(name: str, case: Callable[[str], Case]) -> None:
    one, tied = case(name), ARCHITECTURES[name].tied
    assert (one.model.get_output_embeddings().weight is one.model.get_input_embeddings().weight) == tied
    for checkpoint in (one.checkpoint, one.live):
        assert checkpoint.tied == tied
        torch.testing.assert_close(checkpoint.head().double(), _head(one.model), rtol=1e-6, atol=1e-7)
        assert checkpoint.head_dtype() == checkpoint.head().dtype
        bias = checkpoint.head_bias()
        assert (bias is None) == (one.model.lm_head.bias is None)
        assert bias is None or torch.equal(bias, one.model.lm_head.bias)
    assert torch.equal(one.checkpoint.head(), one.live.head())


@pytest.mark.parametrize("name", by_kind(ARCHITECTURES))
def test_the_roster_has_the_widths_of_the_models_own_modules(name: str, case: Callable[[str], Case]) -> None:
    one = case(name)
    want = NeuronIndex(
        tuple(part.block for part in _parts(one.model)), tuple(len(part.up) for part in _parts(one.model))
    )
    assert one.checkpoint.layout.roster == one.live.layout.roster == want
    assert one.checkpoint.layout == one.live.layout


def test_widths_differ_between_the_blocks_of_a_model(case: Callable[[str], Case]) -> None:
    """If all blocks were alike, the tests here could not tell one F from another."""
    roster = case("deepseek_v3").checkpoint.layout.roster
    widths = [roster.width(block) for block in (Block(0), Block(1), Block(1, 3))]
    assert widths == [NEURONS, 2 * EXPERT_NEURONS, EXPERT_NEURONS]
    assert case("gpt2-inner").checkpoint.layout.roster.width(2) == 4 * HIDDEN


# --- decode -----------------------------------------------------------------------------------------


def _assert_decoded(m: NeuronMap, z: NDArray[np.float64]) -> None:
    """A map is the best tokens of logits [N, V], within the rounding of float32 over d terms."""
    error = 1e-5 * np.abs(z).max()
    for pole, sign in (("+", 1.0), ("-", -1.0)):
        ids, logits, lse, mean = m.pole_arrays(pole)  # type: ignore[arg-type]
        exact = sign * z
        best = -np.sort(-exact, axis=1)
        top = best[:, : ids.shape[1]]
        np.testing.assert_allclose(logits, top, rtol=0, atol=error)
        np.testing.assert_allclose(np.take_along_axis(exact, ids.astype(np.int64), axis=1), top, rtol=0, atol=error)
        np.testing.assert_allclose(lse, log_sum_exp(exact), rtol=0, atol=error + 1e-5)
        np.testing.assert_allclose(mean, log_mean_top(best[:, :100]), rtol=0, atol=error + 1e-5)


@pytest.mark.parametrize("lens", LENSES)
@pytest.mark.parametrize("name", by_kind(ARCHITECTURES))
def test_each_lens_is_what_the_method_says(name: str, lens: str, case: Callable[[str], Case]) -> None:
    one = case(name)
    if lens == "gate" and _parts(one.model)[0].gate is None:
        with pytest.raises(LayoutError, match="no gate: choose a lens of paper, read, write, logit-lens") as caught:
            decode(one.checkpoint, lens=lens)
        assert_one_line_with_next_step(caught.value)
        return
    assert lens in {known.name for known in one.checkpoint.layout.lenses}
    _assert_decoded(decode(one.checkpoint, lens=lens, top_k=50), _logits(one.model, _parts(one.model), lens))


@pytest.mark.parametrize("lens", ["paper", "write"])
@pytest.mark.parametrize("name", by_kind(DISTINCT))
def test_bfloat16_weights_are_ranked_in_float32(name: str, lens: str, case: Callable[[str], Case]) -> None:
    """Neither the logit scale nor the projection, nor a γ, may be rounded to the weights' dtype."""
    half = open_checkpoint(_half(case(name)))
    half.vocabulary = case(name).checkpoint.vocabulary
    assert half.rows("up", half.layout.roster.blocks[0]).dtype == torch.bfloat16
    _assert_decoded(decode(half, lens=lens, top_k=50), _logits(half.model, _parts(half.model), lens))


def _half(one: Case) -> Any:
    return copy.deepcopy(one.model).to(torch.bfloat16)


@pytest.mark.parametrize("name", by_kind(DISTINCT))
def test_every_neuron_has_a_name_that_leads_back_to_it(name: str, case: Callable[[str], Case]) -> None:
    one = case(name)
    m = decode(one.checkpoint, top_k=20)
    names = [str(m.neuron(i)) for i in range(len(m))]
    assert names == [
        str(NeuronId(part.block.layer, n, part.block.expert)) for part in _parts(one.model) for n in range(len(part.up))
    ]
    assert [m.index(neuron) for neuron in names] == list(range(len(m)))
    assert ("L2E3N39" in names) == any(part.block == Block(2, 3) for part in _parts(one.model))


@pytest.mark.parametrize("name", by_kind(DISTINCT))
def test_words_and_find_are_of_the_neuron_that_is_named(name: str, case: Callable[[str], Case], tmp_path: Path) -> None:
    """In every MLP of the model, also after the map was saved and loaded."""
    one = case(name)
    m = decode(one.checkpoint, save_to=tmp_path / "map.safetensors")
    assert m.roster == one.checkpoint.layout.roster
    z = _logits(one.model, _parts(one.model), "paper")
    scores = np.stack([sign * z - log_mean_top(sign * z)[:, None] for sign in (1, -1)], axis=1)  # [N, 2, V]
    start = 0
    for part in _parts(one.model):
        n = len(part.up) - 1
        neuron, i = NeuronId(part.block.layer, n, part.block.expert), start + n
        word = m.words(str(neuron), 1, excluded=True)[0]
        assert abs(z[i, word.token.id] - z[i].max()) <= 1e-5 * np.abs(z).max()
        for asked in ({}, {"checkpoint": one.checkpoint}):
            found = m.find(word.token.id, n=1, **asked)[0]  # type: ignore[arg-type]
            at = (m.index(found.neuron), "+-".index(found.pole))
            best = scores[..., word.token.id].max()
            assert scores[(*at, word.token.id)] == pytest.approx(best, abs=1e-4)
            assert np.log(found.score) == pytest.approx(best, abs=1e-4)
        start += len(part.up)


@pytest.mark.parametrize("name", by_kind(DISTINCT))
def test_one_layer_alone_is_that_part_of_the_map(name: str, case: Callable[[str], Case]) -> None:
    one = case(name)
    whole, part = decode(one.checkpoint, top_k=20), decode(one.checkpoint, top_k=20, layers=[1])
    own = whole.roster.layer_span(1)
    assert part.roster == whole.roster.of_layers([1])
    assert part.neuron(0) == whole.neuron(own.start)
    np.testing.assert_array_equal(part.top_ids, whole.top_ids[own])


# --- the head alone ---------------------------------------------------------------------------------


@contextmanager
def _last_layer_gives(model: Any, h: Tensor) -> Iterator[None]:
    """Hidden states [1, T, d] in place of what the last decoder layer gives."""
    last = layers_of(model)[-1]
    handle = last.register_forward_hook(lambda module, args, out: (h, *out[1:]) if isinstance(out, tuple) else h)
    try:
        yield
    finally:
        handle.remove()


@torch.no_grad()
def _models_logits(model: Any, h: Tensor) -> Tensor:
    """[T, V] what a model makes of hidden states [T, d], by its own final norm, projection, head, scale and cap."""
    with _last_layer_gives(model, h[None]):
        logits: Tensor = model(torch.arange(5, 5 + len(h))[None], use_cache=False).logits[0]
    return logits


@pytest.mark.parametrize("name", by_kind(ARCHITECTURES))
def test_the_head_alone_gives_the_models_logits(name: str, case: Callable[[str], Case]) -> None:
    one = case(name)
    h = 3 * torch.randn(7, HIDDEN, generator=torch.Generator().manual_seed(1)) + 0.5
    want = _models_logits(one.model, h)
    for checkpoint in (one.checkpoint, one.live):
        norm, bias = checkpoint.norm("final"), checkpoint.head_bias()
        z = (h if norm is None else norm(h)) @ checkpoint.head().T
        got = cap(z if bias is None else z + bias, checkpoint.layout.softcap)
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["gemma2", "gemma3_text", "cohere", "granite", "opt-postnorm", "llama"])
def test_a_write_lens_is_what_the_model_says_of_that_vector(name: str, case: Callable[[str], Case]) -> None:
    """Up to the biases, a neuron's write lens is the model's answer to its column in the residual stream."""
    one = case(name)
    part = _parts(one.model)[-1]
    column = part.down if part.post is None or one.kind == "opt" else part.down * _gamma(part.post, one.kind).float()
    norm, layout = one.checkpoint.norm("final"), one.checkpoint.layout
    assert norm is None or norm.bias is None
    got = lens_rows(one.checkpoint, "write", part.block) @ one.checkpoint.head().T
    torch.testing.assert_close(cap(got, layout.softcap), _models_logits(one.model, column), rtol=1e-4, atol=1e-5)


def test_the_multimodal_wrapper_does_not_apply_the_softcap_of_its_text_config() -> None:
    base = ARCHITECTURES["gemma3"]
    capped = {**base.config, "text_config": {**base.config["text_config"], "final_logit_softcapping": 1.0}}
    checkpoint = open_checkpoint(make(replace(base, config=capped)))
    assert checkpoint.layout.softcap is None
    assert max(probe(checkpoint, checkpoint.model).values()) < 1e-4


# --- the probe accepts ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", by_kind(ARCHITECTURES))
def test_the_probe_accepts_the_folder_and_the_live_model(name: str, case: Callable[[str], Case]) -> None:
    one = case(name)
    family, layout = entry_of(name), one.checkpoint.layout
    joints = {"mlp", "residual", "head"}
    joints |= {"pre_norm"} if family.pre_norm else set()
    joints |= {"post_norm"} if family.post_norm and family.stream == "added" else set()
    joints |= {"stream"} if family.stream == "parallel" else set()
    joints |= {"experts"} if layout.experts else set()
    for checkpoint in (one.checkpoint, one.live):
        errors = probe(checkpoint, one.model)
        assert set(errors) == joints
        assert all(0 <= error < 1e-4 for error in errors.values()), errors
    assert n_hooks(one.model) == 0


@pytest.mark.parametrize("name", by_kind(DISTINCT))
def test_the_probe_accepts_bfloat16(name: str, case: Callable[[str], Case]) -> None:
    model = _half(case(name))
    assert max(probe(open_checkpoint(model), model).values()) < 8 * torch.finfo(torch.bfloat16).eps
