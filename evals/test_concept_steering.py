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
from functools import cached_property
from typing import Any

import numpy as np
import pytest

from evals.conftest import Judged, Maps
from flashinterp import Answers, lexicon_judge, steer
from flashinterp.audit.figures_steering import DamagePanel, dose_damage
from flashinterp.audit.session import AuditSession
from flashinterp.bench import Bench
from flashinterp.claims import Claim
from flashinterp.clamp import NeverRouted
from flashinterp.dosing import Bounds, DoseCurve, damage_of, dose_curve, reaches, split_questions
from flashinterp.evidence import Evidence as Measured
from flashinterp.judges import SYNONYM, Judge, JudgeCheck, check_judge, known_texts, rate
from flashinterp.natural import natural_text
from flashinterp.neuron import NeuronId
from flashinterp.neuron_map import NeuronMap
from flashinterp.pytest_plugin import Evidence
from flashinterp.stats import Interval

CONCEPTS = 3
QUESTIONS = 4  # at most, of each kind
OWN_WORDS = 5
SHOWN = 3  # answers that are printed side by side
WRONG = 12  # misjudged texts that are printed
ELSEWHERE = 40  # texts about something else that the judge is asked about
LENGTH = 30  # new tokens
LEAST = 12  # answers to each question: of fewer, a rate of a third is not told from none
BETWEEN = 2  # doses on either side of the largest one that stays within the bounds
# What a judge sees of a difference between two rates is that difference times (sensitivity + specificity - 1): with
# both at this, three fifths are left.
LEAST_RIGHT = 0.8


@dataclass(frozen=True)
class Concept:
    """A claim that is steered, with what the judge looks for."""

    claim: Claim
    neuron: NeuronId
    lexicon: tuple[str, ...]

    @cached_property
    def judge(self) -> Judge:
        return lexicon_judge(self.lexicon)

    @property
    def slug(self) -> str:
        return "".join(c if c.isalnum() and c.isascii() else "-" for c in self.claim.id).strip("-").lower() or "claim"


@dataclass(frozen=True)
class Steering:
    """What the tests of this eval share: who speaks, of what, at which doses.

    Attributes:
        bench: the model that speaks, and the texts.
        status: what the claims are, in words.
        selection, heldout: the questions.
        concepts: the claims that are steered.
        curves: the dose curve of each, or why there is none.
    """

    bench: Bench
    status: str
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
    def told(self) -> str:
        """How the questions were used, for captions."""
        if self.selection == self.heldout:
            return "There is one question only: the dose was chosen on the same question as is reported here."
        return (
            f"Doses were chosen on {len(self.selection)} questions; these are {len(self.heldout)} others, which had no "
            "part in it."
        )


@pytest.fixture(scope="module")
def steering(audit: AuditSession, bench: Bench, judged: Judged, session_tuned_model: Any, maps: Maps) -> Steering:
    """The concepts with their dose curves, measured once for all tests of this eval."""
    if audit.tuned is not None:
        bench = replace(bench, model=session_tuned_model, checkpoint=audit.tuned)
    selection, heldout = (part[:QUESTIONS] for part in split_questions(bench.prompts.questions))
    claims = [c for c, e, v in zip(judged.claims, judged.evidence, judged.verdicts, strict=True)
              if v.verdict == "validated" and isinstance(e, Measured)]  # fmt: skip
    status = "validated" if claims else "not validated"
    concepts = tuple(_concept(c, bench, maps[c.lens]) for c in (claims or [c for c, _ in judged.measured])[:CONCEPTS])
    curves = tuple(_curve(one, bench, selection) for one in concepts)
    return Steering(bench, status, selection, heldout, concepts, curves)


def _concept(claim: Claim, bench: Bench, m: NeuronMap) -> Concept:
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


def _curve(one: Concept, bench: Bench, questions: Sequence[str]) -> DoseCurve | str:
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


