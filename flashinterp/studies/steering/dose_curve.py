"""The curve from which a clamp's dose is chosen: how often each brings the concept, and what it breaks (METHOD 6).

A weak clamp brings nothing, a strong one brings word salad. So a neuron is clamped at a grid of doses, from the end of
its own natural range to many times its width beyond, and on each dose's answers both are measured. The choice is made
on some questions, and what the chosen dose does is measured on others.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from flashinterp.errors import RunError
from flashinterp.interventions.answer_judges import Judge
from flashinterp.interventions.answers import Answers
from flashinterp.interventions.steer import steer_each
from flashinterp.neurons import NeuronId, Pole
from flashinterp.studies.steering.dose_choice import Bounds, DoseCurve, judged_curve

# From the natural range's own end to 64 of its widths. Behind a norm, a clamp of that size is nearly all that is left
# of the residual stream, and a larger one changes little.
NEAREST, FARTHEST = 1.0, 64.0
_Answers = tuple[tuple[Answers, ...], ...]  # [Q][D]


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
