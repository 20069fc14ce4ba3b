"""The rows of several words reversed one after the other, and their vectors as they are kept."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray

from flashinterp.errors import LayoutError, RunError
from flashinterp.evaluation.experiment import Experiment
from flashinterp.studies.concept_erasure.reverse import Reversal, reverse


def reverse_words(bench: Experiment, words: Iterable[str]) -> tuple[list[Reversal], list[tuple[str, str]]]:
    """What came of each word, and the words that could not be measured, with the reason.

    Such are those of a model without a dense MLP, or for which no number of edits spares other text.
    """
    found, unmeasured = [], []
    for word in words:
        try:
            found.append(reverse(bench, word))
        except (LayoutError, RunError) as error:
            unmeasured.append((str(bench.checkpoint.vocabulary.resolve(word)), str(error)))
    return found, unmeasured


def concept_vectors(found: Iterable[Reversal]) -> list[NDArray[np.float32]]:
    """Of each, [2, d] float32: the vector as it was read, and the refined one."""
    both = (torch.stack([r.concept.approximate, r.concept.refined]) for r in found)
    return [each.float().numpy() for each in both]
