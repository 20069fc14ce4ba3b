"""From claims to steered answers: each claim's lexicon, its dose curve, and the answers at the doses that were chosen.

Doses are chosen on some questions, and what they do is asked on others (METHOD 6).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flashinterp.decoding.neuron_map import LensMaps, NeuronMap
from flashinterp.evaluation.claims import Claim
from flashinterp.evaluation.evidence import Evidence
from flashinterp.evaluation.experiment import Experiment
from flashinterp.evaluation.judgement import Judged
from flashinterp.evaluation.natural_range import natural_text
from flashinterp.interventions.answers import Answers
from flashinterp.interventions.clamp_values import NeverRouted
from flashinterp.interventions.judge_check import check_judge, known_texts
from flashinterp.interventions.steer import steer
from flashinterp.neurons import NeuronId
from flashinterp.studies.steering.dose_choice import DoseCurve
from flashinterp.studies.steering.dose_curve import dose_curve, reaches, split_questions
from flashinterp.studies.steering.judge_tables import JudgeAnswers
from flashinterp.studies.steering.records import Concept, Dosed, Spoken

CONCEPTS = 3
QUESTIONS = 4
"""At most, of each kind."""
OWN_WORDS = 5
ELSEWHERE = 40
"""Texts about something else that the judge is asked about."""
LENGTH = 30
"""New tokens of an answer."""
LEAST = 12
"""Answers to each question: of fewer, a rate of a third is not told from none."""
BETWEEN = 2
"""Doses on either side of the largest one that stays within the bounds."""


@dataclass(frozen=True)
class Steering:
    """Who speaks, of what, at which doses.

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

    def answers(self, name: str, clamps: Mapping[NeuronId, float]) -> tuple[Answers, ...]:
        """The answers to the held-out questions, with and without a clamp; the seeds are drawn by name."""
        bench, rng = self.bench, self.bench.rng(f"steer {name}")
        n = max(LEAST, bench.profile.answers)
        return tuple(
            steer(bench.model, bench.tokenizer, question, clamps, n=n, rng=rng, max_new_tokens=LENGTH)
            for question in self.heldout
        )

    @property
    def measured(self) -> list[Dosed | str]:
        """What was measured for each curve, as it is kept."""
        return [found if isinstance(found, str) else Dosed.of(found) for found in self.curves]

    def two(self) -> list[tuple[Concept, float]]:
        """The two concepts that came most often on the selection questions, each with its dose and its own neuron."""
        rates = {one.claim.id: _taken_rate(found) for one, found in zip(self.concepts, self.curves, strict=True)}
        pair: list[tuple[Concept, float]] = []
        for one, dose in sorted(self.dosed, key=lambda d: -rates[d[0].claim.id]):
            if one.neuron not in {other.neuron for other, _ in pair}:
                pair.append((one, dose))
        return pair[:2]


def _taken_rate(found: DoseCurve | str) -> float:
    """How often the chosen dose brought the concept; 0 for none."""
    if isinstance(found, str) or found.choice.index is None:
        return 0.0
    return found.rates[found.choice.index].estimate


def spoken_at(pairs: Sequence[Answers]) -> tuple[Spoken, ...]:
    """The answers to each question at one clamp, as they are kept."""
    return tuple(Spoken.of([answers]) for answers in pairs)


def measure_steering(bench: Experiment, judged: Judged, maps: LensMaps) -> Steering:
    """The dose curves of the validated claims, or, where none was validated, of the first ones.

    Args:
        bench: the model that is to speak, and the texts.
        judged: the claims.
        maps: the maps by whose lenses the claims' neurons were found.
    """
    selection, heldout = (part[:QUESTIONS] for part in split_questions(bench.prompts.questions))
    parts = zip(judged.claims, judged.evidence, judged.verdicts, strict=True)
    validated = [c for c, e, v in parts if v.verdict == "validated" and isinstance(e, Evidence)]
    claims = (validated or [claim for claim, _ in judged.measured])[:CONCEPTS]
    concepts = tuple(concept_of(claim, bench, maps[claim.lens]) for claim in claims)
    return Steering(bench, selection, heldout, concepts, tuple(_curve(one, bench, selection) for one in concepts))


def concept_of(claim: Claim, bench: Experiment, m: NeuronMap) -> Concept:
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
    """The dose curve, or why there is none."""
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


def ask_judge(one: Concept, bench: Experiment, synonyms: Sequence[str] = ()) -> JudgeAnswers:
    """The judge with texts of known content, made from the prompt set, in the order in which it was shown them.

    Args:
        one: the concept whose judge is asked.
        bench: the texts.
        synonyms: words that are known to name it.
    """
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
        synonyms=synonyms,
        rng=rng,
    )
    return JudgeAnswers(one, check_judge(one.judge, texts, rng).texts)
