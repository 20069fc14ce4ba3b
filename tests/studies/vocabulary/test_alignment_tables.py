"""The tables of vocabulary alignment by hand: a layer's moments, a word's neuron, and the most aligned ones."""

from __future__ import annotations

import numpy as np
import pytest

from flashinterp.neuron_index import NeuronIndex
from flashinterp.neurons import Block
from flashinterp.studies.vocabulary.alignment_tables import alignment_layers_table, most_aligned, most_aligned_table
from tests.runs.made_again import cells, made_again

ROSTER = NeuronIndex((Block(0), Block(2)), (4, 3))
ALIGNED = np.array([1, 2, 3, 10, 5, 5, 5], np.float32)
TOKENS = np.array([7, 7, 8, 9, 30, 31, 7], np.int32)
WORDS = np.array([7, 9, 11, 12, 31], np.int32)


def test_a_layers_moments_are_those_of_its_own_neurons() -> None:
    made = made_again(alignment_layers_table, ALIGNED, TOKENS, WORDS, ROSTER)
    off = np.array([-3.0, -2.0, -1.0, 6.0])  # from the mean of the first layer, 4
    spread = np.mean(off**2)
    assert cells(made, "") == ["layer 0", "layer 2"]
    assert (cells(made, "mean"), cells(made, "median"), cells(made, "largest")) == ([4, 5], [2.5, 5], [10, 5])
    assert cells(made, "skew") == [pytest.approx(np.mean(off**3) / spread**1.5), None]  # all are equal: no tail
    assert cells(made, "kurtosis") == [pytest.approx(np.mean(off**4) / spread**2 - 3), None]
    assert "3 of 5 word tokens" in made[2]  # 7, 9 and 31
    twelve = np.where(TOKENS == 8, 12, TOKENS)
    assert "4 of 5 word tokens" in made_again(alignment_layers_table, ALIGNED, twelve, WORDS, ROSTER)[2]


@pytest.mark.parametrize(("which", "at"), [(0, 3), (1, 3), (2, 0)])
def test_one_value_forged_shows_in_the_table_of_layers(which: int, at: int) -> None:
    values = [ALIGNED.copy(), TOKENS.copy(), WORDS.copy()]
    values[which][at] = 40
    honest = made_again(alignment_layers_table, ALIGNED, TOKENS, WORDS, ROSTER)
    assert made_again(alignment_layers_table, *values, ROSTER) != honest


def test_the_most_aligned_come_first_with_their_words_by_absolute_logit() -> None:
    assert most_aligned(ALIGNED, 3) == [3, 4, 5]  # of equal ones the lower
    signs = np.array([1, 1, 1, -1, 1, -1, 1], np.int8)
    tokens = {i: f"token {i}" for i in range(7)}
    words = {i: [("up", 2.0), ("more", 1.0), ("down", -3.0), ("less", -0.5), ("a", 0.4), ("b", -0.3)] for i in range(7)}
    headers, rows, _ = made = made_again(most_aligned_table, ALIGNED, signs, tokens, words, ROSTER)
    assert len(headers) == len(rows[0])
    assert rows[0] == ["L0N3", 10.0, "-", "token 3", "down, up, more, less, a"]
    assert [row[0] for row in rows] == ["L0N3", "L2N0", "L2N1", "L2N2", "L0N2", "L0N1", "L0N0"]
    forged = {**words, 3: [("up", 4.0), *words[3][1:]]}
    assert made_again(most_aligned_table, ALIGNED, signs, tokens, forged, ROSTER) != made
    assert made_again(most_aligned_table, ALIGNED, -signs, tokens, words, ROSTER) != made
    higher = ALIGNED.copy()
    higher[0] = 11
    assert made_again(most_aligned_table, higher, signs, tokens, words, ROSTER)[1][0][0] == "L0N0"
