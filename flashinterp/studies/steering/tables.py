"""The tables and the figure of steering: made from the answers, by the eval and again by `verify` (METHOD 6)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from flashinterp.evaluation.verdict import Verdict
from flashinterp.interventions.answer_judges import Judge, rate
from flashinterp.interventions.answers import Answers
from flashinterp.provenance.registry import derivation
from flashinterp.report.charts.dose_damage import DamagePanel, dose_damage
from flashinterp.report.figure import Figure
from flashinterp.report.table import Told
from flashinterp.stats import Interval
from flashinterp.studies.steering.dose_choice import Bounds, Damage, DoseCurve, damage_of
from flashinterp.studies.steering.records import Clamped, Concept, Dosed, Spoken

SHOWN = 3
"""Answers that are printed side by side."""
Measured = Sequence[Dosed | str]
"""What was measured over the doses of each concept's neuron, or why nothing was."""


@derivation("steering.dose_rates", version=1)
def doses_table(
    concepts: Sequence[Concept], measured: Measured, questions: Sequence[str], verdicts: Sequence[Verdict]
) -> Told:
    """How often each dose brings the concept, and what it breaks.

    Args:
        concepts, measured: one per claim that is steered.
        questions: those on which doses are chosen.
        verdicts: the claims' among others.
    """
    rows = []
    for one, found in zip(concepts, measured, strict=True):
        if isinstance(found, str):
            rows.append([one.claim.id, str(one.neuron), *[None] * 6, found, None])
        else:
            rows += _dose_rows(one, found.curve(one))
    b = next((found.bounds for found in measured if isinstance(found, Dosed)), Bounds())
    return (
        ["claim", "neuron", "dose, widths", "clamped at", "about the concept", "perplexity", "repetition", "broken"]
        + ["beyond the bounds", "taken"],
        rows,
        f"Claims: {_status(concepts, verdicts)}. Selection questions: {' / '.join(questions)} Perplexity: ratio to the "
        f"unclamped answers', at most {b.perplexity:g}. Repetition and broken answers: rise over theirs, at most "
        f"{b.repetition:.0%} and {b.broken:.0%}.",
    )


def _dose_rows(one: Concept, found: DoseCurve) -> list[list[Any]]:
    rows: list[list[Any]] = [[one.claim.id, str(one.neuron), None, "unclamped", share(found.clean_rate), *[None] * 5]]
    doses = zip(found.reaches, found.doses, found.rates, found.damage, strict=True)
    for i, (reach, dose, about, cost) in enumerate(doses):
        beyond, taken = cost.excess(found.bounds), "taken" if i == found.choice.index else ""
        rows.append([one.claim.id, str(one.neuron), reach, dose, share(about), *_costs(cost), beyond, taken])
    return rows


@derivation("steering.dose_choice", version=1)
def taken_table(concepts: Sequence[Concept], measured: Measured) -> Told:
    """Which dose was taken for each concept, and why, or why none.

    Args:
        concepts, measured: as for `doses_table`.
    """
    rows: list[list[Any]] = []
    for one, found in zip(concepts, measured, strict=True):
        told: list[Any] = [None, None, None, found]
        if isinstance(found, Dosed):
            curve = found.curve(one)
            told = [*curve.natural, curve.dose, curve.choice.reason]
        rows.append([one.claim.id, str(one.neuron), one.claim.drive, *told])
    return ["claim", "neuron", "direction", "natural, low", "high", "clamped at", "why"], rows, ""


@derivation("steering.dose_figure", version=1)
def concept_doses(name: str, title: str, concepts: Sequence[Concept], measured: Measured) -> Figure:
    """What each dose brings and what it breaks, one panel for each concept that was measured."""
    both = zip(concepts, measured, strict=True)
    return dose_damage(name, title, [_panel(one, found.curve(one)) for one, found in both if isinstance(found, Dosed)])


def _panel(one: Concept, found: DoseCurve) -> DamagePanel:
    rates: list[list[Any]] = [[r.estimate, r.low, r.high] for r in found.rates]
    return DamagePanel(
        label=f"{one.claim.id} ({one.neuron}, {one.claim.drive})",
        reaches=found.reaches,
        rate=rates,
        clean=found.clean_rate.estimate,
        perplexity=[d.perplexity for d in found.damage],
        bound=found.bounds.perplexity,
        repetition=[d.repetition for d in found.damage],
        broken=[d.broken for d in found.damage],
        allowed=[d.excess(found.bounds) is None for d in found.damage],
        chosen=found.choice.index,
    )


@derivation("steering.concept_rates", version=1)
def steering_rates_table(
    clamped: Sequence[Clamped], selection: Sequence[str], heldout: Sequence[str], verdicts: Sequence[Verdict]
) -> Told:
    """Rates of answers about each concept without and with the clamp, and what it cost.

    Args:
        clamped: one per claim that is steered.
        selection, heldout: the questions on which doses were chosen, and those that were answered here.
        verdicts: the claims' among others.
    """
    rows = []
    for found in clamped:
        one, answers = found.concept, found.answers
        repeats = [_mean(_each(answers, f"repetition_{side}")) for side in ("clean", "clamped")]
        perplexity = [_geometric(_each(answers, f"perplexity_{side}")) for side in ("clean", "clamped")]
        n = sum(len(a.seeds) for a in answers)
        rows.append(
            [one.claim.id, str(one.neuron), found.dose, n, *map(share, pooled(one.judge, answers))]
            + [*repeats, *perplexity, ", ".join(one.lexicon)]
        )
    status = _status([found.concept for found in clamped], verdicts)
    return (
        ["claim", "neuron", "clamped at", "answers", "clean", "clamped", "repeats, clean", "clamped"]
        + ["perplexity, clean", "clamped", "judge looks for"],
        rows,
        f"Claims: {status}. {questions_told(selection, heldout)} Share of answers about the concept, with interval. "
        "Repeats: share of three-word runs that occurred before in the answer. Perplexity: of the answers under the "
        "unclamped model, geometric mean. A claim without a dose has no answers.",
    )


