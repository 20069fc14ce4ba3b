"""junit.xml is XML whatever a test or a token is called, and counts what the ledger counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashinterp.models.checkpoint import Checkpoint
from flashinterp.report.junit import to_junit
from flashinterp.runs.folder.results_schema import read_results
from tests.runs.finished_run import HOSTILE, finished


def results(*tests: dict[str, Any], verdicts: Any = (), **more: Any) -> dict[str, Any]:
    standing = {"status": "passed", "self_test": True, "partial": False, "profile": "smoke", "seed": 0}
    told = {"schema_version": 1, "environment": {"started": "2025-01-05T00:00:00+00:00"}}
    return {**standing, **told, "tests": list(tests), "verdicts": list(verdicts), **more}


def entry(outcome: str = "passed", name: str = "evals/test_a.py::test_b[cpu]", reason: str = "") -> dict[str, Any]:
    return {"id": name, "outcome": outcome, "reason": reason, "seconds": 0.5}


def suite(text: str) -> ElementTree.Element:
    root = ElementTree.fromstring(text.encode())
    assert root.tag == "testsuites"
    (found,) = root
    return found


def test_a_runs_own_file_counts_as_its_ledger(tmp_path: Path, planted: Checkpoint) -> None:
    run = finished(tmp_path / "run", planted, None)
    found, ledger = suite((run / "junit.xml").read_text(encoding="utf-8")), read_results(run)["ledger"]
    counted = {key: int(found.attrib[key]) for key in ("tests", "failures", "errors", "skipped")}
    assert counted == {"tests": 5, "failures": ledger["failed"], "errors": ledger["errors"], "skipped": 2}
    cases = found.findall("testcase")
    assert len(cases) == 5
    assert [case.attrib["name"] for case in cases][:2] == ["test_one[cpu]", "test_two"]
    assert {case.attrib["classname"] for case in cases} == {"evals.test_a", "evals.test_b"}
    (failure,) = found.iter("failure")
    assert "</script>" in failure.attrib["message"]
    assert "\\u{202e}\\u{0}\\u{1b}" in failure.attrib["message"]


@pytest.mark.parametrize(
    ("outcome", "tags", "key"),
    [
        ("passed", [], None),
        ("xpassed", [], None),
        ("failed", ["failure"], "failures"),
        ("errors", ["error"], "errors"),
        ("skipped", ["skipped"], "skipped"),
        ("xfailed", ["skipped"], "skipped"),
    ],
)
def test_each_outcome_has_its_element(outcome: str, tags: list[str], key: str | None) -> None:
    found = suite(to_junit(results(entry(outcome, reason="it is so"))))
    (case,) = found.findall("testcase")
    assert [child.tag for child in case] == tags
    assert all(child.attrib["message"] == "it is so" for child in case)
    assert [k for k in ("failures", "errors", "skipped") if found.attrib[k] != "0"] == ([key] if key else [])
    assert (case[0].get("type") if len(case) else None) == ("xfail" if outcome == "xfailed" else None)


def test_verdicts_and_standing_are_properties() -> None:
    told = results(verdicts=[{"id": "dog", "verdict": "refuted"}], partial=True, status="failed")
    found = {p.attrib["name"]: p.attrib["value"] for p in suite(to_junit(told)).iter("property")}
    assert found["flashinterp.evaluation.verdict.dog"] == "refuted"
    assert (found["flashinterp.partial"], found["flashinterp.status"]) == ("true", "failed")


def test_no_time_is_no_zero() -> None:
    (case,) = suite(to_junit(results({**entry(), "seconds": None}))).findall("testcase")
    assert "time" not in case.attrib


@given(text=st.text(st.characters(exclude_categories=[])) | st.just(HOSTILE))
def test_any_text_gives_xml_and_hides_nothing(text: str) -> None:
    told = results(entry("failed", name=text, reason=text), verdicts=[{"id": text, "verdict": text}], status=text)
    made = to_junit(told)
    assert made == "".join(c for c in made if c == "\n" or c.isprintable() or ord(c) > 0x7E)
    suite(made)


def test_a_megabyte_is_cut() -> None:
    assert len(to_junit(results(entry("failed", reason="x" * 1_000_000)))) < 50_000
