"""What becomes of a curve's single steps: how many go the wrong way, how many go nowhere (METHOD 7)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike


@dataclass(frozen=True)
class Steps:
    """Steps of curves, counted.

    Attributes:
        n: all of them.
        reversed: those that go against the direction.
        level: those at whose two doses the values are equal.
    """

    n: int
    reversed: int
    level: int

    def __add__(self, other: Steps) -> Steps:
        return Steps(self.n + other.n, self.reversed + other.reversed, self.level + other.level)


def count_steps(curves: ArrayLike, directions: ArrayLike) -> Steps:
    """Count the steps of curves [curves, doses] against each curve's direction [curves], +1 or -1; 0 is left out."""
    way = np.asarray(directions, dtype=np.float64)
    steps = np.diff(np.asarray(curves, dtype=np.float64), axis=1)[way != 0] * way[way != 0, None]
    return Steps(steps.size, int((steps < 0).sum()), int((steps == 0).sum()))
