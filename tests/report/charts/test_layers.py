"""The figure of layers: every score is in the data, the best of all is named, and what cannot be drawn is refused."""

from __future__ import annotations

import re

import numpy as np
import pytest

from flashinterp.errors import RunError
from flashinterp.report.charts.layers import LayerRow, concept_layers
from flashinterp.report.figure import Figure


def draw(layers: int = 4, text: str = "dog") -> Figure:
    scores = np.random.default_rng(5).gamma(2.0, 0.5, (layers, 3))
    scores = -np.sort(-scores, axis=1)
    scores[layers // 2] = 9.0, 3.0, 0.0
    return concept_layers("paper--layers", text, list(range(layers)), [LayerRow(text, scores, text)] * 2)


def test_the_same_data_give_the_same_bytes() -> None:
    assert draw().svg == draw().svg


def test_every_score_is_in_the_data_and_the_best_is_said() -> None:
    figure = draw()
    assert figure.data["row1_scores"].shape == (4, 3)
    np.testing.assert_array_equal(figure.data["layers"], [0, 1, 2, 3])
    assert figure.alt == "Best score in each layer: dog: layer 2 (dog, 9); dog: layer 2 (dog, 9)."
    assert ">dog  9</text>" in figure.svg


@pytest.mark.parametrize("layers", [1, 32, 126])
def test_any_depth_is_drawn_small_and_without_a_bitmap(layers: int) -> None:
    svg = draw(layers).svg
    assert "<image" not in svg
    assert len(svg) < 150_000


def test_hostile_text_is_drawn_as_text() -> None:
    svg = draw(text="</text><script>\u202e\x00$x^2$").svg
    assert "<script" not in svg
    assert not {"\u202e", "\x00"} & set(svg)
    assert len(re.findall(r"&lt;script&gt;", svg)) >= 1


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "has no rows"),
        ([LayerRow("a", [[1.0]], "b")], r"give \[layers, n\]"),
        ([LayerRow("a", [[1.0], [-1.0]], "b")], "none below 0"),
        ([LayerRow("a", [[1.0], [np.nan]], "b")], "entry .* is nan"),
    ],
    ids=["none", "layers", "negative", "nan"],
)
def test_what_cannot_be_drawn_is_refused(rows: list[LayerRow], message: str) -> None:
    with pytest.raises(RunError, match=message):
        concept_layers("a--b", "t", [0, 1], rows)
