"""The tables of how many neurons share a word, and of trainings that were done again (FI-L003 to FI-L005): made from
measured values, by the eval and again by `verify`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from flashinterp.provenance.registry import derivation, record
from flashinterp.report.table import Told
from flashinterp.stats import Interval
from flashinterp.studies.word_frequency.concentration_records import Concentration

HEADERS = ["model", "neurons", "mass", "effective", "low", "high", "null's", "times null's", "low", "high"]
HEADERS += ["by entropy", "first neuron's share"]
CAPTION = (
    "Effective: how many equal neurons would be as concentrated, by the participation ratio 1 / Σ share², geometric "
    "mean over words; by entropy, small shares count more. Score: a lens's scores over all neurons, from weights "
    "alone. Effect: squared change of the word's log-odds over each neuron's own natural range, by one backward pass "
    "(attribution) or by clamping every neuron (measured). Null's: with random directions of the same norms in place "
    "of what the lens looks at, or of W_down. Times null's: below 1 a word is held by fewer neurons than chance would "
    "leave. Intervals, 95 %: a bootstrap over words, which are of one model."
)


@record("word_frequency.word_group", version=1)
@dataclass(frozen=True)
class WordGroup:
    """Some words of one model, and over how many neurons each is spread.

    Attributes:
        name: of the group.
        words: how many.
        neurons: N of the model.
        by_score: by lens, each word's spread in the model and in its nulls.
        by_effect: the same of what driving neurons does; the reason, as text, where that could not be had.
    """

    name: str
    words: int
    neurons: int
    by_score: list[Concentration]
    by_effect: list[Concentration] | str


@derivation("word_frequency.neurons_per_word", version=1)
def spread_table(groups: Sequence[WordGroup], seed: int) -> Told:
    """The effective number of neurons per word, beside that of the nulls.

    Args:
        groups: of words.
        seed: root of the random streams that the intervals are drawn from.
    """
    rows: list[list[Any]] = []
    for group in groups:
        rng = np.random.default_rng([seed, crc32(b"intervals of the spread")])
        which = f"{group.name} ({group.words})"
        rows += rows_of(which, group.by_score, rng)
        if isinstance(group.by_effect, str):
            rows.append([which, group.neurons, f"effect: {group.by_effect}", *[None] * (len(HEADERS) - 3)])
        else:
            rows += rows_of(which, group.by_effect, rng)
    return ["words", *HEADERS[1:]], rows, CAPTION


def rows_of(model: str, kinds: Sequence[Concentration], rng: np.random.Generator) -> list[list[Any]]:
    """The table's rows for one model; None where nothing can be given."""
    rows: list[list[Any]] = []
    for kind in kinds:
        here, null, against = kind.effective(rng), kind.null(rng), kind.against_null(rng)
        rows.append(
            [model, kind.neurons, kind.mass, *_cells(here), null and null.estimate, *_cells(against)]
            + [kind.entropic(), kind.top()]
        )
    return rows


def _cells(interval: Interval | None) -> list[float | None]:
    return [None] * 3 if interval is None else [interval.estimate, interval.low, interval.high]


# How far a loss may be from the recorded one, as a share of it, up to a step: on another processor sums are rounded
# otherwise, and hundreds of steps make more of it.
TOLERANCE = {20: 0.002, 100: 0.02, 799: 0.05}
NOT_MEASURED = (
    "not measured: it needs a training text of known frequencies, which is there for the small models that the project "
    "trains itself; run without --model"
)


class Repeated(NamedTuple):
    """One step of a training that was done again.

    Attributes:
        step: from 0.
        recorded, now: the two losses, nats a token.
        apart, allowed: how far they are and may be from each other, as a share of the recorded one.
    """

    step: int
    recorded: float
    now: float
    apart: float
    allowed: float


def repeated(recorded: Mapping[int, float], now: NDArray[np.float64]) -> list[Repeated]:
    """The recorded losses by step, as far as the training [steps] was done again."""
    found = []
    for step, loss in recorded.items():
        if step < len(now):
            allowed = next(share for last, share in TOLERANCE.items() if step <= last)
            found.append(Repeated(step, loss, float(now[step]), float(abs(now[step] / loss - 1)), allowed))
    return found


@derivation("word_frequency.repeated_losses", version=1)
def again_table(recorded: Mapping[int, float], now: NDArray[np.float64]) -> Told:
    """The losses on record beside those of now; arguments as of `repeated`."""
    return (
        ["step", "loss, recorded", "loss, now", "apart", "allowed"],
        [list(one) for one in repeated(recorded, now)],
        "Nats a token. Apart, and what is allowed of it, are shares of the recorded loss.",
    )


@derivation("word_frequency.unknown_training_text", version=1)
def needs_known_text() -> Told:
    """The row of a model whose training text nobody knows."""
    return ["remark"], [[NOT_MEASURED]], ""
