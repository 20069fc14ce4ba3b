"""Trend, shape, interval, rank, false discovery: thin, honest wrappers over scipy.

The resampling unit is always the prompt. What cannot be computed is None, never 0 and never NaN.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
LEAST_RESAMPLED = 3
"""Fewer values than this are no sample to draw from: a bootstrap of two has three outcomes."""
_ROUNDING = 1e-9  # relative; a float64 sum of a few thousand terms is good to about 1e-13


@dataclass(frozen=True)
class Interval:
    """An estimate with its interval; low and high are None where no interval can be given."""

    estimate: float
    low: float | None
    high: float | None


def wilson(successes: int, n: int, level: float = 0.95) -> Interval | None:
    """A share with its Wilson interval, which is not degenerate at 0 or 1; None for n = 0."""
    from scipy.special import ndtri  # scipy.stats gives the same, and takes a second to import

    if n == 0:
        return None
    p, z = successes / n, float(ndtri(0.5 + 0.5 * level))
    whole = 2 * (n + z**2)
    centre = (2 * n * p + z**2) / whole
    half = z / whole * math.sqrt(4 * n * p * (1 - p) + z**2)
    return Interval(p, 0.0 if successes == 0 else centre - half, 1.0 if successes == n else centre + half)


def bootstrap_mean(
    values: ArrayLike, rng: np.random.Generator, *, level: float = 0.95, resamples: int = 2000
) -> Interval:
    """The mean over prompts with its BCa bootstrap interval; no interval for fewer than 3 or for equal values."""
    from scipy import stats

    x = np.asarray(values, dtype=np.float64)
    mean = float(x.mean())
    if len(x) < LEAST_RESAMPLED or np.ptp(x) == 0:
        return Interval(mean, None, None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a degenerate resample shows as NaN below
        ci = stats.bootstrap(
            (x,), np.mean, confidence_level=level, n_resamples=resamples, method="BCa", rng=rng
        ).confidence_interval
    if not (np.isfinite(ci.low) and np.isfinite(ci.high)):
        return Interval(mean, None, None)
    return Interval(mean, float(ci.low), float(ci.high))


def page_trend(data: ArrayLike, direction: Literal["+", "-"]) -> float | None:
    """p of Page's L: do values [prompts, doses] tend to rise (or fall) with dose, within each prompt?

    None where every prompt's curve is flat, which is no evidence either way.
    """
    from scipy import stats

    x = np.asarray(data, dtype=np.float64)
    if direction == "-":
        x = x[:, ::-1]
    if x.shape[0] < 2 or x.shape[1] < 3 or not np.ptp(x, axis=1).any():
        return None
    # The exact null distribution assumes no ties; scipy's "auto" picks it for small tables only.
    return float(stats.page_trend_test(x, method="asymptotic" if x.shape[0] * x.shape[1] > 60 else "auto").pvalue)


def isotonic_violation(curve: ArrayLike, direction: Literal["+", "-"]) -> float:
    """The largest distance of a curve [doses] from its best monotone fit, in the curve's own unit."""
    from scipy import optimize

    y = np.asarray(curve, dtype=np.float64)
    fit = optimize.isotonic_regression(y, increasing=direction == "+").x
    return float(np.abs(y - fit).max())


def rank_p(target: float, controls: ArrayLike, *, slack: float = 0.0) -> float | None:
    """(1 + #{control >= target - slack}) / (1 + N); its floor is 1 / (1 + N). None without controls.

    Slack is what the measurement cannot tell apart: a tie counts against the target.
    """
    c = np.asarray(controls, dtype=np.float64)
    # Equal but for the order of a sum is equal, too.
    as_large = (c >= target - slack) | np.isclose(c, target, rtol=_ROUNDING, atol=0)
    return None if c.size == 0 else float((1 + np.count_nonzero(as_large)) / (1 + c.size))


def false_discovery(ps: Sequence[float | None]) -> list[float | None]:
    """Benjamini-Hochberg q of each p over the family of those that exist; None stays None."""
    from scipy import stats

    known = [p for p in ps if p is not None]
    if not known:
        return [None] * len(ps)
    qs = iter(stats.false_discovery_control(known, method="bh"))
    return [None if p is None else float(next(qs)) for p in ps]


def mann_whitney_p(present: ArrayLike, absent: ArrayLike) -> float:
    """One-sided p that values with the concept tend to exceed those without it."""
    from scipy import stats

    return float(stats.mannwhitneyu(np.ravel(present), np.ravel(absent), alternative="greater").pvalue)


def auc(present: ArrayLike, absent: ArrayLike) -> float:
    """The chance that a value with the concept exceeds one without it; ties count half."""
    p, a = np.ravel(present)[:, None], np.ravel(absent)[None, :]
    return float((p > a).mean() + 0.5 * (p == a).mean())


