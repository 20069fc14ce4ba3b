"""The second, unrelated word of a neuron."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from flashinterp.decoding.neuron_map import Word
from flashinterp.studies.limitations.second_word import UNRELATED, Likeness, second_word, unlike
from flashinterp.tokens import Token
from tests.helpers import small_checkpoint


def _second(*angles: float, forms: Sequence[int] = (0,), n: int | None = None) -> int | None:
    """The second word of a neuron whose words are tokens 0, 1, 2, ..., at these angles; the bound is 0.5."""
    rows = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    words = [Word(Token(i, f" {i}", "by id"), 1.0, 1.0, 0.1) for i in range(len(angles))][:n]
    cosines = Likeness(rows, np.zeros(1, dtype=np.float32)).cosines(0, range(len(words)))
    found = second_word(words, forms, cosines, 0.5)
    return None if found is None else found.token.id


def test_the_first_word_that_is_not_like_it() -> None:
    """Token 1 is like token 0, token 2 is not; both stand after it in the list, and token 2 after token 1."""
    assert _second(0.0, 0.3, 1.5, 3.0) == 2


def test_none_where_all_are_like_it_or_too_far_down_the_list() -> None:
    assert _second(0.0, 0.3, 0.2, 0.1) is None
    assert _second(0.0, 0.3, 1.5, 3.0, n=2) is None


def test_a_written_form_of_the_word_is_no_second_word() -> None:
    assert _second(0.0, 2.0, 1.5) == 1
    assert _second(0.0, 2.0, 1.5, forms=(0, 1)) == 2


def test_the_bound_is_the_quantile_of_random_pairs_without_what_all_share() -> None:
    rng = np.random.default_rng(0)
    checkpoint = small_checkpoint(rng, hidden=16, vocab=200)
    words = list(range(200))
    plain = Likeness.of(checkpoint, words, np.random.default_rng(1))
    head = checkpoint.head().numpy()
    rows = head - head.mean(axis=0)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    every = (rows @ rows.T)[np.triu_indices(200, 1)]
    assert (every < unlike(plain.pairs)).mean() == pytest.approx(UNRELATED, abs=0.02)
    assert plain.cosines(3, [5, 7]) == pytest.approx(rows[[5, 7]] @ rows[3], abs=1e-5)
    checkpoint.model.lm_head.weight += 100.0  # the same for all tokens
    shifted = Likeness.of(checkpoint, words, np.random.default_rng(1))
    assert unlike(shifted.pairs) == pytest.approx(unlike(plain.pairs), abs=0.01)
