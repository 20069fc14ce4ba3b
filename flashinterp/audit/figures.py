"""The report's figures, as SVG text: the same data give the same bytes, no global state is left.

Drawn with matplotlib's object-oriented API on a white panel. Text stays text, so it can be
searched; it comes from tokenizers, so it is made safe first and never read as mathematics. Every
figure carries the points it drew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullFormatter

from flashinterp.audit._drawing import (
    BLUE,
    INK,
    MUTED,
    SHADE,
    SKY,
    SPIKES_HEIGHT,
    VERMILION,
    WIDTH,
    Floats,
    depth_colours,
    depth_scale,
    drawing,
    finite,
    head,
    label_spikes,
    layer_ticks,
    short,
)
from flashinterp.audit._figure import Figure
from flashinterp.audit._points import bin_maxima, flat_scores, positions, sparse_ranks, teeth
from flashinterp.audit.figures_dose import DosePanel, dose_response
from flashinterp.audit.tables import safe_text
from flashinterp.errors import RunError
from flashinterp.provenance.registry import derivation, record

__all__ = ["DosePanel", "Figure", "SharePanel", "alignment", "dose_response", "preservation", "shares", "spikes"]


@record("charts.share_panel", version=1)
@dataclass(frozen=True)
class SharePanel:
    """One panel of a figure of shares: one part of the model.

    Attributes:
        label: which part.
        shares: by row, a share from 0 to 1 and the ends of its interval.
        nulls: by row, the share in each repetition of its null; without one, no row.
        chance: the share that chance gives.
    """

    label: str
    shares: Mapping[str, tuple[float, float, float]]
    nulls: Mapping[str, Sequence[float]] = field(default_factory=dict)
    chance: float | None = None


@derivation("charts.score_spikes", version=1)
def spikes(
    name: str,
    title: str,
    scores: npt.ArrayLike | tuple[npt.ArrayLike, npt.ArrayLike],
    highlight: Sequence[tuple[int, str]] = (),
    y_label: str = "score of the token",
) -> Figure:
    """The paper's Figure 1: a token's score at every neuron, the layers side by side.

    A model has more neurons than a page has pixels, so each layer is cut into equal bins of
    neighbouring neurons and a bin shows its highest score: no spike is lost or shortened.

    Args:
        name: the figure's slug.
        title: its heading.
        scores: [layers, neurons], or flat scores [N] and the layer of each [N], in map order.
        highlight: flat neuron indices and their labels; the highest spike first reads best.
        y_label: what a score is.
    """
    flat, layer_of = flat_scores(name, scores)
    x, y = bin_maxima(flat, layer_of)
    n_layers = int(layer_of.max()) + 1
    position = positions(layer_of)
    if any(not 0 <= i < flat.size for i, _ in highlight):
        raise RunError(f"figure {name} labels a neuron outside 0 to {flat.size - 1}: check highlight")
    marks = [(position[i], flat[i], short(text, 44)) for i, text in highlight]
    with drawing(name) as (canvas, finish):
        axes = canvas.subplots()
        axes.plot(np.repeat(x, 3), teeth(y), color=BLUE, linewidth=0.8)
        for edge in range(1, n_layers):
            axes.axvline(edge, color=SHADE, linewidth=0.6, zorder=0)
        label_spikes(axes, (x, y), marks, n_layers)
        layer_ticks(axes, np.arange(float(n_layers)), 0.5)
        axes.set(xlim=(0, n_layers), xlabel="layer (its neurons side by side)")
        axes.set_ylabel(short(y_label, 40))
        head(canvas, title)
        svg = finish((WIDTH, SPIKES_HEIGHT))
    named = ", ".join(f"{text} at {value:.3g}" for _, value, text in marks)
    alt = (
        f"{flat.size:,} neurons in {n_layers} layers; the highest score is "
        f"{flat.max():.3g}, the median {np.median(flat):.3g}" + (f"; labelled: {named}." if named else ".")
    )
    chosen = np.array([i for i, _ in highlight], dtype=np.int64)
    data: dict[str, npt.NDArray[Any]] = {"position": x, "score": y, "highlight": chosen}
    return Figure(name, title, safe_text(alt), svg, data)


@derivation("charts.share_intervals", version=1)
def shares(name: str, title: str, panels: Sequence[SharePanel], x_label: str) -> Figure:
    """Shares with their intervals against their nulls, one row for each way of finding, one panel for each part.

    The rows are those of the first panel, from top to bottom; a row that another panel lacks stays empty there.

    Args:
        name: the figure's slug.
        title: its heading.
        panels: the parts, two or more numbers in each.
        x_label: what the shares are of.
    """
    if not panels or not panels[0].shares:
        raise RunError(f"figure {name} has no shares: give its first panel at least one row")
    rows = list(panels[0].shares)
    points = [_share_points(f"figure {name}, panel {i}", panel, rows) for i, panel in enumerate(panels)]
    with drawing(name) as (canvas, finish):
        grid = canvas.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)
        handles: dict[str, Any] = {}
        for axes, panel, drawn in zip(grid[0], panels, points, strict=True):
            _draw_shares(axes, panel.chance, drawn, handles)
            axes.set_title(short(panel.label, 100 // len(panels)), loc="left", fontsize=9, color=INK)
            axes.set_xlabel(short(x_label, 120 // len(panels)))
        axes = grid[0][0]
        axes.set_yticks(np.arange(len(rows)), [short(row, 24) for row in rows])
        axes.set(xlim=(-3, 103), ylim=(len(rows) - 0.4, -0.6))
        canvas.legend(handles.values(), handles.keys(), loc="outside lower left", ncols=len(handles))
        head(canvas, title)
        svg = finish((WIDTH, 1.4 + 0.3 * len(rows)))
    said = []
    for row, (share, low, high) in panels[0].shares.items():
        null = panels[0].nulls.get(row)
        beside = f", its null {100 * float(np.mean(null)):.1f} %" if null else ""
        said.append(f"{short(row, 24)} {100 * share:.1f} % ({100 * low:.1f} to {100 * high:.1f}){beside}")
    data = {f"panel{i}_{key}": array for i, drawn in enumerate(points) for key, array in drawn.items()}
    return Figure(name, title, safe_text(f"{panels[0].label}, {x_label}: {'; '.join(said)}."), svg, data)


@derivation("charts.share_by_layer", version=1)
def preservation(
    name: str,
    title: str,
    layers: npt.ArrayLike,
    share: npt.ArrayLike,
    lo: npt.ArrayLike,
    hi: npt.ArrayLike,
    overall: float | None = None,
) -> Figure:
    """The share of neurons whose top token is the same in both models, per layer, with intervals.

    Args:
        name: the figure's slug.
        title: its heading.
        layers: layer numbers, [L].
        share: shares from 0 to 1, [L].
        lo: the lower ends of their 95 % Wilson intervals, [L].
        hi: the upper ends, [L].
        overall: the share over the whole model, drawn as a line across.
    """
    at, kept, low, high = (
        finite(f"figure {name}, {what}", values)
        for what, values in (("layers", layers), ("share", share), ("lo", lo), ("hi", hi))
    )
    if not at.shape == kept.shape == low.shape == high.shape == (at.size,):
        raise RunError(f"figure {name}: share, lo and hi are not [{at.size}], one per layer")
    with drawing(name) as (canvas, finish):
        axes = canvas.subplots()
        axes.vlines(at, 100 * low, 100 * high, color=SKY, lw=3.0, label="95 % Wilson interval")
        axes.plot(at, 100 * kept, "o", color=BLUE, markersize=4.0, label="share of the layer")
        if overall is not None:
            line = f"whole model: {100 * overall:.1f} %"
            axes.axhline(100 * overall, color=VERMILION, linewidth=1.2, dashes=(5, 3), label=line)
        layer_ticks(axes, at, 0.0)
        axes.set(
            xlim=(at.min() - 0.7, at.max() + 0.7),
            ylim=(max(0.0, 10 * np.floor(10 * low.min() - 0.5)), min(101, 100 * high.max() + 5)),
            xlabel="layer",
            ylabel="neurons with the same top token (%)",
        )
        axes.yaxis.grid(True, color=SHADE, linewidth=0.6)
        axes.set_axisbelow(True)
        canvas.legend(loc="outside lower left", ncols=3)
        head(canvas, title)
        svg = finish((WIDTH, 3.3))
    worst, best = kept.argmin(), kept.argmax()
    alt = (
        f"{at.size} layers, from {100 * kept[worst]:.1f} % (layer {at[worst]:.0f}) to "
        f"{100 * kept[best]:.1f} % (layer {at[best]:.0f})"
        + ("." if overall is None else f"; {100 * overall:.1f} % over the whole model.")
    )
    data: dict[str, npt.NDArray[Any]] = {"layer": at, "share": kept, "lo": low, "hi": high}
    return Figure(name, title, safe_text(alt), svg, data)


@derivation("charts.alignment_distribution", version=1)
def alignment(name: str, title: str, per_layer: Sequence[npt.ArrayLike]) -> Figure:
    """Vocabulary alignment (June 2025 post): max over tokens of |U·w|, sorted and as a histogram.

    The sorted curve of a wide layer is drawn at 300 ranks, closer together at the steep top.

    Args:
        name: the figure's slug.
        title: its heading.
        per_layer: for each layer the highest |logit| of each of its neurons, [neurons].
    """
    layers = [np.sort(finite(f"figure {name}, layer {i}", a))[::-1] for i, a in enumerate(per_layer)]
    if not layers or any(layer.size == 0 for layer in layers):
        raise RunError(f"figure {name} has an empty layer: give it each layer's highest |logit|s")
    edges = np.linspace(0.0, max(layer[0] for layer in layers) or 1.0, 61)
    middle = (edges[:-1] + edges[1:]) / 2
    colours, whole = depth_colours(len(layers)), FuncFormatter(lambda value, _: f"{value:,.0f}")
    data: dict[str, npt.NDArray[Any]] = {"bin_edges": edges}
    with drawing(name) as (canvas, finish):
        left, right = canvas.subplots(1, 2)
        for i, layer in enumerate(layers):
            rank = sparse_ranks(layer.size)
            count = np.histogram(layer, edges)[0]
            left.plot(rank + 1, layer[rank], color=colours[i], linewidth=0.9)
            # A logarithm has no zero: an empty bin is a gap in the line.
            height = np.where(count > 0, count, np.nan)
            right.plot(middle, height, ".-", color=colours[i], linewidth=0.8, markersize=2.5)
            data |= {f"rank_{i}": rank, f"max_logit_{i}": layer[rank], f"count_{i}": count}
        left.set(xscale="log", xlim=(1, max(2, *(layer.size for layer in layers))), ylim=(0, None))
        left.set(xlabel="neuron's rank in its layer (log scale)", ylabel="highest |logit|")
        left.xaxis.set_major_formatter(whole)
        left.xaxis.set_minor_formatter(NullFormatter())
        right.set(yscale="log", xlim=(0, edges[-1]))
        right.set_ylim(0.7, 1.6 * max(10, *(data[f"count_{i}"].max() for i in range(len(layers)))))
        right.set(xlabel="highest |logit|", ylabel="neurons per bin (log scale)")
        right.yaxis.set_major_formatter(whole)
        right.yaxis.set_minor_formatter(NullFormatter())
        depth_scale(canvas, right, colours)
        head(canvas, title)
        svg = finish((WIDTH, 3.3))
    first, last = layers[0], layers[-1]
    alt = (
        f"{len(layers)} layers. Layer 0 has a median of {np.median(first):.3g} and a "
        f"maximum of {first[0]:.3g}; layer {len(layers) - 1} a median of {np.median(last):.3g} and "
        f"a maximum of {last[0]:.3g}."
    )
    return Figure(name, title, safe_text(alt), svg, data)


def _share_points(where: str, panel: SharePanel, rows: Sequence[str]) -> dict[str, Floats]:
    """Shares [n, 4]: row, share, low, high; repetitions of nulls [m, 2]: row, share."""
    drawn: dict[str, Floats] = {}
    if there := [[rows.index(row), *panel.shares[row]] for row in rows if row in panel.shares]:
        drawn["shares"] = finite(f"{where}, shares", there)
    if null := [[i, value] for i, row in enumerate(rows) for value in panel.nulls.get(row, ())]:
        drawn["nulls"] = finite(f"{where}, nulls", null)
    for key, array in drawn.items():
        if (array[:, 1:] < 0).any() or (array[:, 1:] > 1).any():
            raise RunError(f"{where}, {key}: a share is outside 0 to 1; give shares, not counts or per cent")
    return drawn


def _draw_shares(axes: Axes, chance: float | None, drawn: dict[str, Floats], handles: dict[str, Any]) -> None:
    """Draw one panel, and note in ``handles`` what the legend must explain."""
    if chance is not None:
        dashed: dict[str, Any] = {"color": MUTED, "linewidth": 1.0, "dashes": (4, 3)}
        axes.axvline(100 * chance, **dashed)
        handles["chance"] = Line2D([], [], **dashed)
    if "nulls" in drawn:
        tick: dict[str, Any] = {"color": VERMILION, "marker": "|", "ms": 10, "mew": 1.1, "linestyle": ""}
        axes.plot(100 * drawn["nulls"][:, 1], drawn["nulls"][:, 0], **tick)
        handles["its null, each repetition"] = Line2D([], [], **tick)
    if "shares" in drawn:
        row, share, low, high = drawn["shares"].T
        axes.hlines(row, 100 * low, 100 * high, color=SKY, lw=3.0)
        axes.plot(100 * share, row, "o", color=BLUE, markersize=4.0)
        handles["the model"] = Line2D([], [], color=BLUE, marker="o", markersize=4.0, linestyle="")
        handles["95 % interval"] = Line2D([], [], color=SKY, linewidth=3.0)
    axes.yaxis.grid(True, color=SHADE, linewidth=0.6)
    axes.set_axisbelow(True)
