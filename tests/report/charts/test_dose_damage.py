"""The figure of steering: everything drawn is in its data, and what cannot be drawn is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from flashinterp.errors import RunError
from flashinterp.report.charts.dose_damage import DamagePanel, dose_damage

HOSTILE = '</text><script>alert(1)</script> $x^2$ \u202e\x00\x1b "犬"'
PANEL = DamagePanel(
    label="dog (L1N17, +)",
    reaches=[1.0, 4.0, 16.0, 64.0],
    rate=[[0.0, 0.0, 0.2], [0.5, 0.3, 0.7], [1.0, 0.8, 1.0], [0.0, 0.0, 0.2]],
    clean=0.1,
    perplexity=[1.0, 2.0, 2000.0, None],
    bound=10.0,
    repetition=[0.0, -0.01, 0.5, 0.9],
    broken=[0.0, 0.0, 0.4, 1.0],
    allowed=[True, True, False, False],
    chosen=1,
)


def test_the_same_data_give_the_same_bytes_and_a_hostile_text_stays_text() -> None:
    assert dose_damage("s--d", "t", [PANEL]).svg == dose_damage("s--d", "t", [PANEL]).svg
    figure = dose_damage("s--d", HOSTILE, [replace(PANEL, label=HOSTILE)] * 3)
    tags = {str(element.tag).rpartition("}")[2] for element in ElementTree.fromstring(figure.svg).iter()}
    assert tags <= {"svg", "g", "defs", "clipPath", "path", "use", "rect", "text"}
    for shown in (figure.svg, figure.alt):
        assert not {"\u202e", "\x00", "\x1b"} & set(shown)


def test_every_point_is_in_the_data_and_what_is_not_a_number_is_left_out() -> None:
    none = replace(PANEL, chosen=None, perplexity=[None] * 4, allowed=[False] * 4)
    figure = dose_damage("s--d", "t", [PANEL, none])
    np.testing.assert_array_equal(figure.data["panel0_rate"], PANEL.rate)
    np.testing.assert_array_equal(figure.data["panel0_perplexity"], [[1, 1], [4, 2], [16, 2000]])
    np.testing.assert_array_equal(figure.data["panel0_allowed"], [1, 1, 0, 0])
    assert "panel1_perplexity" not in figure.data
    assert all(np.isfinite(array).all() for array in figure.data.values())
    assert "unclamped 10%, from 0% to 0%, taken 4 widths with 50%" in figure.alt
    assert "no dose taken" in figure.alt


@pytest.mark.parametrize("marked", [True, False])
def test_the_dose_that_was_taken_is_marked_where_there_is_one(marked: bool) -> None:
    svg = dose_damage("s--d", "t", [PANEL if marked else replace(PANEL, chosen=None)]).svg
    assert (">dose taken</text>" in svg) is marked


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"reaches": [1.0, 1.0, 2.0, 3.0]}, "each above the last"),
        ({"reaches": [0.0, 1.0, 2.0, 3.0]}, "give positive ones"),
        ({"rate": [[0.0, 0.0, 0.2]] * 3}, "give .4, 3. shares"),
        ({"rate": [[0.0, 0.0, 20.0]] * 4}, "give .4, 3. shares"),
        ({"broken": [0.0]}, "one per dose"),
        ({"perplexity": [1.0]}, "one per dose"),
        ({"allowed": [True]}, "one per dose"),
        ({"repetition": [np.nan] * 4}, "entry .* is nan"),
        ({"perplexity": [np.inf] * 4}, "entry .* is inf"),
        ({"chosen": 4}, "marks dose 4 of 4"),
    ],
)
def test_what_cannot_be_drawn_is_refused_with_its_place(changes: dict[str, Any], match: str) -> None:
    with pytest.raises(RunError, match=match):
        dose_damage("s--d", "t", [PANEL, replace(PANEL, **changes)])


def test_no_panels_are_refused() -> None:
    with pytest.raises(RunError, match="has no panels"):
        dose_damage("s--d", "t", [])
