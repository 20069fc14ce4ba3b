"""Ranks among controls and false discovery over a family, by hand and against the plain definition."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashinterp.stats import false_discovery, rank_p, smallest_family_p
from tests.examples import examples
from tests.stats.drawn import finite, vector


@pytest.mark.parametrize(
    ("target", "controls", "wanted"),
    [
        (9.0, np.arange(9.0), 1 / 10),  # the floor
        (8.0, np.arange(9.0), 2 / 10),  # a tie counts against the target
        (0.1 + 0.2, [0.3] * 9, 1.0),  # also one that rounding hides
        (0.3001, [0.3] * 9, 1 / 10),
        (-np.inf, [-np.inf, 0.0], 1.0),
        (-1.0, np.arange(9.0), 1.0),
        (np.inf, [np.inf, 1.0], 2 / 3),
        (1.0, [2.0], 1.0),
        (1.0, [], None),
    ],
)
def test_rank_p_by_hand(target: float, controls: Any, wanted: float | None) -> None:
    assert rank_p(target, controls) == (None if wanted is None else pytest.approx(wanted))


@pytest.mark.parametrize(
    ("slack", "wanted"),
    [
        (0.0, 1 / 10),
        (0.9, 1 / 10),
        (1.0, 2 / 10),  # the first control is 1 below the target
        (1.5, 2 / 10),
        (2.0, 3 / 10),
        (1e9, 1.0),
        (np.inf, 1.0),
    ],
)
def test_what_cannot_be_told_apart_counts_against_the_target(slack: float, wanted: float) -> None:
    assert rank_p(9.0, np.arange(9.0), slack=slack) == pytest.approx(wanted)
    assert rank_p(9.0, [], slack=slack) is None


@examples(40)
@given(finite, vector(1, 40), st.floats(0, 1e6), st.floats(0, 1e6))
def test_slack_never_makes_a_rank_better(target: float, controls: np.ndarray, one: float, more: float) -> None:
    ps = [rank_p(target, controls, slack=slack) for slack in (0.0, one, one + more)]
    assert None not in ps
    assert ps == sorted(ps)  # type: ignore[type-var]
    assert ps[0] == rank_p(target, controls)


@examples(40)
@given(finite, vector(1, 40))
def test_rank_p_has_its_floor(target: float, controls: np.ndarray) -> None:
    p = rank_p(target, controls)
    assert p is not None
    assert 1 / (1 + len(controls)) <= p <= 1


def benjamini_hochberg(ps: list[float]) -> list[float]:
    """q_i = min over p_j >= p_i of m p_j / rank_j, by two loops."""
    m = len(ps)
    scaled = {p: p * m / sum(other <= p for other in ps) for p in ps}
    return [min(1.0, min(s for other, s in scaled.items() if other >= p)) for p in ps]


@examples(40)
@given(st.lists(st.one_of(st.none(), st.floats(0, 1)), max_size=12))
def test_false_discovery_is_benjamini_hochberg_over_those_that_exist(ps: list[float | None]) -> None:
    qs = false_discovery(ps)
    assert [q is None for q in qs] == [p is None for p in ps]
    known = [p for p in ps if p is not None]
    assert [q for q in qs if q is not None] == pytest.approx(benjamini_hochberg(known), rel=1e-9, abs=1e-300)


def test_false_discovery_of_nothing_is_nothing() -> None:
    assert false_discovery([]) == []
    assert false_discovery([None, None]) == [None, None]
    assert false_discovery([0.01, None, 0.03]) == [pytest.approx(0.02), None, pytest.approx(0.03)]


@pytest.mark.parametrize(
    ("p", "claims", "true", "wanted"),
    [
        (0.01, 30, 1, 0.3),
        (0.001, 30, 1, 0.03),
        (0.005, 9, 9, 0.005),
        (1.0, 1, 1, 1.0),
        (0.5, 9, 1, 1.0),
        (0.0, 9, 1, 0),
    ],
)
def test_smallest_family_p_is_what_false_discovery_gives(p: float, claims: int, true: int, wanted: float) -> None:
    assert smallest_family_p(p, claims, true) == pytest.approx(wanted)
    assert false_discovery([p] * true + [1.0] * (claims - true))[0] == pytest.approx(wanted)


@given(st.floats(1e-12, 1), st.integers(1, 40), st.data())
def test_no_family_with_so_many_true_claims_has_a_smaller_q(p: float, claims: int, data: st.DataObject) -> None:
    true = data.draw(st.integers(1, claims))
    rest = data.draw(st.lists(st.just(1.0), min_size=claims - true, max_size=claims - true))
    best = smallest_family_p(p, claims, true)
    assert best <= 1
    assert false_discovery([p] * true + rest)[0] == pytest.approx(best)
    worse = data.draw(st.lists(st.floats(p, 1), min_size=true, max_size=true))
    assert min(q for q in false_discovery(worse + rest) if q is not None) >= best * (1 - 1e-9)
    assert smallest_family_p(p, claims) >= best
