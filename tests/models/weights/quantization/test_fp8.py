"""8-bit floats become the weights that they stand for; what is not quantised stays as it is."""

from __future__ import annotations

import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from flashinterp.errors import CheckpointError
from flashinterp.models.weights.quantization import dequantised, is_plain
from flashinterp.models.weights.safetensors_folder import SafetensorsFolder
from tests.helpers import assert_one_line_with_next_step, fp8_codes, scales
from tests.models.weights.quantization.stored import (
    BNB,
    CHANNELS,
    EXPERTS,
    FP8,
    MXFP4,
    UP,
    InMemory,
    refusal,
    saved,
    weight_of,
)

# --- what is not quantised -------------------------------------------------------------------------------


def test_an_unquantised_source_is_returned_itself():
    plain = InMemory(**{UP: torch.zeros(2, 2, dtype=torch.bfloat16), "attn.mask": torch.ones(2, dtype=torch.uint8)})
    assert dequantised(plain, None, "a model") is plain


def test_a_quantised_source_gives_its_plain_tensors_and_its_digests_as_they_are():
    norm = torch.randn(3, dtype=torch.bfloat16)
    source = dequantised(InMemory(norm=norm), FP8, "a model")
    assert source.tensor("norm") is norm
    assert source.dtype("norm") == torch.bfloat16
    assert torch.equal(source.part("norm", 1), norm[1])
    assert source.digests() == {"a file": "its sha256"}


def test_codes_are_not_plain():
    assert is_plain(torch.zeros(2, dtype=torch.bfloat16))
    assert not is_plain(torch.zeros(2, dtype=torch.float8_e4m3fn))
    assert not is_plain(torch.zeros(2, dtype=torch.uint8))
    assert not is_plain(torch.zeros(2, device="meta"))
    packed = torch.zeros(2, dtype=torch.bfloat16)
    packed.quant_state = object()  # type: ignore[attr-defined]  # as bitsandbytes marks it
    assert not is_plain(packed)


# --- fp8 -------------------------------------------------------------------------------------------------


