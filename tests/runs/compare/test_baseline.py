"""An earlier run, read from its folder, and which of its claims are tested again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flashinterp.errors import FlashinterpError, NotComparable, RunError
from flashinterp.evaluation.claims import Claim
from flashinterp.models.checkpoint import Checkpoint
from flashinterp.neurons import NeuronId
from flashinterp.runs.compare.baseline import REFERENCE, FinishedRun, again, check_subject, check_vocabularies, read_run
from tests.helpers import assert_one_line_with_next_step
from tests.runs_by_hand import LOCK, entry, finish, reference, run, write


@pytest.fixture(scope="module")
def finished(planted: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The results of a session that ended with one verdict."""
    folder = finish(tmp_path_factory.mktemp("session") / "run", planted, entry())
    results: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return results


# --- reading ----------------------------------------------------------------------------------------------


def test_a_run_is_read_with_all_that_it_is_compared_by(tmp_path: Path, finished: dict[str, Any]) -> None:
    folder = write(tmp_path / "run", finished, reference([entry()]))
    found = read_run(folder)
    assert (found.name, found.results, found.lock) == (str(folder), finished, LOCK)
    assert found.verdicts == [entry()]
    assert found.reference is not None
    assert found.reference.claims == ("dog",)
    assert found.sha256 is not None
    assert len(found.sha256) == 64


def test_a_run_without_a_reference_or_a_lock_is_read(tmp_path: Path, finished: dict[str, Any]) -> None:
    folder = write(tmp_path / "run", finished)
    (folder / "claims.lock.json").unlink()
    found = read_run(str(folder))
    assert (found.reference, found.lock) == (None, {})


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        pytest.param(shutil.rmtree, "no run's folder", id="no folder"),
        pytest.param(lambda f: (f / "manifest.json").unlink(), "incomplete", id="killed at the end"),
        pytest.param(lambda f: (f / "results.json").unlink(), "incomplete", id="killed"),
        pytest.param(
            lambda f: (f / "results.json").write_bytes(b'{"schema_version": 1'), "cannot be read", id="cut off"
        ),
        pytest.param(lambda f: (f / "results.json").write_bytes(b"\xff\xfe"), "cannot be read", id="not UTF-8"),
        pytest.param(lambda f: (f / "results.json").write_bytes(b"[]"), "no object", id="list"),
        pytest.param(lambda f: rewrite(f, schema_version=0), "has schema 0, this release reads", id="older"),
        pytest.param(lambda f: rewrite(f, schema_version=99), "has schema 99, this release reads", id="newer"),
        pytest.param(lambda f: rewrite(f, verdicts=[{"id": "dog"}]), "does not follow its schema", id="half a verdict"),
        pytest.param(lambda f: rewrite(f, verdicts=[]), "holds no verdicts", id="no verdicts"),
        pytest.param(lambda f: (f / "claims.lock.json").write_bytes(b"{"), "cannot be read", id="lock"),
        pytest.param(lambda f: (f / "raw" / f"{REFERENCE}.npz").write_bytes(b"PK"), "cannot be read", id="reference"),
        pytest.param(lambda f: (f / "raw" / f"{REFERENCE}.npz").write_bytes(b""), "cannot be read", id="empty"),
    ],
)
def test_what_is_no_finished_run_is_refused_in_one_line(
    tmp_path: Path, finished: dict[str, Any], spoil: Callable[[Path], Any], told: str
) -> None:
    folder = write(tmp_path / "run", finished, reference([entry()]))
    spoil(folder)
    with pytest.raises(RunError, match=told) as caught:
        read_run(folder)
    assert len(str(caught.value).splitlines()) == 1
    assert str(folder) in str(caught.value)


def rewrite(folder: Path, **changes: Any) -> None:
    path = folder / "results.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


# --- before a run -----------------------------------------------------------------------------------------


@pytest.fixture
def of_planted(planted: Checkpoint, finished: dict[str, Any]) -> FinishedRun:
    """A run of the planted fixture, with its vocabulary."""
    return FinishedRun("base", finished, {}, replace(reference([entry()]), surfaces=planted.vocabulary.surfaces))


