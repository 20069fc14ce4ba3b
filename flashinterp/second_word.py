"""Does a neuron name a second concept beside its first, one that is not related to it? (METHOD 7)"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from flashinterp.checkpoint import Checkpoint
from flashinterp.neuron import NeuronId, Pole
from flashinterp.neuron_map import NeuronMap, Word

UNRELATED = 0.75
"""Words are unrelated if their rows of the head are less alike than this share of random pairs of words."""

_PAIRS = 4096  # drawn to see how alike unrelated rows are: the quantile is then good to about a hundredth


@dataclass(frozen=True)
class Likeness:
    """How alike the head's rows of words are, by the cosine once the mean row is taken away.

    Attributes:
        rows: [V, d] unit vectors.
        below: a cosine below this one is no likeness.
    """

    rows: NDArray[np.float32]
    below: float

    @classmethod
    def of(cls, checkpoint: Checkpoint, words: list[int], rng: np.random.Generator) -> Likeness:
        """The likeness of a model's words.

        What all rows share says nothing of any two, and the mean of the words' rows is what they share.
        """
        head = checkpoint.head().to("cpu", torch.float32).numpy()
        centred = head - head[words].mean(axis=0)
        rows = centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), np.finfo(np.float32).tiny)
        one, other = rng.choice(words, size=(2, _PAIRS))
        cosines = (rows[one] * rows[other]).sum(axis=1)[one != other]
        return cls(rows, float(np.quantile(cosines, UNRELATED)))

    def cosine(self, one: int, other: int) -> float:
        """Of two tokens."""
        return float(self.rows[one] @ self.rows[other])

    def related(self, one: int, other: int) -> bool:
        """Whether two words are more alike than three of four random pairs are."""
        return self.cosine(one, other) >= self.below


def second_word(
    named: NeuronMap, neuron: NeuronId, pole: Pole, first: int, likeness: Likeness, n: int = 10
) -> Word | None:
    """The best of a neuron's first n words that is neither the first word in another form nor like it; None for none.

    Args:
        named: the map of the lens.
        neuron, pole: which vector, and which way.
        first: the token that the neuron is known for.
        likeness: of the model's words.
        n: how many of its words are looked at.
    """
    vocabulary = named.vocabulary
    forms = {first, *(v.id for v in vocabulary.variants(vocabulary.resolve(first)))}
    for word in named.words(neuron, n, pole):
        if word.token.id not in forms and not likeness.related(first, word.token.id):
            return word
    return None
