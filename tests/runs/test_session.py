"""The session of one run: what it records, in which order, and what stays when the disk is full."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flashinterp.errors import RunError
from flashinterp.evaluation.claims import Claim, lock
from flashinterp.evaluation.verdict import Rule, Verdict
from flashinterp.models.checkpoint import Checkpoint, open_checkpoint
from flashinterp.neurons import NeuronId
from flashinterp.report.charts.neurons import spikes
from flashinterp.report.table import Table
from flashinterp.report.wording import LIMITS, READING_ORDER
from flashinterp.runs.folder.rendered_files import rendered_from
from flashinterp.runs.folder.results_schema import status_of
from flashinterp.runs.folder.run_folder import RunFolder
from flashinterp.runs.options import Options
from flashinterp.runs.session import SCHEMA_VERSION, AuditSession, Finding
from tests.evidence_by_hand import STRONG
from tests.helpers import edited_copy

KEYS = {
    "schema_version",
    "self_test",
    "partial",
    "status",
    "model",
    "tuned",
    "environment",
    "seed",
    "profile",
    "options",
    "ledger",
    "tests",
    "claims_sha256",
    "verdicts",
    "judgements",
    "roles",
    "studies",
    "derivations",
    "tables",
    "figures",
    "docs",
    "limits",
    "known_limits",
}


@pytest.fixture
def session(tmp_path: Path, planted: Checkpoint, tuned: Checkpoint) -> AuditSession:
    """A session that has begun, on the fixtures."""
    begun = AuditSession(Options(seed=3, profile="smoke"), RunFolder.create(tmp_path / "run"), planted, tuned, True)
    begun.begin()
    return begun


def table(eval_name: str, rest: str = "t") -> Table:
    return Table(f"{eval_name}--{rest}", f"{eval_name} {rest}", ("word", "score"), ((" dog", 1.5), (" cat", None)))


def verdict(name: str = "dog", token: str | int = " dog") -> Verdict:
    claim = Claim(name, token, NeuronId(1, 17), "+", "paper", None, "file")
    return Verdict(claim, "not_measured", "no time was left")


def read(session: AuditSession, name: str) -> Any:
    return json.loads((session.folder.path / name).read_text(encoding="utf-8"))


def events(session: AuditSession) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (session.folder.path / "events.jsonl").read_text().splitlines()]


def fill_the_disk(monkeypatch: pytest.MonkeyPatch, from_file: str) -> None:
    """Let no file be put in place from the named one on."""
    replace, full = os.replace, False

    def refuse(source: Any, target: Any) -> None:
        nonlocal full
        full = full or Path(target).name == from_file
        if full:
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", refuse)


# --- what is recorded -----------------------------------------------------------------------------------


def test_a_session_that_has_begun_left_a_trace(session: AuditSession) -> None:
    (begin,) = events(session)
    assert begin["event"] == "begin"
    assert begin["options"]["profile"] == "smoke"
    assert sorted(p.name for p in session.folder.path.iterdir() if p.is_file()) == ["events.jsonl", "report.md"]
    assert (session.folder.path / "report.md").read_text().startswith("# INCOMPLETE\n")


def test_everything_is_on_disk_as_it_is_recorded(session: AuditSession) -> None:
    path = session.folder.path
    session.lock_claims(lock([verdict().claim], seed=3))
    session.add_table(table("clamp_causality"))
    session.add_figure(spikes("clamp_causality--s", "Spikes", np.ones((2, 4)), []))
    session.add_arrays("clamp_causality--dog", {"doses": np.arange(3.0)})
    session.count("passed", "test_a")
    written = {p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file()}
    assert written == {
        "claims.lock.json",
        "events.jsonl",
        "report.md",
        "tables/clamp_causality--t.md",
        "figures/clamp_causality--s.svg",
        "raw/clamp_causality--s.npz",
        "raw/clamp_causality--dog.npz",
    }
    assert read(session, "claims.lock.json")["claims"][0]["neuron"] == "L1N17"
    assert events(session)[-1]["event"] == "passed"


def test_results_have_the_schema(session: AuditSession, planted: Checkpoint) -> None:
    session.add_table(table("decode_speed"))
    session.add_verdicts([verdict(), verdict("cat", 7)])
    session.count("passed", "test_a")
    session.finish("passed")
    results = read(session, "results.json")
    assert set(results) == KEYS
    assert results["schema_version"] == SCHEMA_VERSION
    assert (results["status"], results["partial"], results["self_test"]) == ("passed", False, True)
    assert (results["seed"], results["profile"]) == (3, "smoke")
    assert results["model"]["digests"] == planted.digests
    assert results["model"]["stored_dtype"] == "float32"
    assert (results["model"]["name"], results["tuned"]["name"]) == (
        "bundled storybook, planted",
        "bundled storybook, tuned",
    )
    assert results["limits"] == list(LIMITS)
    assert [(v["id"], v["token"], v["neuron"]) for v in results["verdicts"]] == [
        ("dog", " dog", "L1N17"),
        ("cat", 7, "L1N17"),
    ]
    assert results["options"]["passed"]["out"] == "flashinterp-report"
    assert session.report == session.folder.path / "report.html"
    assert events(session)[-1]["event"] == "end"


def test_a_model_without_a_fine_tune_is_named_as_given(tmp_path: Path, planted: Checkpoint) -> None:
    session = AuditSession(Options(model="x"), RunFolder.create(tmp_path / "run"), planted, None, False)
    session.begin()
    results = session.results("passed")
    assert results["tuned"] is None
    assert results["model"]["name"] == planted.name


def test_results_hold_no_number_that_is_not_finite(session: AuditSession) -> None:
    session.resolved["probe"] = {"mlp": float("nan")}
    with pytest.raises(RunError, match=r"\$\.options\.resolved\.probe\.mlp is nan"):
        session.finish("passed")
    assert session.report is None
    assert not (session.folder.path / "results.json").exists()


def test_numpy_values_become_builtins(session: AuditSession) -> None:
    session.resolved = {"n": np.int64(3), "x": np.float32(0.5), "all": np.array([True])}
    session.finish("passed")
    assert read(session, "results.json")["options"]["resolved"] == {"n": 3, "x": 0.5, "all": [True]}


def test_the_model_is_described_as_it_was_when_the_run_began(tmp_path: Path, fixture_folder: Path) -> None:
    """Weights that change or go while the evals run do not change, or cost, the report."""
    copy = edited_copy(fixture_folder / "planted", tmp_path / "model")
    session = AuditSession(Options(), RunFolder.create(tmp_path / "run"), open_checkpoint(copy), None, False)
    session.begin()
    before = session.results("passed")["model"]
    (copy / "model.safetensors").unlink()
    session.finish("passed")
    assert read(session, "results.json")["model"] == before


def test_raw_numbers_are_never_replaced(session: AuditSession) -> None:
    """Neither by others of the name, nor by a figure's, nor by a claim's: what a verdict rests on would be lost."""
    session.add_arrays("claims--dog", {"x": np.arange(3)})
    with pytest.raises(RunError, match="two sets of raw numbers are named 'claims--dog'"):
        session.add_arrays("claims--dog", {"x": np.arange(3)})
    with pytest.raises(RunError, match="two sets of raw numbers"):
        session.add_figure(spikes("claims--dog", "Spikes", np.ones((2, 4)), []))
    with pytest.raises(RunError, match="two sets of raw numbers"):
        session.add_judgement("claims", [verdict()], [STRONG], rule=Rule(), seed=0)
    assert session.judgements == []
    session.add_judgement("mine", [verdict()], [STRONG], rule=Rule(), seed=0)
    with pytest.raises(RunError, match="two judgements are named 'mine'"):
        session.add_judgement("mine", [verdict()], [STRONG], rule=Rule(), seed=0)


def test_the_log_says_that_the_claims_were_locked(session: AuditSession) -> None:
    locked = lock([verdict().claim], seed=3)
    session.lock_claims(locked)
    session.count("passed", "test_a", seconds=1.5)
    assert [(e["event"], e.get("sha256"), e.get("seconds")) for e in events(session)[1:]] == [
        ("locked", locked["sha256"], None),
        ("passed", None, 1.5),
    ]
    session.finish("passed")
    assert read(session, "results.json")["claims_sha256"] == locked["sha256"]
    assert read(session, "results.json")["tests"] == [
        {"id": "test_a", "outcome": "passed", "reason": "", "seconds": 1.5}
    ]


def test_the_report_is_made_from_the_results_as_they_are_read(session: AuditSession) -> None:
    """So that whoever has the folder can make it again, byte for byte."""
    session.resolved = {"b": np.float32(0.1), "a": (1, 2)}
    session.add_table(table("clamp_causality"))
    session.docs = {"own_eval": "Second.", "clamp_causality": "First."}
    session.finish("passed")
    made = rendered_from(session.folder.path)
    assert {"report.html", "report.md", "junit.xml", "environment.json", "tables/clamp_causality--t.md"} == set(made)
    assert all((session.folder.path / p).read_bytes() == text.encode() for p, text in made.items())
    assert [d["eval"] for d in read(session, "results.json")["docs"]] == ["clamp_causality", "own_eval"]


# --- order ------------------------------------------------------------------------------------------------


def test_tables_are_in_reading_order_whatever_ran_first(session: AuditSession) -> None:
    for name in ("own_eval", *sorted(READING_ORDER), "another"):
        session.add_table(table(name, "b"))
        session.add_table(table(name, "a"))
    ordered = [t.name for t in session.in_reading_order()]
    expected = [f"{name}--{rest}" for name in (*READING_ORDER, "own_eval", "another") for rest in "ba"]
    assert ordered == expected
    session.finish("passed")
    assert [t["name"] for t in read(session, "results.json")["tables"]] == expected
    titles = [line for line in session.summary().splitlines() if line.endswith((" a", " b"))]
    assert titles == [name.replace("--", " ") for name in expected]


def test_the_evals_are_all_in_the_reading_order() -> None:
    evals = Path(__file__).parents[2] / "evals"
    assert {p.stem.removeprefix("test_") for p in evals.glob("test_*.py")} == set(READING_ORDER)


# --- the ledger -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outcomes", "counts"),
    [
        (["passed"], {"passed": 1}),
        (["passed", "errors"], {"errors": 1}),
        (["skipped", "errors"], {"errors": 1}),
        (["failed", "errors"], {"failed": 1}),
        (["errors", "errors"], {"errors": 1}),
    ],
    ids=" then ".join,
)
def test_a_test_is_counted_once(session: AuditSession, outcomes: list[str], counts: dict[str, int]) -> None:
    session.count("passed", "test_other")
    for outcome in outcomes:
        session.count(outcome, "test_a", f"it {outcome}")
    counted = {k: v for k, v in session.ledger.items() if v}
    assert counted == {**counts, "passed": counts.get("passed", 0) + 1}
    assert [e["event"] for e in events(session)[2:]] == outcomes  # the log keeps each
    assert [r for kind in session.reasons.values() for r in kind] == [f"test_a: it {o}" for o in outcomes]


def test_the_reasons_are_in_the_results(session: AuditSession) -> None:
    session.count("skipped", "test_a", "no GPU")
    session.finish("failed")
    ledger = read(session, "results.json")["ledger"]
    assert ledger == {"skipped": 1, "reasons": {"skipped": ["test_a: no GPU"]}}


# --- a full disk ------------------------------------------------------------------------------------------


AT_THE_END = ["results.json", "report.md", "report.html", "junit.xml", "environment.json", "manifest.json"]


@pytest.mark.parametrize("file", AT_THE_END)
def test_a_disk_that_fills_at_the_end_keeps_the_events(
    session: AuditSession, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    session.add_table(table("clamp_causality"))
    session.count("passed", "test_a")
    fill_the_disk(monkeypatch, file)
    with pytest.raises(RunError, match=rf"^cannot write .*{file}: No space left on device; free the space") as caught:
        session.finish("passed")
    assert len(str(caught.value).splitlines()) == 1
    assert session.report is None
    assert session.manifest is None
    assert [e["event"] for e in events(session)][:2] == ["begin", "passed"]
    assert (session.folder.path / "tables" / "clamp_causality--t.md").exists()
    assert not (session.folder.path / "manifest.json").exists()
    assert status_of(session.folder.path) == "incomplete"


def test_a_table_that_cannot_be_written_is_not_in_the_report(
    session: AuditSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill_the_disk(monkeypatch, "clamp_causality--t.md")
    with pytest.raises(RunError, match="No space left"):
        session.add_table(table("clamp_causality"))
    assert session.tables == []


# --- the paper's results in short ---------------------------------------------------------------------


def test_without_findings_there_is_no_table_of_answers(session: AuditSession) -> None:
    session.add_table(table("clamp_causality"))
    assert [t.name for t in session.in_reading_order()] == ["clamp_causality--t"]


def test_the_answers_stand_first_in_the_report_and_last_on_the_terminal(session: AuditSession) -> None:
    session.add_table(table("clamp_causality"))
    session.add_finding(Finding(5, "it talks of dogs", "6 % to 88 %", "it talks of dogs"))
    session.add_finding(Finding(1, "a dog neuron", "dog L1N17+", None))
    session.finish("passed")
    first, *_ = read(session, "results.json")["tables"]
    assert first["name"] == "answers--paper"
    assert first["headers"][-1] == "planted"
    assert first["rows"] == [
        ["a dog neuron", "dog L1N17+", None],
        ["it talks of dogs", "6 % to 88 %", "it talks of dogs"],
    ]
    assert (session.folder.path / "tables" / "answers--paper.md").is_file()
    assert session.summary().index("clamp_causality t") < session.summary().index("a dog neuron")


def test_on_a_real_model_nothing_is_planted(session: AuditSession) -> None:
    session.add_finding(Finding(1, "a dog neuron", "dog L25N1442+"))
    (answers,) = session.in_reading_order()
    assert answers.headers == ("in the paper (Llama 3.1 8B)", "in this model")
    assert answers.rows == (("a dog neuron", "dog L25N1442+"),)
