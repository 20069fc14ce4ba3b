"""The number of edits follows the stated rule, and each direction has its own figures."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashinterp.errors import RunError
from flashinterp.studies.concept_erasure.removal import CHANCE, GONE, Point, by_direction, change, choose, gone
from tests.helpers import assert_one_line_with_next_step

V = 1000


def _curve(clean: float, *after: tuple[int, float, float]) -> list[Point]:
    return [Point(0, clean, 0.0, 0.0), *(Point(m, p, 0.0, kl) for m, p, kl in after)]


@pytest.mark.parametrize(
    ("curve", "chosen", "reason"),
    [
        (_curve(0.5, (1, 0.2, 0.01), (2, 0.04, 0.02), (4, 0.001, 0.03)), 2, "smallest number"),
        (_curve(0.5, (1, 0.2, 0.01), (2, 0.04, 0.2), (4, 0.001, 0.3)), 1, "leaves the least"),
        (_curve(0.5, (1, 0.2, 0.01), (2, 0.1, 0.02), (4, 0.1, 0.03)), 2, "leaves the least"),
        (_curve(0.01, (1, 0.0019, 0.01), (2, 0.0001, 0.02)), 1, "smallest number"),  # twice chance is 0.002
        (_curve(0.0019, (1, 0.0018, 0.01), (2, 0.0001, 0.02)), 1, "not expected"),
    ],
)
def test_the_number_is_chosen_by_the_stated_rule(curve: list[Point], chosen: int, reason: str) -> None:
    found, told = choose(curve, V)
    assert found == chosen
    assert reason in told


def test_where_all_harm_there_is_no_choice() -> None:
    with pytest.raises(RunError, match="leaves other text as it is") as caught:
        choose(_curve(0.5, (1, 0.2, 0.3), (2, 0.04, 0.4)), V)
    assert_one_line_with_next_step(caught.value)


@given(st.floats(0, 1), st.integers(2, 300_000))
def test_gone_is_a_tenth_or_twice_chance(clean: float, vocabulary: int) -> None:
    assert gone(clean, vocabulary) == max(GONE * clean, CHANCE / vocabulary)


def test_by_direction_is_of_each_direction() -> None:
    before = {"a": np.log([0.5, 0.25]), "b": np.log([0.1])}
    after = {"a": np.log([0.25, 0.25]), "b": np.log([0.2])}
    told = by_direction(before, after)
    assert told["a"][:3] == pytest.approx((0.375, 0.25, 0.25))
    assert told["a"][3] == pytest.approx(np.log(1 / 3) / 2, rel=1e-5)
    assert told["b"] == pytest.approx((0.1, 0.2, 0.2, np.log(0.25 / (1 / 9))), rel=1e-5)
    assert change(before, after) == pytest.approx(np.log(0.7 / 0.85))
