"""The points that a figure draws, where a model has more neurons than a page has pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from flashinterp.errors import RunError
from flashinterp.report.charts.canvas import Floats, finite

_BINS = 1000  # over all layers: more than one per pixel at 768 px
_CURVE_POINTS = 300


def flat_scores(name: str, scores: Any) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Scores [N] and the layer of each [N], from either form that `spikes` takes."""
    what = f"figure {name}, scores"
    if isinstance(scores, tuple):
        flat, layer_of = finite(what, scores[0]), np.asarray(scores[1], dtype=np.int64)
    else:
        grid = finite(what, scores)
        if grid.ndim < 2:
            raise RunError(f"{what} are one row of {grid.size}: give (scores, layer of each)")
        flat, layer_of = grid.ravel(), np.repeat(np.arange(len(grid)), grid[0].size)
    if flat.shape != layer_of.shape or (np.diff(layer_of) < 0).any():
        raise RunError(
            f"figure {name} has scores {flat.shape} for layers {layer_of.shape}: give one layer "
            "per score, in rising order"
        )
    return flat, layer_of


def positions(layer_of: npt.NDArray[np.int64]) -> Floats:
    """Each neuron's place on the x axis, [N]: its layer, plus how far along the layer it stands."""
    first = np.searchsorted(layer_of, layer_of, side="left")
    width = np.searchsorted(layer_of, layer_of, side="right") - first
    return np.asarray(layer_of + (np.arange(layer_of.size) - first + 0.5) / width, dtype=np.float64)


def bin_maxima(flat: Floats, layer_of: npt.NDArray[np.int64]) -> tuple[Floats, Floats]:
    """The x and the height of every bin that is drawn: the highest score among its neurons."""
    layers, first, width = np.unique(layer_of, return_index=True, return_counts=True)
    bins = max(1, _BINS // len(layers))
    xs, ys = [], []
    for layer, start, n in zip(layers, first, width, strict=True):
        edges = np.unique(np.linspace(0, n, min(n, bins) + 1).astype(int))
        ys.append(np.maximum.reduceat(flat[start : start + n], edges[:-1]))
        xs.append(layer + (edges[:-1] + edges[1:]) / (2 * n))
    return np.concatenate(xs), np.concatenate(ys)


def teeth(heights: Floats) -> Floats:
    """Heights as one line's y values: up from 0 and back to 0 at every x, [3 * bins]."""
    return np.stack([np.zeros_like(heights), heights, np.zeros_like(heights)], axis=1).ravel()


def sparse_ranks(n: int) -> npt.NDArray[np.int64]:
    """At most 300 of the ranks 0 to n - 1, both ends included, closer together at the top."""
    even = np.linspace(0, n - 1, _CURVE_POINTS // 2)
    steep = np.geomspace(1, n, _CURVE_POINTS // 2) - 1
    return np.unique(np.concatenate([even, steep]).round().astype(np.int64))
