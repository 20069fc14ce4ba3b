"""How loud every neuron of a model is on natural text, and what a lens names those that are not (METHOD 7)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from flashinterp.decoding.neuron_map import NeuronMap
from flashinterp.evaluation.experiment import Experiment
from flashinterp.evaluation.natural_range import natural_text


def output_scales(bench: Experiment) -> NDArray[np.float32]:
    """[N] the standard deviation of each neuron's output on natural text, times the norm of its column of W_down."""
    roster = bench.checkpoint.layout.roster
    scales = np.zeros(len(roster), dtype=np.float32)
    for layer in roster.layers:
        blocks = [block for block in roster.blocks if block.layer == layer]
        for block, natural in natural_text(bench, blocks).items():
            scales[roster.span(block)] = natural.scale.output
    return scales


def best_words(
    paper: NeuronMap, chosen: NDArray[np.bool_]
) -> tuple[NDArray[np.int32], NDArray[np.float64], dict[int, str]]:
    """The best word of each of some D neurons: [D] its id, [D] its score, and how the words' tokens are shown.

    Args:
        paper: a map.
        chosen: [N] which of its neurons.
    """
    best = [paper.words(paper.neuron(int(i)), 1)[0] for i in np.flatnonzero(chosen)]
    ids = np.array([word.token.id for word in best], dtype=np.int32)
    scores = np.array([word.score for word in best], dtype=np.float64)
    return ids, scores, {word.token.id: str(word.token) for word in best}
