"""The tables of regression: made from recorded values alone, by the eval and again by `verify`.

What two runs are compared by goes into ``raw/``, cut down to what the tables rest on, so that the baseline's folder is
not asked for again. This run's own side is taken from its verdicts and their evidence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flashinterp.errors import RunError
from flashinterp.evaluation.judgement import Judged
from flashinterp.neuron_index import NeuronIndex
from flashinterp.provenance.registry import derivation
from flashinterp.report.table import Told
from flashinterp.runs.compare.baseline import REFERENCE, FinishedRun
from flashinterp.runs.compare.diff import diff
from flashinterp.runs.compare.diff_tables import diff_tables
from flashinterp.runs.compare.snapshot import Reference, Words, effects_of
from flashinterp.runs.compare.words import compare_labels, labels_of
from flashinterp.tokens import show

OF_ALL = ("labels", "foremost")
"""The tables that rest on the words of all neurons; the others on those of claims."""
_NAMING = 2  # a neuron's words by which it is told what became of its best


@derivation("runs.reference_words", version=1)
def reference_table(
    judged: Judged, words: Words, best: NDArray[np.int64], roster: NeuronIndex, texts: Mapping[int, str]
) -> Told:
    """What a later run is compared with: the words of each claimed neuron.

    Args:
        judged: the claims of this run, C.
        words: [C] of their neurons, by each claim's own lens and pole.
        best: [C] the place of the neuron that names the claim's token best; -1 where none does.
        roster: the model's neurons.
        texts: the surfaces of the words' ids.
    """
    rows = []
    for i, (claim, verdict) in enumerate(zip(judged.claims, judged.verdicts, strict=True)):
        said = ", ".join(show(texts[int(token)]) for token in words.ids[i] if token >= 0)
        named = str(roster.neuron(int(best[i]))) if best[i] >= 0 else None
        about = [claim.id, str(claim.neuron), claim.lens, claim.pole]
        rows.append([*about, said, float(words.lead[i]), named, verdict.verdict])
    return (
        ["claim", "neuron", "lens", "pole", "words", "lead", "best neuron", "verdict"],
        rows,
        "What a later run is compared with, together with every other neuron's words in "
        f"raw/{REFERENCE}.npz. Lead: the first word's logit above the second's. Best neuron: the one that names the "
        "claim's token best by this lens and pole.",
    )


@derivation("runs.changes_since_baseline", version=1)
def since_table(name: str, before: FinishedRun, after: FinishedRun, judged: Judged) -> Told:
    """One of the tables of two runs compared, see `diff_tables`.

    Args:
        name: of the table.
        before, after: the runs, as `compared` has cut them down.
        judged: the later run's claims, of which its verdicts and effects come.

    Raises:
        RunError: the comparison has no such table.
    """
    for table in diff_tables(diff(before, _rejudged(after, judged))):
        if table.name == name:
            return list(table.headers), [list(row) for row in table.rows], table.note
    raise RunError(f"the comparison of the two runs has no table {name[:80]!r}: use the release that made it")


def compared(before: FinishedRun, after: FinishedRun, *, of_all: bool) -> tuple[FinishedRun, FinishedRun]:
    """Two runs with nothing in them but what tables rest on; the later one without what comes of its evidence.

    Args:
        before, after: as read from the folder, and as it goes on.
        of_all: keep what the tables `OF_ALL` rest on; else what the others do: the words of the claimed neurons and of
            those that name one of their words in either run.
    """
    both = [run.reference for run in (before, after) if run.reference is not None]
    shown = _foremost(both) if of_all else _about_claims(both, [*before.verdicts, *after.verdicts])
    texts = {int(i) for r in both for ids in (r.words.ids[shown], r.claim_words.ids) for i in ids.flat}
    earlier, later = (
        replace(_told(run), reference=run.reference and _cut(run.reference, shown, texts, of_all))
        for run in (before, after)
    )
    return earlier, _without_evidence(later)


def _told(run: FinishedRun) -> FinishedRun:
    """A run as far as a comparison reads of its results and its lock."""
    results = run.results
    kept = {key: results[key] for key in ("model", "verdicts", "self_test", "partial", "profile", "seed")}
    kept["options"] = {"resolved": results["options"]["resolved"]}
    kept["environment"] = {"packages": results["environment"]["packages"]}
    return replace(run, results=kept, lock={key: run.lock[key] for key in ("prompts", "rule") if key in run.lock})


def _foremost(both: list[Reference]) -> NDArray[np.bool_]:
    """[N] the neurons that are shown of those whose word was lost or moved."""
    shown = _nowhere(both)
    if len(both) == 2:
        shown[[both[0].roster.index(word.neuron) for word in compare_labels(*both).foremost]] = True
    return shown


def _about_claims(both: list[Reference], verdicts: list[dict[str, Any]]) -> NDArray[np.bool_]:
    """[N] the neurons that claims are about, and those that name the best word of one of them."""
    shown = _nowhere(both)
    words = [word for reference in both for word in reference.claim_words.ids[:, 0] if word >= 0]
    for reference in both:
        shown |= np.isin(labels_of(reference), words)
        shown[[reference.roster.index(v["neuron"]) for v in verdicts if v["neuron"] is not None]] = True
    return shown


def _nowhere(both: list[Reference]) -> NDArray[np.bool_]:
    return np.zeros(len(both[0].roster) if both else 0, dtype=bool)


def _cut(reference: Reference, shown: NDArray[np.bool_], texts: set[int], of_all: bool) -> Reference:
    """A reference with all words of some neurons, and of the others the first two or none; texts of some words."""
    words, rest = reference.words, shown | of_all
    ids = np.where(shown[:, None], words.ids, -1).astype(words.ids.dtype)
    ids[rest, :_NAMING] = words.ids[rest, :_NAMING]
    lead = np.where(rest, words.lead, 0).astype(words.lead.dtype)
    return replace(
        reference,
        surfaces=tuple(text if i in texts else "" for i, text in enumerate(reference.surfaces)),
        words=Words(ids, lead, words.near_tie & rest),
    )


def _without_evidence(run: FinishedRun) -> FinishedRun:
    reference = run.reference
    if reference is not None:
        none = np.zeros_like(reference.measured), np.zeros_like(reference.effects)
        reference = replace(reference, measured=none[0], effects=none[1])
    return replace(run, results={**run.results, "verdicts": []}, reference=reference)


def _rejudged(run: FinishedRun, judged: Judged) -> FinishedRun:
    """The inverse of `_without_evidence`: a run with the verdicts on its claims and their effects."""
    reference = run.reference
    if reference is not None:
        measured, effects = effects_of(judged.claims, judged.evidence, reference.effects.shape[1])
        reference = replace(reference, measured=measured, effects=effects)
    return replace(run, results={**run.results, "verdicts": [v.record() for v in judged.verdicts]}, reference=reference)