def separation(present: Floats, absent: Floats, scale: ArrayLike) -> Floats:
    """(mean with - mean without) / scale, over axis 0; 0 without a gap, infinite where only the scale is 0.

    Unlike AUC it does not saturate at 1, so that a target can be told from controls that also reach 1. The scale is a
    neuron's standard deviation on natural text: that of a few words without the concept is small by luck for some
    neuron of hundreds, which would then stand out.
    """
    gap, spread = present.mean(axis=0) - absent.mean(axis=0), np.asarray(scale, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        result: Floats = np.where(gap == 0, 0.0, gap / spread)
    return result


def smallest_ps(*, controls: int, prompts: int, doses: int, contexts: int, absent: int) -> dict[str, float]:
    """The smallest p that each test of the rule can give with these sizes, from data that could not be clearer."""
    perfect = np.tile(np.arange(doses, dtype=np.float64), (prompts, 1))
    trend = page_trend(perfect, "+")
    return {
        "rank among controls": 1 / (controls + 1),
        "trend over doses": 1.0 if trend is None else trend,
        "with the word and with others": mann_whitney_p(
            np.arange(contexts) + contexts * absent, np.arange(contexts * absent)
        ),
    }


def smallest_family_p(p: float, n_claims: int, true_claims: int = 1) -> float:
    """The best q that Benjamini-Hochberg can give when ``true_claims`` of the family reach the smallest p."""
    return min(1.0, p * n_claims / true_claims)


@dataclass(frozen=True)
class Equivalence:
    """A mean difference, its interval at level 1 - 2 alpha, and whether all of it lies within ±margin.

    Attributes:
        low, high: None where no interval can be given.
        p: of the two one-sided tests (TOST), the larger; at most alpha exactly where the interval lies inside.
            None where the differences do not vary, or are too few.
    """

    estimate: float
    low: float | None
    high: float | None
    margin: float
    p: float | None

    @property
    def shown(self) -> bool:
        """Equivalence is shown, not merely that no difference was found."""
        return self.low is not None and self.high is not None and -self.margin < self.low and self.high < self.margin


def equivalence(differences: ArrayLike, margin: float, *, alpha: float = 0.05, slack: float = 0.0) -> Equivalence:
    """Is a mean paired difference within ±margin? Two one-sided t tests, one value a prompt.

    Student's t, not a percentile bootstrap. With a true difference of exactly the margin (3,000 draws each) it is
    wrong in 5.6, 4.1, 4.9 % of cases with 6, 12, 24 normal values, the bootstrap in 10.6, 6.8, 5.9 %; with values of
    Student's distribution of 3 degrees 4.7, 4.5, 4.6 % against 10.7, 7.8, 6.4 %. The worst case of both is an
    exponential's skew with its tail away from 0: 16, 13, 11 % against 21, 15, 11 %.

    Args:
        differences: [prompts].
        margin: what counts as no difference, positive.
        alpha: the level of each test.
        slack: what the measurement cannot tell apart; it widens the interval on both sides.
    """
    from scipy.special import stdtr, stdtrit

    x = np.asarray(differences, dtype=np.float64)
    mean = float(x.mean())
    if len(x) < LEAST_RESAMPLED:
        return Equivalence(mean, None, None, margin, None)
    error = float(x.std(ddof=1) / np.sqrt(len(x)))
    if error <= _ROUNDING * np.abs(x).max():  # equal but for the rounding of a sum
        error = 0.0
    half = float(stdtrit(len(x) - 1, 1 - alpha)) * error + slack
    p = float(stdtr(len(x) - 1, (abs(mean) - (margin - slack)) / error)) if error > 0 else None
    return Equivalence(mean, mean - half, mean + half, margin, p)


def lower_bound(values: ArrayLike, *, alpha: float = 0.05) -> float | None:
    """The lower end of Student's one-sided interval of a mean; None for fewer than 3 values."""
    from scipy.special import stdtrit

    x = np.asarray(values, dtype=np.float64)
    if len(x) < LEAST_RESAMPLED:
        return None
    return float(x.mean() - stdtrit(len(x) - 1, 1 - alpha) * x.std(ddof=1) / np.sqrt(len(x)))


def mean_interval(values: ArrayLike, *, alpha: float = 0.05) -> Interval:
    """A mean with Student's interval of level 1 - 2 alpha; no interval for fewer than 3 values."""
    x = np.asarray(values, dtype=np.float64)
    mean = float(x.mean())
    low, high = lower_bound(x, alpha=alpha), lower_bound(-x, alpha=alpha)
    return Interval(mean, low, None if high is None else -high)


def log_odds(log_probs: NDArray[np.float32]) -> NDArray[np.float32]:
    """log(p / (1 - p)) from log p, finite also where p rounds to 1."""
    # 1 - p is at least one float32 step below 1; smaller differences are rounding, not odds.
    other = np.log(np.maximum(-np.expm1(log_probs.astype(np.float64)), np.finfo(np.float32).eps / 2))
    result: NDArray[np.float32] = (log_probs - other).astype(np.float32)
    return result
