"""The report's figures, as SVG text: the same data give the same bytes, no global state is left.

Drawn with matplotlib's object-oriented API on a white panel. Text stays text, so it can be
searched; it comes from tokenizers, so it is made safe first and never read as mathematics. Every
figure carries the points it drew.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from flashinterp._util.text import safe_text
from flashinterp.errors import RunError
from flashinterp.provenance.registry import derivation
from flashinterp.report.charts.canvas import (
    SPIKES_HEIGHT,
    WIDTH,
    depth_colours,
    depth_scale,
    drawing,
    finite,
    head,
    label_spikes,
    layer_ticks,
    short,
)
from flashinterp.report.charts.points import bin_maxima, flat_scores, positions, sparse_ranks, teeth
from flashinterp.report.figure import Figure
from flashinterp.report.palette import BLUE, SHADE


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


@derivation("charts.alignment_distribution", version=1)
def alignment(name: str, title: str, per_layer: Sequence[npt.ArrayLike]) -> Figure:
    """Vocabulary alignment (June 2025 post): max over tokens of |U·w|, sorted and as a histogram.

    The sorted curve of a wide layer is drawn at 300 ranks, closer together at the steep top.

    Args:
        name: the figure's slug.
        title: its heading.
        per_layer: for each layer the highest |logit| of each of its neurons, [neurons].
    """
    from matplotlib.ticker import FuncFormatter, NullFormatter

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
