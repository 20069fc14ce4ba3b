"""Does a clamped model talk of its concept (Figure 3 of arXiv 2501.02688), and at what cost?

The model answers questions twice from the same seeds, once as it is and once with a neuron clamped at all positions. A
judge that sees only the answer says whether it is about the concept. How strong the clamp is, is not guessed: on some
questions the concept's rate and the damage are measured over a range of doses, the smallest dose is taken that
brings the concept without breaking the answers, and what it does is reported on other questions. The judge itself is
put to a blind test on texts whose content is known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from flashinterp import Answers, DoseCurve
from flashinterp.decoding.neuron_map import LensMaps
from flashinterp.evaluation.experiment import Experiment
from flashinterp.evaluation.judgement import Judged
from flashinterp.interventions.answer_judges import Judge
from flashinterp.interventions.judge_check import SYNONYM
from flashinterp.provenance.recorded import Recorded
from flashinterp.runs.eval_recorder import EvalRecorder
from flashinterp.runs.session import AuditSession
from flashinterp.studies.steering.judge_tables import judge_kinds_table, judge_table, judge_wrong_table
from flashinterp.studies.steering.measure import Steering, ask_judge, measure_steering, spoken_at
from flashinterp.studies.steering.records import Clamped
from flashinterp.studies.steering.tables import (
    concept_doses,
    doses_table,
    pooled,
    side_by_side_table,
    steered_in_words,
    steering_rates_table,
    taken_table,
    two_clamps_table,
)

# What a judge sees of a difference between two rates is that difference times (sensitivity + specificity - 1): with
# both at this, three fifths are left.
LEAST_RIGHT = 0.8

VERDICTS = Recorded("judgements", "claims", "verdicts")


@pytest.fixture(scope="module")
def steering(
    audit: AuditSession, bench: Experiment, judged: Judged, session_tuned_model: Any, maps: LensMaps
) -> Steering:
    """The concepts with their dose curves, measured once for all tests of this eval."""
    if audit.tuned is not None:
        bench = replace(bench, model=session_tuned_model, checkpoint=audit.tuned)
    return measure_steering(bench, judged, maps)


def test_dose_is_chosen_from_a_curve(steering: Steering, evidence: EvalRecorder) -> None:
    """How often each dose brings the concept, what it breaks, and which dose was taken.

    Implementation: the fine-tune answers where one is given, through its own chat template if it has one, else the
    base model. Clamped are the validated claims, or, where none was validated, the first ones, which the table says.
    Doses go in the claimed direction from the far end of the neuron's natural range (1st to 99th percentile on the
    selection texts and with the token itself) to 64 of its widths, in equal factors, at all positions. Each answer's
    seed is the same at all doses and unclamped. Damage is the geometric mean of the answers' perplexities under the
    unclamped model over that of the unclamped answers; the rise of the share of repeated three-word runs; and the rise
    of the share of answers that are empty or of which one word makes up half. Taken is the smallest dose
    that reaches the best rate, within its Wilson interval, among the doses whose damage is within the stated bounds,
    and whose interval is above the unclamped answers' one; none where there is no such dose.
    """
    concepts = evidence.value("concepts", steering.concepts)
    measured = evidence.value("curves", steering.measured)
    evidence.derived(
        doses_table, "doses", "Concept and damage by dose", concepts, measured, steering.selection, VERDICTS
    )
    evidence.derived(taken_table, "taken", "Which dose was taken, and why", concepts, measured)
    if any(isinstance(found, DoseCurve) for found in steering.curves):
        evidence.figure(concept_doses, "doses", "What a dose brings, and what it breaks", concepts, measured)


def test_clamped_answers(audit: AuditSession, steering: Steering, evidence: EvalRecorder) -> None:
    """Rates of answers about the concept without and with the clamp, what it cost, and the answers side by side.

    Implementation: each neuron is clamped at the dose that was chosen on other questions, and both sides answer the
    held-out ones from the same seeds. The judge looks for the token's written forms and the neuron's own best words, as
    whole words in any case; both are listed. Intervals are Wilson's, 95 %, over the answers. A claim for which no dose
    qualified has no answers here; the table of doses says why. On the bundled models the planted dog neuron must
    have a dose, and the two intervals must be apart.
    """
    pairs = {one.claim.id: steering.answers(one.claim.id, {one.neuron: dose}) for one, dose in steering.dosed}
    doses = {one.claim.id: dose for one, dose in steering.dosed}
    spoken = [
        Clamped(one, doses.get(one.claim.id), spoken_at(pairs.get(one.claim.id, ()))) for one in steering.concepts
    ]
    clamped = evidence.value("answers", spoken)
    questions = (steering.selection, steering.heldout)
    told = "Answers about the concept, without and with the clamp"
    evidence.derived(steering_rates_table, "rates", told, clamped, *questions, VERDICTS)
    evidence.derived(side_by_side_table, "answers", "Side by side", clamped, steering.heldout)
    bundled = bool(audit.truth)
    evidence.finding(5, "clamped, the chat model talks of nothing but dogs", steered_in_words, clamped, bundled)
    if audit.truth and not audit.options.claims:
        _check_dog(steering, pairs)


def test_two_clamps_at_once(audit: AuditSession, steering: Steering, evidence: EvalRecorder) -> None:
    """Two neurons clamped at once, each at its own dose: does the model talk of both concepts?

    Implementation: the two claims with a dose whose concepts came most often on the selection questions, with neurons
    of their own; each alone was reported above. The held-out questions, the same judges, each for its own concept. On
    the bundled models the first must come more often than unclamped with intervals apart, and the interval of the
    other must lie above its unclamped rate: it comes at a dose at which few answers name it.
    """
    pair = steering.two()
    both: tuple[Answers, ...] = ()
    if len(pair) == 2:
        both = steering.answers(" and ".join(one.claim.id for one, _ in pair), {one.neuron: d for one, d in pair})
    questions = (steering.selection, steering.heldout)
    evidence.derived(two_clamps_table, "two", "Two neurons clamped at once", pair, spoken_at(both), *questions)
    if audit.truth and not audit.options.claims:
        assert len(pair) == 2, "two planted neurons should have a dose"
        (first, _), (second, _) = pair
        _apart(f"two at once, {first.claim.id}: ", first.judge, both)
        clean, clamped = pooled(second.judge, both)
        assert clean is not None
        assert clamped is not None
        assert clamped.low is not None
        assert clamped.low > clean.estimate, f"two at once, {second.claim.id}: clamped {clamped}, clean {clean}"


@pytest.mark.control
def test_judge_is_checked_blindly(audit: AuditSession, steering: Steering, evidence: EvalRecorder) -> None:
    """How often the judge is right on texts whose content is known.

    Implementation: texts are made from the prompt set. About the concept: beginnings with the word in several
    sentences, with its plural, possessive and other capitals, and, where the planted words are known, with synonyms.
    Not about it: with near words of the same theme, with words of other themes, with longer words that have the word as
    a part (as "dogma" and "hotdogs" have "dog"), texts of the theme that name none of its words, and texts about
    something else. They are shuffled, and the judge sees only the text. A synonym that the lexicon lacks costs
    sensitivity, a word in it that names another thing costs specificity, and both are listed. On the bundled models at
    least 0.8 of each kind of text must be judged rightly, but for synonyms: no lexicon from one neuron's best words can
    be held to every one of them.
    """
    known = {"dog": (audit.truth or {}).get("dog_words", ())}
    asked = [ask_judge(one, steering.bench, known.get(one.claim.id, ())) for one in steering.concepts]
    texts = evidence.value("texts", asked)
    evidence.derived(judge_table, "judge", "The judge on texts with known content", texts)
    evidence.derived(judge_kinds_table, "judge-kinds", "The judge by kind of text", texts)
    evidence.derived(judge_wrong_table, "judge-wrong", "Texts that the judge got wrong", texts)
    if audit.truth and not audit.options.claims:
        for one in asked:
            for kind, (_, right, n) in one.check().by_kind().items():
                told = f"{one.concept.claim.id}: {right} of {n} right, {kind}"
                assert kind == SYNONYM or right >= LEAST_RIGHT * n, told


# --- what the bundled models must show ----------------------------------------------------------------


def _check_dog(steering: Steering, pairs: dict[str, tuple[Answers, ...]]) -> None:
    """The planted dog neuron makes the model talk of dogs, which it hardly does otherwise."""
    dog = next(one for one in steering.concepts if one.claim.id == "dog")
    assert "dog" in pairs, "the planted dog neuron has no dose"
    _apart("", dog.judge, pairs["dog"])


def _apart(where: str, judge: Judge, answers: Sequence[Answers]) -> None:
    clean, clamped = pooled(judge, answers)
    assert clean is not None
    assert clamped is not None
    assert clamped.low is not None
    assert clean.high is not None
    assert clamped.low > clean.high, f"{where}clamped {clamped}, clean {clean}"
