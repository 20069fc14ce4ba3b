"""Which neuron of an MLP is most like another one, and what is recorded of clamping the two (METHOD 7)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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
