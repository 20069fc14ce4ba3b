"""What neurons do on natural text: the doses of their clamps, and how loud they are beside each other (METHOD 4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flashinterp.errors import RunError
from flashinterp.evaluation.experiment import Experiment
from flashinterp.evaluation.matched_controls import LayerScale
from flashinterp.models.activations import capture, encode
from flashinterp.neurons import Block, NeuronId

Floats = NDArray[np.float64]
# The natural range of a neuron, from its own quantiles on natural text: its tails, but not its single extremes.
LOW, HIGH = 0.01, 0.99
LEAST_ROUTED = 8
"""Tokens of natural text that must reach an expert: of fewer, the 1st percentile is the least value."""


@dataclass(frozen=True)
class Natural:
    """One block on the selection texts.

    Attributes:
        up: [positions, F] u where the block is routed to, for the doses.
        scale: each neuron's scale.
        reading, writing: [F, d] its rows of W_up and its columns of W_down.
    """

    up: Floats
    scale: LayerScale
    reading: Floats
    writing: Floats

    def doses(self, neurons: int | list[int], n: int) -> Floats:
        """[n] or [n, neurons] values of u, evenly spaced in its quantiles from the 1st to the 99th percentile."""
        result: Floats = np.quantile(self.up[:, neurons], np.linspace(LOW, HIGH, n), axis=0)
        return result

    def written(self, neuron: int) -> float:
        """How much a neuron writes from one end of its range to the other: the range of u times ‖W_down[:, n]‖."""
        low, high = self.doses(neuron, 2)
        return float((high - low) * self.scale.column_norm[neuron])


def natural_text(bench: Experiment, blocks: Sequence[Block], concepts: Sequence[int] = ()) -> dict[Block, Natural]:
    """Each block on the selection texts.

    Args:
        bench: the model and the texts.
        blocks: which.
        concepts: token ids that are put after the selection contexts, so that a natural range includes its concept.
    """
    texts = [encode(bench.tokenizer, text) for text in bench.selection]
    contexts = [encode(bench.tokenizer, text) for text in bench.prompts.contexts_selection]
    texts += [append(context, i) for context in contexts for i in dict.fromkeys(concepts)]
    skip = leading_specials(bench)
    seen = capture(bench.model, texts, blocks)
    natural = {}
    for block in blocks:
        parts = [s[block] for s in seen]
        up = np.concatenate([p.up[skip:][p.weight[skip:] > 0] for p in parts]).astype(np.float64)
        written = np.concatenate([p.written[skip:] for p in parts]).astype(np.float64)
        writing = bench.checkpoint.rows("down", block).double().numpy()
        with np.errstate(invalid="ignore"):  # infinite values have no scale, and whoever needs it says so
            scale = LayerScale(written.std(axis=0), np.linalg.norm(writing, axis=1))
        natural[block] = Natural(up, scale, bench.checkpoint.rows("up", block).double().numpy(), writing)
    return natural


def natural_range(bench: Experiment, neuron: NeuronId) -> tuple[float, float]:
    """The 1st and 99th percentile of a neuron's u on the selection texts, where its expert is routed to."""
    block = natural_text(bench, [neuron.block])[neuron.block]
    check_routed(neuron, len(block.up))
    low, high = block.doses(neuron.neuron, 2)
    return float(low), float(high)


def check_routed(neuron: NeuronId, positions: int) -> None:
    """Refuse an expert's neuron that natural text hardly reaches.

    Raises:
        RunError: there are too few positions for a natural range.
    """
    if positions < LEAST_ROUTED:
        raise RunError(
            f"{neuron} cannot be measured: of the selection texts only {positions} tokens are routed to its expert, "
            f"and {LEAST_ROUTED} are needed; add prompts that reach it"
        )


def append(ids: Tensor, token_id: int) -> Tensor:
    """Token ids [1, positions + 1] with one more at the end."""
    return torch.cat([ids, torch.tensor([[token_id]], device=ids.device)], dim=1)


def leading_specials(bench: Experiment) -> int:
    """How many special tokens the tokenizer puts in front; models behave oddly on them, so they set no range."""
    special = set(bench.tokenizer.all_special_ids)
    ids = encode(bench.tokenizer, "a")[0].tolist()
    return next((i for i, token in enumerate(ids) if token not in special), 0)
