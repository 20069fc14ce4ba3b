"""The words that are chosen for a model: concepts first, then by the score of the neuron that names them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from flashinterp.evaluation.prompts import shipped
from flashinterp.evaluation.word_choice import MOST_WORDS, well_named
from flashinterp.tokens import Vocabulary
from tests.helpers import map_by_hand

SURFACES = [" dog", " cat", " sea", " sky", " ice", " oak", " fox", " owl", " bee", "ing"]


def named(ids: list[list[int]], logits: list[list[float]], concepts: tuple[str, ...]) -> tuple[str, ...]:
    m = replace(map_by_hand(ids, logits), vocabulary=Vocabulary(SURFACES, [], prefix_space=False))
    return well_named(m, replace(shipped(), concepts=concepts))


def test_concepts_come_first_then_others_each_by_the_score_of_its_neuron() -> None:
    ids = [[0, 1], [2, 3], [4, 9], [9, 5]]
    logits = [[3.0, 1.0], [5.0, 1.0], [9.0, 1.0], [4.0, 1.0]]
    # The mean of two probabilities: exp(-d) against 1, so that a larger gap is a higher score.
    assert named(ids, logits, ("cat", "no such word", "sea")) == (" sea", " cat", " ice", " dog")


def test_at_most_eight_and_ties_to_the_lower_id() -> None:
    ids = np.array([[i, (i + 1) % 9] for i in reversed(range(9))])
    found = named(ids.tolist(), [[2.0, 1.0]] * 9, ())
    assert found == tuple(SURFACES[:MOST_WORDS])
