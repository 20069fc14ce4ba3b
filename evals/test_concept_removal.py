"""Can a concept be taken out by reversing the rows that read it (arXiv 2412.10257), and a clamp be made permanent?

Both edit weights on disk. A removal is tested as everything here is: the number of edits is chosen on texts that are
not tested on, and beside it stand as many edits that have nothing to do with the concept. A permanent clamp must give
the clamped model's logits.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from flashinterp import Checkpoint, Reversal
from flashinterp.errors import ClampError
from flashinterp.evaluation.claims import Claim
from flashinterp.evaluation.experiment import Experiment
from flashinterp.runs.eval_recorder import EvalRecorder
from flashinterp.runs.session import AuditSession
from flashinterp.studies.concept_erasure.exported_clamp import compare_exports, why_not_exported
from flashinterp.studies.concept_erasure.records import Removed
from flashinterp.studies.concept_erasure.reverse_words import concept_vectors, reverse_words
from flashinterp.studies.concept_erasure.tables import (
    export_table,
    not_exported_table,
    not_reversed_table,
    reading_rows_table,
    removal_controls_table,
    removal_curve_table,
    removal_directions_table,
    removal_table,
)

CONCEPTS = {"smoke": 1, "standard": 3, "audit": 8}
CLEARLY = 0.5  # nats by which a planted concept must fall further than the controls' median; they vary by 0.1 to 0.3
EXPORT = "Clamps written into a checkpoint"


@pytest.mark.usefixtures("model")  # which sees that no hook is left
def test_concepts_removed(
    audit: AuditSession, tokens: tuple[str, ...], bench: Experiment, evidence: EvalRecorder
) -> None:
    """Whether reversing the rows that read a concept takes the concept, and only the concept, out of the model.

    Implementation: TARS. The concept's vector is read from the residual stream over selection texts, and refined by
    noise until the LM head names the concept. The rows of W_up and W_gate with the highest cosine to it are replaced by
    its opposite, as many as selection texts ask for. The concept's probability is taken on held-out texts from four
    directions; gone means a tenth of what it was, or twice chance (2 / V). Text about something else must keep its next
    token (median KL). Controls: the reversed vector at other rows of the same layers
    with the nearest norms, and random directions at the same rows, which takes the readers away without reversing
    them, and so often does much of the work. Verdicts: `removed`; `lowered`, more than by any control on other rows,
    but not gone; `kept`; `not_measured` where the concept was not expected in the first place. A neuron that reads its
    concept with the opposite sign is not found: the paper takes the highest cosines, not the largest.
    On the fixtures: the planted dog row must be among the reversed ones, and dog must fall clearly further than by
    control edits.
    """
    found, unmeasured = reverse_words(bench, tokens[: CONCEPTS[bench.profile.name]])
    if unmeasured:
        evidence.derived(not_reversed_table, "unmeasured", "Concepts that were not reversed", unmeasured)
    if found:
        _record(found, evidence)
    planted = {p["token"]: p["name"] for p in audit.truth["plants"] if p["id"] == "dog"} if audit.truth else {}
    for dog in (r for r in found if r.concept.token.text in planted):
        name, edited = planted[dog.concept.token.text], {str(edit.place.neuron) for edit in dog.edits}
        assert name in edited, f"the planted dog neuron {name} is not among {sorted(edited)}"
        others = float(np.median(dog.controls.rows))
        assert dog.change < others - CLEARLY, f"dog falls by {dog.change:.2f} nats, and by {others:.2f} with other rows"
        assert dog.change < dog.controls.rows.min(), "edits of some other rows take dog away as much as its own row's"


def _record(found: list[Reversal], evidence: EvalRecorder) -> None:
    removed = evidence.value("reversals", [Removed.of(r) for r in found])
    told = "The rows that read a concept (arXiv 2412.10257)"
    evidence.derived(reading_rows_table, "rows", told, removed, concept_vectors(found))
    evidence.derived(removal_table, "removal", "Concepts taken out by reversing rows", removed)
    told = "The same number of edits that are not the concept's"
    evidence.derived(removal_controls_table, "controls", told, removed)
    evidence.derived(removal_directions_table, "directions", "From which side the concept still comes", removed)
    told = "The concept's probability against the number of edits"
    evidence.derived(removal_curve_table, "curve", told, removed)


def test_exported_clamp(
    base: Checkpoint, claims: tuple[Claim, ...], bench: Experiment, tmp_path: Path, evidence: EvalRecorder
) -> None:
    """A clamp written into a checkpoint: whether plain transformers, loading it, gives the clamped model's logits.

    Implementation: the first claims' neurons, each at the high end of its natural range, one alone and all together,
    at every site. The checkpoint is written without building a model, loaded with `AutoModelForCausalLM`, and compared
    at every position of held-out prompts with the model clamped by hooks, both in float32. Allowed is rounding: 64
    steps of float32 at the largest logit, and at `post`, where a sum is stored, one step of the stored dtype.
    Architectures without MLP biases cannot hold a clamp and are not measured.
    """
    neurons = list(dict.fromkeys(c.neuron for c in claims if c.neuron is not None and c.neuron.expert is None))[:3]
    if reason := why_not_exported(base, neurons):
        evidence.derived(not_exported_table, "export", EXPORT, reason)
        return
    try:
        exported = compare_exports(bench, neurons, tmp_path)
    except ClampError as error:  # the architecture cannot hold a clamp, or the dtype not this one
        evidence.derived(not_exported_table, "export", EXPORT, str(error))
        return
    evidence.derived(export_table, "export", EXPORT, exported)
    for one in exported:
        off = float(one.off.max())
        assert one.reading != "no", (
            f"exported at {one.site}: the logits are off by {off:.2g}, {one.allowed:.2g} is allowed"
        )
