"""The pytest plugin on small dummy evals: what it counts, what it writes, and what it refuses."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from flashinterp.audit import baseline, session  # pytester forgets what a run imports: these would come anew each time
from flashinterp.checkpoint import Checkpoint
from flashinterp.errors import RunError
from tests.helpers import assert_one_line_with_next_step, edited_copy

pytest_plugins = ["pytester"]

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

    def __call__(self, source: str | dict[str, str], *args: str, out: str = "run", plugins: Any = ()) -> Run:
        """Write the modules (one by default), run pytest in this process, and return what came of it."""
        modules = source if isinstance(source, dict) else {"test_dummy": source}
        self.pytester.makepyfile(**{name: f"import pytest\n\n\n{text}" for name, text in modules.items()})
        given = ["-p", "flashinterp.pytest_plugin", "-p", "no:cacheprovider", "-ra", "--out", out, *args]
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


@pytest.fixture(scope="module", autouse=True)
def imported(planted: Checkpoint) -> None:
    """What pytester would forget after each run and import again is imported before the first."""
    assert planted.vocabulary
    assert baseline.SCHEMA_VERSION == session.SCHEMA_VERSION


@pytest.fixture
def evals(pytester: pytest.Pytester) -> Evals:
    pytester.makeconftest(CONFTEST)
    pytester.makepyprojecttoml('[tool.pytest]\nstrict = true\nfilterwarnings = ["error"]\njunit_family = "xunit1"\n')
    return Evals(pytester)


# --- outcomes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "code", "counts", "reason"),
    [
        pytest.param(PASSES, 0, {"passed": 1}, "", id="pass"),
        pytest.param(FAILS, 1, {"failed": 1}, "assert 1 == 2", id="fail"),
        pytest.param("def test_a(evidence, broken): pass", 1, {"errors": 1}, "ValueError: it broke", id="set-up"),
        pytest.param("def test_a(seen, breaks_later): pass", 1, {"errors": 1}, "it broke later", id="teardown"),
        pytest.param("def test_a(seen, breaks_later): assert 0", 1, {"failed": 1}, "assert 0", id="fail and teardown"),
        pytest.param("def test_a(seen): pytest.skip('no GPU')", 1, {"skipped": 1}, "Skipped: no GPU", id="skip"),
        pytest.param(
            "@pytest.mark.skip(reason='not now')\ndef test_a(seen): pass", 1, {"skipped": 1}, "not now", id="skip mark"
        ),
        pytest.param(
            "@pytest.mark.skip(reason='not now')\ndef test_a(seen): pass\n\n" + PASSES,
            0,
            {"skipped": 1, "passed": 1},
            "not now",
            id="skip and pass",
        ),
        pytest.param(
            "@pytest.mark.xfail(reason='FI-L001')\ndef test_a(seen): assert 0\n\n" + PASSES,
            0,
            {"xfailed": 1, "passed": 1},
            "FI-L001",
            id="xfail",
        ),
        pytest.param(
            "@pytest.mark.xfail(reason='FI-L001')\ndef test_a(seen): pass",
            1,
            {"failed": 1},
            "[XPASS(strict)] FI-L001",
            id="xpass",
        ),
        pytest.param("def test_a(evidence): pass", 1, {"errors": 1}, "recorded no evidence", id="no evidence"),
        pytest.param(
            "def test_a(evidence): evidence.table('t', 'T', ['a'], [])", 1, {"failed": 1}, "has no rows", id="empty"
        ),
        pytest.param("def test_a(evidence): assert 0", 1, {"failed": 1}, "assert 0", id="fail without evidence"),
        pytest.param(
            "def test_a(evidence):\n    raise ExceptionGroup('two faults', [ValueError('1'), ValueError('2')])",
            1,
            {"failed": 1},
            "ExceptionGroup: two faults",
            id="exception group",
        ),
        pytest.param(
            "def test_a(evidence):\n    try:\n        1 / 0\n    except ZeroDivisionError as e:\n"
            "        raise ValueError('no mean') from e",
            1,
            {"failed": 1},
            "test_a: ValueError: no mean",
            id="chained",
        ),
    ],
)
def test_each_test_is_in_the_ledger_once(
    evals: Evals, source: str, code: int, counts: dict[str, int], reason: str
) -> None:
    run = evals(source)
    assert run.result.ret == code
    assert run.counts == counts
    ledger = run.results["ledger"]
    assert (ledger["collected"], ledger["deselected"]) == (sum(counts.values()), 0)
    reasons = [r for kind in ledger["reasons"].values() for r in kind]
    assert reason in "".join(reasons)
    assert not [r for r in reasons if "\n" in r or not r.startswith("test_dummy.py::")]
    assert run.results["status"] == ("passed" if code == 0 else "failed")
    assert run.results["partial"] is False
    assert "PARTIAL" not in run.text
    assert run.events[0] == ("begin", "")
    assert run.events[-1] == ("end", run.results["status"])
    assert {kind for kind, _ in run.events[1:-1]} >= set(counts)
    run.check_whole()


def test_the_terminal_and_the_folder_tell_the_same(evals: Evals) -> None:
    run = evals(PASSES + FAILS)
    run.result.assert_outcomes(passed=1, failed=1)
    assert run.events == [
        ("begin", ""),
        ("passed", "test_passes"),
        ("failed", "test_fails"),
        ("end", "failed"),
    ]
    run.result.stdout.fnmatch_lines(
        [
            "*flashinterp: model SELF-TEST on the bundled storybook, tuned -,*seed 0, profile standard, out run",
            "=*flashinterp SELF-TEST on bundled models: not an audit of a real model*=",
            "Of test-passes",
            "*dog*",
            "Nothing was measured.",
            "ledger: 2 collected, 1 failed, 1 passed",
        ]
    )
    assert run.results["self_test"] is True
    assert [t["name"] for t in run.results["tables"]] == ["dummy--test-passes", "dummy--test-fails"]
    assert run.results["model"]["name"] == "bundled storybook, planted"


def test_the_docstrings_are_in_the_report(evals: Evals) -> None:
    source = 'def test_a(seen):\n    """Is it so?\n\n    By counting <b>all</b>.\n    """\n'
    run = evals({"test_dummy": f'"""What the module asks."""\n{source}'.replace("import pytest", "")})
    html = (run.out / "report.html").read_text()
    assert "Is it so?" in html
    assert "By counting &lt;b&gt;all&lt;/b&gt;." in html


def test_a_second_run_replaces_the_first(evals: Evals) -> None:
    evals(PASSES)
    run = evals("def test_other(seen): pass")
    assert [p.name for p in (run.out / "tables").iterdir()] == ["dummy--test-other.md"]
    run.check_whole()


def test_junit_in_the_folder_is_in_the_manifest(evals: Evals) -> None:
    run = evals(PASSES, "--junitxml", "run/junit.xml")
    assert run.result.ret == 0
    assert (run.out / "junit.xml").exists()
    run.check_whole()


# --- runs that are not whole -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "code", "counts", "deselected"),
    [
        pytest.param(["-x"], 1, {"failed": 1}, 0, id="-x"),
        pytest.param(["-k", "passes"], 0, {"passed": 1}, 1, id="-k"),
        pytest.param(["test_dummy.py::test_passes"], 0, {"passed": 1}, 0, id="node id"),
        pytest.param(["--deselect", "test_dummy.py::test_fails"], 0, {"passed": 1}, 1, id="--deselect"),
    ],
)
def test_a_run_that_leaves_evals_out_is_partial(
    evals: Evals, args: list[str], code: int, counts: dict[str, int], deselected: int
) -> None:
    run = evals(FAILS + PASSES, *args)
    assert run.result.ret == code
    assert run.counts == counts
    assert run.results["ledger"]["deselected"] == deselected
    assert run.results["partial"] is True
    run.result.stdout.fnmatch_lines(["PARTIAL RUN: some evals did not run, so this is no audit"])
    run.check_whole()


def test_a_module_left_out_is_partial(evals: Evals) -> None:
    modules = {"test_one": PASSES, "test_two": PASSES}
    assert evals(modules).results["partial"] is False
    run = evals(modules, "test_one.py")
    assert (run.result.ret, run.results["partial"]) == (0, True)


def test_a_teardown_error_does_not_hide_that_a_run_stopped(evals: Evals) -> None:
    run = evals("def test_a(seen, breaks_later): pass\n" + PASSES, "-x")
    assert run.counts == {"errors": 1}
    assert run.results["partial"] is True


def test_interrupted(evals: Evals) -> None:
    run = evals(PASSES + STOPS + FAILS)
    assert run.result.ret == pytest.ExitCode.INTERRUPTED
    assert run.counts == {"passed": 1}
    assert run.results["ledger"]["collected"] == 3
    assert (run.results["status"], run.results["partial"]) == ("interrupted", True)
    assert run.events == [("begin", ""), ("passed", "test_passes"), ("end", "interrupted")]
    assert "interrupted" in (run.out / "report.md").read_text()
    run.check_whole()


def test_a_killed_run_says_so(evals: Evals, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a kill: everything up to the last test is there, and no results, report or manifest."""
    monkeypatch.setattr(session.AuditSession, "finish", lambda *_: pytest.exit("killed"))
    run = evals(PASSES + FAILS)
    assert run.events == [("begin", ""), ("passed", "test_passes"), ("failed", "test_fails")]
    assert (run.out / "tables" / "dummy--test-passes.md").exists()
    assert not {"results.json", "report.html", "manifest.json"} & {p.name for p in run.out.iterdir()}


