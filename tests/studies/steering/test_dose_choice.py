"""The damage of a dose by hand, and a choice that follows the stated rule."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashinterp import Answers
from flashinterp.interventions.answers import repetition
from flashinterp.stats import Interval, wilson
from flashinterp.studies.steering.dose_choice import Bounds, Damage, choose, damage_of

NONE = Damage(1.0, 0.0, 0.0)


def share(k: int, n: int = 24) -> Interval:
    found = wilson(k, n)
    assert found is not None
    return found


def answers(clean: list[str], clamped: list[str], ppl_clean: list[Any], ppl_clamped: list[Any]) -> Answers:
    repeats = [tuple(map(repetition, side)) for side in (clean, clamped)]
    seeds = tuple(range(len(clean)))
    return Answers("q", tuple(clean), tuple(clamped), seeds, *repeats, tuple(ppl_clean), tuple(ppl_clamped), {})


# --- damage -----------------------------------------------------------------------------------------


def test_damage_by_hand() -> None:
    one = answers(["a a a a f", "g h i j"], ["a b c a b c", "g g g g g"], [2.0, 8.0], [8.0, 128.0])
    got = damage_of([one])
    assert got.perplexity == pytest.approx(math.sqrt(8 * 128) / math.sqrt(2 * 8))
    assert got.repetition == pytest.approx((1 / 4 + 2 / 3) / 2 - (1 / 3) / 2)
    assert got.broken == 0.0  # one of two on each side


def test_damage_is_over_all_questions_together() -> None:
    first, second = answers(["a b"], ["a b"], [2.0], [4.0]), answers(["c d"], ["c d"], [8.0], [64.0])
    assert damage_of([first, second]).perplexity == pytest.approx(math.sqrt(4 * 64) / math.sqrt(2 * 8))


@pytest.mark.parametrize(
    ("clean", "clamped", "wanted"),
    [
        (([2.0], ["a b"]), ([None], [""]), (None, 1.0)),  # empty
        (([2.0], ["a b"]), ([None], ["a b"]), (None, 1.0)),  # a perplexity beyond all numbers
        (([None], [""]), ([2.0], ["a b"]), (None, -1.0)),
        (([2.0, 2.0], ["a b", "c d"]), ([None, 8.0], ["", "c d"]), (4.0, 0.5)),
    ],
)
def test_an_answer_without_a_perplexity_is_broken_and_in_no_mean(clean: Any, clamped: Any, wanted: Any) -> None:
    got = damage_of([answers(clean[1], clamped[1], clean[0], clamped[0])])
    assert got.perplexity == (None if wanted[0] is None else pytest.approx(wanted[0]))
    assert got.broken == wanted[1]


@pytest.mark.parametrize(
    ("cost", "beyond"),
    [
        (NONE, None),
        (Damage(5.0, 0.25, 0.1), None),
        (Damage(5.01, 0.25, 0.1), "perplexity x5.01"),
        (Damage(0.1, -0.5, -0.5), None),
        (Damage(1.0, 0.26, 0.0), r"repetition \+26%"),
        (Damage(1.0, 0.0, 0.11), r"broken \+11%"),
        (Damage(99.0, 0.9, 0.9), r"perplexity x99, repetition \+90%, broken \+90%"),
        (Damage(None, 0.0, 0.0), "no perplexity"),
    ],
)
def test_which_bound_a_damage_is_beyond(cost: Damage, beyond: str | None) -> None:
    got = cost.excess(Bounds())
    if beyond is None:
        assert got is None
    else:
        assert got is not None
        assert re.fullmatch(beyond, got)


# --- the choice -------------------------------------------------------------------------------------


def chosen(clean: int, rates: list[int], bad: tuple[int, ...] = ()) -> int | None:
    damage = [Damage(99.0, 0.0, 0.0) if i in bad else NONE for i in range(len(rates))]
    return choose(share(clean), [share(k) for k in rates], damage, Bounds()).index


@pytest.mark.parametrize(
    ("clean", "rates", "bad", "index"),
    [
        (0, [0, 10, 24, 24], (), 2),  # the smallest of the best
        (0, [0, 10, 21, 24], (), 2),  # 21 of 24 is within the interval of 24 of 24, which begins at 86 %
        (0, [0, 10, 20, 24], (), 3),  # 20 of 24 is not
        (0, [0, 10, 24, 24], (2,), 3),  # a smaller dose may be the one that breaks
        (0, [0, 10, 24, 24], (2, 3), 1),  # the best rate is that of the doses within the bounds
        (0, [0, 10, 24, 24], (0, 1, 2, 3), None),
        (0, [0, 0, 0, 0], (), None),
        (12, [12, 13, 14, 15], (), None),  # nothing that the unclamped answers do not have
        (0, [0, 2, 0, 0], (), None),  # two answers of 24 are no concept: the intervals overlap
        (24, [24, 24], (), None),
        (24, [0, 0], (), None),  # a clamp that drives the concept out
        (6, [13, 20], (), 1),  # the first is within the second's interval or not, but overlaps the unclamped ones
    ],
)
def test_the_smallest_dose_that_reaches_the_best_rate_within_the_bounds(
    clean: int, rates: list[int], bad: tuple[int, ...], index: int | None
) -> None:
    assert chosen(clean, rates, bad) == index


@given(
    st.integers(0, 24),
    st.lists(st.tuples(st.integers(0, 24), st.booleans()), min_size=1, max_size=8),
)
def test_the_rule_by_looking_at_every_dose(clean: int, doses: list[tuple[int, bool]]) -> None:
    bad = tuple(i for i, (_, broken) in enumerate(doses) if broken)
    got = chosen(clean, [k for k, _ in doses], bad)
    allowed = [i for i in range(len(doses)) if i not in bad]
    best = share(max((doses[i][0] for i in allowed), default=0))
    least, above = (best.low or 0), (share(clean).high or 0)
    want = [i for i in allowed if doses[i][0] / 24 >= least and (share(doses[i][0]).low or 0) > above]
    assert got == (want[0] if want else None)


def test_a_choice_says_why() -> None:
    rates = [share(0), share(24)]
    assert "every dose does more damage" in choose(share(0), rates, [Damage(99.0, 0, 0)] * 2, Bounds()).reason
    assert "perplexity x99" in choose(share(0), rates, [Damage(99.0, 0, 0)] * 2, Bounds()).reason
    assert "no dose within the bounds clearly brings" in choose(share(0), rates[:1], [NONE], Bounds()).reason
    assert "best rate there, 100%" in choose(share(0), rates, [NONE] * 2, Bounds()).reason
    assert "1 smaller ones do too much" in choose(share(0), rates, [Damage(99.0, 0, 0), NONE], Bounds()).reason
