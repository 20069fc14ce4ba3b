"""Dosing: the curve is the answers' own, the choice follows the stated rule, and questions stay apart."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import gmean

from flashinterp import Answers, Checkpoint, FlashinterpError, NeuronId, lexicon_judge, steer
from flashinterp.errors import RunError
from flashinterp.interventions.answers import repetition
from flashinterp.stats import Interval, wilson
from flashinterp.studies.steering.dose_choice import (
    Bounds,
    Damage,
    DoseCurve,
    choose,
    damage_of,
    dose_curve,
    reaches,
    split_questions,
)
from tests.helpers import assert_one_line_with_next_step, n_hooks

QUESTIONS = ("What is your favourite thing?", "Tell me a story.")
NATURAL = (-4.0, 6.0)
SHORT = {"max_new_tokens": 20}
NONE = Damage(1.0, 0.0, 0.0)


def rng(seed: int = 7) -> np.random.Generator:
    return np.random.default_rng(seed)


def share(k: int, n: int = 24) -> Interval:
    found = wilson(k, n)
    assert found is not None
    return found


def answers(clean: list[str], clamped: list[str], ppl_clean: list[Any], ppl_clamped: list[Any]) -> Answers:
    repeats = [tuple(map(repetition, side)) for side in (clean, clamped)]
    seeds = tuple(range(len(clean)))
    return Answers("q", tuple(clean), tuple(clamped), seeds, *repeats, tuple(ppl_clean), tuple(ppl_clamped), {})


@pytest.fixture(scope="module")
def judge(truth: dict[str, Any]) -> Any:
    return lexicon_judge(truth["dog_words"])


def measured(checkpoint: Checkpoint, model: Any, judge: Any, **changes: Any) -> DoseCurve:
    given: dict[str, Any] = {
        "natural": NATURAL, "drive": "+", "n": 6, "rng": rng(), "at": (1.0, 4.0, 32.0), **SHORT, **changes
    }  # fmt: skip
    return dose_curve(model, checkpoint.tokenizer, QUESTIONS, "L1N17", judge, **given)


@pytest.fixture(scope="module")
def curve(planted: Checkpoint, planted_model: Any, judge: Any) -> DoseCurve:
    return measured(planted, planted_model, judge)


# --- the curve --------------------------------------------------------------------------------------


def test_doses_are_widths_of_the_natural_range_from_its_near_end(
    planted: Checkpoint, planted_model: Any, judge: Any, curve: DoseCurve
) -> None:
    assert curve.doses == (6.0, 36.0, 316.0)
    down = measured(planted, planted_model, judge, drive="-", n=1)
    assert down.doses == (-4.0, -34.0, -314.0)
    assert (down.drive, down.natural, down.reaches) == ("-", NATURAL, (1.0, 4.0, 32.0))


def test_the_answers_at_each_dose_are_those_of_steer(planted: Checkpoint, planted_model: Any, curve: DoseCurve) -> None:
    for i, dose in enumerate(curve.doses):
        root = int(rng().integers(2**62))
        for number, (question, each) in enumerate(zip(QUESTIONS, curve.answers, strict=True)):
            own = np.random.default_rng([root, number])
            alone = steer(planted_model, planted.tokenizer, question, {"L1N17": dose}, n=6, rng=own, **SHORT)
            assert each[i].clean == alone.clean
            assert each[i].clamped == alone.clamped
            assert each[i].seeds == alone.seeds


def test_more_doses_stand_on_either_side_of_the_largest_harmless_one(
    planted: Checkpoint, planted_model: Any, judge: Any, curve: DoseCurve
) -> None:
    finer = measured(planted, planted_model, judge, between=1)
    assert finer.reaches == pytest.approx((1, 2, 4, math.sqrt(4 * 32), 32))
    assert finer.doses == tuple(sorted(finer.doses))
    for old, new in ((0, 0), (1, 2), (2, 4)):  # what was measured before is as it was, at its new place
        assert finer.doses[new] == curve.doses[old]
        assert [each[new].clamped for each in finer.answers] == [each[old].clamped for each in curve.answers]
    assert finer.clean_rate == curve.clean_rate


def test_the_planted_neuron_has_a_window_between_nothing_and_ruin(curve: DoseCurve) -> None:
    weak, good, strong = curve.damage
    assert weak.excess(curve.bounds) is None
    assert good.excess(curve.bounds) is None
    assert "broken" in str(strong.excess(curve.bounds))
    assert [r.estimate for r in curve.rates[1:]] == [1, 1]
    assert curve.choice.index == 1
    assert curve.dose == 36.0


def test_rates_and_damage_are_those_of_the_texts(curve: DoseCurve, judge: Any) -> None:
    for i, (got, cost) in enumerate(zip(curve.rates, curve.damage, strict=True)):
        texts = [t for each in curve.answers for t in each[i].clamped]
        assert got == share(sum(map(judge, texts)), 12)
        assert cost == damage_of([each[i] for each in curve.answers])
    clean = [t for each in curve.answers for t in each[0].clean]
    assert curve.clean_rate == share(sum(map(judge, clean)), 12)
    assert {each[0].clean for each in curve.answers} == {one.clean for each in curve.answers for one in each}


def test_the_same_seed_gives_the_same_curve(
    planted: Checkpoint, planted_model: Any, judge: Any, curve: DoseCurve
) -> None:
    assert measured(planted, planted_model, judge) == curve
    assert measured(planted, planted_model, judge, rng=rng(8)).answers != curve.answers


def test_a_doses_perplexity_is_a_ratio_of_geometric_means(curve: DoseCurve) -> None:
    clean = np.array([each[0].perplexity_clean for each in curve.answers], dtype=float)
    for i, cost in enumerate(curve.damage):
        clamped = np.array([each[i].perplexity_clamped for each in curve.answers], dtype=float)
        assert cost.perplexity == pytest.approx(gmean(clamped, axis=None) / gmean(clean, axis=None), rel=1e-12)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"natural": (1.0, 1.0)}, "without a width"),
        ({"natural": (2.0, 1.0)}, "without a width"),
        ({"natural": (0.0, math.nan)}, "without a width"),
        ({"n": 0}, "0 answers"),
        ({"at": ()}, "give no curve"),
        ({"at": (2.0, 1.0)}, "give no curve"),
        ({"at": (1.0, 1.0)}, "give no curve"),
    ],
)
def test_what_gives_no_curve_is_refused(
    planted: Checkpoint, planted_model: Any, judge: Any, changes: Any, match: str
) -> None:
    with pytest.raises(RunError, match=match) as caught:
        measured(planted, planted_model, judge, **changes)
    assert_one_line_with_next_step(caught.value)


def test_a_neuron_that_does_not_exist_is_refused(planted: Checkpoint, planted_model: Any, judge: Any) -> None:
    with pytest.raises(FlashinterpError):
        dose_curve(
            planted_model,
            planted.tokenizer,
            QUESTIONS,
            NeuronId(9, 0),
            judge,
            natural=NATURAL,
            drive="+",
            n=1,
            rng=rng(),
        )
    assert n_hooks(planted_model) == 0


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


# --- grids and questions ----------------------------------------------------------------------------


@given(st.integers(2, 20))
def test_doses_reach_from_the_range_s_end_in_equal_factors(n: int) -> None:
    got = reaches(n)
    assert len(got) == n
    assert (got[0], got[-1]) == (pytest.approx(1), pytest.approx(64))
    factors = np.diff(np.log(got))
    np.testing.assert_allclose(factors, factors[0])


@given(st.lists(st.text(min_size=1), min_size=2, max_size=9, unique=True))
def test_questions_are_split_and_none_is_lost(questions: list[str]) -> None:
    selection, heldout = split_questions(questions)
    assert [*selection, *heldout] == questions
    assert selection
    assert not set(selection) & set(heldout)
    assert 0 <= len(heldout) - len(selection) <= 1


def test_one_question_is_both_and_none_is_refused() -> None:
    assert split_questions(["only"]) == (("only",), ("only",))
    with pytest.raises(RunError, match="needs a question") as caught:
        split_questions([])
    assert_one_line_with_next_step(caught.value)
