"""The codes of live modules, which keep them in ways of their own, as the weights that they stand for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from flashinterp.errors import CheckpointError
from flashinterp.models.weights.quantization import live_weight
from tests.helpers import assert_one_line_with_next_step, fp8_codes, scales


class Layer(nn.Module):
    """A module with whatever parameters and attributes it is given."""

    def __init__(self, weight: Any, **others: Any) -> None:
        super().__init__()
        self.weight = weight
        for name, value in others.items():
            setattr(self, name, value)


def parameter(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=False)


def test_a_live_plain_weight_is_the_modules_own():
    layer = nn.Linear(3, 2)
    assert live_weight(layer, "weight") is layer.weight
    assert live_weight(nn.Sequential(layer), "0.weight") is layer.weight


def test_a_live_fp8_weight_is_multiplied_by_its_scales():
    codes, grid = fp8_codes(5, 7), scales(2, 4)
    layer = Layer(parameter(codes), weight_scale_inv=parameter(grid), block_size=(4, 2))
    expected = codes.float() * grid.repeat_interleave(4, 0)[:5].repeat_interleave(2, 1)[:, :7]
    assert torch.equal(live_weight(layer, "weight"), expected)


def test_a_live_8_bit_weight_finds_its_scales_in_the_parameter_or_the_state():
    codes = torch.randint(-127, 128, (5, 7), dtype=torch.int8)
    in_parameter, in_state = parameter(codes), parameter(codes)
    in_parameter.SCB = scales(5)
    in_state.SCB = None

    class State:
        SCB = scales(5)

    expected = codes.float() * (scales(5) / 127)[:, None]
    assert torch.equal(live_weight(Layer(in_parameter), "weight"), expected)
    assert torch.equal(live_weight(Layer(in_state, state=State()), "weight"), expected)


def test_what_was_a_conv1d_is_read_in_its_orientation():
    from transformers.pytorch_utils import Conv1D

    codes = parameter(torch.ones(5, 7, dtype=torch.int8))
    codes.SCB = scales(5)
    assert live_weight(Layer(codes, source_cls=Conv1D), "weight").shape == (7, 5)
    assert live_weight(Layer(codes, source_cls=nn.Linear), "weight").shape == (5, 7)


def test_live_weights_of_an_unknown_kind_are_refused():
    from torch.testing._internal.two_tensor import TwoTensor

    unknown = [
        parameter(fp8_codes(4, 4)),
        parameter(torch.ones(4, 4, dtype=torch.int8)),
        parameter(torch.ones(4, 4, dtype=torch.uint8)),
        parameter(torch.ones(4, 4, device="meta")),
        parameter(TwoTensor(torch.ones(4, 4), torch.ones(4, 4))),  # as torchao's: a subclass that says float32
        "what a kernel holds",
    ]
    for weight in unknown:
        with pytest.raises(CheckpointError, match="up_proj.weight of the live model") as caught:
            live_weight(nn.ModuleDict({"up_proj": Layer(weight)}), "up_proj.weight")
        assert_one_line_with_next_step(caught.value)
    for codes, grid in [(fp8_codes(4, 4), scales(3, 1)), (fp8_codes(4, 4).to("meta"), scales(1))]:
        layer = Layer(parameter(codes), weight_scale_inv=parameter(grid), block_size=(4, 4))
        with pytest.raises(CheckpointError, match="cannot be read"):
            live_weight(layer, "weight")


def test_codes_that_were_shuffled_for_a_cpu_are_put_in_order(bitsandbytes):
    """Done by hand, as a CPU without AVX512-BF16 does not do it."""
    for nested in (False, True):
        layer = bitsandbytes.nn.Linear4bit(128, 64, compress_statistics=nested, quant_type="nf4", bias=False)
        layer = layer.to("cpu")
        before = live_weight(layer, "weight")
        pack = bitsandbytes.functional._convert_weight_packed_for_cpu
        layer.weight.data, layer.weight.quant_state = pack(layer.weight.data, layer.weight.quant_state)
        codes = layer.weight.data.clone()
        for _ in range(2):
            torch.testing.assert_close(live_weight(layer, "weight"), before, rtol=2**-8, atol=0)
        assert torch.equal(layer.weight.data, codes)
        assert layer.weight.quant_state.packing_format_for_cpu
