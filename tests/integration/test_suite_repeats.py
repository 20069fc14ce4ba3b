"""The whole suite without a fault: green, readable, and the same again with the same seed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from fixtures.storybook import models as storybook
from flashinterp.runs.verify.verify import verify
from tests.documents import unexplained
from tests.integration.faults.running import ROOT, Run
from tests.integration.test_report_browser import visit


@dataclass(frozen=True)
class Twins:
    """Two runs with one seed, each in a process of its own: the whole suite, and the suite without its benchmark."""

    whole: Run
    again: Run
    said: str


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory, fixture_folder: Path) -> Twins:
    folder = tmp_path_factory.mktemp("twins")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # they run beside each other

    def start(name: str, *args: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "pytest", "evals", "--profile", "smoke", "--out", str(folder / name), *args]
        return subprocess.Popen(
            [*command, "-p", "no:cacheprovider"],
            cwd=ROOT,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    started = {"whole": start("whole"), "again": start("again", "--ignore=evals/test_decode_speed.py")}
    said = [process.communicate(timeout=1800)[0] for process in started.values()]
    whole, again = (Run(process.returncode, folder / name) for name, process in started.items())
    return Twins(whole, again, "\n".join(said))


def test_without_a_fault_the_suite_is_green(twins: Twins) -> None:
    assert (twins.whole.code, twins.again.code) == (0, 0), twins.said
    results = twins.whole.results
    ledger = results["ledger"]
    assert (results["status"], results["partial"], ledger["deselected"]) == ("passed", False, 0)
    assert ledger["passed"] + ledger.get("skipped", 0) == ledger["collected"] > 10
    assert list(unexplained(results["tables"])) == []
    assert twins.whole.verdicts == {plant["id"]: plant["verdict"] for plant in storybook.truth()["plants"]}


def test_all_that_it_shows_is_made_again_from_raw_numbers(twins: Twins) -> None:
    """Every table and every figure, without the model; a forger has to forge the measurements."""
    found = verify(twins.whole.out)
    assert found.ok, found.first
    assert found.covered == ()
    results = twins.whole.results
    assert list(found.derived) == [table["name"] for table in results["tables"]]
    assert list(found.drawn) == [figure["name"] for figure in results["figures"]]


def test_its_report_opens_in_a_browser_without_network_or_console_error(twins: Twins, tmp_path: Path) -> None:
    dom, console, _ = visit(Path(shutil.copy(twins.whole.out / "report.html", tmp_path)))
    assert console == []
    assert re.findall(r"""(?:src|href)=["']?(?:\w+:)?//""", dom) == []
    assert "<title>flashinterp self-test</title>" in dom
    assert dom.count("<svg") > 5


def test_one_seed_gives_the_same_results(twins: Twins) -> None:
    whole, again = (run.results for run in (twins.whole, twins.again))
    assert again["partial"] is True
    for results in (whole, again):
        for key in ("started", "finished"):
            del results["environment"][key]
        # The second run has no benchmark, and is called otherwise; how long a test took is no result.
        del results["options"]["passed"]["out"], results["partial"], results["ledger"]
        del results["environment"]["argv"], results["environment"]["evals"]
        for key, named in {"tables": "name", "derivations": "name", "docs": "eval", "tests": "id"}.items():
            results[key] = [one for one in results[key] if "decode_speed" not in one[named]]
        for one in results["tests"]:
            del one["seconds"]
    assert whole == again


def test_one_seed_gives_the_same_files(twins: Twins) -> None:
    """But for the times of the benchmark: the claims that were locked, every array and every figure, to the byte."""
    names = [
        p.relative_to(twins.whole.out)
        for p in twins.whole.out.rglob("*")
        if p.name == "claims.lock.json" or (p.parent.name in ("raw", "figures") and "decode_speed" not in p.name)
    ]
    assert Path("claims.lock.json") in names
    assert len(names) > 10
    for name in names:
        assert (twins.whole.out / name).read_bytes() == (twins.again.out / name).read_bytes(), name
