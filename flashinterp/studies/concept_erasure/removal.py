"""What taking a concept out of a model gave, in numbers, and what follows from them: the number of edits, the verdict.

It is arithmetic alone. The passes are in `flashinterp.studies.concept_erasure.reverse`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from flashinterp.errors import RunError
from flashinterp.interventions.row_place import RowPlace
from flashinterp.provenance.registry import record
from flashinterp.stats import log_odds

Floats = NDArray[np.float64]
LogProbs = Mapping[str, Floats]
"""By direction, [texts] log-probabilities of a concept."""
GONE = 0.1
"""A concept is gone when its mean probability is at most this share of what it was ..."""
CHANCE = 2.0
"""... or at most this many times what each token has where all are alike, 1 / V: there is nothing left to see then. The
paper's probabilities go to 0.00 from about 1; a word that began at 0.002 need not go to 0.0002."""
MOST_KL = 0.1
"""The median change of other text, in nats a token, up to which a number of edits is taken: METHOD 12's bound for a
clamp. The paper reports 0.002 after five concepts of an 8B model."""
Verdict = Literal["removed", "lowered", "kept", "not_measured"]
_LEVEL = 0.05  # 19 controls can just reach it


@record("concept_erasure.ranked_row", version=1)
@dataclass(frozen=True)
class RankedRow:
    """A row, and how near its direction is to the vector's.

    Attributes:
        place: whose.
        cosine: with the vector.
        norm: of the row.
    """

    place: RowPlace
    cosine: float
    norm: float


@record("concept_erasure.edit_count", version=1)
@dataclass(frozen=True)
class Point:
    """One number of edits, on one part of the texts.

    Attributes:
        edits: m; 0 for the model as it is.
        probability: the concept's, mean over all texts of all directions.
        change: of that probability's logarithm, in nats.
        kl: median KL on text about something else, in nats a token.
    """

    edits: int
    probability: float
    change: float
    kl: float


@dataclass(frozen=True)
class ErasureControls:
    """The same number of edits, but for one thing; each draw's change on held-out texts, in nats.

    Attributes:
        rows: other rows of the same layers and kinds with the nearest norms get the reversed concept.
        directions: the same rows get random directions.
        rows_kl, directions_kl: each draw's median KL on text about something else.
    """

    rows: Floats
    directions: Floats
    rows_kl: Floats
    directions_kl: Floats


def mean_probability(log_probs: LogProbs) -> float:
    """The concept's mean probability over all texts of all directions."""
    return float(np.exp(np.concatenate(list(log_probs.values()))).mean())


def change(before: LogProbs, after: LogProbs) -> float:
    """By how many nats the log of the concept's mean probability changes; what expects it most counts most."""
    return float(np.log(mean_probability(after)) - np.log(mean_probability(before)))


def by_direction(before: LogProbs, after: LogProbs) -> Mapping[str, tuple[float, float, float, float]]:
    """For each direction: mean probability before, mean and highest after, mean change of log-odds."""
    told = {}
    for name, old in before.items():
        new = after[name]
        moved = log_odds(new.astype(np.float32)) - log_odds(old.astype(np.float32))
        now = np.exp(new)
        told[name] = float(np.exp(old).mean()), float(now.mean()), float(now.max()), float(moved.mean())
    return told


def gone(clean: float, vocabulary: int) -> float:
    """The probability at which a concept is gone, from what it was and V."""
    return max(GONE * clean, CHANCE / vocabulary)


def choose(selection: Sequence[Point], vocabulary: int) -> tuple[int, str]:
    """The number of edits, from a curve whose first point is none, and the rule by which it was chosen.

    Raises:
        RunError: every number of edits changes other text too much.
    """
    clean, within = selection[0].probability, [point for point in selection[1:] if point.kl <= MOST_KL]
    if not within:
        raise RunError(
            f"no number of edits leaves other text as it is: its median KL is {selection[1].kl:.2g} nats with the "
            f"fewest, and at most {MOST_KL:g} is allowed; choose edits= yourself, or another concept"
        )
    limit = gone(clean, vocabulary)
    if clean <= limit:
        return within[0].edits, "the least: the concept is not expected on the selection texts, so nothing decides"
    for point in within:
        if point.probability <= limit:
            return point.edits, "the smallest number after which the concept is gone"
    best = min(within, key=lambda point: (point.probability, point.edits))
    return best.edits, "the one that leaves the least: after none is the concept gone"


def verdict(before: LogProbs, after: LogProbs, kl: Floats, vocabulary: int, p_rows: float | None) -> Verdict:
    """What the held-out texts say.

    ``not_measured``: the concept was not expected there before. ``removed``: it is gone, other text is not changed
    beyond `MOST_KL`, and no control on other rows does as much (p ≤ 0.05). ``lowered``: that, but it is not gone.
    ``kept`` otherwise.

    Args:
        before, after: without and with the edits.
        kl: [positions] what the edits change of held-out text about something else, in nats.
        vocabulary: V.
        p_rows: the change's rank among controls on other rows.
    """
    limit = gone(mean_probability(before), vocabulary)
    if mean_probability(before) <= limit:
        return "not_measured"
    harmless = float(np.median(kl)) <= MOST_KL
    if change(before, after) >= 0 or not harmless or p_rows is None or p_rows > _LEVEL:
        return "kept"
    return "removed" if mean_probability(after) <= limit else "lowered"
