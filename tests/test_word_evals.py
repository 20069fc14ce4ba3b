"""What the eval of specialised neurons lists and counts, on a bundled model whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from evals import test_specialised_neurons as module
from fixtures.storybook.models import FOLDER
from flashinterp import NeuronMap, decode, open_checkpoint
from flashinterp.neuron import POLES, Pole


class Recorder:
    """Takes the place of the evidence fixture, and keeps what is handed in."""

    def __init__(self) -> None:
        self.tables: dict[str, tuple[list[str], list[list[object]], str]] = {}
        self.figures: dict[str, tuple[object, ...]] = {}

    def table(self, name: str, title: str, headers: list[str], rows: list[list[object]], caption: str = "") -> None:
        self.tables[name] = headers, rows, caption

    def figure(self, make: object, name: str, title: str, *args: object) -> None:
        self.figures[name] = args


@pytest.fixture(scope="module")
def paper() -> NeuronMap:
    return decode(open_checkpoint(FOLDER / "planted"), device="cpu")


@pytest.mark.parametrize("pole", POLES)
def test_a_neurons_score_is_that_of_its_best_word(paper: NeuronMap, pole: Pole) -> None:
    scores = module._best_scores(paper, pole)
    for i in (0, 17, 500, 1279):
        assert scores[i] == pytest.approx(paper.words(paper.neuron(i), 1, pole)[0].score, rel=1e-6)


def test_every_neuron_of_a_small_model_is_listed_best_first(paper: NeuronMap) -> None:
    evidence = Recorder()
    module.test_every_neuron_and_its_words({"paper": paper}, evidence)  # type: ignore[arg-type]
    _, rows, caption = evidence.tables["catalogue"]
    assert caption.startswith("All 1,280 neurons")
    assert {row[0] for row in rows} == {str(paper.neuron(i)) for i in range(len(paper))}
    scores = [row[1] for row in rows]
    assert scores == sorted(scores, reverse=True)  # type: ignore[type-var]
    assert next(row for row in rows if row[0] == "L1N17")[2].startswith("␣dog, ")  # type: ignore[attr-defined]


def test_of_a_large_model_the_best_are_listed_and_that_is_said(
    paper: NeuronMap, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LISTED", 10)
    evidence = Recorder()
    module.test_every_neuron_and_its_words({"paper": paper}, evidence)  # type: ignore[arg-type]
    _, rows, caption = evidence.tables["catalogue"]
    assert len(rows) == 10
    assert caption.startswith("The 10 best-scored of 1,280 neurons")


def test_a_words_neurons_are_counted_by_layer(paper: NeuronMap) -> None:
    evidence = Recorder()
    base = open_checkpoint(FOLDER / "planted")
    module.test_where_the_neurons_of_a_word_sit({"paper": paper}, base, (" dog", " Sherlock"), evidence)  # type: ignore[arg-type]
    _, rows, _ = evidence.tables["layers"]
    assert [row[:2] for row in rows] == [["␣dog", 1], ["␣Sherlock", 2]]  # where they were planted
    for row in rows:
        counts = [int(part.split()[0]) for part in str(row[3]).split(", ")]
        assert sum(counts) == module.NEAREST
        assert f"{max(counts)} in layer {row[2]}" in str(row[3])
    layers, drawn = evidence.figures["layers"]
    assert layers == [0, 1, 2, 3]
    assert np.argmax(drawn[0].scores[:, 0]) == 1  # type: ignore[index]


def test_a_word_counts_a_neuron_once(paper: NeuronMap) -> None:
    found = module._apart(paper, paper.vocabulary.resolve(" dog"), 20)
    assert len({f.neuron for f in found}) == len(found) == 20
    assert [f.score for f in found] == sorted((f.score for f in found), reverse=True)
