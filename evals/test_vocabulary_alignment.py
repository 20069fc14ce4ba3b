"""How strongly do neurons write single tokens (the June 2025 post "Projecting neurons into vocabulary space")?

A neuron's alignment is the largest absolute logit that its output vector, a column of W_down, gives any token
through the head, with no norm applied. The post saw a long tail that grows in later layers. This is a property
of weights: it says which tokens a neuron would move if it were driven, and not that the model ever drives it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from evals.conftest import Maps
from flashinterp import Alignment, Checkpoint
from flashinterp.alignment import alignment_of
from flashinterp.audit.figures import alignment as draw
from flashinterp.pytest_plugin import Evidence

TOP = 10
SHOWN_WORDS = 5


def test_alignment_by_layer(base: Checkpoint, maps: Maps, evidence: Evidence) -> None:
    """The distribution of alignments in each layer, and the most aligned neurons with their words.

    Implementation: the logit-lens decode, both poles; skew and excess kurtosis say how long the tail is.
    Coverage is the share of word tokens that are some neuron's most aligned token. A sample is checked
    against the explicit float64 product.
    """
    aligned = alignment_of(maps["logit-lens"])
    rows: list[list[Any]] = [
        [f"layer {x.layer}", x.mean, x.median, x.maximum, x.skew, x.kurtosis] for x in aligned.per_layer
    ]
    evidence.table(
        "layers",
        "Vocabulary alignment by layer",
        ["", "mean", "median", "largest", "skew", "kurtosis"],
        rows,
        f"Alignment: max over tokens of |U · W_down[:, n]|. {_coverage(aligned)}",
    )
    evidence.table("top", "The most aligned neurons", *_most_aligned(aligned))
    evidence.figure(draw, "distributions", "Vocabulary alignment by layer", aligned.by_layer())
    _check_sample(base, aligned)


def _coverage(aligned: Alignment) -> str:
    vocabulary = aligned.map.vocabulary
    words = set(vocabulary.words())
    covered = words & {int(i) for i in aligned.token_ids}
    return f"{len(covered)} of {len(words)} word tokens are some neuron's most aligned token."


def _most_aligned(aligned: Alignment) -> tuple[list[str], list[list[Any]], str]:
    vocabulary = aligned.map.vocabulary
    rows = []
    for i in np.argsort(-aligned.max_abs, kind="stable")[:TOP]:
        neuron, pole = aligned.map.neuron(int(i)), "+" if aligned.signs[i] > 0 else "-"
        words = ", ".join(str(w.token) for w in aligned.map.words(neuron, SHOWN_WORDS, "both"))
        rows.append([str(neuron), float(aligned.max_abs[i]), pole, vocabulary.show(int(aligned.token_ids[i])), words])
    return (
        ["neuron", "alignment", "sign", "token", "words by |logit|"],
        rows,
        "Sign: whether the neuron's positive or negative values raise the token.",
    )


def _check_sample(base: Checkpoint, aligned: Alignment) -> None:
    """Against |U · W_down| in float64, on one layer's first neurons."""
    block = base.layout.roster.blocks[-1]
    columns = base.rows("down", block)[:32].double()
    z = columns @ base.head().double().T
    if (softcap := base.layout.softcap) is not None:
        z = softcap * (z / softcap).tanh()
    exact = z.abs().max(dim=1).values.numpy()
    ours = aligned.max_abs[aligned.map.roster.span(block)][: len(exact)]
    assert np.allclose(ours, exact, rtol=1e-4, atol=1e-6)
