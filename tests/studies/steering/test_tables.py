"""Tables of steering say what the answers say: counted by hand, after packing, and otherwise once an answer is."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from flashinterp.evaluation.claims import Claim
from flashinterp.evaluation.verdict import Rule, judge
from flashinterp.interventions.judge_check import Labelled
from flashinterp.neurons import NeuronId
from flashinterp.provenance.derivation import keep
from flashinterp.provenance.recorded import Recorded
from flashinterp.studies.steering.dose_choice import Bounds, judged_curve
from flashinterp.studies.steering.judge_tables import (
    WRONG,
    JudgeAnswers,
    judge_kinds_table,
    judge_table,
    judge_wrong_table,
)
from flashinterp.studies.steering.records import Clamped, Concept, Dosed, Said, Spoken
from flashinterp.studies.steering.tables import (
    concept_doses,
    doses_table,
    side_by_side_table,
    steered_in_words,
    steering_rates_table,
    taken_table,
    two_clamps_table,
)
from tests.runs.finished_run import CLAIMS, EVIDENCE, SEED

VERDICTS = judge(CLAIMS, EVIDENCE, rule=Rule(), seed=SEED)  # "dog" is validated, "late" is not measured
DOG = Concept(CLAIMS[0], NeuronId(1, 17), ("dog", "dogs"))
LATE = Concept(CLAIMS[3], NeuronId(1, 20), ("late",))
SETTINGS = {"do_sample": True, "max_new_tokens": 30, "site": "up"}
CLEAN = "There is nothing here to see."
OF_DOGS = "A dog is here, with two others."
LOOP = "dog dog dog dog dog dog"  # 4 runs of three words, of which 3 are repeated; one word is more than half
N = 4  # answers to each question


def said(about: int, perplexity: float | None, text: str = OF_DOGS) -> Said:
    """N answers, so many of them about dogs."""
    return Said((text,) * about + (CLEAN,) * (N - about), (perplexity,) * N)


def spoken(*clamped: Said, clean: Sequence[float | None] = (10.0, 1000.0, 10.0, 1000.0)) -> Spoken:
    """Unclamped answers of which none is about dogs and the geometric mean of the perplexities is 100."""
    return Spoken("Q:", tuple(range(N)), SETTINGS, Said((CLEAN,) * N, tuple(clean)), clamped)


QUESTIONS = ("One?", "Two?", "Three?")
SELECTION = tuple(spoken(said(k, 110.0), said(4, 200.0), said(4, 1000.0, LOOP)) for k in (1, 0, 0))
DOSED = Dosed((-1.0, 3.0), (1.0, 4.0, 16.0), (3.0, 15.0, 63.0), QUESTIONS, SELECTION, Bounds())
HELDOUT = (spoken(said(3, 200.0)), spoken(said(4, 50.0), clean=(None, *(1000.0, 10.0, 100.0))))
CLAMPED = [Clamped(DOG, 15.0, HELDOUT), Clamped(LATE, None, ())]
ASKED_HERE = ("Four?", "Five?")
TOLD = Recorded("judgements", "claims", "verdicts")

LABELLED = (
    Labelled("A dog.", True, "names the concept"),
    Labelled("A puppy.", True, "a synonym"),
    Labelled("Two dogs.", True, "names the concept"),
    Labelled("A hotdogstand.", False, "a longer word around it"),
    Labelled("A dog-like cat.", False, "a near word"),
    Labelled("A cat.", False, "a near word"),
)
ASKED = [JudgeAnswers(DOG, LABELLED)]

MADE: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
    "doses": (doses_table, ([DOG, LATE], [DOSED, "it has no width"], QUESTIONS, TOLD)),
    "taken": (taken_table, ([DOG, LATE], [DOSED, "it has no width"])),
    "rates": (steering_rates_table, (CLAMPED, QUESTIONS, ASKED_HERE, TOLD)),
    "answers": (side_by_side_table, (CLAMPED, ASKED_HERE)),
    "two": (two_clamps_table, ([(DOG, 15.0), (LATE, 2.0)], HELDOUT, QUESTIONS, ASKED_HERE)),
    "finding": (steered_in_words, (CLAMPED, True)),
    "judge": (judge_table, (ASKED,)),
    "judge-kinds": (judge_kinds_table, (ASKED,)),
    "judge-wrong": (judge_wrong_table, (ASKED,)),
}


def made(name: str, *changed: Any) -> Any:
    """What the function of a name makes of its values, or of others."""
    make, args = MADE[name]
    return make(*(VERDICTS if value == TOLD else value for value in (changed or args)))


def shown(k: int, n: int) -> str:
    """A share and Wilson's 95 % interval, by the textbook's formula."""
    z, p = 1.959963984540054, k / n
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low, high = ((middle + end) / (1 + z * z / n) for end in (-half, half))
    return f"{p:.0%} [{abs(low):.0%}, {high:.0%}]"


# --- the arithmetic -----------------------------------------------------------------------------------


def test_each_dose_has_its_rate_its_damage_and_what_is_beyond_the_bounds() -> None:
    headers, rows, caption = made("doses")
    assert all(len(row) == len(headers) for row in rows)
    clean, first, second, third, none = rows
    assert clean == ["dog", "L1N17", None, "unclamped", shown(0, 12), None, None, None, None, None]
    assert first[:5] == ["dog", "L1N17", 1.0, 3.0, shown(1, 12)]
    assert first[5] == pytest.approx(1.1)  # over the geometric mean of 10 and 1000
    assert first[6:] == ["+0%", "+0%", None, ""]
    assert second[4] == shown(12, 12)
    assert second[5] == pytest.approx(2.0)
    assert second[6:] == ["+0%", "+0%", None, "taken"]
    assert third[5] == pytest.approx(10.0)
    assert third[6:] == ["+75%", "+100%", "perplexity x10, repetition +75%, broken +100%", ""]
    assert none == ["late", "L1N20", *[None] * 6, "it has no width", None]
    assert caption == (
        "Claims: not validated. Selection questions: One? / Two? / Three? Perplexity: ratio to the unclamped answers', "
        "at most 5. Repetition and broken answers: rise over theirs, at most 25% and 10%."
    )


def test_the_caption_says_what_the_claims_are() -> None:
    assert made("doses", [DOG], [DOSED], QUESTIONS, TOLD)[2].startswith("Claims: validated.")
    assert made("doses", [], [], QUESTIONS, TOLD)[2].startswith("Claims: not validated.")
    assert made("rates", CLAMPED[:1], QUESTIONS, QUESTIONS, TOLD)[2].startswith(
        "Claims: validated. There is one question only: the dose was chosen on the same question as is reported here."
    )


def test_the_dose_is_chosen_again() -> None:
    _, (dog, late), _ = made("taken")
    reason = "the smallest dose within the bounds that reaches the best rate there, 100%, within its interval"
    assert dog == ["dog", "L1N17", "+", -1.0, 3.0, 15.0, reason]
    assert late == ["late", "L1N20", "+", None, None, None, "it has no width"]
    strict = replace(DOSED, bounds=replace(Bounds(), perplexity=1.5))
    assert made("taken", [DOG], [strict])[1][0][5] is None  # no harmless dose brings dogs


def test_rates_are_over_the_answers_to_all_questions() -> None:
    headers, (dog, late), caption = made("rates")
    assert len(headers) == len(dog) == len(late)
    assert dog[:6] == ["dog", "L1N17", 15.0, 8, shown(0, 8), shown(7, 8)]
    assert dog[6:8] == [0.0, 0.0]
    assert dog[8] == pytest.approx(np.exp(np.mean(np.log([10, 1000, 10, 1000, 1000, 10, 100]))))  # one has none
    assert dog[9] == pytest.approx(100.0)  # of 200 and 50
    assert dog[10] == "dog, dogs"
    assert late == ["late", "L1N20", None, 0, *[None] * 6, "late"]
    assert "Doses were chosen on 3 questions; these are 2 others, which had no part in it." in caption


def test_repeats_are_counted_in_the_texts() -> None:
    looped = [Clamped(DOG, 63.0, (spoken(said(2, 9.0, LOOP)),))]
    ((*_, clean, clamped, _, _, _),) = made("rates", looped, QUESTIONS, ASKED_HERE, TOLD)[1]
    assert (clean, clamped) == (0.0, pytest.approx(0.75 * 2 / N))


def test_the_first_answers_are_of_as_many_questions_as_there_are() -> None:
    headers, rows, caption = made("answers")
    assert headers == ["claim", "question", "unclamped", "clamped"]
    assert [row[1] for row in rows] == ["Four?", "Five?", "Four?"]
    assert {tuple(row[2:]) for row in rows} == {(CLEAN, OF_DOGS)}
    assert caption == "Same seeds on both sides. Settings: do_sample True, max_new_tokens 30, site up."
    assert made("answers", CLAMPED[1:], ASKED_HERE)[1] == [["none: no claim has a dose", None, None, None]]


def test_two_clamps_bring_one_concept_the_other_or_both() -> None:
    texts = ("A dog, late.", "A dog.", "Too late!", "Nothing.")
    both = (spoken(Said(texts, (300.0,) * N)),)
    _, rows, _ = made("two", [(DOG, 15.0), (LATE, 2.0)], both, QUESTIONS, ASKED_HERE)
    assert [row[:3] for row in rows] == [["dog (L1N17) + late (L1N20)", "15 + 2", N]] * 3
    assert [row[3:6] for row in rows] == [
        ["dog", shown(0, 4), shown(2, 4)],
        ["late", shown(0, 4), shown(2, 4)],
        ["both in one answer", shown(0, 4), shown(1, 4)],
    ]
    assert all(row[6] == pytest.approx(3.0) and row[7:] == ["+0%", "+0%"] for row in rows)
    (none,) = made("two", [(DOG, 15.0)], (), QUESTIONS, ASKED_HERE)[1]
    assert none == ["none: fewer than two claims have a dose", *[None] * 8]


def test_the_finding_is_the_rates_in_short() -> None:
    told = "about the concept, unclamped and clamped: dog 0% to 88%; late no dose qualified"
    assert made("finding") == (told, "clamped, it talks of dogs")
    assert steered_in_words([], False)[1] is None


def test_the_judge_is_asked_again() -> None:
    (row,) = made("judge")[1]
    assert row == ["dog", 3, shown(2, 3), 3, shown(2, 3), 2, "dog, dogs"]
    kinds = {(row[1], row[2]): row[3:] for row in made("judge-kinds")[1]}
    assert kinds == {
        ("names the concept", "yes"): ["2 of 2", "A dog."],
        ("a synonym", "yes"): ["0 of 1", "A puppy."],
        ("a longer word around it", "no"): ["1 of 1", "A hotdogstand."],
        ("a near word", "no"): ["1 of 2", "A dog-like cat."],
    }
    assert made("judge-wrong")[1] == [
        ["dog", "A puppy.", "about it", "a synonym"],
        ["dog", "A dog-like cat.", "not about it", "a near word"],
    ]
    assert made("judge-wrong", [JudgeAnswers(DOG, LABELLED[:1])])[1] == [["none", None, None, None]]
    many = tuple(Labelled(f"Puppy {i}.", True, "a synonym") for i in range(WRONG + 3))
    assert len(made("judge-wrong", [JudgeAnswers(DOG, many)])[1]) == WRONG


# --- what is kept -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MADE)
def test_the_same_comes_of_what_was_packed(name: str) -> None:
    make, args = MADE[name]
    _, values = keep(("A title",), args, {})
    assert values.args == args
    assert values.called(make, lambda _: VERDICTS) == made(name)


def test_answers_come_back_as_they_were_generated() -> None:
    """Nothing but what the texts say of themselves is left out, and that is measured again."""
    curve = DOSED.curve(DOG)
    assert curve.answers[0][2].repetition_clamped == (0.75,) * N
    assert Dosed.of(curve) == DOSED
    where = (curve.natural, curve.reaches, curve.doses, QUESTIONS)
    again = judged_curve(curve.answers, DOG.judge, DOG.neuron, "+", *where, Bounds())
    assert again == curve


def test_the_figure_draws_what_the_answers_say() -> None:
    figure = concept_doses("doses", "Doses", [DOG, LATE], [DOSED, "it has no width"])
    assert figure.data["panel0_rate"][:, 0] == pytest.approx([1 / 12, 1, 1])
    assert figure.data["panel0_perplexity"][:, 1] == pytest.approx([1.1, 2, 10])
    assert figure.data["panel0_allowed"].tolist() == [1, 1, 0]
    assert figure.data["panel0_chosen"].tolist() == [1]
    assert not any(key.startswith("panel1") for key in figure.data)


# --- one thing changed --------------------------------------------------------------------------------

FORGED = spoken(said(4, 110.0), *SELECTION[0].clamped[1:])
MORE = replace(DOSED, spoken=(FORGED, *SELECTION[1:]))
ALL = replace(DOSED, spoken=tuple(replace(s, clamped=(said(4, 110.0), *s.clamped[1:])) for s in SELECTION))
BETTER = [replace(CLAMPED[0], spoken=(spoken(said(4, 200.0)), HELDOUT[1])), CLAMPED[1]]
LIKELIER = [replace(CLAMPED[0], spoken=(spoken(said(3, 20.0)), HELDOUT[1])), CLAMPED[1]]
OTHER: Claim = replace(CLAIMS[0], direction="-")

FORGERIES: dict[str, tuple[str, tuple[Any, ...]]] = {
    "an answer at a dose": ("doses", ([DOG, LATE], [MORE, "it has no width"], QUESTIONS, TOLD)),
    "an allowed damage": (
        "doses",
        ([DOG, LATE], [replace(DOSED, bounds=Bounds(perplexity=50)), "it has no width"], QUESTIONS, TOLD),
    ),
    "a word of the lexicon": (
        "doses",
        ([replace(DOG, lexicon=("nothing",)), LATE], [DOSED, "it has no width"], QUESTIONS, TOLD),
    ),
    "answers that would have chosen another dose": ("taken", ([DOG, LATE], [ALL, "it has no width"])),
    "the direction": ("taken", ([replace(DOG, claim=OTHER), LATE], [DOSED, "it has no width"])),
    "a held-out answer": ("rates", (BETTER, QUESTIONS, ASKED_HERE, TOLD)),
    "an answer's perplexity": ("rates", (LIKELIER, QUESTIONS, ASKED_HERE, TOLD)),
    "a shown answer": ("answers", ([replace(CLAMPED[0], spoken=HELDOUT[::-1][:1] * 2)], ("Five?", "Four?"))),
    "a perplexity of two": ("two", ([(DOG, 15.0), (LATE, 2.0)], LIKELIER[0].spoken, QUESTIONS, ASKED_HERE)),
    "an answer of a finding": ("finding", (BETTER, True)),
    "a text's label": ("judge", ([JudgeAnswers(DOG, (replace(LABELLED[0], about=False), *LABELLED[1:]))],)),
    "a text": (
        "judge-kinds",
        ([JudgeAnswers(DOG, (*LABELLED[:1], replace(LABELLED[1], text="A dog!"), *LABELLED[2:]))],),
    ),
    "a misjudged text left out": ("judge-wrong", ([JudgeAnswers(DOG, LABELLED[:1] + LABELLED[2:])],)),
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_one_raw_value_changed_makes_another_table(forgery: str) -> None:
    name, args = FORGERIES[forgery]
    assert made(name, *args) != made(name)


def test_one_answer_changed_makes_another_figure() -> None:
    ours, theirs = (concept_doses("d", "D", [DOG], [one]) for one in (DOSED, MORE))
    assert not np.array_equal(ours.data["panel0_rate"], theirs.data["panel0_rate"])
    assert ours.svg != theirs.svg
