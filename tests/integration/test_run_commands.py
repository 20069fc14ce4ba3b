"""The command `audit` run, and the commands that read the run folder it leaves."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from flashinterp.cli import main
from flashinterp.runs.compare.changes import Diff

ROOT = Path(__file__).parents[2]
Captured = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def finished(fixture_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of two evals, made by the command itself in a folder that is not the checkout."""
    place = tmp_path_factory.mktemp("audit")
    (place / "random.py").write_text("raise ImportError('not the standard library')")
    (place / "conftest.py").write_text("raise ImportError('not the suite')")
    (place / "pytest.ini").write_text("[pytest]\naddopts = --no-such-option\n")
    command = [sys.executable, "-m", "flashinterp", "audit", str(fixture_folder / "planted"), "--profile", "smoke"]
    command += ["--tokens", " dog"]
    done = subprocess.run(
        [*command, "--json", "--", "-k", "test_claims or test_alignment_by_layer", "-q"],
        cwd=place,
        env={**os.environ, "PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["exit_code"], told["partial"], told["ledger"]["passed"]) == (0, True, 2)
    assert told["self_test"] is False
    return place / told["folder"]


def test_the_run_is_an_evals_run(finished: Path) -> None:
    results = json.loads((finished / "results.json").read_text())
    assert sorted(t["id"] for t in results["tests"]) == [
        "evals/test_clamp_causality.py::test_claims[cpu]",
        "evals/test_vocabulary_alignment.py::test_alignment_by_layer[cpu]",
    ]


def test_verify_says_what_holds(finished: Path, tmp_path: Path, capsys: Captured) -> None:
    assert main(["verify", str(finished)]) == 0
    out = capsys.readouterr().out
    digest = out.rstrip().rpartition("manifest sha256 ")[2]
    assert main(["verify", str(finished), "--manifest", digest, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ok"] is True
    copy = shutil.copytree(finished, tmp_path / "copy")
    (copy / "report.md").write_text("all is well")
    assert main(["verify", str(copy)]) == 1
    assert "report.md" in capsys.readouterr().out
    assert main(["verify", str(finished), "--manifest", digest[::-1]]) == 1


def test_report_is_made_again(finished: Path, tmp_path: Path, capsys: Captured) -> None:
    for name in ("report.md", "report.html", "junit.xml"):
        out = tmp_path / name
        assert main(["report", str(finished), "-o", str(out)]) == 0
        assert out.read_bytes() == (finished / name).read_bytes()
    capsys.readouterr()
    assert main(["report", str(finished)]) == 0
    assert capsys.readouterr().out.rstrip() == (finished / "report.md").read_text().rstrip()
    assert main(["report", str(finished), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["status"] == "passed"


@pytest.mark.parametrize("name", ["report.pdf", "{}/again.html"])
def test_where_a_report_cannot_go(name: str, finished: Path, capsys: Captured) -> None:
    before = sorted(finished.iterdir())
    assert main(["report", str(finished), "-o", name.format(finished)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert sorted(finished.iterdir()) == before


def test_diff_with_itself(finished: Path, capsys: Captured) -> None:
    assert main(["diff", str(finished), str(finished)]) == 0
    assert main(["diff", str(finished), str(finished), "--json"]) == 0
    out = capsys.readouterr().out
    assert json.loads(out[out.index("{\n") :])["losses"] == []


def test_a_loss_is_code_1(finished: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Diff, "exit_code", 1)
    assert main(["diff", str(finished), str(finished)]) == 1


def test_statement_is_json(finished: Path, capsys: Captured) -> None:
    assert main(["statement", str(finished)]) == 0
    assert json.loads(capsys.readouterr().out)["_type"].startswith("https://in-toto.io/")
