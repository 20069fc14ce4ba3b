"""Neurons that do the same as another one: what silencing and driving one of them, and both, shows (METHOD 7)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flashinterp.interventions.clamp import clamp
from flashinterp.neurons import NeuronId
from flashinterp.provenance.registry import record

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Twin:
    """The neuron of a block that is most like another one.

    Attributes:
        neuron: its number in the block.
        read, write: cosines of what the two read and of what they write. Both are turned round where the pair is
            mirrored, which is the same function (METHOD 2).
        mirrored: whether its u has the opposite sign.
    """

    neuron: int
    read: float
    write: float
    mirrored: bool

    @property
    def likeness(self) -> float:
        """The smaller of the two."""
        return min(self.read, self.write)


def cosines_with(neuron: int, reading: Floats, writing: Floats) -> Floats:
    """[2, F] cosines of a neuron's reading vector with all of [F, d], and of its writing vector."""
    return np.stack([_cosines(reading, neuron), _cosines(writing, neuron)])


def nearest_twin(neuron: int, cosines: NDArray[np.floating]) -> Twin | None:
    """The neuron whose reading and writing vectors are both most like a neuron's, or both most opposite.

    None in a block of one neuron. Ties go to the lower neuron.

    Args:
        neuron: its number in the block.
        cosines: [2, F] as `cosines_with` gives them.
    """
    read, write = cosines
    sign = np.where(read + write < 0, -1.0, 1.0)  # the one for which the smaller of the two is the larger
    likeness = np.minimum(sign * read, sign * write)
    likeness[neuron] = -np.inf
    best = int(likeness.argmax())
    if best == neuron:
        return None
    return Twin(best, float(sign[best] * read[best]), float(sign[best] * write[best]), bool(sign[best] < 0))


def _cosines(vectors: Floats, neuron: int) -> Floats:
    norms = np.linalg.norm(vectors, axis=1)
    result: Floats = vectors @ vectors[neuron] / np.maximum(norms * norms[neuron], np.finfo(np.float64).tiny)
    return result


@record("limitations.twin_effects", version=1)
@dataclass(frozen=True)
class TwinEffects:
    """A word's log-odds, nats, under clamps of the first of two neurons, of the second, and of both.

    Attributes:
        clean: [texts] without a clamp, on texts in which the word stands.
        fixed: [3, texts] each fixed at its mean there.
        ends: [3, 2, texts] each at one end of its natural range, and at the other, on texts without the word.
    """

    clean: Floats
    fixed: Floats
    ends: Floats

    @property
    def silenced(self) -> tuple[float, float, float]:
        """Changes by fixing the first, the second, and both; mean over texts."""
        one, other, both = (float((fixed - self.clean).mean()) for fixed in self.fixed)
        return one, other, both

    @property
    def driven(self) -> tuple[float, float, float]:
        """Changes from one end to the other of the first, the second, and both; mean over texts."""
        one, other, both = (float((to - start).mean()) for start, to in self.ends)
        return one, other, both


Ends = tuple[float, float]
"""Where a drive goes from and to."""


def twin_effects(
    model: Any,
    pair: tuple[NeuronId, NeuronId],
    token: int,
    *,
    means: tuple[float, float],
    ends: tuple[Ends, Ends],
    present: Sequence[Tensor],
    neutral: Sequence[Tensor],
) -> TwinEffects:
    """Silence and drive two neurons, each alone and both together.

    Args:
        model: a live transformers model.
        pair: the neurons.
        token: the word.
        means: each neuron's mean u on natural text: silenced is fixed there.
        ends: each neuron's natural range, from where the word is least to where it is most driven.
        present, neutral: token ids [1, positions] with the word, and without.
    """
    chosen = ((0,), (1,), (0, 1))
    fixed = [log_odds_under(model, present, token, {pair[i]: means[i] for i in who}) for who in chosen]
    driven = [
        [log_odds_under(model, neutral, token, {pair[i]: ends[i][end] for i in who}) for end in (0, 1)]
        for who in chosen
    ]
    return TwinEffects(log_odds_under(model, present, token, {}), np.array(fixed), np.array(driven))


@torch.no_grad()
def log_odds_under(model: Any, texts: Sequence[Tensor], token: int, clamps: Mapping[NeuronId, float]) -> Floats:
    """[texts] log(p / (1 - p)) of a token at the end of each, with these neurons fixed at these values."""
    with clamp(model, dict(clamps)) if clamps else nullcontext():
        logits = [model(ids, use_cache=False, logits_to_keep=1).logits[0, -1].double() for ids in texts]
    odds = []
    for z in logits:
        others = z.clone()
        others[token] = -torch.inf
        odds.append(float(z[token] - others.logsumexp(0)))
    return np.array(odds)
