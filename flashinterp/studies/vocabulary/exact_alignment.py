"""What alignments are held against, and what is told of the neurons with the largest ones."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from flashinterp.models.checkpoint import Checkpoint
from flashinterp.neurons import POLES, Block
from flashinterp.studies.vocabulary.alignment import Alignment

WORDS = 5
"""Of a shown neuron on each pole."""


def both_poles_words(aligned: Alignment, i: int) -> list[tuple[str, float]]:
    """The best words of a neuron on both poles, with their logits."""
    neuron, found = aligned.map.neuron(i), aligned.map.words
    return [(str(w.token), w.logit) for pole in POLES for w in found(neuron, WORDS, pole)]


def exact_alignment(checkpoint: Checkpoint, block: Block, n: int) -> NDArray[np.float64]:
    """[n] max over tokens of |U · W_down| of a block's first n neurons, the whole product in float64."""
    z = checkpoint.rows("down", block)[:n].double() @ checkpoint.head().double().T
    if (softcap := checkpoint.layout.softcap) is not None:
        z = softcap * (z / softcap).tanh()
    exact: NDArray[np.float64] = z.abs().max(dim=1).values.numpy()
    return exact
