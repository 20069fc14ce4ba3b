"""Codes in memory and in folders, the weights that come of them, and the words with which they are refused.

Those of live modules are in ``test_quantised_live.py``, whole models in ``test_quantised_models.py``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import GptOssConfig, LlamaConfig

from flashinterp.errors import CheckpointError
from flashinterp.models.weights.quantization import dequantised
from tests.helpers import assert_one_line_with_next_step

FP8 = {"quant_method": "fp8", "weight_block_size": [128, 128]}
MXFP4 = {"quant_method": "mxfp4"}
BNB = {"quant_method": "bitsandbytes", "load_in_4bit": True}
CHANNELS = {"quant_method": "compressed-tensors", "format": "float-quantized"}
UP = "model.layers.0.mlp.up_proj.weight"
EXPERTS = "model.layers.0.mlp.experts.gate_up_proj"
LLAMA = LlamaConfig(
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=2,
    vocab_size=32,
)
GPT_OSS = GptOssConfig(
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=16,
    vocab_size=32,
    num_local_experts=3,
    num_experts_per_tok=2,
)


class InMemory:
    """A source that remembers what was asked of it."""

    def __init__(self, **tensors: Tensor) -> None:
        self.tensors = tensors
        self.asked: list[str] = []

    def names(self) -> Iterable[str]:
        return self.tensors

    def tensor(self, name: str) -> Tensor:
        self.asked.append(name)
        return self.tensors[name]

    def part(self, name: str, i: int) -> Tensor:
        self.asked.append(f"{name}[{i}]")
        return self.tensors[name][i]

    def dtype(self, name: str) -> torch.dtype:
        return self.tensors[name].dtype

    def digests(self) -> dict[str, str]:
        return {"a file": "its sha256"}


def weight_of(config: dict[str, Any] | None, name: str = UP, /, **beside: Tensor) -> Tensor:
    """One weight as it comes out; checked to be the same by its parts, and of the dtype that was promised."""
    source = dequantised(InMemory(**beside), config, "a model")
    assert list(source.names()) == [name]
    weight = source.tensor(name)
    assert weight.dtype == source.dtype(name)
    torch.testing.assert_close(torch.stack([source.part(name, i) for i in range(len(weight))]), weight, rtol=0, atol=0)
    return weight


def refusal(config: dict[str, Any] | None, name: str = UP, /, **beside: Tensor) -> str:
    """The message with which a weight is refused, in full and in part."""
    source = dequantised(InMemory(**beside), config, "a model")
    with pytest.raises(CheckpointError) as part:
        source.part(name, 0)
    with pytest.raises(CheckpointError) as whole:
        source.tensor(name)
    assert_one_line_with_next_step(part.value)
    assert_one_line_with_next_step(whole.value)
    return str(whole.value)


def saved(folder: Path, model: Any, quantisation: dict[str, Any], tensors: dict[str, Tensor]) -> Path:
    """A model folder with these tensors and this quantization_config."""
    model.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": quantisation}))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder
