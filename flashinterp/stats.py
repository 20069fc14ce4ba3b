"""Trend, shape, interval, rank, false discovery: thin, honest wrappers over scipy.

The resampling unit is always the prompt. What cannot be computed is None, never 0 and never NaN.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, stats

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
    if n == 0:
        return None
    ci = stats.binomtest(successes, n).proportion_ci(level, method="wilson")
    return Interval(successes / n, float(ci.low), float(ci.high))


def bootstrap_mean(
    values: ArrayLike, rng: np.random.Generator, *, level: float = 0.95, resamples: int = 2000
) -> Interval:
    """The mean over prompts with its BCa bootstrap interval; no interval for fewer than 3 or for equal values."""
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
    x = np.asarray(data, dtype=np.float64)
    if direction == "-":
        x = x[:, ::-1]
    if x.shape[0] < 2 or x.shape[1] < 3 or not np.ptp(x, axis=1).any():
        return None
    # The exact null distribution assumes no ties; scipy's "auto" picks it for small tables only.
    return float(stats.page_trend_test(x, method="asymptotic" if x.shape[0] * x.shape[1] > 60 else "auto").pvalue)


def isotonic_violation(curve: ArrayLike, direction: Literal["+", "-"]) -> float:
    """The largest distance of a curve [doses] from its best monotone fit, in the curve's own unit."""
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
    known = [p for p in ps if p is not None]
    if not known:
        return [None] * len(ps)
    qs = iter(stats.false_discovery_control(known, method="bh"))
    return [None if p is None else float(next(qs)) for p in ps]


def mann_whitney_p(present: ArrayLike, absent: ArrayLike) -> float:
    """One-sided p that values with the concept tend to exceed those without it."""
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
