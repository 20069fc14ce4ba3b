"""What is kept of a comparison says what the comparison said, and arithmetic on it is what it was on the maps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from flashinterp.decoding.decode import decode
from flashinterp.decoding.neuron_map import NeuronMap
from flashinterp.errors import NotComparable
from flashinterp.models.checkpoint import Checkpoint
from flashinterp.neurons import NeuronId
from flashinterp.studies.finetuning.compare import CHANGES, Preservation, compare, decompose
from flashinterp.studies.finetuning.gained_words import GAIN, gained
from flashinterp.studies.finetuning.label_changes import (
    EVERYWHERE,
    Gains,
    Labels,
    codes,
    counts,
    gains,
    lost_by,
    share_kept,
    shown_words,
)
from tests.helpers import map_by_hand


@pytest.fixture(scope="module")
def pair(planted: Checkpoint, tuned: Checkpoint) -> tuple[NeuronMap, NeuronMap]:
    return decode(planted, top_k=20), decode(tuned, top_k=20)


@pytest.fixture(scope="module")
def compared(pair: tuple[NeuronMap, NeuronMap]) -> Preservation:
    return compare(*pair)


# --- labels -------------------------------------------------------------------------------------------


def test_labels_say_what_the_comparison_says(compared: Preservation) -> None:
    labels = Labels.of(compared)
    assert [CHANGES[code] for code in labels.change] == compared.change.tolist()
    assert counts(labels.change) == compared.changes()
    assert share_kept(labels.change) == compared.share
    for layer in compared.per_layer:
        part = labels.roster.layer_span(layer.layer)
        assert counts(labels.change, part) == compared.changes(layer.layer)
        assert share_kept(labels.change, part) == layer.share
    assert share_kept(labels.change, ~labels.near_tie) == compared.share_clear
    assert [labels.roster.neuron(i) for i in labels.most_changed(300)] == compared.most_changed(300)
    assert labels.lost == [compared.map_a.neuron(int(i)) for i in np.flatnonzero(~compared.kept)]
    assert labels.listed == 20


def test_a_neuron_without_a_label_counts_for_nothing() -> None:
    before, after = (map_by_hand(ids, excluded=[8, 9]) for ids in ([[1, 2], [8, 9], [3, 4]], [[1, 2], [9, 8], [5, 6]]))
    labels = Labels.of(compare(before, after))
    assert labels.change.tolist() == [0, -1, CHANGES.index("changed")]
    share = share_kept(labels.change)
    assert share is not None
    assert share.estimate == 0.5
    assert (share.low, share.high) == pytest.approx(stats.binomtest(1, 2).proportion_ci(method="wilson"))
    assert share_kept(labels.change[1:2]) is None
    assert labels.most_changed(9) == [2]
    assert labels.lost == [NeuronId(0, 2)]


@pytest.mark.parametrize("part", [EVERYWHERE, slice(1, 3), slice(3, 4)])
def test_what_was_lost_is_split_as_the_comparisons_split_it(part: slice) -> None:
    base = map_by_hand([[1, 2], [3, 4], [5, 6], [7, 8]])
    own, base_head, tuned_head = (
        compare(base, map_by_hand(ids))
        for ids in (
            [[1, 2], [9, 4], [9, 6], [9, 8]],
            [[1, 2], [9, 4], [5, 6], [9, 8]],
            [[1, 2], [3, 4], [5, 6], [9, 8]],
        )
    )
    kept = [codes(one) for one in (own, base_head, tuned_head)]
    assert lost_by(kept[0], kept[1], kept[2], part) == decompose(own, base_head, tuned_head, part)
    # All: 3 of 4 lost, 2 by the rows alone, 1 by the head alone: (2 + 3 - 1) / 2 of 4 by the rows.
    assert lost_by(kept[0], kept[1], kept[2]) == (0.75, 0.5, 0.25, 0.5, 0.25)


def test_most_changed_are_those_of_least_overlap_then_of_the_largest_lead() -> None:
    change = np.array([3, 0, 3, 2, 1, 3, -1], dtype=np.int8)
    jaccard = np.array([0.5, 0.0, 0.1, 0.5, 0.9, 0.5, 0.0])
    lead = np.array([1, 9, 0, 2, 3, 1, 9], dtype=np.float32)
    m = map_by_hand([[1, 2]] * 7)
    labels = Labels(m.roster, change, np.zeros(7, dtype=bool), jaccard, lead, 2)
    assert labels.most_changed(7) == [2, 3, 0, 5, 4]
    assert labels.most_changed(2) == [2, 3]


def test_shown_words_are_the_maps(compared: Preservation) -> None:
    places = Labels.of(compared).most_changed(3)
    words = shown_words(compared, places, 5)
    for at in places:
        neuron = compared.map_a.neuron(at)
        for ids, m in ((words.before[at], compared.map_a), (words.after[at], compared.map_b)):
            assert [words.texts[i] for i in ids] == [w.token.text for w in m.words(neuron, 5)]
        assert [i for i in words.before[at] if i not in words.after[at]] == [
            w.token.id for w in compared.words_lost(neuron, 5)
        ]


# --- words that gained a neuron -------------------------------------------------------------------------


def test_clear_gains_are_those_of_the_library(pair: tuple[NeuronMap, NeuronMap]) -> None:
    for a, b in (pair, pair[::-1]):
        found, wanted = gains(a, b, 10), gained(a, b)
        assert wanted
        assert len(found.tokens) > len(wanted)
        clear = found.clear
        assert [int(found.tokens[i]) for i in clear] == [g.token.id for g in wanted]
        assert [b.neuron(int(found.neurons[i])) for i in clear] == [g.neuron for g in wanted]
        assert ["+" if found.poles[i] > 0 else "-" for i in clear] == [g.pole for g in wanted]
        assert [(found.scores[i], found.before[i]) for i in clear] == [(g.score, g.before) for g in wanted]
        assert found.words == {g.token.id for g in wanted}
        for g in wanted[:10]:
            assert found.texts[g.token.id] == g.token.text
            assert found.own_before[g.token.id] == (g.own_before.text if g.own_before else None)


def test_texts_are_kept_of_the_shown_words_only(pair: tuple[NeuronMap, NeuronMap]) -> None:
    """Of an 8B model some 60,000 words are named a little better."""
    found = gains(*pair, 3)
    assert len(found.tokens) > 10
    assert list(found.texts) == list(found.own_before) == [int(found.tokens[i]) for i in found.clear[:3]]


def gains_by_hand(*rows: tuple[int, float, float], **more: Any) -> Gains:
    """Words with these ids, scores and former scores, at the neurons 0, 1, ..."""
    tokens, scores, before = (np.array(column) for column in zip(*rows, strict=True))
    texts = {int(i): f" w{i}" for i in tokens}
    own = more.pop("own_before", {})
    n = len(rows)
    return Gains(tokens.astype(np.int32), np.arange(n, dtype=np.int32), np.ones(n, dtype=np.int8),
                 scores.astype(float), before.astype(float), texts, own)  # fmt: skip


def test_gains_are_clear_above_the_factor_and_the_clearest_come_first() -> None:
    found = gains_by_hand((5, GAIN, 1.0), (4, 1.01 * GAIN, 1.0), (3, 8.0, 2.0), (2, 4.0, 1.0), (1, 0.1, 0.0))
    assert found.clear == [4, 3, 2, 1]  # none before: infinitely better; of equals the lower id
    assert found.words == {1, 2, 3, 4}


def test_gains_of_other_words_are_refused() -> None:
    with pytest.raises(NotComparable):
        gains(map_by_hand([[1, 2]]), map_by_hand([[1, 2]], vocab=11), 5)
