"""The probe accepts every known family as transformers builds it, and refuses what only looks like it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

from flashinterp.errors import LayoutError
from flashinterp.models.checkpoint import Checkpoint, open_checkpoint
from flashinterp.models.layout_check import probe
from tests.helpers import DOWN, GATE, UP, edited_copy, n_hooks

JOINTS = {"pre_norm", "mlp", "residual", "head"}
PRE_NORM = "model.layers.{}.post_attention_layernorm.weight"


def _random_model(kind: Any, **options: Any) -> Any:
    """A small model of a family, with norm weights that are not 1, so that a forgotten one shows."""
    config = kind(
        vocab_size=150, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, **options,
    )  # fmt: skip
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        if "norm" in name:
            parameter.uniform_(0.5, 2)
    return model


# --- what it accepts --------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("kind", [LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config])
def test_every_known_family_passes(kind: Any, tied: bool, dtype: torch.dtype) -> None:
    model = _random_model(kind, tie_word_embeddings=tied).to(dtype)
    errors = probe(open_checkpoint(model), model)
    assert set(errors) == JOINTS
    assert all(0 <= error < (1e-5 if dtype == torch.float32 else 0.02) for error in errors.values()), errors
    assert n_hooks(model) == 0


@pytest.mark.parametrize("activation", ["gelu", "relu", "gelu_pytorch_tanh"])
def test_other_activations_pass(activation: str) -> None:
    model = _random_model(LlamaConfig, hidden_act=activation)
    assert max(probe(open_checkpoint(model), model).values()) < 1e-5


def test_a_model_and_the_folder_it_came_from_pass(planted: Checkpoint, planted_model: Any) -> None:
    assert max(probe(planted, planted_model).values()) < 1e-5


def test_a_trained_model_passes(real_model: str) -> None:
    checkpoint = open_checkpoint(real_model)
    assert max(probe(checkpoint, checkpoint.load_model()).values()) < 1e-5


# --- what it refuses --------------------------------------------------------------------------------


def _swap(first: str, second: str) -> Callable[[dict[str, Tensor]], None]:
    return lambda t: t.update({first: t[second], second: t[first]})


def _scale(name: str, factor: float) -> Callable[[dict[str, Tensor]], None]:
    return lambda t: t.update({name: t[name] * factor})


def _swap_rows(name: str, first: int, second: int) -> Callable[[dict[str, Tensor]], None]:
    def edit(t: dict[str, Tensor]) -> None:
        t[name][[first, second]] = t[name][[second, first]]

    return edit


def _permute_head(t: dict[str, Tensor]) -> None:
    head = t["lm_head.weight"]
    t["lm_head.weight"] = head[torch.randperm(len(head), generator=torch.Generator().manual_seed(0))]


WRONG: dict[str, tuple[Callable[[dict[str, Tensor]], None] | None, dict[str, Any], str]] = {
    "gate and up swapped": (_swap(UP.format(2), GATE.format(2)), {}, "layer 2 mlp"),
    "up of two layers swapped": (_swap(UP.format(0), UP.format(3)), {}, "layer 0 mlp"),
    "one up row negated with its column": (
        lambda t: (t[UP.format(1)][17].neg_(), t[GATE.format(1)][17].neg_()),
        {},
        "layer 1 mlp",
    ),
    "two rows of up swapped": (_swap_rows(UP.format(3), 31, 5), {}, "layer 3 mlp"),
    "down scaled by 1 %": (_scale(DOWN.format(3), 1.01), {}, "layer 3 mlp"),
    "norm before the MLP scaled by 1 %": (_scale(PRE_NORM.format(1), 1.01), {}, "layer 1 pre_norm"),
    "norm before attention taken": (
        _swap(PRE_NORM.format(1), "model.layers.1.input_layernorm.weight"),
        {},
        "layer 1 pre_norm",
    ),
    "final norm scaled by 1 %": (_scale("model.norm.weight", 1.01), {}, "at head"),
    "head rows shuffled": (_permute_head, {}, "at head"),
    "two rows of the head swapped": (_swap_rows("lm_head.weight", 300, 301), {}, "at head"),
    "embedding taken for the head": (_swap("lm_head.weight", "model.embed_tokens.weight"), {}, "at head"),
    "another activation": (None, {"hidden_act": "gelu"}, "layer 0 mlp"),
    "another epsilon": (None, {"rms_norm_eps": 1e-3}, "layer 0 pre_norm"),
}


@pytest.mark.parametrize("name", WRONG)
def test_weights_that_the_model_does_not_compute_with_are_refused(
    name: str, planted: Checkpoint, planted_model: Any, tmp_path: Path
) -> None:
    edit, config, joint = WRONG[name]
    assert planted.folder is not None
    wrong = open_checkpoint(edited_copy(planted.folder, tmp_path / "wrong", edit, config))
    with pytest.raises(LayoutError, match=f"{joint} the model and its weights differ") as caught:
        probe(wrong, planted_model)
    assert "\n" not in str(caught.value)
    assert n_hooks(planted_model) == 0


@pytest.mark.parametrize("name", ["gate and up swapped", "head rows shuffled", "another activation"])
def test_gross_faults_show_in_bfloat16_too(name: str, planted: Checkpoint, tmp_path: Path) -> None:
    edit, config, joint = WRONG[name]
    assert planted.folder is not None
    wrong = open_checkpoint(edited_copy(planted.folder, tmp_path / "wrong", edit, config))
    model = planted.load_model(dtype=torch.bfloat16)
    probe(planted, model)
    with pytest.raises(LayoutError, match=joint):
        probe(wrong, model)


def test_biases_in_an_mlp_are_read(tmp_path: Path) -> None:
    model = _random_model(LlamaConfig, mlp_bias=True)
    model.model.layers[1].mlp.up_proj.bias.fill_(0.1)
    model.save_pretrained(tmp_path / "biased")
    assert max(probe(open_checkpoint(tmp_path / "biased"), model).values()) < 1e-5
    model.model.layers[1].mlp.up_proj.bias.zero_()
    with pytest.raises(LayoutError, match="layer 1 mlp"):
        probe(open_checkpoint(tmp_path / "biased"), model)


def test_a_refusal_shows_the_part_of_the_model_that_differs(
    planted: Checkpoint, planted_model: Any, tmp_path: Path
) -> None:
    assert planted.folder is not None
    edit = WRONG["gate and up swapped"][0]
    wrong = open_checkpoint(edited_copy(planted.folder, tmp_path / "wrong", edit))
    with pytest.raises(LayoutError, match=r"model.layers.2.mlp \(LlamaMLP of gate_proj: Linear, up_proj: Linear, down"):
        probe(wrong, planted_model)


def test_a_model_that_gives_nan_is_refused(planted: Checkpoint) -> None:
    model = planted.load_model()
    model.model.layers[0].self_attn.o_proj.weight[3, 3] = torch.nan
    with pytest.raises(LayoutError, match="differ by nan"):
        probe(planted, model)


# --- it leaves nothing behind -----------------------------------------------------------------------


def test_hooks_are_gone_when_the_forward_pass_raises(planted: Checkpoint, planted_model: Any) -> None:
    def fail(module: Any, args: Any) -> None:
        raise RuntimeError("out of memory")

    own = planted_model.model.layers[2].mlp.register_forward_pre_hook(fail)
    try:
        with pytest.raises(RuntimeError, match="out of memory"):
            probe(planted, planted_model)
        assert n_hooks(planted_model) == 1
    finally:
        own.remove()
    assert n_hooks(planted_model) == 0


def test_hooks_are_gone_when_a_part_is_missing(planted: Checkpoint, planted_model: Any) -> None:
    assert planted.folder is not None
    wrong = open_checkpoint(planted.folder)
    wrong.layout = replace(wrong.layout, family=replace(wrong.layout.family, final_norm="model.final"))
    with pytest.raises(LayoutError, match="no module 'model.final'"):
        probe(wrong, planted_model)
    assert n_hooks(planted_model) == 0


def test_a_probe_changes_no_weight_and_no_output(planted: Checkpoint, planted_model: Any) -> None:
    ids = torch.tensor([[3, 400, 12]])
    before = planted_model(ids).logits
    digest = open_checkpoint(planted_model).digests
    probe(planted, planted_model)
    assert torch.equal(planted_model(ids).logits, before)
    assert open_checkpoint(planted_model).digests == digest
