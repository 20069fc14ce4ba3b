"""The dose of a clamp, chosen from a measured curve: how often it brings the concept, and what it breaks (METHOD 6).

A weak clamp brings nothing, a strong one brings word salad. So a neuron is clamped at a grid of doses, from the end of
its own natural range to many times its width beyond, and on each dose's answers both are measured. The choice is made
on some questions, and what the chosen dose does is measured on others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from flashinterp.errors import RunError
from flashinterp.interventions.answer_judges import Judge, rate
from flashinterp.interventions.answers import Answers, broken
from flashinterp.interventions.steer import steer_each
from flashinterp.neurons import NeuronId, Pole
from flashinterp.provenance.registry import record
from flashinterp.stats import Interval

# From the natural range's own end to 64 of its widths. Behind a norm, a clamp of that size is nearly all that is left
# of the residual stream, and a larger one changes little.
NEAREST, FARTHEST = 1.0, 64.0


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


_Answers = tuple[tuple[Answers, ...], ...]  # [Q][D]


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


def reaches(n: int) -> tuple[float, ...]:
    """n distances from the near end of a natural range, in its widths: from 1, its far end, to 64 in equal factors."""
    return tuple(float(r) for r in np.geomspace(NEAREST, FARTHEST, n))


def split_questions(questions: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The questions on which a dose is chosen, and those on which it is reported: first half, second half.

    One question is both: there is nothing to hold out, and whoever reports must say so.

    Raises:
        RunError: there is no question.
    """
    if not questions:
        raise RunError("steering needs a question: give the prompt set at least two, one of them to hold out")
    if len(questions) == 1:
        return tuple(questions), tuple(questions)
    half = len(questions) // 2
    return tuple(questions[:half]), tuple(questions[half:])


def dose_curve(
    model: Any,
    tokenizer: Any,
    questions: Sequence[str],
    neuron: NeuronId | str,
    judge: Judge,
    *,
    natural: tuple[float, float],
    drive: Pole,
    n: int,
    rng: np.random.Generator,
    at: Sequence[float] = reaches(7),
    between: int = 0,
    bounds: Bounds | None = None,
    **steering: Any,
) -> DoseCurve:
    """Clamp a neuron at each dose of a grid, judge the answers, weigh them against the damage, and choose a dose.

    Args:
        model, tokenizer: as for `steer`.
        questions: those for selection.
        neuron: which.
        judge: says whether an answer is about the concept.
        natural: the ends of the neuron's natural range at the site.
        drive: the claimed direction: + goes beyond the upper end, - below the lower one.
        n: answers to each question at each dose, from the same seeds at all of them.
        rng: where the seeds come from.
        at: the doses, as distances from the near end of the range in its widths, ascending.
        between: so many more on either side of the largest dose that stays within the bounds, in equal factors up to
            its neighbours: between too little and too much there is often less than a factor of two.
        bounds: how much damage is allowed.
        **steering: as for `steer`.

    Raises:
        RunError: no questions, answers or doses; doses that do not ascend; a natural range without width.
        ClampError, NeuronError: as for `clamp`.
    """
    low, high = natural
    if not high > low:
        raise RunError(f"{neuron} has the natural range {low:g} to {high:g}, without a width: choose a live neuron")
    if not questions or n < 1 or not at or any(b <= a for a, b in pairwise(at)):
        raise RunError(
            f"{len(questions)} questions with {n} answers at the doses {tuple(at)} give no curve: give one "
            "of each at least, and doses that ascend"
        )
    near, sign = (low, 1.0) if drive == "+" else (high, -1.0)
    name = NeuronId.parse(neuron)
    root = int(rng.integers(2**62))  # of the seeds, which are the same at all doses, whenever these are measured

    def measured(at: Sequence[float]) -> _Answers:
        clamps = [{name: _dose(near, sign, reach, high - low)} for reach in at]
        return tuple(
            steer_each(model, tokenizer, question, clamps, n=n, rng=np.random.default_rng([root, i]), **steering)
            for i, question in enumerate(questions)
        )

    def judged(at: Sequence[float], answers: _Answers) -> DoseCurve:
        doses = tuple(_dose(near, sign, reach, high - low) for reach in at)
        return judged_curve(
            answers, judge, name, drive, natural, tuple(at), doses, tuple(questions), bounds or Bounds()
        )

    answers = measured(at)
    curve = judged(at, answers)
    more = _between(curve, between)
    if not more:
        return curve
    both = [*at, *more], [first + then for first, then in zip(answers, measured(more), strict=True)]
    order = np.argsort(both[0])
    return judged([both[0][i] for i in order], tuple(tuple(each[i] for i in order) for each in both[1]))


def _dose(near: float, sign: float, reach: float, width: float) -> float:
    return float(near + sign * reach * width)


def _between(curve: DoseCurve, n: int) -> list[float]:
    """n doses on either side of the largest one within the bounds, as distances; none where all or none of them are."""
    harmless = [i for i, one in enumerate(curve.damage) if one.excess(curve.bounds) is None]
    if n < 1 or not harmless or harmless[-1] + 1 == len(curve.reaches):
        return []
    at = harmless[-1]
    ends = curve.reaches[max(0, at - 1) : at + 2]
    return [float(r) for a, b in pairwise(ends) for r in np.geomspace(a, b, n + 2)[1:-1]]


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