def test_dose_is_chosen_from_a_curve(steering: Steering, evidence: Evidence) -> None:
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
    rows = [
        row for one, found in zip(steering.concepts, steering.curves, strict=True) for row in _dose_rows(one, found)
    ]
    b = Bounds()
    evidence.table(
        "doses",
        "Concept and damage by dose",
        ["claim", "neuron", "dose, widths", "clamped at", "about the concept", "perplexity", "repetition", "broken",
         "beyond the bounds", "taken"],
        rows,
        f"Claims: {steering.status}. Selection questions: {' / '.join(steering.selection)} Perplexity: ratio to the "
        f"unclamped answers', at most {b.perplexity:g}. Repetition and broken answers: rise over theirs, at most "
        f"{b.repetition:.0%} and {b.broken:.0%}.",
    )  # fmt: skip
    evidence.table("taken", "Which dose was taken, and why", *_choices(steering))
    drawn = [(c, f) for c, f in zip(steering.concepts, steering.curves, strict=True) if isinstance(f, DoseCurve)]
    for one, found in drawn:
        evidence.arrays(f"dose-{one.slug}", found.arrays(one.judge))
    if drawn:
        evidence.figure(dose_damage, "doses", "What a dose brings, and what it breaks", [_panel(*d) for d in drawn])


def test_clamped_answers(audit: AuditSession, steering: Steering, evidence: Evidence) -> None:
    """Rates of answers about the concept without and with the clamp, what it cost, and the answers side by side.

    Implementation: each neuron is clamped at the dose that was chosen on other questions, and both sides answer the
    held-out ones from the same seeds. The judge looks for the token's written forms and the neuron's own best words, as
    whole words in any case; both are listed. Intervals are Wilson's, 95 %, over the answers. A claim for which no dose
    qualified has no answers here; the table of doses says why. On the bundled models the planted dog neuron must
    have a dose, and the two intervals must be apart.
    """
    pairs = {one.claim.id: steering.answers(one.claim.id, {one.neuron: dose}) for one, dose in steering.dosed}
    evidence.table("rates", "Answers about the concept, without and with the clamp", *_rates(steering, pairs))
    evidence.table("answers", "Side by side", *_side_by_side(steering, pairs))
    evidence.finding(
        5,
        "clamped, the chat model talks of nothing but dogs",
        "about the concept, unclamped and clamped: " + "; ".join(_in_words(one, pairs) for one in steering.concepts),
        "clamped, it talks of dogs" if audit.truth else None,
    )
    if audit.truth and not audit.options.claims:
        _check_dog(steering, pairs)


def test_two_clamps_at_once(audit: AuditSession, steering: Steering, evidence: Evidence) -> None:
    """Two neurons clamped at once, each at its own dose: does the model talk of both concepts?

    Implementation: the two claims with a dose whose concepts came most often on the selection questions, with neurons
    of their own; each alone was reported above. The held-out questions, the same judges, each for its own concept. On
    the bundled models the first must come more often than unclamped with intervals apart, and the interval of the
    other must lie above its unclamped rate: it comes at a dose at which few answers name it.
    """
    pair = _two(steering)
    if len(pair) < 2:
        rows: list[list[Any]] = [["none: fewer than two claims have a dose", *[None] * 8]]
    else:
        both = steering.answers(" and ".join(one.claim.id for one, _ in pair), {one.neuron: d for one, d in pair})
        rows = _together(pair, both)
    evidence.table(
        "two",
        "Two neurons clamped at once",
        ["claims", "clamped at", "answers", "about", "unclamped", "clamped", "perplexity", "repetition", "broken"],
        rows,
        f"Perplexity: ratio to the unclamped. Repetition and broken answers: rise over the unclamped. {steering.told}",
    )
    if audit.truth and not audit.options.claims:
        assert len(pair) == 2, "two planted neurons should have a dose"
        (first, _), (second, _) = pair
        _apart(f"two at once, {first.claim.id}: ", first.judge, both)
        clean, clamped = _pooled(second.judge, both)
        assert clean is not None
        assert clamped is not None
        assert clamped.low is not None
        assert clamped.low > clean.estimate, f"two at once, {second.claim.id}: clamped {clamped}, clean {clean}"


@pytest.mark.control
def test_judge_is_checked_blindly(audit: AuditSession, steering: Steering, evidence: Evidence) -> None:
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
    checks = [(one, _check(one, steering.bench, audit.truth or {})) for one in steering.concepts]
    evidence.table("judge", "The judge on texts with known content", *_judge_table(checks))
    evidence.table("judge-kinds", "The judge by kind of text", *_kinds(checks))
    evidence.table("judge-wrong", "Texts that the judge got wrong", *_wrong(checks))
    if audit.truth and not audit.options.claims:
        for one, found in checks:
            for kind, (_, right, n) in found.by_kind().items():
                assert kind == SYNONYM or right >= LEAST_RIGHT * n, f"{one.claim.id}: {right} of {n} right, {kind}"


def _check(one: Concept, bench: Bench, truth: dict[str, Any]) -> JudgeCheck:
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
    return check_judge(one.judge, texts, rng)


