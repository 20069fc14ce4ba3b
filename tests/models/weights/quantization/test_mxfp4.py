"""MXFP4 codes become the weights that transformers makes of them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from flashinterp.models.weights.quantization import dequantised
from flashinterp.models.weights.safetensors_folder import SafetensorsFolder
from tests.models.weights.quantization.stored import EXPERTS, GPT_OSS, MXFP4, InMemory, refusal, saved, weight_of


def mxfp4_codes(experts: int, outputs: int, inputs: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    blocks = torch.randint(0, 256, (experts, outputs, inputs // 32, 16), generator=random, dtype=torch.uint8)
    exponents = torch.randint(100, 130, (experts, outputs, inputs // 32), generator=random, dtype=torch.uint8)
    return blocks, exponents


def test_mxfp4_is_what_transformers_loads(tmp_path):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(GPT_OSS, dtype=torch.bfloat16)
    tensors = {}
    for seed, (name, weight) in enumerate(model.state_dict().items()):
        if name.endswith("_proj") and "experts" in name:
            experts, inputs, outputs = weight.shape
            tensors[f"{name}_blocks"], tensors[f"{name}_scales"] = mxfp4_codes(experts, outputs, inputs, seed)
        else:
            tensors[name] = weight
    folder = saved(tmp_path / "mxfp4", model, MXFP4, tensors)
    source = dequantised(SafetensorsFolder(folder), MXFP4, "mxfp4")
    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).state_dict()
    assert set(source.names()) == set(loaded)
    for name, weight in loaded.items():
        assert source.dtype(name) == torch.bfloat16
        assert torch.equal(source.tensor(name), weight), name
        assert torch.equal(source.part(name, 1), weight[1]), name


def test_mxfp4_is_exact_and_low_halves_come_first():
    values = [0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6]
    blocks = torch.arange(16, dtype=torch.uint8).reshape(1, 1, 1, 16) * 16 + 9  # low halves 9, high halves 0 to 15
    weight = weight_of(
        MXFP4, EXPERTS, **{f"{EXPERTS}_blocks": blocks, f"{EXPERTS}_scales": torch.full((1, 1, 1), 120).to(torch.uint8)}
    )
    assert weight.shape == (1, 32, 1)
    assert weight[0, ::2, 0].tolist() == [-0.5 / 128] * 16
    assert weight[0, 1::2, 0].tolist() == [value / 128 for value in values]


def test_of_mxfp4_only_the_wanted_expert_is_read():
    blocks, exponents = mxfp4_codes(3, 4, 32)
    stored = InMemory(**{f"{EXPERTS}_blocks": blocks, f"{EXPERTS}_scales": exponents})
    dequantised(stored, MXFP4, "a model").part(EXPERTS, 2)
    assert stored.asked == [f"{EXPERTS}_blocks[2]", f"{EXPERTS}_scales[2]"]


@pytest.mark.parametrize("config", [MXFP4, None])
def test_a_dequantised_gpt_oss_that_was_saved_as_if_it_were_not_is_refused(config):
    """transformers 5.23 saves floats under the name of the codes, and no scales, and forgets the config."""
    floats = torch.randn(3, 32, 8, dtype=torch.bfloat16)
    assert "faulty save" in refusal(config, EXPERTS, **{f"{EXPERTS}_blocks": floats})
    assert "faulty save" in refusal(config, EXPERTS, **{f"{EXPERTS}_blocks": mxfp4_codes(3, 4, 32)[0]})


def test_mxfp4_codes_and_scales_of_different_shapes_are_refused():
    blocks, exponents = mxfp4_codes(3, 4, 64)
    message = refusal(MXFP4, EXPERTS, **{f"{EXPERTS}_blocks": blocks, f"{EXPERTS}_scales": exponents[:, :, :1]})
    assert "(3, 4, 1)" in message or "(1, 4, 1)" in message