def test_a_module_that_cannot_be_imported_is_no_pass(evals: Evals) -> None:
    run = evals({"test_one": PASSES, "test_two": "import no_such_module\n"})
    assert run.result.ret == pytest.ExitCode.INTERRUPTED
    assert run.counts == {}
    assert (run.results["status"], run.results["partial"]) == ("interrupted", True)


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (["--co"], 0),
        (["--help"], 0),
        (["--markers"], 0),
        (["-k", "nothing"], pytest.ExitCode.NO_TESTS_COLLECTED),
        (["-k", "not a ("], pytest.ExitCode.USAGE_ERROR),
        (["-m", "gpuu"], pytest.ExitCode.USAGE_ERROR),
        (["no_such_file.py"], pytest.ExitCode.USAGE_ERROR),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_nothing_is_written_where_no_eval_runs(evals: Evals, args: list[str], code: int) -> None:
    run = evals(PASSES, *args)
    assert run.result.ret == code
    assert not run.out.exists()
    assert "= flashinterp" not in run.text


def test_other_tests_make_no_folder(evals: Evals) -> None:
    run = evals("def test_arithmetic(): assert 1 + 1 == 2")
    run.result.assert_outcomes(passed=1)
    assert run.result.ret == 0
    assert not run.out.exists()
    assert "= flashinterp" not in run.text


