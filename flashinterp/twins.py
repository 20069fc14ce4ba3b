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

from flashinterp.clamp import clamp
from flashinterp.neuron import NeuronId

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


def nearest_twin(neuron: int, reading: Floats, writing: Floats) -> Twin | None:
    """The neuron whose reading [F, d] and writing [F, d] vectors are both most like a neuron's, or both most opposite.

    None in a block of one neuron. Ties go to the lower neuron.
    """
    read, write = _cosines(reading, neuron), _cosines(writing, neuron)
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


@dataclass(frozen=True)
class TwinEffects:
    """Changes of a word's log-odds, mean over texts, nats.

    Attributes:
        silenced: the first fixed at its mean, the second, and both, on texts in which the word stands.
        driven: the first from one end of its natural range to the other, the second, and both, on texts without it.
    """

    silenced: tuple[float, float, float]
    driven: tuple[float, float, float]


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
    clean = log_odds_under(model, present, token, {})
    silenced = [log_odds_under(model, present, token, {pair[i]: means[i] for i in who}) - clean for who in chosen]
    driven = []
    for who in chosen:
        low, high = (log_odds_under(model, neutral, token, {pair[i]: ends[i][end] for i in who}) for end in (0, 1))
        driven.append(high - low)
    first, second, both = (float(x.mean()) for x in silenced)
    one, other, together = (float(x.mean()) for x in driven)
    return TwinEffects((first, second, both), (one, other, together))


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
