"""What is listed and counted of a map's words, on a bundled model whose truth is known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fixtures.storybook.models import FOLDER
from flashinterp import NeuronMap, decode, open_checkpoint
from flashinterp.neurons import POLES
from flashinterp.provenance.derivation import keep
from flashinterp.provenance.registry import derivation_id
from flashinterp.studies.vocabulary import word_tables
from flashinterp.studies.vocabulary.word_figures import word_layers
from flashinterp.studies.vocabulary.word_lists import (
    CANDIDATES,
    best_logits,
    catalogue,
    listed,
    marked_words,
    named_word,
    unlisted_bound,
)
from flashinterp.studies.vocabulary.word_tables import NEAREST, best_scores, catalogue_table, word_layers_table


def made(make: Callable[..., Any], *args: Any, first: tuple[str, ...] = ()) -> Any:
    """What a function makes of values as they come back from ``raw/``."""
    assert derivation_id(make)
    _, values = keep((), args, {})
    return values.called(make, lambda recorded: recorded, *first)


@pytest.fixture(scope="module")
def paper() -> NeuronMap:
    return decode(open_checkpoint(FOLDER / "planted"), device="cpu")


def test_a_neurons_score_is_that_of_its_best_word(paper: NeuronMap) -> None:
    logits, log_means = zip(*(best_logits(paper, pole) for pole in POLES), strict=True)
    scores = best_scores(np.stack(logits), np.stack(log_means))
    for i in (0, 17, 500, 1279):
        best = max(paper.words(paper.neuron(i), 1, pole)[0].score for pole in POLES)
        assert scores[i] == pytest.approx(best, rel=1e-6)


def test_every_neuron_of_a_small_model_is_listed_best_first(paper: NeuronMap) -> None:
    _, rows, caption = made(catalogue_table, catalogue(paper), paper.roster)
    assert caption.startswith("All 1,280 neurons")
    assert {row[0] for row in rows} == {str(paper.neuron(i)) for i in range(len(paper))}
    scores = [row[1] for row in rows]
    assert scores == sorted(scores, reverse=True)
    assert next(row for row in rows if row[0] == "L1N17")[2].startswith("␣dog, ")


def test_of_a_large_model_the_best_are_listed_and_that_is_said(
    paper: NeuronMap, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(word_tables, "LISTED", 10)
    _, rows, caption = made(catalogue_table, catalogue(paper), paper.roster)
    assert len(rows) == 10
    assert caption.startswith("The 10 best-scored of 1,280 neurons")


def test_a_words_neurons_are_counted_by_layer(paper: NeuronMap) -> None:
    words = [listed(paper, paper.vocabulary.resolve(word)) for word in (" dog", " Sherlock")]
    _, rows, _ = made(word_layers_table, words, paper.roster)
    assert [row[:2] for row in rows] == [["␣dog", 1], ["␣Sherlock", 2]]  # where they were planted
    for row in rows:
        counts = [int(part.split()[0]) for part in str(row[3]).split(", ")]
        assert sum(counts) == NEAREST
        assert f"{max(counts)} in layer {row[2]}" in str(row[3])
    drawn = made(word_layers, words, paper.roster, first=("layers", "Where")).data
    assert drawn["layers"].tolist() == [0, 1, 2, 3]
    assert np.argmax(drawn["row0_scores"][:, 0]) == 1


@pytest.mark.parametrize("word", [" dog", " Sherlock"])
def test_what_is_kept_of_a_word_ranks_its_neurons_as_the_map_does(paper: NeuronMap, word: str) -> None:
    token = paper.vocabulary.resolve(word)
    kept, bound = listed(paper, token), unlisted_bound(paper, token)
    found = paper.find(token, len(paper))
    once = {paper.index(f.neuron): (paper.index(f.neuron), f.pole, f.score) for f in reversed(found)}
    best = kept.best(len(paper))
    assert [row for row, _, _ in best] == sorted(once, key=lambda row: (-once[row][2], row))
    for ours, theirs in zip(best, map(once.get, (row for row, _, _ in best)), strict=True):
        assert ours == pytest.approx(theirs)
    ends = [
        (logits[:, -1] - means)[~(ids == token.id).any(axis=1)]
        for ids, logits, _, means in map(paper.pole_arrays, POLES)
    ]
    assert bound == pytest.approx(np.exp(max(end.max() for end in ends)))
    assert (best[0][2] > bound) == found[0].certain


def test_a_map_that_keeps_every_word_leaves_nothing_open() -> None:
    base = open_checkpoint(FOLDER / "planted")
    whole = decode(base, device="cpu", top_k=len(base.vocabulary), layers=[1])
    token = whole.vocabulary.resolve(" dog")
    assert unlisted_bound(whole, token) == 0.0
    assert whole.find(token, 1)[0].certain


def test_a_word_is_named_by_exact_logits(paper: NeuronMap) -> None:
    base = open_checkpoint(FOLDER / "planted")
    token = paper.vocabulary.resolve(" dog")
    word = named_word(paper, base, token)
    assert str(word.ranked[0].neuron) == "L1N17"
    assert len(word.found) == CANDIDATES
    assert word.listed == pytest.approx(word.ranked[0].score, rel=1e-5)
    assert word.words[0] == "␣dog"
    labels = marked_words(paper, listed(paper, token))
    assert next(iter(labels)) == paper.index("L1N17")
    assert labels[paper.index("L1N17")][0] == "␣dog"
