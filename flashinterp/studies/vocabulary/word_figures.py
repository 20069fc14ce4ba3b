"""The figures of words: the score of one at every neuron, and the layers in which each is named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from flashinterp.evaluation.evidence import Floats
from flashinterp.neuron_index import NeuronIndex
from flashinterp.provenance.registry import derivation
from flashinterp.report.charts.layers import LayerRow, concept_layers
from flashinterp.report.charts.neurons import spikes
from flashinterp.report.figure import Figure
from flashinterp.studies.vocabulary.word_tables import Listed

MARKED = 3
"""Neurons that a drawing labels, with as many of their words."""
_LONGEST = 12  # characters of a word: a label has no room for more
_PER_LAYER = 4  # neurons of each layer that the drawing of layers shows


@derivation("vocabulary.word_score_figure", version=1)
def word_spikes(
    name: str, title: str, word: Listed, roster: NeuronIndex, labels: Mapping[int, Sequence[str]], kept: int
) -> Figure:
    """Figure 1 of the paper: the word's score at every neuron of the model, the higher pole of each.

    Args:
        name: the figure's slug.
        title: its heading.
        word: where the map lists it.
        roster: the model's MLPs.
        labels: by the position of each neuron that is labelled, its best words on its better pole.
        kept: how many words the map keeps of a neuron.
    """
    marks = [
        (at, f"{roster.neuron(at)}{pole} {' '.join(w[:_LONGEST] for w in labels[at])}")
        for at, pole, _ in word.best(MARKED)
    ]
    scale = f"score (0: not among its best {kept})"
    return spikes(name, title, (word.everywhere(len(roster)), roster.layer_of()), marks, scale)


@derivation("vocabulary.word_layer_figure", version=1)
def word_layers(name: str, title: str, words: Sequence[Listed], roster: NeuronIndex) -> Figure:
    """Where the neurons of each word sit; words that no neuron lists are left out, and one at least is listed."""
    drawn = []
    for word in words:
        if best := word.best(1):
            at, pole, _ = best[0]
            drawn.append(LayerRow(word.word, _by_layer(word, roster), f"{roster.neuron(at)}{pole}"))
    return concept_layers(name, title, list(roster.layers), drawn)


def _by_layer(word: Listed, roster: NeuronIndex) -> Floats:
    """[L, n] the word's best scores in each layer, best first; 0 where there are fewer neurons."""
    scores = word.everywhere(len(roster))
    result = np.zeros((len(roster.layers), _PER_LAYER))
    for row, layer in enumerate(roster.layers):
        best = np.sort(scores[roster.layer_span(layer)])[::-1][:_PER_LAYER]
        result[row, : best.size] = best
    return result
