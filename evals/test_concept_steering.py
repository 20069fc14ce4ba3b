"""Does a clamped model talk of its concept (Figure 3 of arXiv 2501.02688), and at what cost?

The model answers questions twice from the same seeds, once as it is and once with a neuron clamped at all positions. A
judge that sees only the answer says whether it is about the concept. How strong the clamp is, is not guessed: on some
questions the concept's rate and the damage are measured over a range of doses, the smallest dose is taken that
brings the concept without breaking the answers, and what it does is reported on other questions. The judge itself is
put to a blind test on texts whose content is known.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest

from flashinterp import Answers, steer
from flashinterp.decoding.neuron_map import LensMaps, NeuronMap
from flashinterp.evaluation.claims import Claim
from flashinterp.evaluation.evidence import Evidence as Measured
from flashinterp.evaluation.experiment import Experiment
from flashinterp.evaluation.judgement import Judged
from flashinterp.evaluation.natural_range import natural_text
from flashinterp.interventions.answer_judges import Judge
from flashinterp.interventions.clamp_values import NeverRouted
from flashinterp.interventions.judge_check import SYNONYM, check_judge, known_texts
from flashinterp.neurons import NeuronId
from flashinterp.provenance.recorded import Recorded
from flashinterp.runs.eval_recorder import EvalRecorder
from flashinterp.runs.session import AuditSession
from flashinterp.studies.steering.dose_choice import DoseCurve, dose_curve, reaches, split_questions
from flashinterp.studies.steering.judge_tables import JudgeAnswers, judge_kinds_table, judge_table, judge_wrong_table
from flashinterp.studies.steering.records import Clamped, Concept, Dosed, Spoken
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

CONCEPTS = 3
QUESTIONS = 4  # at most, of each kind
OWN_WORDS = 5
ELSEWHERE = 40  # texts about something else that the judge is asked about
LENGTH = 30  # new tokens
LEAST = 12  # answers to each question: of fewer, a rate of a third is not told from none
BETWEEN = 2  # doses on either side of the largest one that stays within the bounds
# What a judge sees of a difference between two rates is that difference times (sensitivity + specificity - 1): with
# both at this, three fifths are left.
LEAST_RIGHT = 0.8

VERDICTS = Recorded("judgements", "claims", "verdicts")


@dataclass(frozen=True)
class Steering:
    """What the tests of this eval share: who speaks, of what, at which doses.

    Attributes:
        bench: the model that speaks, and the texts.
        selection, heldout: the questions.
        concepts: the claims that are steered.
        curves: the dose curve of each, or why there is none.
    """

    bench: Experiment
    selection: tuple[str, ...]
    heldout: tuple[str, ...]
    concepts: tuple[Concept, ...]
    curves: tuple[DoseCurve | str, ...]

    @property
    def dosed(self) -> list[tuple[Concept, float]]:
        """The concepts for which a dose was found, with the dose."""
        both = zip(self.concepts, self.curves, strict=True)
        return [(one, found.dose) for one, found in both if isinstance(found, DoseCurve) and found.dose is not None]

    def answers(self, name: str, clamps: dict[NeuronId, float]) -> tuple[Answers, ...]:
        """The answers to the held-out questions, with and without a clamp."""
        rng = self.bench.rng(f"steer {name}")
        n = max(LEAST, self.bench.profile.answers)
        return tuple(
            steer(self.bench.model, self.bench.tokenizer, q, clamps, n=n, rng=rng, max_new_tokens=LENGTH)
            for q in self.heldout
        )

    @property
    def measured(self) -> list[Dosed | str]:
        """What was measured for each curve, as it is kept."""
        return [found if isinstance(found, str) else Dosed.of(found) for found in self.curves]


@pytest.fixture(scope="module")
def steering(
    audit: AuditSession, bench: Experiment, judged: Judged, session_tuned_model: Any, maps: LensMaps
) -> Steering:
    """The concepts with their dose curves, measured once for all tests of this eval."""
    if audit.tuned is not None:
        bench = replace(bench, model=session_tuned_model, checkpoint=audit.tuned)
    selection, heldout = (part[:QUESTIONS] for part in split_questions(bench.prompts.questions))
    claims = [c for c, e, v in zip(judged.claims, judged.evidence, judged.verdicts, strict=True)
              if v.verdict == "validated" and isinstance(e, Measured)]  # fmt: skip
    concepts = tuple(_concept(c, bench, maps[c.lens]) for c in (claims or [c for c, _ in judged.measured])[:CONCEPTS])
    curves = tuple(_curve(one, bench, selection) for one in concepts)
    return Steering(bench, selection, heldout, concepts, curves)


def _concept(claim: Claim, bench: Experiment, m: NeuronMap) -> Concept:
    """The claim with its lexicon: written forms of the token, and words of the neuron that stand out.

    A whole word counts as the neuron's own if it scores at least half of what its best word does, and if no selection
    text has it: those name no concept, so what they have ("she", "so") would be found in any answer.
    """
    assert claim.neuron is not None
    token = bench.token(claim)
    forms = [token.text, f"{token.text}s", *(v.text for v in bench.checkpoint.vocabulary.variants(token))]
    whole = set(bench.checkpoint.vocabulary.words())  # a fragment would be found in any answer
    plain = set(re.findall(r"\w+", " ".join(bench.prompts.selection).casefold()))
    words = m.words(claim.neuron, OWN_WORDS, claim.pole or "+")
    own = [w.token.text for w in words if w.token.id in whole and w.score >= 0.5 * words[0].score]
    own = [w for w in own if w.strip().casefold() not in plain]
    lexicon = tuple(sorted({w.strip().lower() for w in (*forms, *own) if w.strip()}))
    return Concept(claim, claim.neuron, lexicon)


def _curve(one: Concept, bench: Experiment, questions: Sequence[str]) -> DoseCurve | str:
    block = natural_text(bench, [one.neuron.block], [bench.token(one.claim).id])[one.neuron.block]
    low, high = (float(end) for end in block.doses(one.neuron.neuron, 2))
    if not high > low:
        return "its natural range has no width"
    try:
        return dose_curve(
            bench.model, bench.tokenizer, questions, one.neuron, one.judge, natural=(low, high), drive=one.claim.drive,
            n=max(LEAST, bench.profile.answers), rng=bench.rng(f"dose {one.claim.id}"),
            at=reaches(bench.profile.doses), between=BETWEEN, max_new_tokens=LENGTH,
        )  # fmt: skip
    except NeverRouted as error:
        return str(error)


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
        Clamped(one, doses.get(one.claim.id), tuple(Spoken.of([answers]) for answers in pairs.get(one.claim.id, ())))
        for one in steering.concepts
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
    pair = _two(steering)
    both: tuple[Answers, ...] = ()
    if len(pair) == 2:
        both = steering.answers(" and ".join(one.claim.id for one, _ in pair), {one.neuron: d for one, d in pair})
    spoken = tuple(Spoken.of([answers]) for answers in both)
    questions = (steering.selection, steering.heldout)
    evidence.derived(two_clamps_table, "two", "Two neurons clamped at once", pair, spoken, *questions)
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
    asked = [_asked(one, steering.bench, audit.truth or {}) for one in steering.concepts]
    texts = evidence.value("texts", asked)
    evidence.derived(judge_table, "judge", "The judge on texts with known content", texts)
    evidence.derived(judge_kinds_table, "judge-kinds", "The judge by kind of text", texts)
    evidence.derived(judge_wrong_table, "judge-wrong", "Texts that the judge got wrong", texts)
    if audit.truth and not audit.options.claims:
        for one in asked:
            for kind, (_, right, n) in one.check().by_kind().items():
                told = f"{one.concept.claim.id}: {right} of {n} right, {kind}"
                assert kind == SYNONYM or right >= LEAST_RIGHT * n, told


def _asked(one: Concept, bench: Experiment, truth: dict[str, Any]) -> JudgeAnswers:
    """The judge with texts of known content, in the order in which it was shown them."""
    word = bench.token(one.claim).text
    group = bench.prompts.group_of(word)
    rng = bench.rng(f"judge {one.claim.id}")
    texts = known_texts(
        word,
        bench.prompts.contexts_heldout,
        near=group.words if group else (),
        others=[w for g in bench.prompts.groups if g is not group for w in g.words],
        theme=group.heldout if group else (),
        elsewhere=bench.prompts.about_something_else(word, ELSEWHERE),
        synonyms=truth.get("dog_words", ()) if one.claim.id == "dog" else (),
        rng=rng,
    )
    return JudgeAnswers(one, check_judge(one.judge, texts, rng).texts)


def _two(steering: Steering) -> list[tuple[Concept, float]]:
    """The two concepts that came most often on the selection questions, each with its dose and a neuron of its own."""
    rates = {one.claim.id: _taken_rate(found) for one, found in zip(steering.concepts, steering.curves, strict=True)}
    pair: list[tuple[Concept, float]] = []
    for one, dose in sorted(steering.dosed, key=lambda d: -rates[d[0].claim.id]):
        if one.neuron not in {other.neuron for other, _ in pair}:
            pair.append((one, dose))
    return pair[:2]


def _taken_rate(found: DoseCurve | str) -> float:
    if isinstance(found, str) or found.choice.index is None:
        return 0.0
    return found.rates[found.choice.index].estimate


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