def test_other_tests_do_not_count_as_evals(evals: Evals) -> None:
    run = evals(PASSES + "def test_arithmetic(): assert 1 + 1 == 3")
    assert run.result.ret == 1
    assert run.results["ledger"]["collected"] == 1
    assert run.counts == {"passed": 1}


def test_an_unknown_marker_is_refused(evals: Evals) -> None:
    run = evals("@pytest.mark.gpuu\n" + PASSES)
    assert run.result.ret != 0
    assert "'gpuu' not found in `markers`" in run.text
    assert run.counts == {} if run.out.exists() else True


def test_the_markers_are_known(evals: Evals) -> None:
    markers = ("gpu", "slow", "control", "limitation")
    run = evals("".join(f"@pytest.mark.{marker}\n" for marker in markers) + PASSES, "--co")
    assert run.result.ret == pytest.ExitCode.NO_TESTS_COLLECTED  # a GPU eval is chosen with -m gpu
    assert evals(PASSES, "-m", "slow or not control", "--co").result.ret == 0


# --- errors of the library ------------------------------------------------------------------------------


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
    def full(self: Any, name: str, _: object) -> None:
        raise RunError(f"cannot write {name}: No space left on device; free the space")

    monkeypatch.setattr(session.RunFolder, "write_json", full)
    run = evals(PASSES)
    assert run.result.ret == pytest.ExitCode.INTERNAL_ERROR
    run.result.stdout.fnmatch_lines(["NO REPORT: cannot write results.json: No space left on device; free the space"])
    assert "Traceback" not in run.text
    assert "INTERNALERROR" not in run.text
    assert ("passed", "test_passes") in run.events
    assert not (run.out / "manifest.json").exists()


