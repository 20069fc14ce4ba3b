"""Slopes over how frequent a name is in the training text, and their intervals over trainings.

The resampling unit of an interval is the training: names of one model share its text and its neurons.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flashinterp.stats import Interval

Floats = NDArray[np.float64]
RESAMPLES = 1000
RIDGE = 0.1  # on the slope and the intercept: of a resample without a single success the likelihood has no maximum
LEAST_TRAININGS = 5  # of fewer no interval is made: three have ten resamples
LEAST = 5  # fewer successes or failures than this give no slope
_RESAMPLED = (1, 124_891_568)  # the seed of the stream of resamples: its root, and the number of its name


@dataclass(frozen=True)
class Slopes:
    """A slope, and the slopes of resampled trainings; None of these with fewer than 5 trainings.

    Two of the same trainings were resampled alike, so that their difference has an interval, too.
    """

    estimate: float
    resampled: Floats | None

    @property
    def interval(self) -> Interval:
        """With the 2.5th and the 97.5th percentile of the resamples."""
        if self.resampled is None:
            return Interval(self.estimate, None, None)
        low, high = np.quantile(self.resampled, [0.025, 0.975])
        return Interval(self.estimate, float(low), float(high))

    def less(self, other: Slopes) -> Interval:
        """The difference."""
        both = self.resampled is not None and other.resampled is not None
        resampled = self.resampled - other.resampled if both else None  # type: ignore[operator]
        return Slopes(self.estimate - other.estimate, resampled).interval


def logistic_slope(x: Floats, yes: NDArray[np.bool_], groups: Sequence[int]) -> Slopes | None:
    """The slope of a logistic regression; None with fewer than 5 successes or failures."""
    if min(yes.sum(), (~yes).sum()) < LEAST:
        return None
    return _resampled(lambda weights: _logistic(x, yes, weights), groups)


def linear_slope(x: Floats, y: Floats, groups: Sequence[int]) -> Slopes:
    """The slope of a straight line."""

    def fit(weights: Floats) -> Floats:
        total = weights.sum(axis=1)
        mean_x, mean_y = (weights @ v / total for v in (x, y))
        dx, dy = x[None] - mean_x[:, None], y[None] - mean_y[:, None]
        result: Floats = (weights * dx * dy).sum(axis=1) / (weights * dx * dx).sum(axis=1)
        return result

    return _resampled(fit, groups)


def _resampled(fit: Callable[[Floats], Floats], groups: Sequence[int]) -> Slopes:
    """The fit of all lines, each once, and of resampled groups."""
    names, group = np.unique(np.asarray(groups), return_inverse=True)
    estimate = float(fit(np.ones((1, len(group))))[0])
    if len(names) < LEAST_TRAININGS:
        return Slopes(estimate, None)
    drawn = np.random.default_rng(_RESAMPLED).integers(len(names), size=(RESAMPLES, len(names)))
    times = np.stack([(drawn == g).sum(axis=1) for g in range(len(names))], axis=1)  # [resamples, groups]
    return Slopes(estimate, fit(times[:, group].astype(np.float64)))


def _logistic(x: Floats, yes: NDArray[np.bool_], weights: Floats) -> Floats:
    """[resamples] slopes by Newton's method, with weights [resamples, lines] and a small ridge; x is centred for it."""
    design = np.stack([np.ones_like(x), x - x.mean()], axis=1)  # [lines, 2]
    beta = np.zeros((len(weights), 2))
    for _ in range(50):
        p = 1 / (1 + np.exp(-np.clip(beta @ design.T, -30, 30)))
        gradient = (weights * (yes - p)) @ design - RIDGE * beta
        curvature = np.einsum("bn,ni,nj->bij", weights * p * (1 - p), design, design) + RIDGE * np.eye(2)
        step = np.linalg.solve(curvature, gradient[..., None])[..., 0]
        beta += step
        if np.abs(step).max() < 1e-9:
            break
    slope: Floats = beta[:, 1]
    return slope