def test_the_fine_tune_of_the_same_model_is_accepted(
    of_planted: FinishedRun, planted: Checkpoint, tuned: Checkpoint
) -> None:
    check_subject(of_planted, planted)
    check_subject(of_planted, tuned)
    check_subject(replace(of_planted, reference=None), tuned)


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("architecture", "mistral", "the architecture is mistral there and llama here"),
        ("mlps", "layers 0 to 99", "the set of neurons is layers 0 to 99 there"),
        ("hidden_size", 7, "the hidden size is 7 there"),
        ("vocabulary", 7, "the vocabulary's size is 7 there"),
    ],
)
def test_another_models_neurons_are_refused(
    of_planted: FinishedRun, planted: Checkpoint, key: str, value: Any, told: str
) -> None:
    other = replace(of_planted, results={**of_planted.results, "model": {**of_planted.results["model"], key: value}})
    with pytest.raises(NotComparable, match=told) as caught:
        check_subject(other, planted)
    assert_one_line_with_next_step(caught.value)


def test_another_vocabulary_is_refused(of_planted: FinishedRun, planted: Checkpoint) -> None:
    surfaces = [*planted.vocabulary.surfaces]
    surfaces[7] = "\u202e"
    assert of_planted.reference is not None
    other = replace(of_planted, reference=replace(of_planted.reference, surfaces=tuple(surfaces)))
    with pytest.raises(NotComparable, match="tokenizers differ, first at id 7") as caught:
        check_subject(other, planted)
    assert_one_line_with_next_step(caught.value)


@pytest.mark.parametrize(("a", "b"), [((), ("x",)), (("x",), ())])
def test_a_longer_vocabulary_is_another(a: tuple[str, ...], b: tuple[str, ...]) -> None:
    with pytest.raises(NotComparable, match="first at id 0"):
        check_vocabularies("a", a, "b", b)


# --- tested again -----------------------------------------------------------------------------------------


def claim(neuron: str = "L1N2", token: str = " dog", name: str = "dog", pole: Any = "+") -> Claim:
    return Claim(name, token, NeuronId.parse(neuron), pole, "paper", None, "file")


def test_without_other_claims_all_are_tested_again() -> None:
    turned = entry("refuted", id="cat", token=" cat", neuron="L0N1", pole="-", direction="-", lens="write")
    dog, cat = again(run(entry(), turned), ())
    assert (dog.id, dog.token, str(dog.neuron)) == ("dog", " dog", "L1N2")
    assert (dog.pole, dog.lens, dog.drive) == ("+", "paper", "+")
    assert (cat.id, cat.token, str(cat.neuron)) == ("cat", " cat", "L0N1")
    assert (cat.pole, cat.lens, cat.drive) == ("-", "write", "-")
    assert {c.source for c in (dog, cat)} == {"discovered"}  # what fails is the comparison's to say


def test_beside_others_only_what_was_validated_and_is_missing_is_tested_again() -> None:
    before = run(
        entry(),
        entry(id="fox", token=" f", neuron="L0N2"),
        entry("refuted", id="cat", token=" cat", neuron="L0N1"),
    )
    (added,) = again(before, [claim()])
    assert (added.id, str(added.neuron)) == ("fox", "L0N2")
    assert again(before, [claim(), claim("L0N2", " f", "other")]) == ()


@pytest.mark.parametrize("own", [claim("L0N0"), claim(pole="-"), claim(token=" cat")])
def test_a_claim_of_the_same_id_about_something_else_does_not_take_its_place(own: Claim) -> None:
    (added,) = again(run(entry()), [own])
    assert (added.token, str(added.neuron), added.group) == (" dog", "L1N2", "dog")
    assert added.id != own.id


def test_a_claim_without_a_neuron_has_nothing_to_be_tested() -> None:
    assert again(run(entry("not_measured", neuron=None), without=True), ()) == ()


def test_the_same_thing_is_tested_once() -> None:
    assert len(again(run(entry(), entry(id="hound")), ())) == 1


def test_a_lens_that_is_not_known_is_refused() -> None:
    with pytest.raises(FlashinterpError, match="lens 'tuned'") as caught:
        again(run(entry(lens="tuned")), ())
    assert_one_line_with_next_step(caught.value)
