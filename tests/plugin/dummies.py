"""Small dummy evals that the plugin runs, and what came of a run."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from flashinterp.errors import RunError
from tests.helpers import assert_one_line_with_next_step

CONFTEST = '''
import pytest

from flashinterp.errors import CheckpointError

ERROR = "the moon has no neurons: name a planet"


@pytest.fixture
def seen(evidence, request):
    """Evidence, with something in it."""
    name = request.node.originalname.replace("_", "-")
    evidence.table(name, f"Of {name}", ["word"], [["dog"]], "Nothing was measured.")
    return evidence


@pytest.fixture
def broken():
    raise ValueError("it broke")


@pytest.fixture
def breaks_later():
    yield
    raise ValueError("it broke later")


@pytest.fixture(scope="session")
def refuses():
    raise CheckpointError(ERROR)


@pytest.fixture
def refuses_later():
    yield
    raise CheckpointError(ERROR)
'''

PASSES = "def test_passes(seen): pass\n"
FAILS = "def test_fails(seen): assert 1 == 2\n"
BOTH_DEVICES = "def test_both(seen, device): assert device\n"
STOPS = "def test_stops(seen): raise KeyboardInterrupt\n"


@dataclass(frozen=True)
class Run:
    """One inner run of pytest: what it printed, and the folder that it wrote."""

    result: pytest.RunResult
    out: Path

    @property
    def text(self) -> str:
        return str(self.result.stdout)

    @property
    def results(self) -> dict[str, Any]:
        loaded: dict[str, Any] = json.loads((self.out / "results.json").read_text(encoding="utf-8"))
        return loaded

    @property
    def counts(self) -> dict[str, int]:
        """The outcomes in the ledger that occurred."""
        apart = ("collected", "deselected", "reasons")
        return {k: v for k, v in self.results["ledger"].items() if v and k not in apart}

    @property
    def events(self) -> list[tuple[str, str]]:
        """Each event with the name of its test, or with the status."""
        lines = (self.out / "events.jsonl").read_text(encoding="ascii").splitlines()
        events = [json.loads(line) for line in lines]
        return [(e["event"], e.get("test", "").partition("::")[2] or e.get("status", "")) for e in events]

    def check_whole(self) -> None:
        """The folder is complete: a report, a manifest that matches every file, and the tables that were printed."""
        manifest = json.loads((self.out / "manifest.json").read_text())
        listed = {entry["path"]: entry["sha256"] for entry in manifest["files"]}
        files = (p for p in self.out.rglob("*") if p.is_file() and p.name != "manifest.json")
        assert listed == {p.relative_to(self.out).as_posix(): sha256(p) for p in files}
        assert {"results.json", "report.html", "report.md", "events.jsonl"} <= set(listed)
        own = sha256(self.out / "manifest.json")
        assert f"report: {self.out.name}/report.html  (manifest sha256 {own})" in self.text
        for table in self.results["tables"]:
            assert table["title"] in self.text
            assert (self.out / "tables" / f"{table['name']}.md").read_text().startswith(f"# {table['title']}\n")
            assert table["title"] in (self.out / "report.html").read_text()


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@dataclass(frozen=True)
class Evals:
    """A folder of dummy evals that can be run."""

    pytester: pytest.Pytester

    def __call__(
        self, source: str | dict[str, str], *args: str, out: str = "run", plugins: Any = (), cache: bool = False
    ) -> Run:
        """Write the modules (one by default), run pytest in this process, and return what came of it.

        With ``cache`` it remembers what failed last time.
        """
        modules = source if isinstance(source, dict) else {"test_dummy": source}
        self.pytester.makepyfile(**{name: f"import pytest\n\n\n{text}" for name, text in modules.items()})
        given = ["-p", "flashinterp.pytest_plugin", "-ra", "--out", out, *args]
        given += [] if cache else ["-p", "no:cacheprovider"]
        result = self.pytester.runpytest_inprocess(*given, no_reraise_ctrlc=True, plugins=list(plugins))
        return Run(result, self.pytester.path / out)

    def refused(self, source: str, *args: str, out: str = "run") -> str:
        """Run what must be refused: exit code 4, one line with the next step, nothing written. Returns the line."""
        before = sorted(self.pytester.path.rglob("*"))
        result = self(source, *args, out=out).result
        lines = [line for line in str(result.stderr).splitlines() if line.strip()]
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        assert len(lines) == 1, lines
        assert lines[0].startswith("ERROR: ")
        assert_one_line_with_next_step(RunError(lines[0]))
        assert "Traceback" not in str(result.stdout)
        assert "= flashinterp" not in str(result.stdout)
        written = {p.name for p in self.pytester.path.rglob("*") if p not in before}
        assert written <= {"test_dummy.py", "__pycache__"} | {n for n in written if n.endswith(".pyc")}
        return lines[0]
