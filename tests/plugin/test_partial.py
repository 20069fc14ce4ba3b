"""Runs that are not whole: stopped, chosen from, interrupted, or with nothing to run."""

from __future__ import annotations

import pytest

from flashinterp.runs import session
from tests.plugin.dummies import FAILS, PASSES, STOPS, Evals

pytest_plugins = ["pytester"]


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


@pytest.mark.parametrize(
    ("args", "code", "counts"),
    [
        pytest.param(["--lf"], 1, {"failed": 1}, id="--lf"),
        pytest.param(["--sw"], 2, {"failed": 1}, id="--sw"),
        pytest.param(["--ff"], 1, {"failed": 1, "passed": 1}, id="--ff"),  # in another order, and whole
        pytest.param(["--maxfail", "1"], 1, {"failed": 1, "passed": 1}, id="--maxfail"),  # the last one fails
    ],
)
def test_what_failed_last_time_alone_is_no_audit(
    evals: Evals, args: list[str], code: int, counts: dict[str, int]
) -> None:
    first = evals(PASSES + FAILS, *args, cache=True)
    assert first.counts == {"failed": 1, "passed": 1}
    run = evals(PASSES + FAILS, *args, cache=True)
    assert (run.result.ret, run.counts) == (code, counts)
    assert run.results["partial"] is (sum(counts.values()) < 2)
    assert ("PARTIAL RUN" in run.text) is run.results["partial"]
    run.check_whole()


@pytest.mark.parametrize("modules", [{"test_one": PASSES, "test_two": FAILS}, {"test_one": PASSES + FAILS}])
def test_modules_left_out_by_last_failed_are_missing(evals: Evals, modules: dict[str, str]) -> None:
    assert evals(modules, cache=True).results["partial"] is False
    assert evals(modules, "--lf", cache=True).results["partial"] is True


def test_after_a_green_run_the_last_failed_are_all(evals: Evals) -> None:
    assert evals(PASSES, cache=True).result.ret == 0
    run = evals(PASSES, "--lf", cache=True)
    assert (run.result.ret, run.counts, run.results["partial"]) == (0, {"passed": 1}, False)


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
