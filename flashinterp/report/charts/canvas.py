"""What all figures share: the style, the canvas that becomes SVG text, ticks and labels.

Each function imports what it needs of matplotlib, so that reading a table or a map does not load it.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from flashinterp._util.text import safe_text
from flashinterp.errors import RunError
from flashinterp.report.palette import INK, MUTED, PAPER, VERMILION

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

Floats = npt.NDArray[np.float64]
WIDTH = 8.0  # inches: 768 px at 96 per inch
SPIKES_HEIGHT = 3.1
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": ["DejaVu Sans"],
    "font.size": 9.0,
    "text.parse_math": False,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 8.0,
    "figure.facecolor": PAPER,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "legend.borderaxespad": 0.2,
    "path.simplify": False,  # what is drawn is what the figure's data hold
}
# The layout is DejaVu's, a wide face; what may stand in for it is as wide or narrower.
_FONTS = "'DejaVu Sans', Verdana, 'Segoe UI', Arial, sans-serif"
_LABEL_POINTS = 8.5
_CHARACTER = 0.62  # mean width of a DejaVu Sans character, in ems
_STROKES = ContextVar("_STROKES", default=True)


@contextmanager
def points_only() -> Iterator[None]:
    """Figures made inside hold their points and words, and no drawing: laying it out is most of the work."""
    before = _STROKES.set(False)
    try:
        yield
    finally:
        _STROKES.reset(before)


@contextmanager
def drawing(name: str) -> Iterator[tuple[Canvas, Callable[[tuple[float, float]], str]]]:
    """Give a canvas in the report's style, and the function (width, height in inches) -> SVG text.

    The style holds inside the block only; a user's own matplotlib settings do not reach the figure.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure as Canvas

    with mpl.rc_context(), warnings.catch_warnings():
        # A token may need a glyph that the layout's font lacks; the reader's browser will have it.
        warnings.filterwarnings("ignore", message="Glyph .* missing", category=UserWarning)
        mpl.rcdefaults()
        mpl.rcParams.update({**_STYLE, "svg.hashsalt": name})
        canvas = Canvas(layout="constrained")
        FigureCanvasSVG(canvas)
        yield canvas, lambda size: _svg(canvas, size)


def _svg(canvas: Canvas, size: tuple[float, float]) -> str:
    if not _STROKES.get():
        return ""
    canvas.set_size_inches(*size)
    buffer = io.StringIO()
    # No metadata: it would carry the date and the version of matplotlib, and the same data must
    # give the same bytes.
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    canvas.savefig(buffer, format="svg", metadata=nothing)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]  # without XML declaration and DOCTYPE, which HTML cannot hold
    # matplotlib's one style rule would reach every drawing on a page; attributes stay in this one.
    svg = re.sub(r"<style[^>]*>.*?</style>", "", svg, count=1, flags=re.DOTALL)
    svg = svg.replace("<svg ", '<svg stroke-linejoin="round" stroke-linecap="butt" ', 1)
    return svg.replace("'DejaVu Sans'", _FONTS)


def short(text: str, limit: int) -> str:
    """A text that is safe to draw, cut to ``limit`` characters."""
    shown = safe_text(text[: limit + 1])
    return shown if len(shown) <= limit else f"{shown[: limit - 1]}…"


def head(canvas: Canvas, title: str) -> None:
    """Put the title at the top left, inside the layout."""
    canvas.suptitle(short(title, 72), x=0.01, ha="left", fontsize=10.5, fontweight="bold")


def finite(what: str, values: npt.ArrayLike) -> Floats:
    """The values as float64, one dimension or more, all finite.

    Raises:
        RunError: there are none, or one is NaN or infinite; a figure cannot show it.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0:
        raise RunError(f"{what}: there is nothing to draw; leave the figure out and say why")
    if not np.isfinite(array).all():
        first = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        raise RunError(f"{what}: entry {first} is {array[first]}; leave it out, and say so")
    return array


def layer_ticks(axes: Axes, layers: Floats, offset: float) -> None:
    """Name every layer, or every 2nd, 4th, 8th ... where there are too many to read."""
    step = 1
    while len(layers) / step > 20:
        step *= 2
    shown = layers[::step]
    axes.set_xticks(shown + offset, [f"{layer:.0f}" for layer in shown])
    axes.tick_params(axis="x", length=0 if offset else 3)


@dataclass(frozen=True)
class _Box:
    """A text's place on the axes, in data units."""

    left: float
    right: float
    low: float
    high: float

    def meets(self, other: _Box) -> bool:
        return self.left < other.right and other.left < self.right and self.low < other.high and other.low < self.high


