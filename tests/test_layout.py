"""Where the parts of each architecture are."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

from flashinterp.errors import LayoutError
from flashinterp.layout import FAMILIES, Layout
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
CONFIGS = [LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config]


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_layout_takes_its_shape_from_the_config(kind: Any) -> None:
    layout = Layout.of(kind(**SMALL, hidden_act="gelu", tie_word_embeddings=False))
    assert (layout.n_layers, layout.n_neurons, layout.d_model, layout.vocab_size) == (2, 12, 8, 30)
    assert (layout.activation, layout.norm_eps, layout.tied) == ("gelu", 1e-4, False)


@pytest.mark.parametrize("kind", CONFIGS)
def test_every_part_is_a_module_of_the_right_shape(kind: Any) -> None:
    config = kind(**SMALL, tie_word_embeddings=False)
    model, layout = AutoModelForCausalLM.from_config(config), Layout.of(config)
    parts = {"up": (12, 8), "gate": (12, 8), "down": (8, 12), "pre_norm": (8,)}
    for layer in range(2):
        for part, shape in parts.items():
            assert tuple(layout.module(model, part, layer).weight.shape) == shape
        assert layout.module(model, "mlp", layer) is model.model.layers[layer].mlp
        assert layout.module(model, "decoder_layer", layer) is model.model.layers[layer]
    assert layout.module(model, "final_norm") is model.model.norm
    assert layout.module(model, "head") is model.lm_head


def test_every_known_family_is_tested_here() -> None:
    assert {kind(**SMALL).model_type for kind in CONFIGS} == set(FAMILIES)


@pytest.mark.parametrize(("tied", "path"), [(True, "model.embed_tokens"), (False, "lm_head")])
def test_the_head_is_the_embedding_where_they_are_tied(tied: bool, path: str) -> None:
    assert Layout.of(LlamaConfig(**SMALL, tie_word_embeddings=tied)).head == path


@pytest.mark.parametrize(("site", "part"), [("up", "up_proj"), ("gate", "gate_proj"), ("post", "down_proj")])
def test_a_site_is_found_at_its_projection(site: Any, part: str, planted: Any, planted_model: Any) -> None:
    module = planted.layout.site_module(planted_model, site, 2)
    assert module is getattr(planted_model.model.layers[2].mlp, part)


@pytest.mark.parametrize("config", [GPT2Config(), SimpleNamespace(model_type=["llama"]), None])
def test_an_unknown_architecture_is_refused_with_the_known_ones(config: Any) -> None:
    with pytest.raises(LayoutError, match="llama, mistral, qwen2, qwen3") as caught:
        Layout.of(config)
    assert_one_line_with_next_step(caught.value)


class AwqConfig:
    """What a live quantised model carries in place of a dict."""


@pytest.mark.parametrize(("quantisation", "told"), [({"quant_method": "gptq"}, "gptq"), (AwqConfig(), "AwqConfig")])
def test_a_quantised_model_is_refused(quantisation: Any, told: str) -> None:
    config = LlamaConfig(**SMALL)
    config.quantization_config = quantisation
    with pytest.raises(LayoutError, match=told) as caught:
        Layout.of(config)
    assert_one_line_with_next_step(caught.value)


def test_a_model_without_a_part_is_refused_with_its_modules(planted: Any, planted_model: Any) -> None:
    with pytest.raises(LayoutError, match=r"'model.layers.4.mlp.up_proj'.*model, lm_head"):
        planted.layout.module(planted_model, "up", 4)
