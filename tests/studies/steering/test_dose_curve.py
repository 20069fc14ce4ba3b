"""Dosing: the curve is the answers' own, and questions stay apart."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import gmean

from flashinterp import Checkpoint, FlashinterpError, NeuronId, lexicon_judge, steer
from flashinterp.errors import RunError
from flashinterp.stats import Interval, wilson
from flashinterp.studies.steering.dose_choice import DoseCurve, damage_of
from flashinterp.studies.steering.dose_curve import dose_curve, reaches, split_questions
from tests.helpers import assert_one_line_with_next_step, n_hooks

QUESTIONS = ("What is your favourite thing?", "Tell me a story.")
NATURAL = (-4.0, 6.0)
SHORT = {"max_new_tokens": 20}


def rng(seed: int = 7) -> np.random.Generator:
    return np.random.default_rng(seed)


def share(k: int, n: int = 24) -> Interval:
    found = wilson(k, n)
    assert found is not None
    return found


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
