"""The figure of layers: where in the model the neurons of each word sit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from flashinterp._util.text import safe_text
from flashinterp.errors import RunError
from flashinterp.provenance.registry import derivation, record
from flashinterp.report.charts.canvas import WIDTH, Floats, drawing, finite, head, layer_ticks, short
from flashinterp.report.figure import Figure
from flashinterp.report.palette import BLUE, INK, MUTED, SHADE, SKY, VERMILION

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@record("charts.layer_row", version=1)
@dataclass(frozen=True)
class LayerRow:
    """One word's neurons, layer by layer.

    Attributes:
        label: the word.
        scores: [L, n] the scores of the n best neurons of each layer, best first; 0 where a layer has fewer.
        best: the best neuron of all, as it is named.
    """

    label: str
    scores: npt.ArrayLike
    best: str


@derivation("charts.layer_rows", version=1)
def concept_layers(name: str, title: str, layers: Sequence[int], rows: Sequence[LayerRow]) -> Figure:
    """One row a word: a bar up to the best score in each layer, dots at the next best ones, the best of all marked.

    Rows have scales of their own, so that a word with low scores shows its layers too; the number beside the best
    says how high it is.
    """
    from matplotlib.lines import Line2D

    if not rows:
        raise RunError(f"figure {name} has no rows: give it at least one word")
    grids = [_points(f"figure {name}, row {i}", row, len(layers)) for i, row in enumerate(rows)]
    at = np.asarray(layers, dtype=np.float64)
    with drawing(name) as (canvas, finish):
        grid = canvas.subplots(len(rows), 1, sharex=True, squeeze=False)[:, 0]
        for axes, row, scores in zip(grid, rows, grids, strict=True):
            _draw_row(axes, at, row, scores)
        layer_ticks(grid[-1], at, 0.0)
        grid[-1].set(xlabel="layer", xlim=(at.min() - 0.5, at.max() + 0.5))
        bar = Line2D([], [], color=SKY, linewidth=4)
        best = Line2D([], [], color=VERMILION, linewidth=4)
        dot = Line2D([], [], color=BLUE, marker="o", markersize=2.6, linestyle="")
        names = ["best score in the layer", "best in the model", "the layer's next best"]
        canvas.legend([bar, best, dot], names, loc="outside lower left", ncols=3)
        head(canvas, title)
        svg = finish((WIDTH, 1.0 + 0.46 * len(rows)))
    said = "; ".join(_in_words(layers, row, scores) for row, scores in zip(rows, grids, strict=True))
    data = {f"row{i}_scores": scores for i, scores in enumerate(grids)} | {"layers": at}
    return Figure(name, title, safe_text(f"Best score in each layer: {said}."), svg, data)


def _points(where: str, row: LayerRow, n_layers: int) -> Floats:
    scores = finite(f"{where}, scores", row.scores)
    if scores.ndim != 2 or len(scores) != n_layers or (scores < 0).any():
        raise RunError(f"{where} has scores {scores.shape} for {n_layers} layers: give [layers, n], none below 0")
    return scores


def _draw_row(axes: Axes, at: Floats, row: LayerRow, scores: Floats) -> None:
    from matplotlib.ticker import NullLocator

    peak, top = int(scores[:, 0].argmax()), max(float(scores.max()), 1e-12)
    width = min(14.0, 0.55 * 72 * (WIDTH - 1.6) / max(at.size, 1))  # points: a bar takes half of its layer's place
    axes.vlines(at, 0, scores[:, 0], color=SKY, lw=width)
    axes.vlines(at[peak], 0, scores[peak, 0], color=VERMILION, lw=width)
    rest = scores[:, 1:]
    there = rest > 0
    axes.plot(np.broadcast_to(at[:, None], rest.shape)[there], rest[there], "o", color=BLUE, markersize=2.6)
    side = "right" if peak > at.size / 2 else "left"
    said = short(f"{row.best}  {scores[peak, 0]:.3g}", 32)
    gap = (0.5 if side == "left" else -0.5) * min(1.0, 0.62 * width / 72 / (WIDTH - 1.6) * at.size + 0.25)
    axes.text(at[peak] + gap, 0.98 * top, said, ha=side, va="top", fontsize=7.5, color=INK)
    axes.set_ylim(0, 1.12 * top)
    axes.yaxis.set_major_locator(NullLocator())
    axes.set_ylabel(short(row.label, 16), rotation=0, ha="right", va="center")
    axes.spines["left"].set_visible(False)
    axes.spines["bottom"].set_color(SHADE)
    axes.tick_params(axis="x", length=0, labelcolor=MUTED)


def _in_words(layers: Sequence[int], row: LayerRow, scores: Floats) -> str:
    peak = int(scores[:, 0].argmax())
    return f"{short(row.label, 40)}: layer {layers[peak]} ({short(row.best, 32)}, {scores[peak, 0]:.3g})"
