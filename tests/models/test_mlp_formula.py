"""What a neuron makes of its two values, against the formulas written out in float64."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import erf, expit

from fixtures.architectures import ARCHITECTURES, make
from flashinterp.models.mlp_formula import Formula

VALUES = st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=12)

ACT = {
    "silu": lambda x: x * expit(x),
    "gelu": lambda x: x * (1 + erf(x / math.sqrt(2))) / 2,
    "gelu_pytorch_tanh": lambda x: x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2,
    "gelu_new": lambda x: x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2,
    "relu": lambda x: np.maximum(x, 0),
}
GPT_OSS = Formula("silu", gated=True, limit=7.0, alpha=1.702)


def _pair(gate: list[float], up: list[float]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    n = min(len(gate), len(up))
    return np.array(gate[:n]), np.array(up[:n])


def _close(got: torch.Tensor, want: NDArray[Any]) -> None:
    assert got.dtype == torch.float64
    np.testing.assert_allclose(got.numpy(), want, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("activation", ACT)
@given(gate=VALUES, up=VALUES)
def test_a_gated_neuron_is_act_of_the_gate_times_up(activation: str, gate: list[float], up: list[float]) -> None:
    g, u = _pair(gate, up)
    formula = Formula(activation, gated=True)
    _close(formula.opened(torch.from_numpy(g), torch.from_numpy(u)), ACT[activation](g))
    _close(formula.output(torch.from_numpy(g), torch.from_numpy(u)), ACT[activation](g) * u)


@pytest.mark.parametrize("activation", ACT)
@given(gate=VALUES, up=VALUES)
def test_a_neuron_without_a_gate_is_act_of_up(activation: str, gate: list[float], up: list[float]) -> None:
    """And its gate is not looked at."""
    g, u = _pair(gate, up)
    formula = Formula(activation, gated=False)
    _close(formula.output(torch.from_numpy(g) * math.nan, torch.from_numpy(u)), ACT[activation](u))
    opened = formula.opened(torch.from_numpy(g) * math.nan, torch.from_numpy(u)).numpy()
    np.testing.assert_allclose(opened * u, ACT[activation](u), rtol=1e-9, atol=1e-6)


@pytest.mark.parametrize("activation", ACT)
def test_without_a_gate_what_multiplies_up_is_never_negative(activation: str) -> None:
    """So that a clamp's direction is that of the up value."""
    u = torch.linspace(-30, 30, 4001, dtype=torch.float64)
    assert float(Formula(activation, gated=False).opened(u, u).min()) >= 0


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "gelu_pytorch_tanh", "silu"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_at_zero_it_is_the_slope(activation: str, dtype: torch.dtype) -> None:
    u = torch.tensor([0.0, -0.0, 1e-30, -1e-30, 1e-7, -1e-7, 1e-5, -1e-5], dtype=dtype)
    opened = Formula(activation, gated=False).opened(u, u)
    torch.testing.assert_close(opened, torch.full_like(u, 0.5), rtol=0, atol=1e-4)


def test_relu_is_open_at_and_beside_zero() -> None:
    u = torch.tensor([0.0, 1e-9, 1.0, -1.0])
    assert Formula("relu", gated=False).opened(u, u).tolist() == [1, 1, 1, 0]


# --- gpt_oss ----------------------------------------------------------------------------------------


@given(gate=VALUES, up=VALUES)
def test_gpt_oss_cuts_gate_and_up_and_adds_one(gate: list[float], up: list[float]) -> None:
    g, u = _pair(gate, up)
    cut = np.minimum(g, 7)
    opened = cut * expit(1.702 * cut)
    _close(GPT_OSS.opened(torch.from_numpy(g), torch.from_numpy(u)), opened)
    _close(GPT_OSS.output(torch.from_numpy(g), torch.from_numpy(u)), (np.clip(u, -7, 7) + 1) * opened)


def test_gpt_oss_is_flat_beyond_its_limits_and_only_there() -> None:
    at = [6.9, 7.0, 7.1, 500.0, -6.9, -7.0, -7.1, -500.0]
    one = torch.ones(8, dtype=torch.float64)
    of_up = GPT_OSS.output(one, torch.tensor(at, dtype=torch.float64))
    assert of_up[1] == of_up[2] == of_up[3] > of_up[0]
    assert of_up[5] == of_up[6] == of_up[7] < of_up[4]
    of_gate = GPT_OSS.output(torch.tensor(at, dtype=torch.float64), one)
    assert of_gate[1] == of_gate[2] == of_gate[3] > of_gate[0]
    assert len({*of_gate[4:].tolist()}) == 4, "the gate has no lower limit"


def test_an_up_of_minus_one_shuts_a_gpt_oss_neuron() -> None:
    assert GPT_OSS.output(torch.tensor([5.0]), torch.tensor([-1.0])).tolist() == [0]
    assert GPT_OSS.output(torch.tensor([5.0]), torch.tensor([0.0])).item() > 4


@pytest.mark.parametrize("name", ["gpt_oss", "mixtral", "deepseek_v3"])
def test_it_is_what_the_experts_module_itself_does(name: str) -> None:
    """transformers' own function on one neuron's gate and up, limits included."""
    model = make(ARCHITECTURES[name])
    experts = model.model.layers[-1].mlp.experts
    both = 12 * torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
    formula = GPT_OSS if name == "gpt_oss" else Formula("silu", gated=True)
    torch.testing.assert_close(formula.output(both[:, 0], both[:, 1]), experts._apply_gate(both)[:, 0])
