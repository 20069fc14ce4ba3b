"""TARS finds the planted reader of a concept, takes the concept away, and does not where there is nothing to take."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from flashinterp.errors import CheckpointError, RunError, TokenError
from flashinterp.evaluation.experiment import Experiment
from flashinterp.evaluation.profiles import PROFILES
from flashinterp.evaluation.prompts import shipped
from flashinterp.interventions.row_edits import RowEdit, edited_rows
from flashinterp.interventions.row_place import RowPlace
from flashinterp.models.checkpoint import Checkpoint
from flashinterp.neurons import NeuronId
from flashinterp.studies.concept_erasure.removal import MOST_KL, gone
from flashinterp.studies.concept_erasure.reverse import Reversal, reverse, write_rows
from tests.helpers import UP, assert_one_line_with_next_step, n_hooks

pytestmark = pytest.mark.slow  # each test measures what a removal does to a model

module = importlib.import_module("flashinterp.studies.concept_erasure.reverse")  # its function has the same name


@pytest.fixture(scope="module")
def bench(planted: Checkpoint, planted_model: Any) -> Experiment:
    return Experiment(planted_model, planted, shipped(), PROFILES["smoke"], 0)


@pytest.fixture(scope="module")
def dog(bench: Experiment, tmp_path_factory: pytest.TempPathFactory) -> Reversal:
    return reverse(bench, " dog", folder=tmp_path_factory.mktemp("reversed") / "dog")


# --- what it finds and does -------------------------------------------------------------------------


def test_the_planted_reader_is_the_nearest_row(dog: Reversal, truth: dict[str, Any]) -> None:
    planted = next(plant["name"] for plant in truth["plants"] if plant["id"] == "dog")
    assert str(dog.ranked[0].place) == f"{planted} up"
    assert dog.ranked[0].cosine > dog.ranked[1].cosine + 0.2
    assert str(dog.edits[0].place.neuron) == planted


def test_the_dog_is_gone_and_no_control_takes_it(dog: Reversal) -> None:
    assert dog.verdict == "removed"
    assert dog.change < dog.controls.rows.min() - 0.5
    assert dog.p_rows == pytest.approx(1 / 20)
    assert float(np.median(dog.kl)) < MOST_KL
    assert dog.heldout[0].probability == dog.before.probability()
    chosen = next(point for point in dog.heldout if point.edits == len(dog.edits))
    assert (chosen.probability, chosen.change) == (dog.after.probability(), dog.change)


def test_both_copies_of_a_neuron_are_reversed(bench: Experiment, truth: dict[str, Any]) -> None:
    twins = {plant["name"] for plant in truth["plants"] if plant["id"].startswith("king")}
    king = reverse(bench, " king")
    assert {str(edit.place.neuron) for edit in king.edits} == twins
    assert king.verdict == "removed"
    assert king.selection[1].probability > gone(king.selection[0].probability, king.before.other.shape[-1])


def test_a_dead_reader_is_nothing_to_remove(bench: Experiment) -> None:
    moon = reverse(bench, " moon")
    assert moon.verdict == "not_measured"
    assert "not expected" in moon.reason
    assert abs(moon.change) < 0.1


def test_nothing_is_removed_where_nothing_is_planted(unplanted: Checkpoint) -> None:
    bench = Experiment(unplanted.load_model(), unplanted, shipped(), PROFILES["smoke"], 0)
    found = reverse(bench, " dog")
    assert found.verdict in ("kept", "not_measured")
    assert found.ranked[0].cosine < 0.5


def test_each_row_is_the_opposite_of_the_concept_in_its_own_norm(bench: Experiment, dog: Reversal) -> None:
    for edit, ranked in zip(dog.edits, dog.ranked, strict=False):
        row = bench.checkpoint.rows(edit.place.kind, edit.place.neuron.layer)[edit.place.neuron.neuron]
        assert float(edit.row.norm()) == pytest.approx(float(row.norm()), rel=1e-5)
        assert float(torch.cosine_similarity(edit.row, dog.concept.refined, dim=0)) == pytest.approx(-1, abs=1e-5)
        assert float(torch.cosine_similarity(row, dog.concept.refined, dim=0)) == pytest.approx(ranked.cosine, abs=1e-5)


def test_the_same_seed_gives_the_same_and_the_model_is_left_as_it_was(bench: Experiment, dog: Reversal) -> None:
    first, again = (reverse(bench, " dog", edits=1, controls=2) for _ in range(2))
    assert again.selection == first.selection
    assert np.array_equal(again.controls.rows, first.controls.rows)
    assert torch.equal(again.edits[0].row, dog.edits[0].row)
    assert n_hooks(bench.model) == 0
    other = reverse(bench, " dog", edits=1, controls=2, rng=np.random.default_rng(5))
    assert not torch.equal(other.edits[0].row, dog.edits[0].row)
    assert not np.array_equal(other.controls.directions, first.controls.directions)


def test_controls_are_not_the_concept_s(bench: Experiment, dog: Reversal, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the edits that are measured as controls, the one kind is of other rows, the other of other directions."""
    measured: list[list[RowEdit]] = []
    real = module.measure_removal

    def spy(model: Any, texts: Any, token: Any, edits: Any = ()) -> Any:
        measured.append(list(edits))
        return real(model, texts, token, edits)

    monkeypatch.setattr(module, "measure_removal", spy)
    reverse(bench, " dog", edits=2, controls=3)
    own = [edit.place for edit in measured[1]]
    rows, directions = measured[-6::2], measured[-5::2]
    vector = measured[1][0].row
    for made in rows:
        assert not {edit.place for edit in made} & set(own)
        assert all(torch.cosine_similarity(edit.row, vector, dim=0) > 0.999 for edit in made)
    for made in directions:
        assert [edit.place for edit in made] == own
        assert all(abs(torch.cosine_similarity(edit.row, vector, dim=0)) < 0.6 for edit in made)
        assert [float(e.row.norm()) for e in made] == pytest.approx(
            [float(e.row.norm()) for e in measured[1]], rel=1e-4
        )


