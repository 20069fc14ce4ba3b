"""The second, unrelated word of a neuron."""

from __future__ import annotations

import numpy as np
import pytest

from flashinterp.neuron import NeuronId
from flashinterp.second_word import UNRELATED, Likeness, second_word
from flashinterp.tokens import Vocabulary
from tests.helpers import map_by_hand, small_checkpoint


def _likeness(*angles: float, below: float = 0.5) -> Likeness:
    """Tokens at these angles in the plane."""
    rows = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    return Likeness(rows, below)


def test_the_first_word_that_is_not_like_it() -> None:
    """Token 1 is like token 0, token 2 is not; both stand after it in the list, and token 2 after token 1."""
    named = map_by_hand([[0, 1, 2, 3]], vocab=4)
    likeness = _likeness(0.0, 0.3, 1.5, 3.0)
    found = second_word(named, NeuronId(0, 0), "+", 0, likeness)
    assert found is not None
    assert found.token.id == 2


def test_none_where_all_are_like_it_or_too_far_down_the_list() -> None:
    named = map_by_hand([[0, 1, 2, 3]], vocab=4)
    assert second_word(named, NeuronId(0, 0), "+", 0, _likeness(0.0, 0.3, 0.2, 0.1)) is None
    assert second_word(named, NeuronId(0, 0), "+", 0, _likeness(0.0, 0.3, 1.5, 3.0), n=2) is None


def test_a_written_form_of_the_word_is_no_second_word() -> None:
    named = map_by_hand([[0, 1, 2]], vocab=3)
    vocabulary = Vocabulary([" dog", " dogs", " sea"], [], prefix_space=False)
    object.__setattr__(named, "vocabulary", vocabulary)
    found = second_word(named, NeuronId(0, 0), "+", 0, _likeness(0.0, 2.0, 1.5))
    assert found is not None
    assert found.token.text == " sea"


def test_the_bound_is_the_quantile_of_random_pairs_without_what_all_share() -> None:
    rng = np.random.default_rng(0)
    checkpoint = small_checkpoint(rng, hidden=16, vocab=200)
    words = list(range(200))
    plain = Likeness.of(checkpoint, words, np.random.default_rng(1))
    head = checkpoint.head().numpy()
    rows = head - head.mean(axis=0)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    every = (rows @ rows.T)[np.triu_indices(200, 1)]
    assert (every < plain.below).mean() == pytest.approx(UNRELATED, abs=0.02)
    assert plain.cosine(3, 5) == pytest.approx(rows[3] @ rows[5], abs=1e-5)
    checkpoint.model.lm_head.weight += 100.0  # the same for all tokens
    shifted = Likeness.of(checkpoint, words, np.random.default_rng(1))
    assert shifted.below == pytest.approx(plain.below, abs=0.01)
