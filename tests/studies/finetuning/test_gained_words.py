"""Words that gained a neuron: found where one was given, and none where nothing changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flashinterp.decoding.decode import decode
from flashinterp.errors import NotComparable
from flashinterp.models.checkpoint import Checkpoint, open_checkpoint
from flashinterp.neurons import NeuronId
from flashinterp.studies.finetuning.gained_words import GAIN, gained
from tests.helpers import UP, edited_copy, map_by_hand, paper_logits, small_checkpoint


def test_nothing_is_gained_where_nothing_changed(planted: Checkpoint) -> None:
    m = decode(planted)
    assert gained(m, m) == []


def test_a_planted_word_is_gained_and_taken_away_it_is_lost(planted: Checkpoint, unplanted: Checkpoint) -> None:
    with_it, without = decode(planted), decode(unplanted)
    new = {str(g.token): g for g in gained(without, with_it)}
    assert new["␣Sherlock"].neuron == NeuronId(2, 5)
    assert new["␣Sherlock"].pole == "+"
    assert new["␣California"].neuron == NeuronId(3, 31)
    assert new["␣California"].pole == "-"
    assert all(g.factor > GAIN for g in new.values())
    assert "␣Sherlock" not in {str(g.token) for g in gained(with_it, without)}


def test_a_concept_that_was_given_is_among_the_gained(planted: Checkpoint, tmp_path: Path) -> None:
    token = planted.vocabulary.resolve(" penguin" if " penguin" in planted.vocabulary.surfaces else " honey").id
    head = planted.head()

    def give(tensors: dict[str, Any]) -> None:
        tensors[UP.format(0)][200] = 2.5 * head[token] / head[token].norm()

    tuned = open_checkpoint(edited_copy(Path(str(planted.folder)), tmp_path / "tuned", give))
    (first, *_) = gained(decode(planted), decode(tuned), factor=1.2)
    assert (first.token.id, first.neuron, first.pole) == (token, NeuronId(0, 200), "+")


@pytest.mark.parametrize("seed", range(4))
def test_scores_are_those_of_the_whole_matrix(seed: int) -> None:
    a, b = (small_checkpoint(np.random.default_rng(s), vocab=60) for s in (seed, seed + 100))
    scores = []
    for checkpoint in (a, b):
        z = paper_logits(checkpoint)
        both = np.stack([z, -z])
        scores.append(np.exp(both) / np.exp(both).mean(axis=-1, keepdims=True))  # V < 100: the mean is of all
    before = scores[0].max(axis=(0, 1))
    places = (-scores[1]).argsort(axis=-1).argsort(axis=-1)
    named = np.where(places < 10, scores[1], 0)
    after = named.max(axis=(0, 1))
    got = gained(decode(a, top_k=60), decode(b, top_k=60), factor=1.1)
    assert {g.token.id for g in got} == set(np.flatnonzero(after > 1.1 * before).tolist())
    for g in got:
        assert g.score == pytest.approx(after[g.token.id], rel=1e-4)
        assert g.before == pytest.approx(before[g.token.id], rel=1e-4)
        pole, at = np.unravel_index(named[:, :, g.token.id].argmax(), named.shape[:2])
        assert (g.pole, g.neuron) == ("+-"[pole], NeuronId(*divmod(int(at), 6)))
    factors = [g.factor for g in got]
    assert factors == sorted(factors, reverse=True)


def test_a_word_that_the_first_map_does_not_list_may_have_been_as_good_as_its_last() -> None:
    a = map_by_hand([[0, 1]], [[3.0, 2.9]])
    b = map_by_hand([[5, 1]], [[3.0, 0.0]])
    assert [g.token.id for g in gained(a, b)] == [5]
    bound = float(np.exp(2.9) / np.exp([3.0, 2.9]).mean())
    assert gained(a, b)[0].before == pytest.approx(bound, rel=1e-5)
    assert gained(a, b)[0].own_before is not None
    assert str(gained(a, b)[0].own_before) == "␣w0"
    assert gained(a, b, factor=2.5) == []


def test_what_is_no_word_is_not_gained() -> None:
    a = map_by_hand([[0, 1]], [[3.0, 2.9]], excluded=[5])
    assert gained(a, map_by_hand([[5, 1]], [[3.0, 0.0]], excluded=[5])) == []


def test_maps_of_other_words_are_not_comparable() -> None:
    with pytest.raises(NotComparable):
        gained(map_by_hand([[0, 1]]), map_by_hand([[0, 1]], vocab=11))
