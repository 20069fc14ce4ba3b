"""One claim's verdict in words, with the numbers that it rests on: what stands first in a report. Not escaped yet."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flashinterp.tokens import show

_POLES = {"+": "positive values", "-": "negative values"}


@dataclass(frozen=True)
class ClaimInWords:
    """A claim and what became of it.

    Attributes:
        id: the claim's name.
        token, neuron: what is claimed to belong together; "-" where nothing was found.
        verdict: one of the verdicts.
        how: which side of the neuron stands for the token, and by which lens that was found.
        reason: why the verdict is what it is.
        facts: the two sides' numbers, one sentence each; none for a claim that was not measured.
        effect, reads: the same numbers for a cell: an estimate with its interval.
    """

    id: str
    token: str
    neuron: str
    verdict: str
    how: str
    reason: str
    facts: list[str]
    effect: str | None
    reads: str | None


def in_words(record: Mapping[str, Any]) -> ClaimInWords:
    """A verdict of results.json in words; whatever is missing there is left out here."""
    figures = _mapping(record, "figures")
    writes, reads = (_mapping(figures, side) for side in ("writes", "reads"))
    explained = _mapping(figures, "explained")
    written, read = _mapping(writes, "figures"), _mapping(reads, "figures")
    controls = number(written, "n_controls")
    facts = [_writing(written, writes, explained), _reading(read, reads, controls)]
    return ClaimInWords(
        id=str(record.get("id")),
        token=_token(record.get("token")),
        neuron=str(record.get("neuron") or "-"),
        verdict=str(record.get("verdict")),
        how=_how(record),
        reason=_sentence(str(record.get("reason") or "")),
        facts=[fact for fact in facts if fact],
        effect=_estimate(written, "effect", "{}"),
        reads=_estimate(read, "auc", "{}"),
    )


def number(record: Mapping[str, Any], key: str) -> float | None:
    """A finite number of a record; None for anything else."""
    value = record.get(key)
    known = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if known else None  # type: ignore[arg-type]


def digits(value: float) -> str:
    """Three significant digits, with a true minus sign."""
    if 1000 <= abs(value) < 1e7:
        text = f"{value:.0f}"
    else:
        text = f"{value:#.3g}".rstrip(".") if 1e-3 <= abs(value) < 1000 else f"{value:.3g}"
    return text.replace("-", "\N{MINUS SIGN}")


def _sentence(text: str) -> str:
    return text and f"{text[0].upper()}{text[1:]}{'' if text[-1] in '.!?' else '.'}"


def _mapping(record: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = record.get(key)
    return value if isinstance(value, Mapping) else {}


def _token(token: Any) -> str:
    return show(token) if isinstance(token, str) else f"token {token}"


def _how(record: Mapping[str, Any]) -> str:
    sign = _POLES.get(str(record.get("pole")))
    lens = f"found by the {record['lens']} lens" if record.get("lens") else ""
    return ", ".join(part for part in (f"its {sign} stand for it" if sign else "", lens) if part)


def _writing(figures: Mapping[str, Any], side: Mapping[str, Any], explained: Mapping[str, Any]) -> str:
    effect = _estimate(figures, "effect", "{} nats")
    if effect is None:
        return ""
    low, high = number(explained, "dose_low"), number(explained, "dose_high")
    over = f" ({digits(low)} to {digits(high)})" if low is not None and high is not None else ""
    times = _times(number(figures, "effect"))
    ranks = _ranks(figures, number(figures, "n_controls"), "move it as much for what they write")
    return (
        f"Driven over its natural range{over}, it moves the token's log-odds by {effect} in the claimed direction"
        f"{times}{ranks}{_q(side)}."
    )


def _reading(figures: Mapping[str, Any], side: Mapping[str, Any], controls: float | None) -> str:
    area = _estimate(figures, "auc", "{}")
    if area is None:
        return ""
    ranks = _ranks(figures, controls, "tell the two apart as well")
    return f"The chance that its output is higher on the token than on another word (AUC) is {area}{ranks}{_q(side)}."


def _estimate(figures: Mapping[str, Any], key: str, unit: str) -> str | None:
    """``3.20 nats [1.91, 4.55]``; without an interval where there is none."""
    value, low, high = (number(figures, name) for name in (key, f"{key}_low", f"{key}_high"))
    if value is None:
        return None
    between = f" [{digits(low)}, {digits(high)}]" if low is not None and high is not None else ""
    return unit.format(digits(value)) + between


def _times(effect: float | None) -> str:
    """What a change of log-odds does to the odds, where that can be pictured."""
    told = effect is not None and 0.1 <= abs(effect) < 20
    return f", which multiplies its odds by {digits(math.exp(effect))}" if told and effect else ""


def _ranks(figures: Mapping[str, Any], n: float | None, do: str) -> str:
    """How many controls do as much: p is (1 + as many) / (1 + controls)."""
    p = number(figures, "rank_p")
    return f"; {round(p * (n + 1)) - 1} of {n:.0f} matched neurons {do}" if p is not None and n else ""


def _q(side: Mapping[str, Any]) -> str:
    q = number(side, "q")
    return f"; q = {digits(q)}" if q is not None else ""
