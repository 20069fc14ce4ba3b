"""A folder that is what its run wrote verifies; what is another release's or broken is called that."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flashinterp._util.files import sha256_of
from flashinterp.errors import RunError
from flashinterp.runs.folder.run_folder import MANIFEST
from flashinterp.runs.verify.verify import verify
from tests.helpers import assert_one_line_with_next_step
from tests.runs.finished_run import list_anew, state_of
from tests.runs.verify.told import DERIVED, first, forged, states


def test_a_whole_folder_verifies_and_is_left_as_it_is(whole: Path) -> None:
    before = state_of(whole)
    found = verify(whole, sha256_of(whole / MANIFEST).upper())
    assert [c.state for c in found.checks] == ["ok"] * len(found.checks)
    assert found.ok
    assert found.first is None
    assert found.status == "failed"  # of its tests, which is another question
    assert state_of(whole) == before


def test_it_is_said_what_rests_on_raw_numbers_and_what_does_not(whole: Path) -> None:
    found = verify(whole)
    assert found.derived == DERIVED
    assert found.drawn == ("clamp_causality--natural", "specialised_neurons--s")
    assert found.covered == ("decode_speed--t", "specialised_neurons--own")
    assert all(check.proves and check.leaves for check in found.checks)
    assert "decode_speed--t" in found.said()
    assert "does not show that the run was honest" in found.said()
    told = json.loads(json.dumps(found.record(), allow_nan=False))
    assert told["ok"] is True
    assert [row[1] for row in found.table().rows] == [c["state"] for c in told["checks"]]


def test_of_a_folder_that_differs_nothing_good_is_said(run: Path) -> None:
    (run / "report.md").write_text("mine")
    said = verify(run).said()
    assert said.startswith("It differs. digests: report.md has 4 bytes")
    assert said.endswith("ask for the one that the run wrote, or run it again.")
    assert "has not changed" not in said


def test_without_the_digest_it_is_told_and_not_called_checked(whole: Path) -> None:
    (pinned,) = (c for c in verify(whole).checks if c.name == "manifest's digest")
    assert pinned.state == "not checked"
    assert sha256_of(whole / MANIFEST) in pinned.told


def test_neither_model_nor_evals_are_needed(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a model was opened")

    monkeypatch.setattr("flashinterp.models.checkpoint.open_checkpoint", refuse)
    monkeypatch.setattr("flashinterp.models.checkpoint.Checkpoint.load_model", refuse)
    monkeypatch.setitem(__import__("sys").modules, "evals", None)
    assert verify(whole).ok


@pytest.mark.parametrize("digest", ["", "x" * 64, "ab" * 31, "é" * 64])
def test_a_digest_that_is_none_is_refused(whole: Path, digest: str) -> None:
    with pytest.raises(RunError, match="is no sha256") as caught:
        verify(whole, digest)
    assert_one_line_with_next_step(caught.value)


@pytest.mark.parametrize("name", ["nowhere", "empty"])
def test_what_is_no_run_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match="is no run's folder") as caught:
        verify(tmp_path / name)
    assert_one_line_with_next_step(caught.value)


def test_other_code_may_word_its_report_otherwise(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A later release is no forgery: what cannot be compared is not called checked, and figures still are."""
    monkeypatch.setattr("flashinterp.runs.verify.run.code_digest", lambda: "0" * 64)
    assert verify(run).ok
    file = run / "report.html"
    file.write_bytes(file.read_bytes() + b" ")
    list_anew(run)
    found = verify(run)
    assert found.ok
    (files,) = (c for c in found.checks if c.name == "files")
    assert files.state == "not checked"
    assert "report.html is worded otherwise by this release: verify it with the one that wrote it" in files.told
    assert "the table clamp" in forged(run, lambda r: r["tables"][1]["rows"][0].__setitem__(8, "refuted"))


def test_after_what_differs_nothing_is_called_ok(run: Path) -> None:
    (run / "report.md").write_text("mine")
    found = states(run)
    assert found["digests"] == "differs"
    assert {found[name] for name in ("results", "claims", "events", "verdicts", "tables", "files")} == {"not checked"}


@pytest.mark.parametrize("missing", [MANIFEST, "results.json", "events.jsonl"])
def test_a_run_without_its_end_is_incomplete_and_no_pass(run: Path, missing: str) -> None:
    (run / missing).unlink()
    found = verify(run)
    assert found.status == "incomplete"
    assert not found.ok
    assert f"complete: the run is incomplete: it has no {missing}" in str(found.first)


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"schema_version": NaN}', "[" * 100_000, "\udcff"],
    ids=["empty", "list", "object", "NaN", "deep", "not UTF-8"],
)
def test_results_that_are_none_are_a_difference_and_no_crash(run: Path, content: str) -> None:
    (run / "results.json").write_bytes(content.encode("utf-8", errors="surrogateescape"))
    list_anew(run)
    assert first(run).startswith("results: ")
