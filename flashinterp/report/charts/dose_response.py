"""The figure of doses: what a clamp's value does to a token, prompt by prompt, beside what controls do (METHOD 4)."""

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


@record("charts.dose_panel", version=1)
@dataclass(frozen=True)
class DosePanel:
    """One panel of a dose-response figure: one neuron, one token.

    Attributes:
        label: which neuron and token.
        values: the clamp's values, [values], rising.
        curves: the token's log-probability or probability, [prompts, values].
        own: the neuron's own value, where it is one number.
        natural: the lowest and highest value of its natural range.
        control_changes: [N] how far each control's curve comes from the first value to the last; curves start at 0.
        gate: g and act(g) at the measured position, where the neuron has a gate.
    """

    label: str
    values: npt.ArrayLike
    curves: npt.ArrayLike
    own: float | None = None
    natural: tuple[float, float] | None = None
    control_changes: npt.ArrayLike | None = None
    gate: tuple[float, float] | None = None


@derivation("charts.dose_response", version=1)
def dose_response(
    name: str,
    title: str,
    panels: Sequence[DosePanel],
    y_label: str = "log-probability (nats)",
    x_label: str = "clamp value",
) -> Figure:
    """The paper's Figure 2: a token's log-probability, or the change of its log-odds, against the clamp's value.

    Thin lines are prompts, the thick one their mean. All panels share the y axis, so that an effect
    can be compared with its neighbour's by eye. Controls are known by their ends only, so their band is straight
    between.
    """
    if not panels:
        raise RunError(f"figure {name} has no panels: give it at least one neuron's curves")
    data: dict[str, npt.NDArray[Any]] = {}
    said: list[str] = []
    columns = 2 if len(panels) in (2, 4) else min(3, len(panels))
    rows = -(-len(panels) // columns)
    with drawing(name) as (canvas, finish):
        grid = canvas.subplots(rows, columns, sharey=True, squeeze=False)
        handles: dict[str, Any] = {}
        for i, (axes, panel) in enumerate(zip(grid.flat, panels, strict=False)):
            points = _panel_points(f"figure {name}, panel {i}", panel)
            _draw_panel(axes, panel, points, handles)
            axes.set_title(short(panel.label, 102 // columns), loc="left", fontsize=9, color=INK)
            data |= {f"panel{i}_{key}": array for key, array in points.items()}
            said.append(_dose_in_words(panel, points))
            axes.set_xlabel(short(x_label, 60))
            if i % columns == 0:
                axes.set_ylabel(short(y_label, 40))
        for axes in grid.flat[len(panels) :]:
            axes.set_axis_off()
        canvas.legend(handles.values(), handles.keys(), loc="outside lower left", ncols=min(3, len(handles)))
        head(canvas, title)
        svg = finish((WIDTH, 0.9 + 2.2 * rows))
    alt = f"From the lowest to the highest clamp value, {y_label}: {'; '.join(said)}."
    if any(panel.control_changes is not None for panel in panels):
        alt += " Controls were driven to the two ends only: between them their band is straight."
    return Figure(name, title, safe_text(alt), svg, data)


def _dose_in_words(panel: DosePanel, points: dict[str, Floats]) -> str:
    mean = points["curves"].mean(axis=0)
    told = f"{short(panel.label, 60)}: mean {mean[0]:.3g} to {mean[-1]:.3g}"
    if "control_changes" in points:
        changes = points["control_changes"]
        told += f", {changes.size} controls {changes.min():.3g} to {changes.max():.3g}"
    if "gate" in points:
        told += f", gate {points['gate'][0]:.3g}"
    return told


def _panel_points(where: str, panel: DosePanel) -> dict[str, Floats]:
    values = finite(f"{where}, values", panel.values)
    curves = finite(f"{where}, curves", panel.curves)
    if values.ndim != 1 or curves.ndim != 2 or curves.shape[1] != values.size:
        raise RunError(f"{where} has curves {curves.shape} for values {values.shape}: give curves as [prompts, values]")
    if values.size < 2 or (np.diff(values) <= 0).any():
        raise RunError(f"{where} has the values {values}: give two or more, each above the last")
    points = {"values": values, "curves": curves}
    if panel.natural is not None:
        points["natural"] = finite(f"{where}, natural range", panel.natural)
    if panel.own is not None:
        points["own"] = finite(f"{where}, own value", [panel.own])
    if panel.control_changes is not None:
        points["control_changes"] = finite(f"{where}, controls' changes", panel.control_changes)
        if points["control_changes"].ndim != 1:
            raise RunError(f"{where}: controls' changes are not one number a control: give [N]")
    if panel.gate is not None:
        points["gate"] = finite(f"{where}, gate", panel.gate)
    return points


def _draw_panel(axes: Axes, panel: DosePanel, points: dict[str, Floats], handles: dict[str, Any]) -> None:
    """Draw one panel, and note in ``handles`` what the legend must explain."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    values, curves = points["values"], points["curves"]
    mean = curves.mean(axis=0)
    axes.plot(values, curves.T, color=SKY, linewidth=0.7)
    axes.plot(values, mean, color=BLUE, linewidth=2.2)
    handles["mean over prompts"] = Line2D([], [], color=BLUE, linewidth=2.2)
    handles["one prompt"] = Line2D([], [], color=SKY, linewidth=0.9)
    if "control_changes" in points:
        _draw_controls(axes, values, points["control_changes"], handles)
    if "natural" in points:
        axes.axvspan(*points["natural"], color=SHADE, linewidth=0, zorder=0.5)
        handles["natural range"] = Patch(color=SHADE, linewidth=0)
    if panel.own is not None:
        diamond: dict[str, Any] = {"color": VERMILION, "marker": "D", "ms": 5, "linestyle": ""}
        axes.plot([panel.own], [np.interp(panel.own, values, mean)], **diamond)
        handles["own value, unclamped"] = Line2D([], [], **diamond)
    if "gate" in points:
        said = "gate {:.3g}, act(gate) {:.3g}".format(*points["gate"])
        axes.text(0.03, 0.96, said, transform=axes.transAxes, fontsize=7.5, color=MUTED, va="top")
    # A natural range that is all that was measured is seen as a range by what is left white beside it.
    whole = "natural" in points and np.array_equal(points["natural"], values[[0, -1]])
    beyond = 0.04 * float(np.ptp(values)) if whole else 0.0
    axes.set_xlim(values.min() - beyond, values.max() + beyond)


def _draw_controls(axes: Axes, values: Floats, changes: Floats, handles: dict[str, Any]) -> None:
    """A wedge from 0 to the controls' changes."""
    from matplotlib.patches import Patch

    ends = [values[0], values[-1]]
    axes.fill_between(ends, [0, changes.min()], [0, changes.max()], color=ORANGE, linewidth=0, zorder=0.6)
    axes.axhline(0, color=MUTED, linewidth=0.6, zorder=0.7)
    handles["controls, lowest to highest"] = Patch(color=ORANGE, linewidth=0)
