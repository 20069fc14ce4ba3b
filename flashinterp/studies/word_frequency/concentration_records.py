"""What is recorded of how many neurons share a word: each word's spread in a model and in its nulls (METHOD 7)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flashinterp.errors import RunError
from flashinterp.provenance.registry import record
from flashinterp.stats import Interval, bootstrap_mean

Floats = NDArray[np.float64]


@record("word_frequency.word_spread", version=1)
@dataclass(frozen=True)
class Spread:
    """How the mass of T words is spread over N neurons; NaN for a word without any mass.

    Attributes:
        participation: [T] 1 / Σ s², s the neurons' shares: the participation ratio.
        entropy: [T] exp(-Σ s ln s), which counts small shares more.
        top: [T] the largest share.
    """

    participation: Floats
    entropy: Floats
    top: Floats


def spread(mass: NDArray[np.floating]) -> Spread:
    """The effective numbers of neurons of a mass [N, T].

    Raises:
        RunError: the mass is negative or not finite somewhere.
    """
    x = np.asarray(mass, dtype=np.float64)
    if not (np.isfinite(x).all() and (x >= 0).all()):
        raise RunError(f"{int((~(np.isfinite(x) & (x >= 0))).sum())} of {x.size} masses are negative or not finite; "
                       "check the weights")  # fmt: skip
    with np.errstate(invalid="ignore", divide="ignore"):
        shares = x / x.max(axis=0)  # first to 1 at most: a sum of large masses may be infinite
        shares = shares / shares.sum(axis=0)
        log = np.where(shares > 0, np.log(shares), 0.0)
        return Spread(1 / (shares**2).sum(axis=0), np.exp(-(shares * log).sum(axis=0)), shares.max(axis=0))


@record("word_frequency.concentration", version=1)
@dataclass(frozen=True)
class Concentration:
    """One kind of mass in one model, and the same in its nulls.

    Attributes:
        mass: which.
        neurons: N of the model.
        words: the T words, as they are printed.
        here: of the model.
        nulls: of each repetition with random directions.
    """

    mass: str
    neurons: int
    words: tuple[str, ...]
    here: Spread
    nulls: tuple[Spread, ...]

    def effective(self, rng: np.random.Generator) -> Interval | None:
        """The effective number (participation ratio), geometric mean over words, with a bootstrap interval."""
        return _geometric(np.log(self.here.participation), rng)

    def null(self, rng: np.random.Generator) -> Interval | None:
        """The same of the nulls; None without any."""
        return _geometric(np.log(self.null_participation()), rng) if self.nulls else None

    def against_null(self, rng: np.random.Generator) -> Interval | None:
        """How many times the null's number: below 1, concepts are held by fewer neurons than chance would leave."""
        return _geometric(np.log(self.here.participation / self.null_participation()), rng) if self.nulls else None

    def entropic(self) -> float | None:
        """The effective number by entropy, geometric mean over words."""
        known = self.here.entropy[np.isfinite(self.here.entropy)]
        return float(np.exp(np.log(known).mean())) if known.size else None

    def top(self) -> float | None:
        """The mean share of a word's first neuron."""
        known = self.here.top[np.isfinite(self.here.top)]
        return float(known.mean()) if known.size else None

    def null_participation(self) -> Floats:
        """[T] the nulls' effective numbers, geometric mean over the repetitions."""
        result: Floats = np.exp(np.mean([np.log(null.participation) for null in self.nulls], axis=0))
        return result


def _geometric(logs: Floats, rng: np.random.Generator) -> Interval | None:
    """exp of a mean of logs, with its interval, over the words that have any mass."""
    known = logs[np.isfinite(logs)]
    if not known.size:
        return None
    mean = bootstrap_mean(known, rng)
    low, high = (None if end is None else math.exp(end) for end in (mean.low, mean.high))
    return Interval(math.exp(mean.estimate), low, high)
