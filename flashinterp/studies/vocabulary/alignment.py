"""Vocabulary alignment of what neurons write: max over tokens of |U · W_down[:, n]| (METHOD 8)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flashinterp.decoding.neuron_map import NeuronMap
from flashinterp.errors import MapError
from flashinterp.neuron_index import NeuronIndex


@dataclass(frozen=True)
class LayerAlignment:
    """The distribution of one layer's alignments; skew and kurtosis are None where all are equal."""

    layer: int
    mean: float
    median: float
    maximum: float
    skew: float | None
    kurtosis: float | None


@dataclass(frozen=True)
class Alignment:
    """How strongly each neuron's output vector points at one token.

    Attributes:
        max_abs: [N] float32, max_t |U · W_down[:, n]|, no norm applied (the June 2025 post);
            soft-capped where the model's logits are.
        token_ids: [N] the token that attains it.
        signs: [N] +1 if the neuron's positive value raises that token's logit, -1 if it lowers it.
        map: the logit-lens map that this was read from.
    """

    max_abs: NDArray[np.float32]
    token_ids: NDArray[np.int32]
    signs: NDArray[np.int8]
    map: NeuronMap

    @property
    def per_layer(self) -> tuple[LayerAlignment, ...]:
        """One row a layer: a long tail shows as skew, and in later layers as a growing maximum."""
        return layer_alignments(self.max_abs, self.map.roster)

    def by_layer(self) -> list[NDArray[np.float32]]:
        """The alignments of each layer's neurons."""
        return [self.max_abs[self.map.roster.layer_span(layer)] for layer in self.map.layers]


def layer_alignments(max_abs: NDArray[np.float32], roster: NeuronIndex) -> tuple[LayerAlignment, ...]:
    """The distribution of alignments [N] in each layer of a roster of N neurons."""
    return tuple(_layer(layer, max_abs[roster.layer_span(layer)].astype(np.float64)) for layer in roster.layers)


def _layer(layer: int, x: NDArray[np.float64]) -> LayerAlignment:
    from scipy import stats

    tail = (float(stats.skew(x)), float(stats.kurtosis(x))) if np.ptp(x) else (None, None)
    return LayerAlignment(layer, float(x.mean()), float(np.median(x)), float(x.max()), *tail)


def alignment(
    checkpoint: Any, *, top_k: int = 10, device: str = "auto", progress: Callable[[int, int], None] | None = None
) -> Alignment:
    """Measure every neuron's alignment; takes what `open_checkpoint` takes."""
    from flashinterp.decoding.decode import decode

    return alignment_of(decode(checkpoint, lens="logit-lens", top_k=top_k, device=device, progress=progress))


def alignment_of(logit_lens: NeuronMap) -> Alignment:
    """Read the alignments off a logit-lens map: the larger of the two poles' best, ties to the positive.

    Raises:
        MapError: a map of another lens.
    """
    if logit_lens.meta["lens"] != "logit-lens":
        raise MapError(f"alignment is read off a logit-lens map, not {logit_lens.meta['lens']}: decode that lens")
    plus, minus = logit_lens.top_logits[:, 0], -logit_lens.bottom_logits[:, 0]
    positive = plus >= minus
    return Alignment(
        max_abs=np.where(positive, plus, minus).astype(np.float32),
        token_ids=np.where(positive, logit_lens.top_ids[:, 0], logit_lens.bottom_ids[:, 0]).astype(np.int32),
        signs=np.where(positive, 1, -1).astype(np.int8),
        map=logit_lens,
    )
