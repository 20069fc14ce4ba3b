"""What the plugin counts and writes: each test once, in the terminal and in the folder."""

from __future__ import annotations

import pytest

from tests.plugin.dummies import FAILS, PASSES, Evals

pytest_plugins = ["pytester"]


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
