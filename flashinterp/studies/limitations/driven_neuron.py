"""A neuron that was clamped at both ends of its natural range: what the tables of the limits are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flashinterp.provenance.registry import record


@record("limitations.driven_neuron", version=1)
@dataclass(frozen=True)
class Driven:
    """The log-odds of T tokens, with one neuron clamped at one end of its natural range and at the other.

    Attributes:
        doses: the two values of u, ordered towards the neuron's pole.
        tokens: T ids.
        log_odds: [2 ends, prompts, T] nats.
    """

    doses: tuple[float, float]
    tokens: tuple[int, ...]
    log_odds: NDArray[np.float32]

    @property
    def means(self) -> NDArray[np.float32]:
        """[2 ends, T] over prompts."""
        result: NDArray[np.float32] = self.log_odds.mean(axis=1)
        return result

    @property
    def effects(self) -> list[float]:
        """T changes of mean log-odds from the first end to the second."""
        changes: list[float] = (self.means[1] - self.means[0]).tolist()
        return changes

    def effects_on(self, tokens: Sequence[int]) -> list[float]:
        """The changes of some of the tokens.

        Raises:
            ValueError: one of them was not measured.
        """
        by_place = self.effects
        return [by_place[self.tokens.index(token)] for token in tokens]

    def usual(self, known: Sequence[int], share: float = 0.95) -> float:
        """The absolute effect that this share of the tokens which are not known ones do not reach."""
        others = [abs(e) for token, e in zip(self.tokens, self.effects, strict=True) if token not in known]
        return float(np.quantile(np.array(others, dtype=np.float32), share))