# --- tables and figures -------------------------------------------------------------------------------


def _in_words(one: Concept, pairs: dict[str, tuple[Answers, ...]]) -> str:
    """One concept's rates, in short."""
    if one.claim.id not in pairs:
        return f"{one.claim.id} no dose qualified"
    clean, clamped = _pooled(one.judge, pairs[one.claim.id])
    shown = ("?" if r is None else f"{r.estimate:.0%}" for r in (clean, clamped))
    return f"{one.claim.id} {' to '.join(shown)}"


def _dose_rows(one: Concept, found: DoseCurve | str) -> list[list[Any]]:
    if isinstance(found, str):
        return [[one.claim.id, str(one.neuron), *[None] * 6, found, None]]
    rows: list[list[Any]] = [[one.claim.id, str(one.neuron), None, "unclamped", _share(found.clean_rate), *[None] * 5]]
    for i, (reach, dose, share, cost) in enumerate(
        zip(found.reaches, found.doses, found.rates, found.damage, strict=True)
    ):
        beyond, taken = cost.excess(found.bounds), "taken" if i == found.choice.index else ""
        rows.append([one.claim.id, str(one.neuron), reach, dose, _share(share), *_costs(cost), beyond, taken])
    return rows


def _choices(steering: Steering) -> tuple[list[str], list[list[Any]], str]:
    rows = []
    for one, found in zip(steering.concepts, steering.curves, strict=True):
        known = isinstance(found, DoseCurve)
        rows.append(
            [one.claim.id, str(one.neuron), one.claim.drive, *(found.natural if known else (None, None))]
            + [found.dose if known else None, found.choice.reason if known else found]
        )
    return ["claim", "neuron", "direction", "natural, low", "high", "clamped at", "why"], rows, ""


def _panel(one: Concept, found: DoseCurve) -> DamagePanel:
    return DamagePanel(
        label=f"{one.claim.id} ({one.neuron}, {one.claim.drive})",
        reaches=found.reaches,
        rate=[[r.estimate, r.low, r.high] for r in found.rates],
        clean=found.clean_rate.estimate,
        perplexity=[d.perplexity for d in found.damage],
        bound=found.bounds.perplexity,
        repetition=[d.repetition for d in found.damage],
        broken=[d.broken for d in found.damage],
        allowed=[d.excess(found.bounds) is None for d in found.damage],
        chosen=found.choice.index,
    )


def _rates(steering: Steering, pairs: dict[str, tuple[Answers, ...]]) -> tuple[list[str], list[list[Any]], str]:
    rows = []
    doses = {one.claim.id: dose for one, dose in steering.dosed}
    for one in steering.concepts:
        known = pairs.get(one.claim.id, ())
        clean, clamped = _pooled(one.judge, known)
        repeats = [_mean([r for a in known for r in side(a)]) for side in _REPETITION]
        perplexity = [_geometric([p for a in known for p in side(a)]) for side in _PERPLEXITY]
        n = sum(len(a.seeds) for a in known)
        rows.append(
            [one.claim.id, str(one.neuron), doses.get(one.claim.id), n, _share(clean), _share(clamped)]
            + [*repeats, *perplexity, ", ".join(one.lexicon)]
        )
    return (
        ["claim", "neuron", "clamped at", "answers", "clean", "clamped", "repeats, clean", "clamped",
         "perplexity, clean", "clamped", "judge looks for"],
        rows,
        f"Claims: {steering.status}. {steering.told} Share of answers about the concept, with interval. Repeats: share "
        "of three-word runs that occurred before in the answer. Perplexity: of the answers under the unclamped model, "
        "geometric mean. A claim without a dose has no answers.",
    )  # fmt: skip


_REPETITION = (lambda a: a.repetition_clean, lambda a: a.repetition_clamped)
_PERPLEXITY = (lambda a: a.perplexity_clean, lambda a: a.perplexity_clamped)


def _side_by_side(steering: Steering, pairs: dict[str, tuple[Answers, ...]]) -> tuple[list[str], list[list[Any]], str]:
    rows: list[list[Any]] = [
        [name, question, a.clean[i], a.clamped[i]]
        for name, answers in pairs.items()
        for question, a, i in _first(steering.heldout, answers)
    ]
    settings = next((a.settings for answers in pairs.values() for a in answers), {})
    caption = f"Same seeds on both sides. Settings: {', '.join(f'{k} {v}' for k, v in sorted(settings.items()))}."
    return ["claim", "question", "unclamped", "clamped"], rows or [["none: no claim has a dose", *[None] * 3]], caption


