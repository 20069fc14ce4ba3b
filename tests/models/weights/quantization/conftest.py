"""A model to quantise."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.models.weights.quantization.stored import LLAMA


@pytest.fixture
def llama() -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(LLAMA, dtype=torch.bfloat16).eval()
