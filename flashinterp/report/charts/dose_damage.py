"""The figure of steering: how often each dose of a clamp brings the concept, and what it breaks (METHOD 6)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from flashinterp._util.text import safe_text
from flashinterp.errors import RunError
from flashinterp.provenance.registry import derivation, record
from flashinterp.report.charts.canvas import WIDTH, Floats, drawing, finite, head, short
from flashinterp.report.figure import Figure
from flashinterp.report.palette import BLUE, INK, MUTED, ORANGE, SHADE, SKY, VERMILION

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@record("charts.damage_panel", version=1)
@dataclass(frozen=True)
class DamagePanel:
    """One neuron's doses: what they bring, and what they break.

    Attributes:
        label: which neuron and concept.
        reaches: [D] the doses, in widths of the natural range, rising.
        rate: [D, 3] share of answers about the concept, and the ends of its interval.
        clean: the unclamped answers' share.
        perplexity: [D] over the unclamped answers' one; None where there is none, which is left out of the drawing.
        bound: the highest ratio that is allowed.
        repetition, broken: [D] shares, less the unclamped answers' ones.
        allowed: [D] whether a dose is within all bounds.
        chosen: the place of the dose that was taken; None for none.
    """

    label: str
    reaches: npt.ArrayLike
    rate: npt.ArrayLike
    clean: float
    perplexity: Sequence[float | None]
    bound: float
    repetition: npt.ArrayLike
    broken: npt.ArrayLike
    allowed: Sequence[bool]
    chosen: int | None


@derivation("charts.dose_damage", version=1)
def dose_damage(name: str, title: str, panels: Sequence[DamagePanel]) -> Figure:
    """Concept rate and damage against the dose, one column for each neuron.

    Above, in per cent of the answers: those about the concept, with intervals (full dots are doses within the bounds),
    and by how much repetition and broken answers rose. Below, the ratio of perplexities, with its bound.
    """
    if not panels:
        raise RunError(f"figure {name} has no panels: give it at least one neuron's doses")
    points = [_points(f"figure {name}, panel {i}", panel) for i, panel in enumerate(panels)]
    with drawing(name) as (canvas, finish):
        grid = canvas.subplots(2, len(panels), sharex=True, sharey="row", squeeze=False, height_ratios=[3, 2])
        handles: dict[str, Any] = {}
        for i, (panel, drawn) in enumerate(zip(panels, points, strict=True)):
            _draw_shares(grid[0][i], panel, drawn, handles)
            _draw_perplexity(grid[1][i], panel, drawn, handles)
            grid[0][i].set_title(short(panel.label, 102 // len(panels)), loc="left", fontsize=9, color=INK)
            grid[1][i].set_xlabel(short("dose (widths of the natural range)", 120 // len(panels)))
        grid[0][0].set_ylabel("answers (%)")
        grid[1][0].set_ylabel("perplexity ratio")
        canvas.legend(handles.values(), handles.keys(), loc="outside lower left", ncols=4)
        head(canvas, title)
        svg = finish((WIDTH, 4.6))
    said = "; ".join(_in_words(panel, drawn) for panel, drawn in zip(panels, points, strict=True))
    data = {f"panel{i}_{key}": array for i, drawn in enumerate(points) for key, array in drawn.items()}
    return Figure(name, title, safe_text(f"Share of answers about the concept, by dose: {said}."), svg, data)


def _in_words(panel: DamagePanel, drawn: dict[str, Floats]) -> str:
    share = drawn["rate"][:, 0]
    told = f"{short(panel.label, 60)}: unclamped {panel.clean:.0%}, from {share[0]:.0%} to {share[-1]:.0%}"
    if panel.chosen is None:
        return f"{told}, no dose taken"
    return f"{told}, taken {drawn['reaches'][panel.chosen]:.3g} widths with {share[panel.chosen]:.0%}"


def _points(where: str, panel: DamagePanel) -> dict[str, Floats]:
    reaches = finite(f"{where}, doses", panel.reaches)
    rate = finite(f"{where}, rate", panel.rate)
    shares = {key: finite(f"{where}, {key}", getattr(panel, key)) for key in ("repetition", "broken")}
    n = reaches.size
    if reaches.shape != (n,) or (reaches <= 0).any() or (np.diff(reaches) <= 0).any():
        raise RunError(f"{where} has the doses {reaches}: give positive ones, each above the last")
    if rate.shape != (n, 3) or (rate < 0).any() or (rate > 1).any():
        raise RunError(f"{where} has rates of shape {rate.shape}: give [{n}, 3] shares, each with its interval's ends")
    if {len(panel.perplexity), len(panel.allowed), *(s.size for s in shares.values())} != {n}:
        raise RunError(f"{where}: perplexity, repetition, broken and allowed are not [{n}], one per dose: give all")
    if panel.chosen is not None and not 0 <= panel.chosen < n:
        raise RunError(f"{where} marks dose {panel.chosen} of {n}: check which was chosen")
    drawn = {"reaches": reaches, "rate": rate, **shares, "allowed": np.asarray(panel.allowed, dtype=np.float64)}
    if known := [(r, p) for r, p in zip(reaches, panel.perplexity, strict=True) if p is not None]:
        drawn["perplexity"] = finite(f"{where}, perplexity", known)  # [known, 2]: dose, ratio
    if panel.chosen is not None:
        drawn["chosen"] = np.array([panel.chosen], dtype=np.float64)
    return drawn


def _draw_shares(axes: Axes, panel: DamagePanel, drawn: dict[str, Floats], handles: dict[str, Any]) -> None:
    """Draw the upper part, and note in ``handles`` what the legend must explain."""
    from matplotlib.lines import Line2D

    at, (share, low, high) = drawn["reaches"], 100 * drawn["rate"].T
    clean: dict[str, Any] = {"color": MUTED, "linewidth": 1.0, "dashes": (4, 3)}
    axes.axhline(100 * panel.clean, **clean)
    for key, colour in (("repetition", ORANGE), ("broken", MUTED)):
        axes.plot(at, 100 * drawn[key], color=colour, linewidth=1.4)
    axes.vlines(at, low, high, color=SKY, lw=3.0)
    axes.plot(at, share, color=BLUE, linewidth=1.2)
    for within, fill in ((True, BLUE), (False, "none")):
        here = drawn["allowed"] == within
        axes.plot(at[here], share[here], "o", markeredgecolor=BLUE, markerfacecolor=fill, markersize=4.5)
    _mark_chosen(axes, panel, at, handles)
    _grid(axes, at)
    axes.set_ylim(-8, 106)
    handles["about the concept"] = Line2D([], [], color=BLUE, marker="o", markersize=4.5)
    handles["beyond a bound"] = Line2D([], [], color=BLUE, marker="o", markersize=4.5, mfc="none", linestyle="")
    handles["95 % interval"] = Line2D([], [], color=SKY, linewidth=3.0)
    handles["unclamped"] = Line2D([], [], **clean)
    handles["more repetition"] = Line2D([], [], color=ORANGE, linewidth=1.4)
    handles["more broken answers"] = Line2D([], [], color=MUTED, linewidth=1.4)


def _draw_perplexity(axes: Axes, panel: DamagePanel, drawn: dict[str, Floats], handles: dict[str, Any]) -> None:
    """Draw the lower part, and note in ``handles`` what the legend must explain."""
    from matplotlib.lines import Line2D
    from matplotlib.ticker import FuncFormatter, NullFormatter

    bound: dict[str, Any] = {"color": INK, "linewidth": 1.0, "dashes": (1, 2)}
    axes.axhline(panel.bound, **bound)
    handles["its bound"] = Line2D([], [], **bound)
    ratios = np.array([panel.bound])
    if "perplexity" in drawn:
        at, ratios = drawn["perplexity"].T
        axes.plot(at, ratios, "o-", color=INK, linewidth=1.2, markersize=3.0)
        handles["perplexity, over the unclamped"] = Line2D([], [], color=INK, marker="o", markersize=3.0)
    _mark_chosen(axes, panel, drawn["reaches"], handles)
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, 0.5, 0.7 * ratios.min()), max(high, 2 * panel.bound, 1.4 * ratios.max()))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    _grid(axes, drawn["reaches"])


def _mark_chosen(axes: Axes, panel: DamagePanel, at: Floats, handles: dict[str, Any]) -> None:
    from matplotlib.lines import Line2D

    if panel.chosen is not None:
        line: dict[str, Any] = {"color": VERMILION, "linewidth": 1.4}
        axes.axvline(at[panel.chosen], zorder=0.8, **line)
        handles["dose taken"] = Line2D([], [], **line)


def _grid(axes: Axes, at: Floats) -> None:
    from matplotlib.ticker import FuncFormatter, NullFormatter

    axes.set_xscale("log", base=2)
    axes.set_xlim(at.min() / 1.2, at.max() * 1.2)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.grid(True, color=SHADE, linewidth=0.6)
    axes.set_axisbelow(True)
