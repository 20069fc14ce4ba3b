"""What is kept of steering: who was clamped and how, what was said, and how likely each answer was.

Rates, damage and the choice of a dose are no part of it: they are made again from the answers, with the judge.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from flashinterp.evaluation.claims import Claim
from flashinterp.interventions.answer_judges import Judge, lexicon_judge
from flashinterp.interventions.answers import Answers, repetition
from flashinterp.neurons import NeuronId
from flashinterp.provenance.registry import record
from flashinterp.studies.steering.dose_choice import Bounds, DoseCurve, judged_curve


@record("steering.concept", version=1)
@dataclass(frozen=True)
class Concept:
    """A claim that is steered, with what the judge looks for.

    Attributes:
        claim: what is claimed, and the direction of the clamp.
        neuron: the claim's.
        lexicon: the words of which one, as a whole word, makes an answer one about the concept.
    """

    claim: Claim
    neuron: NeuronId
    lexicon: tuple[str, ...]

    @cached_property
    def judge(self) -> Judge:
        return lexicon_judge(self.lexicon)


@record("steering.answers", version=1)
@dataclass(frozen=True)
class Said:
    """The answers of one side.

    Attributes:
        texts: [n].
        perplexity: [n] of each under the unclamped model; None where it is empty or has no finite one.
    """

    texts: tuple[str, ...]
    perplexity: tuple[float | None, ...]

    @property
    def repetition(self) -> tuple[float, ...]:
        """[n] the share of each answer's three-word runs that it repeats."""
        return tuple(map(repetition, self.texts))


@record("steering.answers_by_clamp", version=1)
@dataclass(frozen=True)
class Spoken:
    """The answers to one question: unclamped, and at each of several clamps, from the same seeds.

    Attributes:
        prompt: the text that the model was given.
        seeds: [n] one per answer, the same on all sides.
        settings: how the answers were sampled, and where the clamps were.
        clean: the unclamped answers.
        clamped: [D] those at each clamp.
    """

    prompt: str
    seeds: tuple[int, ...]
    settings: dict[str, Any]
    clean: Said
    clamped: tuple[Said, ...]

    @classmethod
    def of(cls, each: Sequence[Answers]) -> Spoken:
        """The answers at each of D clamps, whose unclamped ones are the same."""
        first = each[0]
        clean = Said(first.clean, first.perplexity_clean)
        clamped = tuple(Said(a.clamped, a.perplexity_clamped) for a in each)
        return cls(first.prompt, first.seeds, first.settings, clean, clamped)

    @property
    def answers(self) -> tuple[Answers, ...]:
        """[D] as `flashinterp.steer` returns them; what the texts say of themselves is measured again."""
        return tuple(
            Answers(
                prompt=self.prompt,
                clean=self.clean.texts,
                clamped=side.texts,
                seeds=self.seeds,
                repetition_clean=self.clean.repetition,
                repetition_clamped=side.repetition,
                perplexity_clean=self.clean.perplexity,
                perplexity_clamped=side.perplexity,
                settings=self.settings,
            )
            for side in self.clamped
        )


@record("steering.dose_measurements", version=1)
@dataclass(frozen=True)
class Dosed:
    """What was measured over several doses of one neuron's clamp.

    Attributes:
        natural: the ends of its natural range.
        reaches: [D] how far each dose is from the range's near end, in widths of the range.
        doses: [D] the values.
        questions: [Q] the selection questions.
        spoken: [Q] the answers to each, at D doses.
        bounds: the damage that is allowed.
    """

    natural: tuple[float, float]
    reaches: tuple[float, ...]
    doses: tuple[float, ...]
    questions: tuple[str, ...]
    spoken: tuple[Spoken, ...]
    bounds: Bounds

    @classmethod
    def of(cls, found: DoseCurve) -> Dosed:
        """What was measured for a curve, without what was made of it."""
        spoken = tuple(Spoken.of(each) for each in found.answers)
        return cls(found.natural, found.reaches, found.doses, found.questions, spoken, found.bounds)

    def curve(self, one: Concept) -> DoseCurve:
        """Rates, damage and the choice of a dose, from the answers."""
        answers = tuple(each.answers for each in self.spoken)
        place = (one.neuron, one.claim.drive, self.natural, self.reaches, self.doses, self.questions)
        return judged_curve(answers, one.judge, *place, self.bounds)


@record("steering.heldout_answers", version=1)
@dataclass(frozen=True)
class Clamped:
    """A concept's answers to the held-out questions.

    Attributes:
        concept: whose.
        dose: where its neuron was clamped; None for none, and then there are no answers.
        spoken: [Q] the answers to each question, at that one dose.
    """

    concept: Concept
    dose: float | None
    spoken: tuple[Spoken, ...]

    @property
    def answers(self) -> tuple[Answers, ...]:
        """[Q] the answers to each question."""
        return tuple(answers for one in self.spoken for answers in one.answers)
