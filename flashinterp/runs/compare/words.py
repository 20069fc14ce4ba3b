"""What became of neurons' words between two runs: of those that claims are about, and of all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from flashinterp.runs.compare.snapshot import LENS, POLE, Reference, Words
from flashinterp.stats import Interval, wilson

Fate = Literal["kept", "near tie", "moved", "lost"]
"""What became of a neuron's best word.

kept: the same; near tie: first and second within rounding changed places; moved: another neuron names the word best
now, and did not before; lost: neither.
"""
FATES: tuple[Fate, ...] = get_args(Fate)
FOREMOST = 10  # of all neurons that lost a word, those shown by name


@dataclass(frozen=True)
class WordChange:
    """What became of one neuron's best word.

    Attributes:
        id: the claim's; None of a neuron that no claim is about.
        neuron: which.
        fate: see `Fate`.
        before, after: its best words, best first, safe to show.
        lead_before, lead_after: how far the first is above the second, in logits.
        heir: the neuron that names the word now, where it moved.
    """

    id: str | None
    neuron: str
    fate: Fate
    before: tuple[str, ...]
    after: tuple[str, ...]
    lead_before: float
    lead_after: float
    heir: str | None = None


@dataclass(frozen=True)
class LabelDiff:
    """The best words of all neurons, by the paper lens.

    Attributes:
        n: neurons that have a word in either run.
        counts: how many words became what.
        share: of words kept, with its Wilson interval; None where no neuron has one.
        foremost: of the neurons that lost a word or whose word moved, those that named it most clearly before.
    """

    n: int
    counts: dict[Fate, int]
    share: Interval | None
    foremost: tuple[WordChange, ...]


def labels_of(reference: Reference) -> NDArray[np.int32]:
    """[N] each neuron's best word; -1 where it has none."""
    labels: NDArray[np.int32] = reference.words.ids[:, 0]
    return labels


def compare_labels(a: Reference, b: Reference) -> LabelDiff:
    """Compare the words of all neurons; both references are of the same neurons and words."""
    top_a, top_b = labels_of(a), labels_of(b)
    labelled = (top_a >= 0) | (top_b >= 0)
    kept = labelled & (top_a == top_b)
    tied = labelled & ~kept & _swapped(a.words, b.words)
    changed = labelled & ~kept & ~tied
    heirs = _heirs(top_a, top_b, b.words.lead)
    moved = changed & np.isin(top_a, list(heirs))
    order = np.lexsort((np.arange(len(top_a)), -a.words.lead))
    foremost = [int(i) for i in order if changed[i] and top_a[i] >= 0][:FOREMOST]
    n, n_kept = int(labelled.sum()), int(kept.sum())
    return LabelDiff(
        n,
        dict(zip(FATES, (n_kept, int(tied.sum()), int(moved.sum()), int((changed & ~moved).sum())), strict=True)),
        wilson(n_kept, n),
        tuple(_change(a, b, i, heirs.get(int(top_a[i]))) for i in foremost),
    )


def _change(a: Reference, b: Reference, i: int, heir: int | None) -> WordChange:
    before, after = a.words.row(i), b.words.row(i)
    name = None if heir is None else str(b.roster.neuron(heir))
    return WordChange(
        None, str(a.roster.neuron(i)), "lost" if heir is None else "moved", a.said(before), b.said(after),
        float(before.lead[0]), float(after.lead[0]), name,
    )  # fmt: skip


def _heirs(top_a: NDArray[np.int32], top_b: NDArray[np.int32], lead: NDArray[np.float32]) -> dict[int, int]:
    """For each word, the neuron that names it now and did not before; the clearest of several."""
    new = np.flatnonzero((top_a != top_b) & (top_b >= 0))
    return {int(top_b[i]): int(i) for i in new[np.argsort(lead[new], kind="stable")]}  # the last, clearest stays


def _swapped(a: Words, b: Words) -> NDArray[np.bool_]:
    """[m] whether the new best word was the old second, within rounding, or the old one is the new second so."""
    first_a, first_b = a.ids[:, 0], b.ids[:, 0]
    swapped: NDArray[np.bool_] = (a.near_tie & (a.ids[:, 1] == first_b)) | (b.near_tie & (b.ids[:, 1] == first_a))
    return swapped & (first_a >= 0) & (first_b >= 0)


def claim_words(a: Reference, b: Reference, claim: Mapping[str, Any], after: str | None) -> WordChange | None:
    """What became of the words of a claim's neuron; None where one of the runs did not record them.

    Args:
        a, b: the runs' references.
        claim: the verdict of the earlier run.
        after: the id of the same claim in the later run; None where it has none. The paper lens's words are known of
            every neuron, measured or not.
    """
    at = a.place(claim["id"])
    if at is None or claim["neuron"] is None:
        return None
    here, paper = a.roster.index(claim["neuron"]), (claim.get("lens"), claim.get("pole")) == (LENS, POLE)
    place = None if after is None else b.place(after)
    if place is None and not paper:
        return None
    then, now = a.claim_words.row(at), b.words.row(here) if place is None else b.claim_words.row(place)
    fate: Fate = "kept"
    heir = None
    if then.ids[0, 0] != now.ids[0, 0]:
        heir = _heir_by_label(a, b, then) if paper else _heir_by_score(a, b, at, place)
        fate = "near tie" if _swapped(then, now)[0] else "lost" if heir is None else "moved"
    name = str(b.roster.neuron(heir)) if heir is not None and fate == "moved" else None
    return WordChange(
        claim["id"], str(claim["neuron"]), fate, a.said(then), b.said(now),
        float(then.lead[0]), float(now.lead[0]), name,
    )  # fmt: skip


def _heir_by_label(a: Reference, b: Reference, then: Words) -> int | None:
    """The neuron whose best word it is now, and was not."""
    return _heirs(labels_of(a), labels_of(b), b.words.lead).get(int(then.ids[0, 0]))


def _heir_by_score(a: Reference, b: Reference, at: int, place: int | None) -> int | None:
    """The neuron that names the claim's token best now, where another did: of other lenses, all labels are not kept."""
    now = -1 if place is None else int(b.best[place])
    return None if now in (-1, int(a.best[at])) else now