# --- the number of edits ----------------------------------------------------------------------------


def test_the_choice_sees_selection_texts_only(bench: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    """With other held-out texts the number of edits, the vector and the rows are the same."""
    first = reverse(bench, " dog", controls=1)
    real = module.Texts.of

    def swapped(bench: Experiment, token: Any, part: Any) -> Any:
        texts = real(bench, token, part)
        return (
            texts if part == "selection" else module.Texts({"anything": texts.directions["anything"]}, texts.others[:1])
        )

    monkeypatch.setattr(module.Texts, "of", swapped)
    second = reverse(bench, " dog", controls=1)
    assert second.selection == first.selection
    assert second.ranked == first.ranked
    assert len(second.edits) == len(first.edits)
    assert second.change != first.change


def test_a_number_that_is_asked_for_is_taken(bench: Experiment) -> None:
    found = reverse(bench, " dog", edits=3, controls=2)
    assert len(found.edits) == 3
    assert [point.edits for point in found.selection] == [0, 3]
    assert "asked for" in found.reason
    for edits in (0, 10_000):
        with pytest.raises(RunError, match="edits cannot be made") as caught:
            reverse(bench, " dog", edits=edits)
        assert_one_line_with_next_step(caught.value)


@pytest.mark.parametrize("edits", [2, None])
def test_progress_counts_every_model_that_is_measured(bench: Experiment, edits: int | None) -> None:
    seen: list[tuple[int, int]] = []
    made = reverse(bench, " dog", edits=edits, controls=2, progress=lambda *at: seen.append(at))
    total = len(made.selection) + len(made.heldout) + 2 * 2
    assert seen == [(done, total) for done in range(1, total + 1)]


def test_a_concept_of_several_tokens_is_refused(bench: Experiment) -> None:
    with pytest.raises(TokenError):
        reverse(bench, " Dumbledore")


# --- the copy ---------------------------------------------------------------------------------------


def test_the_copy_computes_what_the_hooks_do(bench: Experiment, dog: Reversal) -> None:
    assert dog.folder is not None
    ids = torch.tensor([[3, 141, 59, 265, 35, 897]])
    loaded: Any = AutoModelForCausalLM.from_pretrained(dog.folder)
    with torch.no_grad():
        with edited_rows(bench.model, dog.edits):
            wanted = bench.model(ids).logits
        clean, found = bench.model(ids).logits, loaded(ids).logits
    assert float((found - wanted).abs().max()) < 1e-5
    assert float((clean - wanted).abs().max()) > 1e-4
    note = json.loads((dog.folder / "flashinterp.json").read_text())
    assert (note["what"], note["concept"], note["rows"][0]["row"]) == ("reverse", " dog", "L1N17 up")
    assert note["source"]["digests"] == bench.checkpoint.digests


def test_rows_of_one_matrix_are_written_together(planted: Checkpoint, tmp_path: Path) -> None:
    assert planted.folder is not None
    edits = [RowEdit(RowPlace(NeuronId(1, n), "up"), torch.full((64,), float(n))) for n in (3, 9)]
    edits.append(RowEdit(RowPlace(NeuronId(1, 3), "gate"), torch.ones(64)))
    made = write_rows(planted, edits, tmp_path / "made", {})
    before, after = load_file(planted.folder / "model.safetensors"), load_file(made / "model.safetensors")
    before[UP.format(1)][3], before[UP.format(1)][9] = 3.0, 9.0
    before["model.layers.1.mlp.gate_proj.weight"][3] = 1.0
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    with pytest.raises(CheckpointError, match="is there already"):
        write_rows(planted, edits, tmp_path / "made", {})
