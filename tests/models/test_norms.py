"""Norms, against transformers' own modules and the formulas in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers.models.cohere.modeling_cohere import CohereLayerNorm
from transformers.models.gemma2.modeling_gemma2 import Gemma2RMSNorm
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssRMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.olmo2.modeling_olmo2 import Olmo2RMSNorm

from flashinterp.models.norms import Norm

D, EPS = 24, 0.01


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _module(make: Any, **options: Any) -> Any:
    """A module whose weight and bias are anything but 1 and 0."""
    module = make(D, eps=EPS, **options).requires_grad_(False)
    for seed, parameter in enumerate(module.parameters()):
        parameter.copy_(1 + _random(D, seed=seed))
    return module


MODULES = {
    "LlamaRMSNorm": (LlamaRMSNorm, False, {}),
    "GptOssRMSNorm": (GptOssRMSNorm, False, {}),
    "Olmo2RMSNorm": (Olmo2RMSNorm, False, {}),
    "Gemma2RMSNorm": (Gemma2RMSNorm, False, {}),
    "CohereLayerNorm": (
        lambda d, eps, **options: CohereLayerNorm(hidden_size=d, eps=eps, **options),
        True,
        {},
    ),
    "LayerNorm": (nn.LayerNorm, True, {}),
    "LayerNorm without bias": (nn.LayerNorm, True, {"bias": False}),
    "LayerNorm without weight": (nn.LayerNorm, True, {"elementwise_affine": False}),
}
OF_EACH = pytest.mark.parametrize("name", MODULES)


def _both(name: str) -> tuple[Any, Norm]:
    make, centred, options = MODULES[name]
    module = _module(make, **options)
    weight = getattr(module, "weight", None)
    if weight is not None and name.startswith("Gemma"):
        weight = 1 + weight
    return module, Norm(weight, getattr(module, "bias", None), EPS, centred)


@OF_EACH
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_a_norm_is_what_transformers_computes(name: str, scale: float) -> None:
    module, norm = _both(name)
    x = scale * (_random(5, 7, D) + 0.7)
    torch.testing.assert_close(norm(x), module(x), rtol=1e-5, atol=1e-5)


@OF_EACH
def test_a_norm_is_the_formula_in_float64(name: str) -> None:
    _, norm = _both(name)
    x = _random(4, D).double() + 0.7
    y = x - x.mean(-1, keepdim=True) if norm.centred else x
    y = y / ((y**2).sum(-1, keepdim=True) / D + EPS) ** 0.5
    y = y if norm.weight is None else y * norm.weight.double()
    want = y if norm.bias is None else y + norm.bias.double()
    assert norm(x).dtype == torch.float64
    torch.testing.assert_close(norm(x), want, rtol=1e-13, atol=1e-13)


@OF_EACH
def test_a_direction_is_the_norm_without_its_bias(name: str) -> None:
    _, norm = _both(name)
    x = _random(6, D)
    want = norm(x) if norm.bias is None else norm(x) - norm.bias
    torch.testing.assert_close(norm.direction(x), want)


@OF_EACH
@given(values=st.lists(st.floats(-1e4, 1e4, width=32), min_size=D, max_size=D))
def test_the_opposite_vector_has_the_opposite_direction(name: str, values: list[float]) -> None:
    """To the last bit: the negative pole of a neuron is read from the same logits."""
    _, norm = _both(name)
    x = torch.tensor([values])
    assert torch.equal(norm.direction(-x), -norm.direction(x))


@OF_EACH
def test_with_a_bias_alone_the_opposite_is_something_else(name: str) -> None:
    _, norm = _both(name)
    x = _random(1, D)
    assert torch.allclose(norm(-x), -norm(x)) == (norm.bias is None)


@OF_EACH
def test_scaling_is_by_the_weight_and_nothing_else(name: str) -> None:
    _, norm = _both(name)
    x = _random(3, D)
    assert torch.equal(norm.scaled(x), x if norm.weight is None else x * norm.weight)


@OF_EACH
def test_the_input_is_left_as_it_was(name: str) -> None:
    _, norm = _both(name)
    x = _random(3, D)
    before = x.clone()
    norm(x), norm.direction(x), norm.scaled(x)
    assert torch.equal(x, before)


def test_of_zero_it_is_zero_and_not_nan() -> None:
    for centred in (False, True):
        norm = Norm(_random(D), None, 1e-6, centred)
        assert torch.equal(norm(torch.zeros(2, D)), torch.zeros(2, D))


def test_a_weight_of_another_dtype_takes_the_inputs() -> None:
    norm = Norm(_random(D).bfloat16(), _random(D).bfloat16(), EPS, False)
    x = _random(3, D).double()
    assert norm(x).dtype == torch.float64
    torch.testing.assert_close(norm(x), Norm(norm.weight.double(), norm.bias.double(), EPS, False)(x))  # type: ignore[union-attr]
