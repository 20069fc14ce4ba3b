"""Words and their neurons by hand: rankings over both poles, layers counted, leads, and what a page lists."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from flashinterp.decoding.neuron_map import Found
from flashinterp.errors import RunError
from flashinterp.neuron_index import NeuronIndex
from flashinterp.neurons import Block, NeuronId
from flashinterp.provenance.derivation import keep, read
from flashinterp.studies.vocabulary import word_tables
from flashinterp.studies.vocabulary.word_figures import word_layers, word_spikes
from flashinterp.studies.vocabulary.word_tables import (
    Catalogue,
    Listed,
    NamedWord,
    catalogue_table,
    neurons_table,
    word_layers_table,
    words_named,
)
from tests.runs.made_again import cells, made_again

ROSTER = NeuronIndex((Block(0), Block(1), Block(1, 0)), (3, 2, 2))


def _rows(*at: int) -> Any:
    return np.array(at, np.int32)


DOG = Listed(
    "␣dog",
    {"+": _rows(0, 3, 4), "-": _rows(3, 6)},
    {"+": np.array([2.0, 9.0, 5.0]), "-": np.array([9.5, 5.0])},
)
NOWHERE = Listed("␣cat", {"+": _rows(), "-": _rows()}, {"+": np.zeros(0), "-": np.zeros(0)})


# --- one word's neurons -------------------------------------------------------------------------------------


def test_a_neuron_counts_once_on_its_better_pole_and_ties_go_to_the_lower() -> None:
    assert DOG.best(10) == [(3, "-", 9.5), (4, "+", 5.0), (6, "-", 5.0), (0, "+", 2.0)]
    assert DOG.best(2) == [(3, "-", 9.5), (4, "+", 5.0)]
    assert DOG.everywhere(7).tolist() == [2, 0, 0, 9.5, 5, 0, 5]
    level = replace(DOG, scores={**DOG.scores, "-": np.array([9.0, 5.0])})
    assert level.best(1) == [(3, "+", 9.0)]


def test_a_word_that_no_neuron_keeps_has_no_neurons() -> None:
    assert NOWHERE.best(3) == []
    assert not NOWHERE.everywhere(7).any()


def test_layers_are_counted_over_a_words_best_neurons(monkeypatch: pytest.MonkeyPatch) -> None:
    _, rows, caption = made_again(word_layers_table, [DOG, NOWHERE], ROSTER)
    assert rows == [
        ["␣dog", 1, 1, "1 in layer 0, 3 in layer 1", "L1N0- 9.5, L1N1+ 5, L1E0N1- 5, L0N0+ 2"],
        ["␣cat", None, None, None, "no neuron keeps it among its best words"],
    ]
    assert caption.startswith("Of each word's 20 best")
    monkeypatch.setattr(word_tables, "NEAREST", 2)
    assert cells(made_again(word_layers_table, [DOG], ROSTER), "by layer") == ["2 in layer 1"]


def test_of_layers_with_as_many_the_lower_is_told() -> None:
    even = Listed("a", {"+": _rows(0, 1, 3, 4), "-": _rows()}, {"+": np.arange(4) + 1.0, "-": np.zeros(0)})
    made = made_again(word_layers_table, [even], ROSTER)
    assert (cells(made, "layer of its best neuron"), cells(made, "layer with most")) == ([1], [0])


def test_one_score_forged_shows_in_the_table_of_layers() -> None:
    forged = replace(DOG, scores={**DOG.scores, "+": np.array([2.0, 9.0, 5.5])})
    assert made_again(word_layers_table, [forged], ROSTER) != made_again(word_layers_table, [DOG], ROSTER)


# --- exact answers ------------------------------------------------------------------------------------------

FOUND = [
    Found(NeuronId(1, 1), "+", 5.0, 0.01, True),
    Found(NeuronId(1, 0), "-", 9.6, 0.09, True),
    Found(NeuronId(0, 0), "+", 2.0, 0.04, True),
]
NAMED = NamedWord("␣dog", FOUND, 9.5, 8.0, 3.5, ["␣dog", "␣hound"])


def test_the_specialised_neuron_has_the_highest_exact_score() -> None:
    headers, rows, _ = made_again(neurons_table, [NAMED], 100)
    assert len(headers) == len(rows[0])
    assert rows == [["␣dog", "L1N0", "-", 9.6, 0.096, 0.09, 9.6 / 5.0, 3.5, True, "␣dog, ␣hound"]]


@pytest.mark.parametrize(
    "forged",
    [
        replace(NAMED, found=[*FOUND[:2], FOUND[2]._replace(score=9.7)]),
        replace(NAMED, found=[FOUND[0]._replace(score=6.0), *FOUND[1:]]),
        replace(NAMED, bound=9.5),  # no longer certain
        replace(NAMED, listed=8.0),
        replace(NAMED, unit_score=None),
    ],
)
def test_one_value_forged_shows_in_the_table_of_neurons(forged: NamedWord) -> None:
    assert made_again(neurons_table, [forged], 100) != made_again(neurons_table, [NAMED], 100)


def test_the_answer_names_the_first_words_and_what_was_planted() -> None:
    plants = [(" dog", NeuronId(1, 0), "-"), (" lion", NeuronId(0, 2), "+"), (" dog", NeuronId(0, 1), "+")]
    assert made_again(words_named, [NAMED], plants) == ("1 words: ␣dog L1N0-", "dog L1N0-, lion L0N2+")
    assert made_again(words_named, [NAMED] * 7, None) == (f"7 words: {', '.join(['␣dog L1N0-'] * 5)}", None)


# --- what a page lists --------------------------------------------------------------------------------------

SMALL = NeuronIndex((Block(0),), (3,))
CATALOGUE = Catalogue(
    logits=np.array([[2, 1, np.nan], [1, 3, np.nan]], np.float32),
    log_means=np.array([[0.5, 1, 1], [0, 1, 1]], np.float32),
    rows=_rows(1, 0, 2),
    ids=np.array([[[4, 5], [6, 4]], [[5, -1], [4, 6]], [[-1, -1], [-1, -1]]], np.int32),
    words={4: "␣four", 5: "f" * 80, 6: "␣six"},
)


def test_neurons_are_listed_by_their_better_poles_score() -> None:
    long = f"{'f' * 60}… (80 characters)"
    _, rows, caption = made_again(catalogue_table, CATALOGUE, SMALL)
    assert [row[0] for row in rows] == ["L0N1", "L0N0", "L0N2"]
    assert [row[1] for row in rows] == pytest.approx([np.exp(2.0), np.exp(1.5), 0.0])
    assert [row[2:] for row in rows] == [[f"␣four, {long}", "␣six, ␣four"], [long, "␣four, ␣six"], ["", ""]]
    assert caption.startswith("All 3 neurons")


def test_of_more_neurons_the_best_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(word_tables, "LISTED", 2)
    _, rows, caption = made_again(catalogue_table, CATALOGUE, SMALL)
    assert [row[0] for row in rows] == ["L0N1", "L0N0"]
    assert caption.startswith("The 2 best-scored of 3 neurons")


def test_a_forged_logit_shows_in_the_catalogue() -> None:
    logits = CATALOGUE.logits.copy()
    logits[0, 0] = 4
    forged = replace(CATALOGUE, logits=logits)
    assert [row[0] for row in made_again(catalogue_table, forged, SMALL)[1]] == ["L0N0", "L0N1", "L0N2"]


def test_a_forged_order_that_needs_words_which_were_not_kept_is_an_error() -> None:
    with pytest.raises(RunError, match="L0N2 is to be listed, and its words were not kept: "):
        catalogue_table(replace(CATALOGUE, rows=CATALOGUE.rows[:2], ids=CATALOGUE.ids[:2]), SMALL)


# --- figures ------------------------------------------------------------------------------------------------


def _drawn(make: Any, *values: Any) -> Any:
    """The figure from packed values; the same to the byte as from the values themselves."""
    arrays, _ = keep(("A title",), values, {})
    made = read(arrays).called(make, lambda recorded: recorded, "slug", "A title")
    assert made.svg == make("slug", "A title", *values).svg
    return made


def test_a_words_spikes_are_its_scores_and_the_best_three_are_labelled() -> None:
    labels = {3: ["␣dog", "a-very-long-word"], 4: ["␣hound"], 6: ["␣pup"]}
    made = _drawn(word_spikes, DOG, ROSTER, labels, 100)
    assert made.data["highlight"].tolist() == [3, 4, 6]
    assert made.data["score"].max() == 9.5
    assert "L1N0- ␣dog a-very-long- at 9.5" in made.alt
    assert "not among its best 100" in made.svg
    forged = replace(DOG, scores={**DOG.scores, "+": np.array([2.5, 9.0, 5.0])})
    assert _drawn(word_spikes, forged, ROSTER, labels, 100).svg != made.svg


def test_a_words_layers_are_drawn_by_their_best_neurons() -> None:
    made = _drawn(word_layers, [DOG, NOWHERE], ROSTER)
    assert made.data["layers"].tolist() == [0, 1]
    assert made.data["row0_scores"].tolist() == [[2, 0, 0, 0], [9.5, 5, 5, 0]]
    assert "row1_scores" not in made.data  # no neuron lists that word
    assert "L1N0-" in made.alt
