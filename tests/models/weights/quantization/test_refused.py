"""Methods, formats and configs that are not known are refused by name."""

from __future__ import annotations

import pytest
import torch
from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING

from flashinterp.errors import CheckpointError
from flashinterp.models.weights.quantization import dequantised
from tests.helpers import assert_one_line_with_next_step
from tests.models.weights.quantization.stored import CHANNELS, FP8, UP, InMemory

KNOWN = {"fp8", "mxfp8", "mxfp4", "compressed-tensors", "bitsandbytes_4bit", "bitsandbytes_8bit"}


@pytest.mark.parametrize("method", [*sorted(set(AUTO_QUANTIZER_MAPPING) - KNOWN), "modelopt", None])
def test_other_methods_are_refused_before_anything_is_read(method):
    stored = InMemory(**{UP: torch.zeros(2, 2, dtype=torch.bfloat16)})
    with pytest.raises(CheckpointError, match=f"quantised by {method}, .*unquantised repository") as caught:
        dequantised(stored, {"quant_method": method, "bits": 4}, "a model")
    assert_one_line_with_next_step(caught.value)
    assert stored.asked == []


@pytest.mark.parametrize(
    "change",
    [
        {"format": "pack-quantized"},
        {"format": "nvfp4-pack-quantized"},
        {"format": "mixed-precision"},
        {"format": None},
        {"sparsity_config": {"format": "sparse-24-bitmask"}},
        {"transform_config": {"config_groups": {"u": {"type": "hadamard"}}}},
    ],
)
def test_other_formats_of_compressed_tensors_are_refused(change):
    with pytest.raises(CheckpointError, match="compressed-tensors") as caught:
        dequantised(InMemory(), {**CHANNELS, **change}, "a model")
    assert_one_line_with_next_step(caught.value)


@pytest.mark.parametrize(
    "config",
    [
        "fp8",
        ["fp8"],
        {**FP8, "weight_block_size": [128]},
        {**FP8, "weight_block_size": [0, 128]},
        {**FP8, "weight_block_size": "128"},
        {**FP8, "weight_block_size": [128, 1.5]},
        {**CHANNELS, "config_groups": ["a"]},
        {**CHANNELS, "sparsity_config": "dense"},
    ],
)
def test_a_damaged_config_is_refused(config):
    with pytest.raises(CheckpointError) as caught:
        dequantised(InMemory(), config, "a model")
    assert_one_line_with_next_step(caught.value)