def label_spikes(
    axes: Axes,
    drawn: tuple[Floats, Floats],
    marks: Sequence[tuple[float, float, str]],
    width: float,
) -> None:
    """Label spikes beside their tips; where a text would meet something, it moves up on a leader.

    Args:
        axes: where; its y limit is set to hold everything.
        drawn: x and height of every spike, which no text may cover.
        marks: x, y and text of each spike to label.
        width: the x axis runs from 0 to here.
    """
    top = max(float(drawn[1].max()), *(y for _, y, _ in marks), 1e-12)
    # In data units, for axes about 0.7 inch narrower and 0.9 inch lower than the figure.
    character = _CHARACTER * _LABEL_POINTS / 72 / (WIDTH - 0.7) * width
    height = 1.8 * _LABEL_POINTS / 72 / (SPIKES_HEIGHT - 0.9) * top
    placed: list[_Box] = []
    for x, y, text in sorted(marks, key=lambda mark: -mark[1]):
        box = _place(x, y, (len(text) * character, height), width, drawn, placed)
        level = (box.low + box.high) / 2
        placed.append(box)
        # Dotted and grey: a leader is no spike.
        axes.plot([x, x], [y, level], color=MUTED, linewidth=0.8, dashes=(1, 2))
        axes.plot([x], [y], "o", color=VERMILION, markersize=3.5, clip_on=False)
        at, side = (box.left, "left") if box.left >= x else (box.right, "right")
        paper = {"facecolor": PAPER, "edgecolor": "none", "pad": 0.6}
        axes.text(at, level, text, ha=side, va="center", fontsize=_LABEL_POINTS, bbox=paper)
    axes.set_ylim(0, max([1.06 * top, *(box.high for box in placed)]))


def _place(
    x: float,
    y: float,
    size: tuple[float, float],
    width: float,
    drawn: tuple[Floats, Floats],
    placed: Sequence[_Box],
) -> _Box:
    """The lowest free place beside the tip (x, y): right if it fits, else left, else higher."""
    gap, (length, height) = 0.008 * width, size
    sides = [x + gap, x - gap - length]
    if sides[0] + length > width:
        sides.reverse()
    boxes = [
        _Box(left, left + length, level - height / 2, level + height / 2)
        for level in y + height * np.arange(0, 12, 0.5)
        for left in sides
        if left >= 0 and left + length <= width
    ]
    for box in boxes:
        spike = ((drawn[0] > box.left) & (drawn[0] < box.right) & (drawn[1] > box.low)).any()
        leader = _Box(x - gap / 2, x + gap / 2, y, (box.low + box.high) / 2)
        if not spike and not any(box.meets(other) or leader.meets(other) for other in placed):
            return box
    return _Box(sides[0], sides[0] + length, y - height / 2, y + height / 2)


def depth_colours(n_layers: int) -> list[Any]:
    """One colour per layer; viridis without its ends, which fade on a dark or a light page."""
    from matplotlib import colormaps

    return list(colormaps["viridis"](np.linspace(0.12, 0.88, max(n_layers, 2))))[:n_layers]


def depth_scale(canvas: Canvas, axes: Axes, colours: Sequence[Any]) -> None:
    """A colour scale that names the layers, in at most 48 steps: more become a bitmap."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import BoundaryNorm, ListedColormap

    n_layers = len(colours)
    steps = min(n_layers, 48)
    shown = [colours[i] for i in np.linspace(0, n_layers - 1, steps).round().astype(int)]
    norm = BoundaryNorm(np.linspace(-0.5, n_layers - 0.5, steps + 1), steps)
    bar = canvas.colorbar(ScalarMappable(norm, ListedColormap(shown)), ax=axes, pad=0.03, aspect=28)
    ticks = np.linspace(0, n_layers - 1, min(n_layers, 5)).round().tolist()
    bar.set_ticks(ticks, labels=[f"{tick:.0f}" for tick in ticks])
    bar.minorticks_off()
    bar.set_label("layer")
    bar.outline.set_visible(False)
