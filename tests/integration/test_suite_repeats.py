"""The whole suite without a fault: green, readable, and the same again with the same seed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fixtures.storybook import models as storybook
from flashinterp.runs.verify.verify import verify
from tests.documents import unexplained
from tests.integration.faults.running import ROOT, Run
from tests.integration.test_report_browser import visit


def run_suite(out: Path, *args: str) -> Run:
    """The suite's smoke profile, green, in a process of its own."""
    command = [sys.executable, "-m", "pytest", "evals", "--profile", "smoke", "--out", str(out), *args]
    done = subprocess.run(
        [*command, "-p", "no:cacheprovider"],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=1800,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return Run(done.returncode, out)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, fixture_folder: Path) -> Run:
    """The whole suite."""
    return run_suite(tmp_path_factory.mktemp("whole") / "whole")


@pytest.fixture(scope="module")
def again(tmp_path_factory: pytest.TempPathFactory, fixture_folder: Path) -> Run:
    """The suite without its benchmark, with the same seed."""
    return run_suite(tmp_path_factory.mktemp("again") / "again", "--ignore=evals/test_decode_speed.py")


def test_without_a_fault_the_suite_is_green(whole: Run) -> None:
    results = whole.results
    ledger = results["ledger"]
    assert (results["status"], results["partial"], ledger["deselected"]) == ("passed", False, 0)
    assert ledger["passed"] + ledger.get("skipped", 0) == ledger["collected"] > 10
    assert list(unexplained(results["tables"])) == []
    assert whole.verdicts == {plant["id"]: plant["verdict"] for plant in storybook.truth()["plants"]}


def test_all_that_it_shows_is_made_again_from_raw_numbers(whole: Run) -> None:
    """Every table and every figure, without the model; a forger has to forge the measurements."""
    found = verify(whole.out)
    assert found.ok, found.first
    assert found.covered == ()
    results = whole.results
    assert list(found.derived) == [table["name"] for table in results["tables"]]
    assert list(found.drawn) == [figure["name"] for figure in results["figures"]]


def test_its_report_opens_in_a_browser_without_network_or_console_error(whole: Run, tmp_path: Path) -> None:
    dom, console, _ = visit(Path(shutil.copy(whole.out / "report.html", tmp_path)))
    assert console == []
    assert re.findall(r"""(?:src|href)=["']?(?:\w+:)?//""", dom) == []
    assert "<title>flashinterp self-test</title>" in dom
    assert dom.count("<svg") > 5


@pytest.mark.nightly
def test_one_seed_gives_the_same_results(whole: Run, again: Run) -> None:
    first, second = whole.results, again.results
    assert second["partial"] is True
    for results in (first, second):
        for key in ("started", "finished"):
            del results["environment"][key]
        # The second run has no benchmark, and is called otherwise; how long a test took is no result.
        del results["options"]["passed"]["out"], results["partial"], results["ledger"]
        del results["environment"]["argv"], results["environment"]["evals"]
        for key, named in {"tables": "name", "derivations": "name", "docs": "eval", "tests": "id"}.items():
            results[key] = [one for one in results[key] if "decode_speed" not in one[named]]
        for one in results["tests"]:
            del one["seconds"]
    assert first == second


@pytest.mark.nightly
def test_one_seed_gives_the_same_files(whole: Run, again: Run) -> None:
    """But for the times of the benchmark: the claims that were locked, every array and every figure, to the byte."""
    names = [
        p.relative_to(whole.out)
        for p in whole.out.rglob("*")
        if p.name == "claims.lock.json" or (p.parent.name in ("raw", "figures") and "decode_speed" not in p.name)
    ]
    assert Path("claims.lock.json") in names
    assert len(names) > 10
    for name in names:
        assert (whole.out / name).read_bytes() == (again.out / name).read_bytes(), name
