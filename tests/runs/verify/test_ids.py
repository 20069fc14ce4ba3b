"""A folder that names a function or a record which this release does not have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flashinterp.models.checkpoint import Checkpoint
from flashinterp.provenance import registry
from flashinterp.provenance.packing import VALUE
from flashinterp.provenance.registry import derivation
from flashinterp.runs.eval_recorder import EvalRecorder
from flashinterp.runs.folder.run_folder import RunFolder, read_arrays
from flashinterp.runs.verify.verify import verify
from tests.runs.finished_run import begun, edit_json, list_anew
from tests.runs.verify.told import DERIVED, first, forged

VERDICTS = "clamp_causality--verdicts"
OTHER_CODE = "flashinterp.runs.verify.run.code_digest"


def made_by(make: str, kind: str = "table") -> Any:
    def change(results: Any) -> None:
        next(e for e in results["derivations"] if e["kind"] == kind)["make"] = make

    return change


@pytest.mark.parametrize("kind", ["table", "figure", "finding"])
@pytest.mark.parametrize("make", ["evaluation.verdicts/2", "evaluation.nothing/1", "nothing", "mylab.table/1", "", "/"])
def test_what_this_very_code_cannot_have_written_is_a_difference(run: Path, kind: str, make: str) -> None:
    """A forger would have the check left out. Also by an id of nobody: the evals of the package have no such tables."""
    told = forged(run, made_by(make, kind))
    assert f"the {kind} " in told
    assert f"made by {make}, " in told
    assert "and this very code wrote it" in told


def test_the_same_by_other_code_is_told_by_name(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OTHER_CODE, lambda: "0" * 64)
    edit_json(run / "results.json", made_by("evaluation.verdicts/2"))
    list_anew(run)
    found = verify(run)
    assert found.ok
    assert found.derived == tuple(name for name in DERIVED if name != VERDICTS)
    assert VERDICTS in found.covered
    (left,) = found.not_checked
    assert left.startswith(f"{VERDICTS}: made by evaluation.verdicts/2, this release has /1: verify it with the flash")
    assert left in found.said()


def record_changed(run: Path, before: bytes, after: bytes) -> None:
    name = f"{VERDICTS}--table"
    arrays = read_arrays(run / "raw" / f"{name}.npz")
    text = bytes(arrays[VALUE])
    assert before in text
    RunFolder(run).write_arrays(name, arrays | {VALUE: np.frombuffer(text.replace(before, after), np.uint8)})
    list_anew(run)


def test_a_record_that_this_very_code_does_not_have_is_a_difference(run: Path, monkeypatch: Any) -> None:
    record_changed(run, b"runs.recorded_reference/1", b"runs.recorded_reference/7")
    told = first(run)
    assert f"the table {VERDICTS} is made of runs.recorded_reference/7, this release has /1" in told
    monkeypatch.setattr(OTHER_CODE, lambda: "0" * 64)
    assert verify(run).not_checked[0].startswith(f"{VERDICTS}: made of runs.recorded_reference/7, this release has /1")


@pytest.mark.parametrize("after", [b'"amid"', b'"part_2"'])
def test_whatever_breaks_in_a_known_function_is_a_difference(run: Path, monkeypatch: Any, after: bytes) -> None:
    """Also where other code wrote the folder: a known id means the same in both."""
    monkeypatch.setattr(OTHER_CODE, lambda: "0" * 64)
    record_changed(run, b'"part"', after)
    assert f"the table {VERDICTS} cannot be made from raw/" in first(run)


def test_a_table_of_ones_own_is_told_by_name(tmp_path: Path, planted: Checkpoint, monkeypatch: Any) -> None:
    """Another process, that of the reviewer, does not have the function."""

    @derivation("mylab.own_means", version=1)
    def means(values: list[float]) -> Any:
        return ["mean"], [[float(np.mean(values))]], ""

    session = begun(tmp_path / "run", planted, None)
    evidence = EvalRecorder(session, "own_eval")
    evidence.derived(means, "means", "Means", [1.0, 3.0])
    evidence.finding(1, "no mean", derivation("mylab.own_words", version=1)(lambda: ("a mean", None)))
    session.docs = {"own_eval": "What it asks."}
    session.count("passed", "evals/test_own_eval.py::test_one", "", 0.1)
    session.finish("passed")
    assert verify(session.folder.path).covered == ()

    kept = {key: make for key, make in registry.derivations().items() if not key.startswith("mylab.")}
    monkeypatch.setattr(registry._derivations, "_things", kept)
    found = verify(session.folder.path)
    assert found.first is None
    assert found.covered == ("answers--paper", "own_eval--means")
    assert found.not_checked == (
        "own_eval--means: made by mylab.own_means/1, which is not of flashinterp: run the eval again",
        "own_eval--1: made by mylab.own_words/1, which is not of flashinterp: run the eval again",
    )
    (tables,) = (c for c in found.checks if c.name == "tables")
    assert (tables.state, tables.told) == ("not checked", found.not_checked[0])
    assert "No table or figure was made again from raw/. Not checked, 2: own_eval--means: made by" in found.said()


def test_of_many_the_first_are_told(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OTHER_CODE, lambda: "0" * 64)

    def change(results: Any) -> None:
        for entry in results["derivations"]:
            entry["make"] = "evaluation.\u202e\x1b[31m/1"

    edit_json(run / "results.json", change)
    list_anew(run)
    found = verify(run)
    assert len(found.not_checked) == 14
    assert all(left.isprintable() for left in found.not_checked)
    assert "Not checked, 14: " in found.said()
    assert "; and 9 more, see --json." in found.said()