@given(
    rows=st.integers(1, 40),
    columns=st.integers(1, 40),
    block=st.tuples(st.integers(1, 48), st.integers(1, 48)),
    end=st.sampled_from(["_scale_inv", "_scale"]),
    seed=st.integers(0, 2**32 - 1),
)
def test_each_fp8_code_is_multiplied_by_the_scale_of_its_block(rows, columns, block, end, seed):
    codes = fp8_codes(rows, columns, seed=seed)
    grid = scales(-(-rows // block[0]), -(-columns // block[1]), seed=seed)
    weight = weight_of({"quant_method": "fp8", "weight_block_size": list(block)}, **{UP: codes, UP + end: grid})
    expected = [
        [codes[r, c].double() * grid[r // block[0], c // block[1]].double() for c in range(columns)]
        for r in range(rows)
    ]
    torch.testing.assert_close(weight.double(), torch.tensor(expected), rtol=1e-7, atol=0)


def test_fp8_is_what_transformers_loads(tmp_path, llama):
    tensors = dict(llama.state_dict())
    block = 32
    for name, weight in list(tensors.items()):
        if "_proj" in name:
            tensors[name] = fp8_codes(*weight.shape)
            tensors[f"{name}_scale_inv"] = scales(*(size // block for size in weight.shape)) / 100
    quantisation = {"quant_method": "fp8", "weight_block_size": [block, block], "dequantize": True}
    folder = saved(tmp_path / "fp8", llama, quantisation, tensors)
    source = dequantised(SafetensorsFolder(folder), quantisation, "fp8")
    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).state_dict()
    assert set(source.names()) == set(loaded)
    for name, weight in loaded.items():
        assert source.dtype(name) == (torch.float32 if "_proj" in name else torch.bfloat16)
        assert torch.equal(source.tensor(name).bfloat16(), weight), name
    assert source.digests() == SafetensorsFolder(folder).digests()


@pytest.mark.parametrize("config", [FP8, {"quant_method": "fp8"}])  # 128 is what transformers takes for granted
def test_the_config_says_the_block_size_and_not_the_shapes(config):
    codes, grid = torch.ones(192, 4).to(torch.float8_e4m3fn), torch.tensor([[1.0], [2.0]])
    weight = weight_of(config, **{UP: codes, f"{UP}_scale_inv": grid})
    assert weight[:128].unique().tolist() == [1.0]
    assert weight[128:].unique().tolist() == [2.0]


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
@pytest.mark.parametrize("config", [FP8, {**FP8, "weight_block_size": None}, CHANNELS, None])
def test_one_fp8_scale_is_for_the_whole_tensor(shape, config):
    codes = fp8_codes(5, 300)
    weight = weight_of(config, **{UP: codes, f"{UP}_scale": torch.full(shape, 0.25)})
    assert torch.equal(weight, codes.float() / 4)


@pytest.mark.parametrize("shape", [(5,), (5, 1)])
@pytest.mark.parametrize("config", [FP8, {**FP8, "weight_block_size": None}, CHANNELS, None])
def test_as_many_fp8_scales_as_rows_are_one_for_each(shape, config):
    codes, grid = fp8_codes(5, 300), scales(*shape)
    assert torch.equal(weight_of(config, **{UP: codes, f"{UP}_scale": grid}), codes.float() * grid.reshape(5, 1))


@pytest.mark.parametrize("grid", [(3, 2, 2), (3, 1, 1), (3, 5, 1), (1,)])
def test_fused_fp8_experts_have_each_their_scales(grid):
    codes, factors = fp8_codes(3, 5, 6), scales(*grid)
    config = {"quant_method": "fp8", "weight_block_size": [3, 4]}
    weight = weight_of(config, EXPERTS, **{EXPERTS: codes, f"{EXPERTS}_scale_inv": factors})
    every = factors.expand(3, 1, 1) if factors.numel() == 1 else factors
    high, wide = {(2, 2): (3, 4), (1, 1): (5, 6), (5, 1): (1, 6)}[tuple(every.shape[1:])]
    scale = every.repeat_interleave(high, 1)[:, :5].repeat_interleave(wide, 2)[:, :, :6]
    assert torch.equal(weight, codes.float() * scale)


@pytest.mark.parametrize("as_bytes", [True, False])
def test_mx_scales_are_powers_of_two(as_bytes):
    exponents = torch.tensor([[120, 127, 130], [0, 126, 128]], dtype=torch.uint8)
    stored = exponents if as_bytes else exponents.view(torch.float8_e8m0fnu)
    codes = fp8_codes(2, 70)
    weight = weight_of({"quant_method": "mxfp8"}, **{UP: codes, f"{UP}_scale_inv": stored})
    factors = torch.exp2(exponents.double() - 127).repeat_interleave(32, 1)[:, :70]
    assert torch.equal(weight.double(), codes.double() * factors)


def test_blocks_of_compressed_tensors_come_from_its_groups():
    weights = {"num_bits": 8, "type": "float", "strategy": "block", "block_structure": [4, 2]}
    config = {**CHANNELS, "config_groups": {"group_0": {"weights": weights}}}
    codes, grid = fp8_codes(6, 3), scales(2, 2)
    weight = weight_of(config, **{UP: codes, f"{UP}_scale": grid, UP.replace("weight", "input_scale"): scales(1)})
    assert torch.equal(weight, codes.float() * grid.repeat_interleave(4, 0)[:6].repeat_interleave(2, 1)[:, :3])


@pytest.mark.parametrize(
    ("beside", "told"),
    [
        ({}, "no scales"),
        ({"_scale_inv": scales(3, 1)}, r"scales of \(3, 1\)"),
        ({"_scale_inv": scales(1, 2, 1)}, r"scales of \(1, 2, 1\)"),
        ({"_scale_inv": scales(2, 1), "_scale": scales(2, 1)}, "_scale'"),
        ({"_scale": scales(2, 1), "_zero_point": scales(2, 1)}, "zero_point"),
    ],
)
def test_fp8_without_scales_that_fit_is_refused(beside, told):
    tensors = {UP: fp8_codes(200, 4), **{UP + end: tensor for end, tensor in beside.items()}}
    message = refusal(FP8, **tensors)
    assert UP in message
    assert re.search(told, message), message


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int32, torch.bool])
@pytest.mark.parametrize("config", [FP8, BNB, MXFP4, CHANNELS])
def test_integers_are_never_weights(dtype, config):
    codes = torch.ones(4, 4, dtype=dtype)
    assert str(dtype) in refusal(config, **{UP: codes})
    assert str(dtype) in refusal(config, **{UP: codes, f"{UP}_scale_inv": scales(4, 1)})


def test_codes_are_refused_though_no_config_tells_of_them():
    assert "float8" in refusal(None, **{UP: fp8_codes(4, 4)})
    with pytest.raises(CheckpointError, match="qweight") as caught:
        dequantised(InMemory(**{"up_proj.qweight": torch.ones(2, 2, dtype=torch.int32)}), None, "a model")
    assert_one_line_with_next_step(caught.value)
