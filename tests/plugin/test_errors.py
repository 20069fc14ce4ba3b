"""Errors of the library, and of the disk, on the way and at the end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flashinterp.errors import RunError
from flashinterp.runs.folder import run_folder
from tests.plugin.dummies import FAILS, PASSES, Evals

pytest_plugins = ["pytester"]


RAISES = (
    "from flashinterp.errors import CheckpointError\n\ndef test_a(seen): raise CheckpointError('no moon: name one')"
)


@pytest.mark.parametrize(
    ("source", "line", "counts"),
    [
        pytest.param(RAISES, "no moon: name one", {"failed": 1}, id="test"),
        pytest.param(
            "def test_a(seen, refuses): pass\ndef test_b(seen, refuses): pass",
            "the moon has no neurons: name a planet",
            {"errors": 2},
            id="fixture of two",
        ),
        pytest.param(
            "def test_a(seen, refuses_later): pass",
            "the moon has no neurons: name a planet",
            {"errors": 1},
            id="teardown",
        ),
    ],
)
def test_an_error_of_the_library_is_one_line(evals: Evals, source: str, line: str, counts: dict[str, int]) -> None:
    run = evals(source)
    assert run.result.ret == 1
    assert run.counts == counts
    assert run.text.splitlines().count(f"CheckpointError: {line}") == sum(counts.values())
    assert "conftest.py:" not in run.text  # no traceback
    assert "raise " not in run.text
    for reasons in run.results["ledger"]["reasons"].values():
        assert all(r.endswith(f": CheckpointError: {line}") for r in reasons)


def test_an_error_of_the_library_keeps_its_traceback_in_other_tests(evals: Evals) -> None:
    run = evals(RAISES.replace("seen", ""))
    assert ">   def test_a" in run.text
    assert not run.out.exists()


def test_a_full_disk_at_the_end_leaves_the_events(evals: Evals, monkeypatch: pytest.MonkeyPatch) -> None:
    write = run_folder.RunFolder._write

    def full(self: Any, name: str, *args: Any) -> Path:
        if name == "results.json":
            raise RunError(f"cannot write {name}: No space left on device; free the space")
        return write(self, name, *args)

    monkeypatch.setattr(run_folder.RunFolder, "_write", full)
    run = evals(PASSES)
    assert run.result.ret == pytest.ExitCode.INTERNAL_ERROR
    run.result.stdout.fnmatch_lines(["NO REPORT: cannot write results.json: No space left on device; free the space"])
    assert "Traceback" not in run.text
    assert "INTERNALERROR" not in run.text
    assert ("passed", "test_passes") in run.events
    assert not (run.out / "manifest.json").exists()


def test_a_full_disk_on_the_way_stops_the_run_in_one_line(evals: Evals, monkeypatch: pytest.MonkeyPatch) -> None:
    append = run_folder.RunFolder.append_event

    def full(self: Any, event: dict[str, Any]) -> None:
        if event["event"] in ("failed", "end"):
            raise RunError("cannot write events.jsonl: No space left on device; free the space")
        append(self, event)

    monkeypatch.setattr(run_folder.RunFolder, "append_event", full)
    run = evals(PASSES + FAILS + "def test_third(seen): pass")
    assert run.result.ret == pytest.ExitCode.INTERNAL_ERROR
    assert "INTERNALERROR" not in run.text
    run.result.stdout.fnmatch_lines(["!*cannot write events.jsonl: No space left on device; free the space !*"])
    run.result.stdout.fnmatch_lines(["NO REPORT: cannot write events.jsonl: *"])
    assert "test_third" not in (run.out / "events.jsonl").read_text()
