"""The dose of a clamp, chosen from a measured curve: how often it brings the concept, and what it breaks (METHOD 6).

The passes are in `flashinterp.studies.steering.dose_curve`. Here is what is made of their answers, by arithmetic alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from flashinterp.errors import RunError
from flashinterp.interventions.answer_judges import Judge, rate
from flashinterp.interventions.answers import Answers, broken
from flashinterp.neurons import NeuronId, Pole
from flashinterp.provenance.registry import record
from flashinterp.stats import Interval


@record("steering.damage_bounds", version=1)
@dataclass(frozen=True)
class Bounds:
    """How much damage a dose may do; each is compared with the unclamped answers to the same questions.

    Attributes:
        perplexity: ratio of the answers' perplexities under the unclamped model, clamped to unclamped.
        repetition: by how much the mean share of repeated three-word runs may rise.
        broken: by how much the share of answers that are empty or fell apart may rise.
    """

    # Talk of another matter is less likely than the model's own choice of words; five times is 1.6 nats a token. Of the
    # bundled pair, answers at a ratio of 3 are sentences, and at 10 they are visibly broken.
    perplexity: float = 5.0
    # A quarter of the runs repeated is a refrain; a text that loops repeats nearly all of them.
    repetition: float = 0.25
    broken: float = 0.10


@dataclass(frozen=True)
class Damage:
    """What one dose did to the answers, whatever they are about.

    Attributes:
        perplexity: geometric mean of the answers' perplexities under the unclamped model, over the unclamped answers'
            one; None where an answer side has no perplexity at all.
        repetition: mean share of repeated three-word runs, less the unclamped answers' one.
        broken: share of answers that are empty, fell apart or have no finite perplexity, less the unclamped ones'.
    """

    perplexity: float | None
    repetition: float
    broken: float

    def excess(self, bounds: Bounds) -> str | None:
        """Which bound it is beyond, in words; None where it is within all."""
        if self.perplexity is None:
            return "no perplexity"
        told = (
            (self.perplexity > bounds.perplexity, f"perplexity x{self.perplexity:.3g}"),
            (self.repetition > bounds.repetition, f"repetition +{self.repetition:.0%}"),
            (self.broken > bounds.broken, f"broken +{self.broken:.0%}"),
        )
        return ", ".join(text for beyond, text in told if beyond) or None


@dataclass(frozen=True)
class Choice:
    """Which dose of a curve was taken, or why none.

    Attributes:
        index: its place in the curve; None for none.
        reason: in words.
    """

    index: int | None
    reason: str


@dataclass(frozen=True)
class DoseCurve:
    """Concept rate against damage over the doses of one neuron's clamp, and the dose that was chosen.

    Attributes:
        neuron, drive, site: what was clamped, and in which direction.
        natural: the ends of its natural range.
        reaches: [D] how far each dose is from the range's near end, in widths of the range: 1 is its far end.
        doses: [D] the values.
        questions: the selection questions.
        answers: for each question, the answers at each dose; the unclamped ones are the same at all.
        clean_rate, rates: the share of answers about the concept, unclamped and at each dose, over all questions.
        damage: [D] what each dose cost.
        bounds: what it may cost.
        choice: the dose that was taken.
    """

    neuron: NeuronId
    drive: Pole
    site: str
    natural: tuple[float, float]
    reaches: tuple[float, ...]
    doses: tuple[float, ...]
    questions: tuple[str, ...]
    answers: tuple[tuple[Answers, ...], ...]
    clean_rate: Interval
    rates: tuple[Interval, ...]
    damage: tuple[Damage, ...]
    bounds: Bounds
    choice: Choice

    @property
    def dose(self) -> float | None:
        """The chosen value; None where no dose qualified."""
        return None if self.choice.index is None else self.doses[self.choice.index]


def judged_curve(
    answers: tuple[tuple[Answers, ...], ...],
    judge: Judge,
    neuron: NeuronId,
    drive: Pole,
    natural: tuple[float, float],
    at: tuple[float, ...],
    doses: tuple[float, ...],
    questions: tuple[str, ...],
    bounds: Bounds,
) -> DoseCurve:
    """The curve of answers that are there; pure arithmetic. Arguments as `DoseCurve`'s attributes."""
    by_dose = list(zip(*answers, strict=True))  # [D][Q]
    clean = _some(rate(judge, [t for each in answers for t in each[0].clean]))
    rates = tuple(_some(rate(judge, [t for a in each for t in a.clamped])) for each in by_dose)
    damage = tuple(damage_of(each) for each in by_dose)
    choice = choose(clean, rates, damage, bounds)
    return DoseCurve(
        neuron=neuron,
        drive=drive,
        site=answers[0][0].settings["site"],
        natural=natural,
        reaches=at,
        doses=doses,
        questions=questions,
        answers=answers,
        clean_rate=clean,
        rates=rates,
        damage=damage,
        bounds=bounds,
        choice=choice,
    )


def damage_of(answers: Sequence[Answers]) -> Damage:
    """What one clamp did to the answers of one or several questions."""
    clean = [
        (t, r, p) for a in answers for t, r, p in zip(a.clean, a.repetition_clean, a.perplexity_clean, strict=True)
    ]
    clamped = [
        (t, r, p)
        for a in answers
        for t, r, p in zip(a.clamped, a.repetition_clamped, a.perplexity_clamped, strict=True)
    ]
    logs = [[np.log(p) for _, _, p in side if p is not None] for side in (clean, clamped)]
    ratio = float(np.exp(np.mean(logs[1]) - np.mean(logs[0]))) if all(logs) else None
    repeats = [float(np.mean([r for _, r, _ in side])) for side in (clean, clamped)]
    fell = [float(np.mean([broken(t) or p is None for t, _, p in side])) for side in (clean, clamped)]
    return Damage(ratio, repeats[1] - repeats[0], fell[1] - fell[0])


def choose(clean: Interval, rates: Sequence[Interval], damage: Sequence[Damage], bounds: Bounds) -> Choice:
    """The smallest dose that reaches the best concept rate, within its interval, among doses within the bounds.

    Args:
        clean: the unclamped answers' rate.
        rates, damage: of each dose, ascending.
        bounds: what a dose may cost.

    Returns:
        None of them where every dose costs too much, or where no rate's interval is above the unclamped answers' one,
        so that no dose is known to bring the concept.
    """
    excess = [one.excess(bounds) for one in damage]
    allowed = [i for i, beyond in enumerate(excess) if beyond is None]
    if not allowed:
        return Choice(None, f"every dose does more damage than is allowed, the smallest one by {excess[0]}")
    best = max((rates[i] for i in allowed), key=lambda one: one.estimate)
    enough = [i for i in allowed if rates[i].estimate >= _low(best) and _low(rates[i]) > _high(clean)]
    if not enough:
        return Choice(
            None,
            f"no dose within the bounds clearly brings the concept: at best {best.estimate:.0%} of the answers, by its "
            f"interval from {_low(best):.0%} on, against up to {_high(clean):.0%} unclamped",
        )
    costly = sum(excess[i] is not None for i in range(enough[0]))
    beside = f"; {costly} smaller ones do too much damage" if costly else ""
    told = f"the smallest dose within the bounds that reaches the best rate there, {best.estimate:.0%}"
    return Choice(enough[0], f"{told}, within its interval{beside}")


def _high(interval: Interval) -> float:
    return interval.estimate if interval.high is None else interval.high


def _low(interval: Interval) -> float:
    return interval.estimate if interval.low is None else interval.low


def _some(interval: Interval | None) -> Interval:
    if interval is None:
        raise RunError("there are no answers to judge: give at least one to each question")
    return interval
