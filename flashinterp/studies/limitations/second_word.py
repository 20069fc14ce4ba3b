"""Does a neuron name a second concept beside its first, one that is not related to it? (METHOD 7)"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from flashinterp.decoding.neuron_map import Word

if TYPE_CHECKING:
    from flashinterp.models.checkpoint import Checkpoint

UNRELATED = 0.75
"""Words are unrelated if their rows of the head are less alike than this share of random pairs of words."""
_PAIRS = 4096  # drawn to see how alike unrelated rows are: the quantile is then good to about a hundredth


@dataclass(frozen=True)
class Likeness:
    """How alike the head's rows of words are, by the cosine once the mean row is taken away.

    Attributes:
        rows: [V, d] unit vectors.
        pairs: [P] cosines of random pairs of words.
    """

    rows: NDArray[np.float32]
    pairs: NDArray[np.float32]

    @classmethod
    def of(cls, checkpoint: Checkpoint, words: list[int], rng: np.random.Generator) -> Likeness:
        """The likeness of a model's words.

        What all rows share says nothing of any two, and the mean of the words' rows is what they share.
        """
        import torch

        head = checkpoint.head().to("cpu", torch.float32).numpy()
        centred = head - head[words].mean(axis=0)
        rows = centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), np.finfo(np.float32).tiny)
        one, other = rng.choice(words, size=(2, _PAIRS))
        return cls(rows, (rows[one] * rows[other]).sum(axis=1)[one != other])

    def cosines(self, one: int, others: Sequence[int]) -> NDArray[np.float32]:
        """[others] of one token with each of some others."""
        return np.array([self.rows[one] @ self.rows[other] for other in others], dtype=np.float32)


def unlike(pairs: NDArray[np.float32]) -> float:
    """The cosine below which two words are less alike than three of four random pairs [P] are."""
    return float(np.quantile(pairs, UNRELATED))


def second_word(
    words: Sequence[Word], forms: Collection[int], cosines: NDArray[np.float32], below: float
) -> Word | None:
    """The first of a neuron's words that is neither its known word in another form nor like it; None for none.

    Args:
        words: the neuron's, best first.
        forms: the known word's token ids, in every written form.
        cosines: [words] of each with the known word.
        below: a cosine below this one is no likeness, see `unlike`.
    """
    for word, cosine in zip(words, cosines, strict=True):
        if word.token.id not in forms and cosine < below:
            return word
    return None