def test_a_full_disk_on_the_way_stops_the_run_in_one_line(evals: Evals, monkeypatch: pytest.MonkeyPatch) -> None:
    append = session.RunFolder.append_event

    def full(self: Any, event: dict[str, Any]) -> None:
        if event["event"] in ("failed", "end"):
            raise RunError("cannot write events.jsonl: No space left on device; free the space")
        append(self, event)

    monkeypatch.setattr(session.RunFolder, "append_event", full)
    run = evals(PASSES + FAILS + "def test_third(seen): pass")
    assert run.result.ret == pytest.ExitCode.INTERNAL_ERROR
    assert "INTERNALERROR" not in run.text
    run.result.stdout.fnmatch_lines(["!*cannot write events.jsonl: No space left on device; free the space !*"])
    run.result.stdout.fnmatch_lines(["NO REPORT: cannot write events.jsonl: *"])
    assert "test_third" not in (run.out / "events.jsonl").read_text()


# --- devices --------------------------------------------------------------------------------------------


def test_the_cpu_twin_runs_by_default(evals: Evals) -> None:
    run = evals(BOTH_DEVICES)
    assert run.counts == {"passed": 1}
    assert ("passed", "test_both[cpu]") in run.events
    assert run.results["partial"] is False


@pytest.mark.parametrize("args", [["-m", "gpu"], ["--device", "cuda"], ["--device", "cuda:1"]], ids=" ".join)
def test_without_a_gpu_its_evals_skip_and_that_is_no_pass(
    evals: Evals, monkeypatch: pytest.MonkeyPatch, args: list[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    run = evals(BOTH_DEVICES, *args)
    assert run.result.ret == 1
    assert run.counts == {"skipped": 1}
    assert "torch sees no CUDA GPU" in run.text
    assert "NOTHING PASSED" in run.text
    assert "torch sees no CUDA GPU" in run.results["ledger"]["reasons"]["skipped"][0]


def test_a_required_gpu_that_is_missing_is_a_usage_error(evals: Evals, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "--require-gpu: torch sees no CUDA GPU" in evals.refused(BOTH_DEVICES, "-m", "gpu", "--require-gpu")


@pytest.mark.parametrize(
    ("args", "ran"),
    [
        pytest.param(["-m", "gpu"], "cuda", id="-m gpu"),
        pytest.param(["-m", "gpu", "--require-gpu"], "cuda", id="--require-gpu"),
        pytest.param(["--device", "cuda:1"], "cuda:1", id="--device cuda:1"),
        pytest.param(["-m", "not gpu"], "cpu", id="-m not gpu"),
    ],
)
def test_one_device_is_a_whole_run(evals: Evals, monkeypatch: pytest.MonkeyPatch, args: list[str], ran: str) -> None:
    """Leaving out the same body on the other device leaves no eval out."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(session, "environment", lambda started: {"started": started})
    run = evals(BOTH_DEVICES, *args)
    assert run.result.ret == 0
    assert ("passed", f"test_both[{ran}]") in run.events
    assert run.counts == {"passed": 1}
    assert (run.results["partial"], run.results["ledger"]["deselected"]) == (False, 0)


def test_an_eval_without_a_device_is_missing_on_the_gpu(evals: Evals, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(session, "environment", lambda started: {"started": started})
    run = evals(BOTH_DEVICES + PASSES, "-m", "gpu")
    assert (run.results["partial"], run.results["ledger"]["deselected"]) == (True, 1)


# --- bad input ------------------------------------------------------------------------------------------


def make_truncated(planted: Path, folder: Path) -> None:
    edited_copy(planted, folder / "truncated")
    weights = folder / "truncated" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])


def make_foreign(planted: Path, folder: Path) -> None:
    (folder / "foreign").mkdir()
    (folder / "foreign" / "thesis.tex").write_text("mine")


def make_binary_claims(planted: Path, folder: Path) -> None:
    (folder / "claims.toml").write_bytes(b"\x80\x81")


def make_list_of_results(planted: Path, folder: Path) -> None:
    (folder / "old").mkdir()
    (folder / "old" / "results.json").write_text("[]")


@pytest.mark.parametrize(
    ("make", "args", "told"),
    [
        pytest.param(None, ["--model", "no/such/folder"], "there is no folder no/such/folder", id="no model"),
        pytest.param(
            lambda planted, folder: edited_copy(planted, folder / "moon", config={"model_type": "moon"}),
            ["--model", "moon"],
            "architecture 'moon' is not known",
            id="architecture",
        ),
        pytest.param(make_truncated, ["--model", "truncated"], "is not a whole safetensors file", id="truncated"),
        pytest.param(make_truncated, ["--model", "{planted}", "--tuned", "truncated"], "safetensors", id="tuned"),
        pytest.param(None, ["--tuned", "{planted}"], "--tuned needs --model", id="tuned alone"),
        pytest.param(None, ["--claims", "absent.toml"], "claim file absent.toml cannot be read", id="no claims"),
        pytest.param(make_binary_claims, ["--claims", "claims.toml"], "claims.toml cannot be read", id="binary claims"),
        pytest.param(None, ["--tokens", " dog, archaeopteryx"], "␣archaeopteryx is not one token", id="token"),
        pytest.param(None, ["--baseline", "absent"], "the baseline absent/results.json cannot be read", id="baseline"),
        pytest.param(make_list_of_results, ["--baseline", "old"], "the baseline old/results.json", id="list"),
        pytest.param(None, ["--out", "conftest.py/run"], "cannot write conftest.py/run", id="out under a file"),
        pytest.param(None, ["--out", "conftest.py"], "conftest.py is a file", id="out is a file"),
        pytest.param(make_foreign, ["--out", "foreign"], "foreign holds 'thesis.tex'", id="foreign files"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    evals: Evals, fixture_folder: Path, make: Any, args: list[str], told: str
) -> None:
    if make:
        make(fixture_folder / "planted", evals.pytester.path)
    given = [a.format(planted=fixture_folder / "planted") for a in args]
    line = evals.refused(PASSES, *given)
    assert told in line


def test_a_baseline_is_not_overwritten_by_the_run_that_reads_it(evals: Evals) -> None:
    first = evals(PASSES)
    before = {p: p.read_bytes() for p in first.out.rglob("*") if p.is_file()}
    line = evals.refused(PASSES, "--baseline", "run/../run")
    assert "--baseline and --out are the same folder" in line
    assert {p: p.read_bytes() for p in first.out.rglob("*") if p.is_file()} == before
    assert evals(PASSES, "--baseline", "run", out="second").result.ret == 0


def test_a_worker_of_a_parallel_run_is_refused(evals: Evals) -> None:
    """As under pytest-xdist, which gives each of its workers a ``workerinput``."""

    def pytest_configure(config: Any) -> None:
        config.workerinput = {}

    plugin = SimpleNamespace(pytest_configure=pytest_configure)
    run = evals(PASSES, plugins=[plugin])
    assert run.result.ret == 1
    assert "the evals share one model and one report: run them without -n" in run.text.splitlines()
    assert not run.out.exists()


def test_parallel_evals_are_refused(evals: Evals) -> None:
    pytest.importorskip("xdist")
    run = evals(PASSES, "-n", "2")
    assert run.result.ret == 1
    assert "run them without -n" in run.text
    assert not run.out.exists()


def test_options_reach_the_results(evals: Evals) -> None:
    run = evals(PASSES, "--seed", "7", "--profile", "smoke", "--tokens", "dog, California,")
    results = run.results
    assert (results["seed"], results["profile"]) == (7, "smoke")
    assert results["options"]["passed"]["tokens"] == [" dog", " California"]
