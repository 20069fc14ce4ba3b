"""Where the parts of a model are: tensors and rows to read, modules to hook. Every family is in test_architectures."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, BloomConfig, LlamaConfig, LlamaModel

from fixtures.architectures import ARCHITECTURES, make
from flashinterp.errors import LayoutError, NeuronError
from flashinterp.models.layout import Layout, Tap
from flashinterp.models.layout_reader import layout_of, skeleton
from flashinterp.neurons import Block
from tests.helpers import assert_one_line_with_next_step

SMALL = {
    "vocab_size": 30,
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "rms_norm_eps": 1e-4,
}


def _layout(name: str) -> Layout:
    return layout_of(make(ARCHITECTURES[name]))


def test_a_model_without_weights_has_the_layout_of_one_with_them() -> None:
    config = LlamaConfig(**SMALL, hidden_act="gelu")
    bare = skeleton(config)
    assert all(parameter.is_meta for parameter in bare.parameters())
    assert layout_of(bare) == layout_of(AutoModelForCausalLM.from_config(config))


def test_a_layout_takes_its_shape_from_the_model() -> None:
    layout = layout_of(skeleton(LlamaConfig(**SMALL, hidden_act="gelu")))
    assert (layout.n_layers, layout.d_model, layout.vocab_size) == (2, 8, 30)
    assert (layout.formula.activation, layout.eps["pre"]) == ("gelu", 1e-4)
    assert str(layout.roster) == "layers 0 to 1 with neurons 0 to 11"


def test_a_layout_is_made_once_for_a_model() -> None:
    model = skeleton(LlamaConfig(**SMALL))
    assert layout_of(model) is layout_of(model)


@pytest.mark.parametrize(
    ("name", "site", "tap"),
    [
        ("llama", "up", Tap("model.layers.2.mlp.up_proj", False, slice(0, 48), 48)),
        ("llama", "post", Tap("model.layers.2.mlp.down_proj", True, slice(0, 48), 48)),
        ("phi3", "gate", Tap("model.layers.2.mlp.gate_up_proj", False, slice(0, 48), 96)),
        ("phi3", "up", Tap("model.layers.2.mlp.gate_up_proj", False, slice(48, 96), 96)),
        ("gpt2", "up", Tap("transformer.h.2.mlp.c_fc", False, slice(0, 48), 48)),
        ("opt", "post", Tap("model.decoder.layers.2.fc2", True, slice(0, 48), 48)),
        ("deepseek_v3", "up", Tap("model.layers.2.mlp.shared_experts.up_proj", False, slice(0, 80), 80)),
    ],
)
def test_a_site_is_seen_at_its_module(name: str, site: Any, tap: Tap) -> None:
    assert _layout(name).tap(site, 2) == tap


def test_experts_are_blocks_of_their_own() -> None:
    layout = _layout("deepseek_v3")
    assert layout.roster.blocks == (
        Block(0), Block(1), *(Block(1, e) for e in range(4)), Block(2), *(Block(2, e) for e in range(4))
    )  # fmt: skip
    assert set(layout.roster.widths) == {48, 80, 40}
    up, gate = (layout.weight(kind, Block(2, 3)) for kind in ("up", "gate"))  # type: ignore[arg-type]
    assert up.tensor == gate.tensor == "model.layers.2.mlp.experts.gate_up_proj"
    assert (gate.neurons, up.neurons, up.expert) == (slice(0, 40), slice(40, 80), 3)


def test_interleaved_experts_are_read_every_other_column() -> None:
    up = _layout("gpt_oss").weight("up", Block(1, 2))
    assert (up.neurons, up.by_row) == (slice(1, 96, 2), False)


@pytest.mark.parametrize("name", ["gpt2", "opt", "gptj", "gpt_neox"])
def test_a_gate_that_is_not_there_is_refused_with_what_is(name: str) -> None:
    layout = _layout(name)
    assert layout.sites == ("up", "post")
    assert [lens.name for lens in layout.lenses] == ["paper", "read", "write", "logit-lens"]
    with pytest.raises(LayoutError, match="lens of paper, read, write, logit-lens.*site of up, post") as caught:
        layout.weight("gate", 0)
    assert_one_line_with_next_step(caught.value)


@pytest.mark.parametrize("block", [3, Block(0, 0), -1])
def test_a_block_that_is_not_there_is_refused(block: Any) -> None:
    with pytest.raises(NeuronError, match="layers 0 to 2") as caught:
        _layout("llama").weight("up", block)
    assert_one_line_with_next_step(caught.value)


@pytest.mark.parametrize("config", [BloomConfig(), SimpleNamespace(model_type=["llama"]), None])
def test_an_unknown_architecture_is_refused_with_the_known_ones(config: Any) -> None:
    with pytest.raises(LayoutError, match="llama, mistral, mixtral") as caught:
        skeleton(config)
    assert_one_line_with_next_step(caught.value)


def test_a_config_that_makes_no_model_is_refused() -> None:
    config = LlamaConfig(**SMALL)
    config.hidden_act = "no such function"
    with pytest.raises(LayoutError, match="cannot make a llama model") as caught:
        skeleton(config)
    assert_one_line_with_next_step(caught.value)


def test_a_model_without_a_part_is_refused_with_its_modules() -> None:
    with torch.device("meta"):
        model = LlamaModel(LlamaConfig(**SMALL))
    with pytest.raises(LayoutError, match=r"no module 'model.layers'.*embed_tokens: Embedding") as caught:
        layout_of(model)
    assert_one_line_with_next_step(caught.value)
