"""How strongly do neurons write single tokens (the June 2025 post "Projecting neurons into vocabulary space")?

A neuron's alignment is the largest absolute logit that its output vector, a column of W_down, gives any token
through the head, with no norm applied. The post saw a long tail that grows in later layers. This is a property
of weights: it says which tokens a neuron would move if it were driven, and not that the model ever drives it.
"""

from __future__ import annotations

import numpy as np

from flashinterp import Checkpoint
from flashinterp.decoding.neuron_map import LensMaps
from flashinterp.report.charts.neurons import alignment as draw
from flashinterp.runs.eval_recorder import EvalRecorder
from flashinterp.studies.vocabulary.alignment import Alignment, alignment_of
from flashinterp.studies.vocabulary.alignment_tables import alignment_layers_table, most_aligned, most_aligned_table
from flashinterp.studies.vocabulary.exact_alignment import both_poles_words, exact_alignment


def test_alignment_by_layer(base: Checkpoint, maps: LensMaps, evidence: EvalRecorder) -> None:
    """The distribution of alignments in each layer, and the most aligned neurons with their words.

    Implementation: the logit-lens decode, both poles; skew and excess kurtosis say how long the tail is.
    Coverage is the share of word tokens that are some neuron's most aligned token. A sample is checked
    against the explicit float64 product.
    """
    aligned = alignment_of(maps["logit-lens"])
    roster, vocabulary = aligned.map.roster, base.vocabulary
    words = np.array(vocabulary.words(), np.int32)
    title = "Vocabulary alignment by layer"
    largest = evidence.value("largest", aligned.max_abs)
    evidence.derived(alignment_layers_table, "layers", title, largest, aligned.token_ids, words, roster)
    shown = most_aligned(aligned.max_abs)
    tokens = {i: vocabulary.show(int(aligned.token_ids[i])) for i in shown}
    named = {i: both_poles_words(aligned, i) for i in shown}
    values = largest, aligned.signs, tokens, named, roster
    evidence.derived(most_aligned_table, "top", "The most aligned neurons", *values)
    evidence.figure(draw, "distributions", title, aligned.by_layer())
    _check_sample(base, aligned)


def _check_sample(base: Checkpoint, aligned: Alignment) -> None:
    """Against |U · W_down| in float64, on one layer's first neurons."""
    block = base.layout.roster.blocks[-1]
    exact = exact_alignment(base, block, 32)
    ours = aligned.max_abs[aligned.map.roster.span(block)][: len(exact)]
    assert np.allclose(ours, exact, rtol=1e-4, atol=1e-6)
