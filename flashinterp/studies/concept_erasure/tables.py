"""The tables of removals and of exported clamps: made from what was measured, by the eval and again by `verify`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flashinterp.provenance.registry import derivation
from flashinterp.report.table import Told
from flashinterp.studies.concept_erasure.cosine import cosine
from flashinterp.studies.concept_erasure.records import ClampKept, Removed
from flashinterp.studies.concept_erasure.removal import GONE, MOST_KL, by_direction, mean_probability

LISTED = 4
"""Ranked rows of each concept in the table, at least."""


@derivation("concept_erasure.reading_rows", version=1)
def reading_rows_table(found: Sequence[Removed], vectors: Sequence[NDArray[np.float32]]) -> Told:
    """The rows that read each concept, nearest first, and which of them were reversed.

    Args:
        found: the concepts.
        vectors: of each, [2, d]: its approximate and its refined vector.
    """
    rows: list[list[Any]] = []
    for r, (approximate, refined) in zip(found, vectors, strict=True):
        concept = [r.p_approximate, r.p_refined, cosine(approximate, refined)]
        for rank, row in enumerate(r.ranked[: max(LISTED, r.edits)], 1):
            turned = "yes" if rank <= r.edits else "no"
            rows.append([str(r.token), rank, str(row.place), row.cosine, turned, *concept])
    return (
        ["concept", "rank", "row", "cosine", "reversed", "refined from p", "to p", "kept"],
        rows,
        "Cosine: of the stored row with the concept's vector. p: the concept's probability when the vector, before and "
        "after it is refined by noise, goes through the final norm and the LM head. Kept: cosine of the two.",
    )


@derivation("concept_erasure.probabilities", version=1)
def removal_table(found: Sequence[Removed]) -> Told:
    """Each concept's probability before and after, what else has changed, and the verdict."""
    return (
        ["concept", "edits", "p before", "p after", "median KL", "95 % KL", "verdict", "number of edits"],
        [
            [str(r.token), r.edits, mean_probability(r.before), mean_probability(r.after)]
            + [float(np.median(r.kl)), float(np.quantile(r.kl, 0.95)), r.verdict, r.reason]
            for r in found
        ],
        "p: the concept's mean probability over held-out texts of all directions. KL: of the next token on text about "
        f"something else, nats; at most {MOST_KL:g} in the median. Removed: p at most {GONE:.0%} of what it was, or "
        "twice chance, and lower than with every control on other rows.",
    )


@derivation("concept_erasure.controls", version=1)
def removal_controls_table(found: Sequence[Removed]) -> Told:
    """The same number of edits that are not the concept's: medians, extremes and ranks."""
    rows: list[list[Any]] = []
    for r in found:
        rows.append(
            [str(r.token), r.change, float(np.median(r.rows)), float(r.rows.min()), r.p_rows]
            + [float(np.median(r.directions)), float(r.directions.min()), r.p_directions, float(np.median(r.rows_kl))]
        )
    return (
        ["concept", "change", "other rows", "lowest row", "p", "random directions", "lowest direction"]
        + ["p, directions", "KL, other rows"],
        rows,
        "Change: of the logarithm of the concept's mean probability on held-out texts, nats; median and lowest of "
        f"{len(found[0].rows)} draws. Other rows get the reversed concept; random directions go to the "
        "concept's own rows.",
    )


@derivation("concept_erasure.remaining_directions", version=1)
def removal_directions_table(found: Sequence[Removed]) -> Told:
    """From which side each concept still comes."""
    return (
        ["concept", "direction", "texts", "p before", "p after", "highest after", "change of log-odds"],
        [
            [str(r.token), name, len(r.before[name]), *told]
            for r in found
            for name, told in by_direction(r.before, r.after).items()
        ],
        "theme: texts after which a word of its theme may come; anything: any word may; just said: right after the "
        "concept itself; said before: in the sentence after one that ends with it.",
    )


@derivation("concept_erasure.edit_curve", version=1)
def removal_curve_table(found: Sequence[Removed]) -> Told:
    """Each concept's probability against the number of edits, and the number that was chosen."""
    return (
        ["concept", "edits", "p, selection", "p, held out", "KL, selection", "KL, held out", "chosen"],
        [
            [str(r.token), s.edits, s.probability, h.probability, s.kl, h.kl] + ["yes" if s.edits == r.edits else "no"]
            for r in found
            for s, h in zip(r.selection, r.heldout, strict=True)
        ],
        "The number is chosen on the selection texts; what it does is told by the held-out ones.",
    )


@derivation("concept_erasure.not_reversed", version=1)
def not_reversed_table(reasons: Sequence[tuple[str, str]]) -> Told:
    """The concepts that were not reversed: each as it is shown, with the reason."""
    return ["concept", "verdict", "reason"], [[concept, "not_measured", why] for concept, why in reasons], ""


@derivation("concept_erasure.exported_clamps", version=1)
def export_table(clamps: Sequence[ClampKept]) -> Told:
    """Whether each exported clamp gives the clamped model's logits."""
    rows = [
        [c.site, ", ".join(map(str, c.neurons)), c.switch or "nothing", c.dtype]
        + [float(c.moved.max()), float(c.off.max()), c.allowed, c.reading]
        for c in clamps
    ]
    return (
        ["site", "neurons", "switched on", "stored in", "moved by clamp", "off by", "allowed", "same"],
        rows,
        "Largest difference of any logit at any position: between the clamped and the unclamped model, and between the "
        "exported and the clamped one.",
    )


@derivation("concept_erasure.not_exported", version=1)
def not_exported_table(reason: str) -> Told:
    """Why no clamp was exported."""
    return ["verdict", "reason"], [["not_measured", reason]], ""
