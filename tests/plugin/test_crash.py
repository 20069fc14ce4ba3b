"""A process that dies in the middle: its folder says so, and cannot be mistaken for a pass."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from flashinterp.errors import RunError
from flashinterp.runs.compare.baseline import read_run
from flashinterp.runs.folder.results_schema import INCOMPLETE, status_of
from tests.plugin.dummies import PASSES, Evals, Run

pytest_plugins = ["pytester"]


def run_apart(evals: Evals, model: Path, source: str) -> Run:
    """Run the evals in a process of their own."""
    evals.pytester.makepyfile(test_dummy=f"import os, signal\n\n\n{source}")
    given = [
        "-p",
        "flashinterp.pytest_plugin",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:faulthandler",
        "--out",
        "run",
        "--model",
    ]
    return Run(evals.pytester.runpytest_subprocess(*given, model), evals.pytester.path / "run")


@pytest.mark.parametrize(
    ("death", "code"),
    [
        pytest.param("os._exit(0)", 0, id="an exit that says nothing is wrong"),
        pytest.param("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL, id="killed"),
        pytest.param("os.kill(os.getpid(), signal.SIGSEGV)", -signal.SIGSEGV, id="crash"),
    ],
)
def test_a_process_that_dies_leaves_an_incomplete_folder(
    evals: Evals, fixture_folder: Path, death: str, code: int
) -> None:
    run = run_apart(
        evals, fixture_folder / "planted", f"{PASSES}\ndef test_dies(seen): {death}\n\ndef test_third(seen): pass\n"
    )
    assert run.result.ret == code
    assert run.events == [("begin", ""), ("passed", "test_passes")]
    assert (run.out / "tables" / "dummy--test-dies.md").exists()  # what was measured is kept
    assert not {"results.json", "report.html", "manifest.json"} & {p.name for p in run.out.iterdir()}
    check_incomplete(run.out)
    # The next run in the same folder replaces it.
    again = evals(PASSES)
    assert again.result.ret == 0
    again.check_whole()


def check_incomplete(folder: Path) -> None:
    """No reader takes it for a finished run."""
    assert status_of(folder) == INCOMPLETE
    assert "INCOMPLETE" in (folder / "report.md").read_text(encoding="utf-8")
    with pytest.raises(RunError, match="incomplete"):
        read_run(folder)


def test_an_interrupt_from_outside_ends_the_run_in_order(evals: Evals, fixture_folder: Path) -> None:
    source = f"{PASSES}\ndef test_waits(seen): os.kill(os.getpid(), signal.SIGINT)\n\ndef test_third(seen): pass\n"
    run = run_apart(evals, fixture_folder / "planted", source)
    assert run.result.ret == pytest.ExitCode.INTERRUPTED
    assert (run.results["status"], run.results["partial"]) == ("interrupted", True)
    run.check_whole()
