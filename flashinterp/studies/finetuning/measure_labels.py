"""From the maps of a base model and its fine-tune to what became of each neuron's label, and why (METHOD 5)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flashinterp.decoding.lens_maps import DecodedMaps
from flashinterp.decoding.neuron_map import LensMaps, NeuronMap
from flashinterp.models.checkpoint import Checkpoint
from flashinterp.studies.finetuning.compare import compare, row_cosines
from flashinterp.studies.finetuning.label_changes import Codes, Labels, ShownWords, codes, gains, shown_words
from flashinterp.studies.finetuning.label_tables import CHANGED, WORDS, FineTune


@dataclass(frozen=True)
class LabelChanges:
    """What became of the labels of N neurons.

    Attributes:
        labels: each model decoded with its own head.
        base_head: the fine-tune's rows decoded with the base's head.
        tuned_head: the base's rows decoded with the fine-tune's head.
        cosines: [N] of each row in the two models.
        norms: [N] of the base's rows.
        best: the words of those that changed most.
        top_base, top_tuned: [N] the best word's id in each model.
    """

    labels: Labels
    base_head: Codes
    tuned_head: Codes
    cosines: NDArray[np.float32]
    norms: NDArray[np.float32]
    best: ShownWords
    top_base: NDArray[np.int64]
    top_tuned: NDArray[np.int64]


def label_changes(
    base: Checkpoint, tuned: Checkpoint, maps: LensMaps, tuned_maps: LensMaps, device: str
) -> LabelChanges:
    """Compare the labels of the paper lens in two models, and decode each one's rows with the other's head.

    Args:
        base, tuned: the weights.
        maps, tuned_maps: each with its own head.
        device: where the rows are decoded once more.

    Raises:
        NotComparable: as `compare`.
    """
    paper = maps["paper"]
    own = compare(paper, tuned_maps["paper"])
    base_head = codes(compare(paper, DecodedMaps(tuned, device, head_of=base)["paper"]))
    tuned_head = codes(compare(paper, DecodedMaps(base, device, head_of=tuned)["paper"]))
    labels = Labels.of(own)
    return LabelChanges(
        labels=labels,
        base_head=base_head,
        tuned_head=tuned_head,
        cosines=row_cosines(base, tuned, "up"),
        norms=paper.norms,
        best=shown_words(own, labels.most_changed(CHANGED), WORDS),
        top_base=own.top_a,
        top_tuned=own.top_b,
    )


def fine_tune_labels(name: str, base: NeuronMap, tuned: NeuronMap) -> FineTune:
    """What became of the labels in one of several fine-tunes, and the words that found a neuron in it."""
    return FineTune(name, codes(compare(base, tuned)), gains(base, tuned, WORDS))
