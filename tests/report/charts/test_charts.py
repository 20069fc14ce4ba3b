"""Figures: the same bytes for the same data, no state left behind, and text that stays text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pytest

from flashinterp.errors import RunError
from flashinterp.report.charts.canvas import points_only
from flashinterp.report.charts.dose_response import DosePanel, dose_response
from flashinterp.report.charts.neurons import alignment, spikes
from flashinterp.report.charts.shares import SharePanel, preservation, shares
from flashinterp.report.figure import Figure

HOSTILE = '</text><script>alert(1)</script> $x^2$ \u202e\x00\x1b "犬" $\\frac{'
RNG_SEED = 7
VALUES = np.linspace(-500.0, 500.0, 11)


def scores() -> np.ndarray:
    """Scores of 3 layers of 40 neurons, one spike at layer 1, neuron 5 (flat 45)."""
    grid = np.random.default_rng(RNG_SEED).exponential(0.2, (3, 40))
    grid[1, 5] = 30.0
    return grid


def panel(label: str = "L1N5") -> DosePanel:
    """Ten rising curves, with everything that a panel can show."""
    rise = np.tanh(VALUES / 200)[None] * np.linspace(1, 3, 10)[:, None]
    return DosePanel(label, VALUES, rise, 2.0, (-40.0, 60.0), np.linspace(-0.5, 0.7, 9), (2.04, 1.81))


def draw_spikes(text: str = "x") -> Figure:
    return spikes("paper--spikes", text, scores(), [(45, text)], y_label=text)


def draw_dose(text: str = "x") -> Figure:
    return dose_response("causal--dose", text, [panel(text)] * 4, text, text)


def draw_preservation(text: str = "x") -> Figure:
    share = np.array([0.7, 0.8, 1.0])
    return preservation("keep--layers", text, [0, 1, 2], share, share - 0.1, share, 0.83)


def draw_alignment(text: str = "x") -> Figure:
    rng = np.random.default_rng(RNG_SEED)
    return alignment("align--layers", text, [rng.gamma(4, 1 + i, 600) for i in range(3)])


def share_panel(text: str = "layer 0") -> SharePanel:
    return SharePanel(text, {text: (0.4, 0.3, 0.5), "write": (1.0, 0.9, 1.0)}, {text: [0.1, 0.2]}, 0.05)


def draw_shares(text: str = "layer") -> Figure:
    return shares("rank--shares", text, [share_panel(text), SharePanel("late", {}, {})], text)


DRAWERS = [draw_spikes, draw_dose, draw_preservation, draw_alignment, draw_shares]


@pytest.mark.parametrize("draw", DRAWERS)
def test_the_same_data_give_the_same_bytes(draw: Callable[[], Figure]) -> None:
    assert draw().svg == draw().svg


@pytest.mark.parametrize("draw", DRAWERS)
def test_no_style_reaches_in_and_none_is_left_behind(draw: Callable[[], Figure]) -> None:
    plain = draw().svg
    with mpl.rc_context({"font.size": 30, "lines.linewidth": 9, "svg.fonttype": "path"}):
        before = dict(mpl.rcParams)
        assert draw().svg == plain
        assert dict(mpl.rcParams) == before


@pytest.mark.parametrize("draw", DRAWERS)
def test_without_strokes_the_points_and_the_words_are_the_same(draw: Callable[[], Figure]) -> None:
    whole = draw()
    with points_only():
        bare = draw()
    assert bare.svg == ""
    assert bare.alt == whole.alt
    assert bare.data.keys() == whole.data.keys()
    for name, points in whole.data.items():
        np.testing.assert_array_equal(bare.data[name], points)
    assert draw().svg == whole.svg


@pytest.mark.parametrize("draw", DRAWERS)
def test_hostile_text_is_drawn_as_text(draw: Callable[[str], Figure]) -> None:
    figure = draw(HOSTILE)
    root = ElementTree.fromstring(figure.svg)
    tags = {str(element.tag).rpartition("}")[2] for element in root.iter()}
    assert tags <= {"svg", "g", "defs", "clipPath", "path", "use", "rect", "text"}
    drawn = " ".join(element.text or "" for element in root.iter() if element.text)
    assert "<script>alert(1)</script> $x^2$ \\u{202e}" in drawn
    for shown in (figure.svg, figure.alt):
        assert not {"\u202e", "\x00", "\x1b"} & set(shown)


@pytest.mark.parametrize("draw", DRAWERS)
def test_text_can_be_searched_and_nothing_is_dated(draw: Callable[[], Figure]) -> None:
    svg = draw().svg
    assert svg.startswith("<svg ")
    assert ">layer</text>" in svg or ">layer (its" in svg or ">mean over prompts</text>" in svg
    assert "<metadata" not in svg
    assert "<style" not in svg
    assert "matplotlib.org" not in svg


@pytest.mark.parametrize("draw", DRAWERS)
def test_what_is_drawn_is_finite_and_said_in_words(draw: Callable[[], Figure]) -> None:
    figure = draw()
    assert figure.data
    assert all(np.isfinite(array).all() for array in figure.data.values())
    assert len(figure.alt) > 40


def test_no_spike_is_lost_or_shortened_in_a_large_model() -> None:
    grid = np.random.default_rng(RNG_SEED).exponential(0.2, (32, 3000))
    grid[25, 1442], grid[0, 0], grid[31, 2999] = 61.0, 40.0, 50.0
    figure = spikes("paper--spikes", "dog", grid, [(25 * 3000 + 1442, "dog")])
    position, height = figure.data["position"], figure.data["score"]
    assert len(height) < 1100
    for layer, value in ((25, 61.0), (0, 40.0), (31, 50.0)):
        assert height[(position >= layer) & (position < layer + 1)].max() == value
    assert len(figure.svg) < 200_000


def test_flat_scores_with_layers_are_the_same_figure_as_a_grid() -> None:
    grid = scores()
    flat = (grid.ravel(), np.repeat(np.arange(3), 40))
    assert spikes("s", "t", flat, [(45, "x")]).svg == spikes("s", "t", grid, [(45, "x")]).svg


def test_layers_may_differ_in_width() -> None:
    figure = spikes("s", "t", (np.arange(1.0, 8.0), [0, 0, 0, 0, 0, 1, 1]))
    np.testing.assert_allclose(figure.data["position"][-2:], [1.25, 1.75])


def test_labels_of_neighbouring_spikes_do_not_meet() -> None:
    grid = np.zeros((4, 100))
    chosen = [(i, f"L1N{i} a label") for i in range(100, 106)]
    grid.ravel()[100:106] = [9, 8, 8.1, 8.2, 7.9, 9.1]
    root = ElementTree.fromstring(spikes("s", "t", grid, chosen).svg)
    places = [element.attrib["transform"] for element in root.iter() if (element.text or "").endswith("a label")]
    assert len(places) == len(set(places)) == 6


def test_a_flat_row_of_zeros_is_drawn() -> None:
    assert spikes("s", "t", np.zeros((2, 3))).data["score"].max() == 0


def test_every_curve_is_in_the_data() -> None:
    figure = dose_response("d", "t", [panel(), replace(panel(), own=None, natural=None)])
    np.testing.assert_array_equal(figure.data["panel0_curves"], panel().curves)
    np.testing.assert_array_equal(figure.data["panel0_control_changes"], panel().control_changes)
    np.testing.assert_array_equal(figure.data["panel0_gate"], [2.04, 1.81])
    assert "9 controls -0.5 to 0.7, gate 2.04" in figure.alt
    assert "panel1_own" not in figure.data


def test_every_share_and_every_repetition_is_in_the_data() -> None:
    other = SharePanel("late", {"write": (0.2, 0.1, 0.3)}, {"write": [0.0]})
    figure = shares("r", "t", [share_panel(), other], "words (%)")
    np.testing.assert_array_equal(figure.data["panel0_shares"], [[0, 0.4, 0.3, 0.5], [1, 1.0, 0.9, 1.0]])
    np.testing.assert_array_equal(figure.data["panel0_nulls"], [[0, 0.1], [0, 0.2]])
    np.testing.assert_array_equal(figure.data["panel1_shares"], [[1, 0.2, 0.1, 0.3]])
    assert "layer 0 40.0 % (30.0 to 50.0), its null 15.0 %" in figure.alt


@pytest.mark.parametrize("layers", [1, 2, 60])
def test_any_depth_has_a_colour_scale_without_a_bitmap(layers: int) -> None:
    svg = alignment("a", "t", [np.arange(1.0, 20.0) + i for i in range(layers)]).svg
    assert "<image" not in svg


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: spikes("s", "t", [[1.0, np.nan]]), r"scores: entry \(0, 1\) is nan"),
        (lambda: spikes("s", "t", np.zeros((0, 4))), "nothing to draw"),
        (lambda: spikes("s", "t", [1.0, 2.0]), "one row of 2"),
        (lambda: spikes("s", "t", ([1.0, 2.0], [1, 0])), "in rising order"),
        (lambda: spikes("s", "t", [[1.0]], [(1, "x")]), "outside 0 to 0"),
        (lambda: dose_response("d", "t", []), "has no panels"),
        (lambda: dose_response("d", "t", [replace(panel(), curves=VALUES)]), "give curves as"),
        (lambda: dose_response("d", "t", [replace(panel(), values=-VALUES)]), "above the last"),
        (lambda: dose_response("d", "t", [replace(panel(), own=np.inf)]), "own value: entry"),
        (
            lambda: dose_response("d", "t", [replace(panel(), control_changes=[[0.0]])]),
            "one number a control",
        ),
        (lambda: preservation("p", "t", [0, 1], [0.5], [0.4], [0.6]), "one per layer"),
        (lambda: shares("r", "t", [], "x"), "no shares"),
        (lambda: shares("r", "t", [SharePanel("p", {})], "x"), "no shares: give"),
        (lambda: shares("r", "t", [SharePanel("p", {"a": (40, 30, 50)})], "x"), "outside 0 to 1"),
        (lambda: shares("r", "t", [SharePanel("p", {"a": (np.nan, 0, 1)})], "x"), "entry .* is nan"),
        (lambda: alignment("a", "t", []), "empty layer"),
        (lambda: alignment("a", "t", [[np.inf]]), "entry .* is inf"),
        (lambda: spikes("../s", "t", [[1.0]]), "cannot name a file"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_drawn_is_refused_with_its_place(draw: Callable[[], Figure], message: str) -> None:
    with pytest.raises(RunError, match=message) as caught:
        draw()
    assert "\n" not in str(caught.value)