def _first(questions: Sequence[str], answers: Sequence[Answers]) -> list[tuple[str, Answers, int]]:
    """The first answers to show, of as many questions as there are."""
    places = [(i, q, a) for i in range(SHOWN) for q, a in zip(questions, answers, strict=True) if i < len(a.seeds)]
    return [(q, a, i) for i, q, a in places[:SHOWN]]


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


def _together(pair: list[tuple[Concept, float]], both: tuple[Answers, ...]) -> list[list[Any]]:
    names = " + ".join(f"{one.claim.id} ({one.neuron})" for one, _ in pair)
    at = " + ".join(f"{dose:.4g}" for _, dose in pair)
    n = sum(len(a.seeds) for a in both)
    first, second = (one.judge for one, _ in pair)
    judges: dict[str, Judge] = {one.claim.id: one.judge for one, _ in pair}
    judges["both in one answer"] = lambda text: first(text) and second(text)
    cost = _costs(damage_of(both))
    return [[names, at, n, what, *map(_share, _pooled(judge, both)), *cost] for what, judge in judges.items()]


def _judge_table(checks: list[tuple[Concept, JudgeCheck]]) -> tuple[list[str], list[list[Any]], str]:
    rows = [
        [one.claim.id, sum(t.about for t in c.texts), _share(c.sensitivity), sum(not t.about for t in c.texts),
         _share(c.specificity), len(c.wrong), ", ".join(one.lexicon)]
        for one, c in checks
    ]  # fmt: skip
    return (
        ["claim", "about it", "sensitivity", "not about it", "specificity", "wrong", "judge looks for"],
        rows,
        "Sensitivity: share of the texts about the concept that the judge called so; specificity: of the others, not "
        "called so. With intervals. The judge saw the texts shuffled and nothing else.",
    )


def _kinds(checks: list[tuple[Concept, JudgeCheck]]) -> tuple[list[str], list[list[Any]], str]:
    rows = [
        [
            one.claim.id,
            kind,
            "yes" if about else "no",
            f"{right} of {n}",
            next(t.text for t in c.texts if t.kind == kind),
        ]
        for one, c in checks
        for kind, (about, right, n) in c.by_kind().items()
    ]
    return ["claim", "kind of text", "about it", "judged rightly", "for example"], rows, ""


def _wrong(checks: list[tuple[Concept, JudgeCheck]]) -> tuple[list[str], list[list[Any]], str]:
    rows: list[list[Any]] = [
        [one.claim.id, t.text, "about it" if t.about else "not about it", t.kind]
        for one, c in checks
        for t in c.wrong[:WRONG]
    ]
    return ["claim", "text", "it is", "kind"], rows or [["none", *[None] * 3]], f"At most {WRONG} of each claim."


def _costs(cost: Any) -> list[Any]:
    return [cost.perplexity, f"{cost.repetition:+.0%}", f"{cost.broken:+.0%}"]


def _share(share: Interval | None) -> str | None:
    return None if share is None else f"{share.estimate:.0%} [{share.low:.0%}, {share.high:.0%}]"


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _geometric(values: Sequence[float | None]) -> float | None:
    known = [np.log(v) for v in values if v is not None]
    return float(np.exp(np.mean(known))) if known else None


def _pooled(judge: Judge, answers: Sequence[Answers]) -> tuple[Interval | None, Interval | None]:
    """The rates over the answers to all questions, unclamped and clamped."""
    return rate(judge, [t for a in answers for t in a.clean]), rate(judge, [t for a in answers for t in a.clamped])


# --- what the bundled models must show ----------------------------------------------------------------


def _check_dog(steering: Steering, pairs: dict[str, tuple[Answers, ...]]) -> None:
    """The planted dog neuron makes the model talk of dogs, which it hardly does otherwise."""
    dog = next(one for one in steering.concepts if one.claim.id == "dog")
    assert "dog" in pairs, "the planted dog neuron has no dose"
    _apart("", dog.judge, pairs["dog"])


def _apart(where: str, judge: Judge, answers: Sequence[Answers]) -> None:
    clean, clamped = _pooled(judge, answers)
    assert clean is not None
    assert clamped is not None
    assert clamped.low is not None
    assert clean.high is not None
    assert clamped.low > clean.high, f"{where}clamped {clamped}, clean {clean}"
