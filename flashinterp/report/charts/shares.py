"""Shares with their intervals, group by group; and what fine-tuning preserves, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from flashinterp._util.text import safe_text
from flashinterp.errors import RunError
from flashinterp.provenance.registry import derivation, record
from flashinterp.report.charts.canvas import (
    WIDTH,
    Floats,
    drawing,
    finite,
    head,
    layer_ticks,
    short,
)
from flashinterp.report.figure import Figure
from flashinterp.report.palette import BLUE, INK, MUTED, SHADE, SKY, VERMILION

if TYPE_CHECKING:
    from matplotlib.axes import Axes


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
    from matplotlib.lines import Line2D

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
