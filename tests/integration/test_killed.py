"""A run that is killed in the middle of an eval: what is left keeps what was measured, is no pass, and says so."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flashinterp.errors import RunError
from flashinterp.runs.folder.results_schema import read_results, status_of
from flashinterp.runs.folder.run_folder import RunFolder
from flashinterp.runs.verify.verify import verify
from tests.runs.finished_run import copied

ROOT = Path(__file__).parents[2]

EVALS = '''
import time

import numpy as np


def test_measured(audit, evidence):
    """Something was measured."""
    audit.lock_claims({"claims": [], "seed": 0, "sha256": "0" * 64})
    evidence.table("t", "Measured", ["word"], [["dog"]])
    evidence.arrays("x", {"x": np.arange(3)})


def test_killed(evidence):
    """In the middle of this one."""
    evidence.table("u", "Half", ["word"], [["cat"]])
    time.sleep(600)
'''


def started(folder: Path) -> subprocess.Popen[str]:
    """A run of the evals above in a process of its own, on the bundled decoys."""
    (folder / "test_dummy.py").write_text(EVALS)
    command = [sys.executable, "-m", "pytest", str(folder), "--bundled", "decoys", "--out", str(folder / "run")]
    command += ["-p", "flashinterp.pytest_plugin", "-p", "no:cacheprovider", "--rootdir", str(folder), "-q"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for(file: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not file.exists():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, f"{file} was never written"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was killed by a signal that nothing can catch, inside its second eval."""
    folder = tmp_path_factory.mktemp("killed")
    process = started(folder)
    try:
        wait_for(folder / "run" / "tables" / "dummy--u.md", process)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    return folder / "run"


def test_a_killed_run_says_that_it_is_incomplete(killed: Path) -> None:
    assert status_of(killed) == "incomplete"
    assert (killed / "report.md").read_text().startswith("# INCOMPLETE\n")
    assert not {"manifest.json", "results.json", "report.html", "junit.xml"} & {p.name for p in killed.iterdir()}


def test_a_killed_run_keeps_what_was_measured(killed: Path) -> None:
    assert "dog" in (killed / "tables" / "dummy--t.md").read_text()
    assert "cat" in (killed / "tables" / "dummy--u.md").read_text()
    assert (killed / "raw" / "dummy--x.npz").stat().st_size > 0
    assert (killed / "claims.lock.json").exists()
    events = [json.loads(line) for line in (killed / "events.jsonl").read_text().splitlines()]
    assert [e["event"] for e in events] == ["begin", "locked", "passed"]


def test_a_killed_run_neither_verifies_nor_serves_as_a_baseline(killed: Path) -> None:
    found = verify(killed)
    assert not found.ok
    assert found.status == "incomplete"
    assert "the run is incomplete" in str(found.first)
    with pytest.raises(RunError, match="the run is incomplete"):
        read_results(killed)


def test_a_killed_run_can_be_run_again_in_its_place(killed: Path, tmp_path: Path) -> None:
    again = copied(killed, tmp_path / "run")
    RunFolder.create(again)
    assert [p for p in again.rglob("*") if p.is_file()] == []
