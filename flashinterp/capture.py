"""Natural activations: what neurons do on text when nobody touches them.

Everything causal is measured in units of these: doses, controls' scale, the gate that decides whether a
clamp can act at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers.activations import ACT2FN

from flashinterp.errors import RunError
from flashinterp.layout import Layout

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class Activations:
    """One layer's neurons on one text.

    Attributes:
        up: [positions, F] u = W_up x̂.
        gate: [positions, F] g = W_gate x̂.
        act: [positions, F] act(g), what multiplies u.
    """

    up: FloatArray
    gate: FloatArray
    act: FloatArray

    @property
    def post(self) -> FloatArray:
        """[positions, F] the neuron's output u · act(g)."""
        return self.up * self.act


def encode(tokenizer: Any, text: str, device: Any = "cpu") -> Tensor:
    """Token ids [1, positions] of a text, with the special tokens that the tokenizer adds.

    Raises:
        RunError: the text is empty once tokenised.
    """
    ids: Tensor = tokenizer(text, return_tensors="pt", return_token_type_ids=False)["input_ids"]
    if ids.numel() == 0:
        raise RunError(f"the prompt {text!r} has no tokens: give a text of at least one word")
    return ids.to(device)


@torch.no_grad()
def capture(model: Any, sequences: Sequence[Tensor], layers: Sequence[int]) -> list[dict[int, Activations]]:
    """Record u and g of the given layers on each sequence [1, positions], one clean forward pass each.

    Returns:
        For each sequence, layer to `Activations`.
    """
    layout = Layout.of(model.config)
    act = ACT2FN[layout.activation]
    results = []
    for ids in sequences:
        with _recorder(model, layout, layers) as seen:
            model(ids.to(model.device), use_cache=False, logits_to_keep=1)
        results.append(
            {
                layer: Activations(
                    seen["up", layer].float().cpu().numpy(),
                    seen["gate", layer].float().cpu().numpy(),
                    act(seen["gate", layer]).float().cpu().numpy(),
                )
                for layer in layers
            }
        )
    return results


@contextmanager
def _recorder(model: Any, layout: Layout, layers: Sequence[int]) -> Iterator[dict[tuple[str, int], Tensor]]:
    """Keep the outputs of W_up and W_gate, [positions, F], of the first row of the batch."""
    seen: dict[tuple[str, int], Tensor] = {}

    def keep(key: tuple[str, int]) -> Any:
        return lambda module, args, out: seen.__setitem__(key, out[0].detach())

    handles = []
    try:
        for layer in layers:
            for part in ("up", "gate"):
                handles.append(layout.module(model, part, layer).register_forward_hook(keep((part, layer))))
        yield seen
    finally:
        for handle in handles:
            handle.remove()