@derivation("steering.paired_answers", version=1)
def side_by_side_table(clamped: Sequence[Clamped], heldout: Sequence[str]) -> Told:
    """The first answers of each concept, of as many questions as there are, unclamped and clamped.

    Args:
        clamped: one per claim that is steered.
        heldout: the questions that were answered.
    """
    rows: list[list[Any]] = [
        [found.concept.claim.id, question, a.clean[i], a.clamped[i]]
        for found in clamped
        if found.dose is not None
        for question, a, i in _first(heldout, found.answers)
    ]
    settings = next((a.settings for found in clamped for a in found.answers), {})
    caption = f"Same seeds on both sides. Settings: {', '.join(f'{k} {v}' for k, v in sorted(settings.items()))}."
    return ["claim", "question", "unclamped", "clamped"], rows or [["none: no claim has a dose", *[None] * 3]], caption


def _first(questions: Sequence[str], answers: Sequence[Answers]) -> list[tuple[str, Answers, int]]:
    """The first answers to show, of as many questions as there are."""
    places = [(i, q, a) for i in range(SHOWN) for q, a in zip(questions, answers, strict=True) if i < len(a.seeds)]
    return [(q, a, i) for i, q, a in places[:SHOWN]]


@derivation("steering.two_clamps", version=1)
def two_clamps_table(
    pair: Sequence[tuple[Concept, float]], spoken: Sequence[Spoken], selection: Sequence[str], heldout: Sequence[str]
) -> Told:
    """Two neurons clamped at once: how often each concept comes, and both in one answer.

    Args:
        pair: two concepts with the doses of their neurons; fewer where there are not two.
        spoken: the answers to each held-out question, with both clamped.
        selection, heldout: the questions on which doses were chosen, and those that were answered here.
    """
    rows: list[list[Any]] = [["none: fewer than two claims have a dose", *[None] * 8]]
    if len(pair) > 1:
        rows = _together(pair, [answers for one in spoken for answers in one.answers])
    return (
        ["claims", "clamped at", "answers", "about", "unclamped", "clamped", "perplexity", "repetition", "broken"],
        rows,
        "Perplexity: ratio to the unclamped. Repetition and broken answers: rise over the unclamped. "
        f"{questions_told(selection, heldout)}",
    )


def _together(pair: Sequence[tuple[Concept, float]], both: Sequence[Answers]) -> list[list[Any]]:
    names = " + ".join(f"{one.claim.id} ({one.neuron})" for one, _ in pair)
    at = " + ".join(f"{dose:.4g}" for _, dose in pair)
    n = sum(len(a.seeds) for a in both)
    first, second = (one.judge for one, _ in pair)
    judges: dict[str, Judge] = {one.claim.id: one.judge for one, _ in pair}
    judges["both in one answer"] = lambda text: first(text) and second(text)
    cost = _costs(damage_of(both))
    return [[names, at, n, what, *map(share, pooled(judge, both)), *cost] for what, judge in judges.items()]


@derivation("steering.concept_rates_summary", version=1)
def steered_in_words(clamped: Sequence[Clamped], bundled: bool) -> tuple[str, str | None]:
    """Each concept's rates in short, and what was planted in the bundled models."""
    told = "; ".join(map(_in_words, clamped))
    return f"about the concept, unclamped and clamped: {told}", "clamped, it talks of dogs" if bundled else None


def _in_words(found: Clamped) -> str:
    one = found.concept
    if found.dose is None:
        return f"{one.claim.id} no dose qualified"
    shown = ("?" if r is None else f"{r.estimate:.0%}" for r in pooled(one.judge, found.answers))
    return f"{one.claim.id} {' to '.join(shown)}"


def pooled(judge: Judge, answers: Sequence[Answers]) -> tuple[Interval | None, Interval | None]:
    """The rates over the answers to all questions, unclamped and clamped; None without answers."""
    return rate(judge, [t for a in answers for t in a.clean]), rate(judge, [t for a in answers for t in a.clamped])


def share(found: Interval | None) -> str | None:
    """A rate with its interval, in per cent."""
    return None if found is None else f"{found.estimate:.0%} [{found.low:.0%}, {found.high:.0%}]"


def questions_told(selection: Sequence[str], heldout: Sequence[str]) -> str:
    """How the questions were used."""
    if tuple(selection) == tuple(heldout):
        return "There is one question only: the dose was chosen on the same question as is reported here."
    return f"Doses were chosen on {len(selection)} questions; these are {len(heldout)} others, which had no part in it."


def _status(concepts: Sequence[Concept], verdicts: Sequence[Verdict]) -> str:
    """What the steered claims are, in words."""
    validated = {v.claim.id for v in verdicts if v.verdict == "validated"}
    return "validated" if concepts and {one.claim.id for one in concepts} <= validated else "not validated"


def _costs(cost: Damage) -> list[Any]:
    return [cost.perplexity, f"{cost.repetition:+.0%}", f"{cost.broken:+.0%}"]


def _each(answers: Sequence[Answers], what: str) -> list[Any]:
    """One figure of every answer to every question."""
    return [value for a in answers for value in getattr(a, what)]


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _geometric(values: Sequence[float | None]) -> float | None:
    known = [np.log(v) for v in values if v is not None]
    return float(np.exp(np.mean(known))) if known else None
