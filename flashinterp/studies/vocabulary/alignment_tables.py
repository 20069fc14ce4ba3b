"""The tables of vocabulary alignment: made from every neuron's alignment, by the eval and again by `verify`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flashinterp.neuron_index import NeuronIndex
from flashinterp.provenance.registry import derivation
from flashinterp.report.table import Told
from flashinterp.studies.vocabulary.alignment import layer_alignments

TOP = 10
"""The most aligned neurons that are named."""
_SHOWN_WORDS = 5


@derivation("vocabulary.alignment_by_layer", version=1)
def alignment_layers_table(
    max_abs: NDArray[np.float32], token_ids: NDArray[np.int32], word_ids: NDArray[np.int32], roster: NeuronIndex
) -> Told:
    """The distribution of alignments in each layer.

    Args:
        max_abs: [N] each neuron's alignment.
        token_ids: [N] the token that attains it.
        word_ids: the vocabulary's word tokens.
        roster: the model's MLPs.
    """
    rows = [
        [f"layer {x.layer}", x.mean, x.median, x.maximum, x.skew, x.kurtosis] for x in layer_alignments(max_abs, roster)
    ]
    words = np.unique(word_ids)
    covered = int(np.isin(words, token_ids).sum())
    return (
        ["", "mean", "median", "largest", "skew", "kurtosis"],
        rows,
        f"Alignment: max over tokens of |U · W_down[:, n]|. {covered} of {len(words)} word tokens are some neuron's "
        "most aligned token.",
    )


def most_aligned(max_abs: NDArray[np.float32], n: int = TOP) -> list[int]:
    """The positions of the n most aligned neurons, the most aligned first; ties to the lower."""
    found: list[int] = np.argsort(-max_abs, kind="stable")[:n].tolist()
    return found


@derivation("vocabulary.most_aligned_neurons", version=1)
def most_aligned_table(
    max_abs: NDArray[np.float32],
    signs: NDArray[np.int8],
    tokens: Mapping[int, str],
    words: Mapping[int, Sequence[tuple[str, float]]],
    roster: NeuronIndex,
) -> Told:
    """The most aligned neurons of the model with their words.

    Args:
        max_abs: [N] each neuron's alignment.
        signs: [N] +1 where the neuron's positive value raises the token, -1 where it lowers it.
        tokens: by the position of each that is shown, its most aligned token.
        words: by the position of each that is shown, words of both poles with their logits.
        roster: the model's MLPs.
    """
    rows: list[list[Any]] = []
    for i in most_aligned(max_abs):
        best = sorted(words[i], key=lambda word: -abs(word[1]))[:_SHOWN_WORDS]
        sign = "+" if signs[i] > 0 else "-"
        rows.append([str(roster.neuron(i)), float(max_abs[i]), sign, tokens[i], ", ".join(word for word, _ in best)])
    return (
        ["neuron", "alignment", "sign", "token", "words by |logit|"],
        rows,
        "Sign: whether the neuron's positive or negative values raise the token.",
    )
