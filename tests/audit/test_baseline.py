"""The regression gate: which validated claims of an earlier run are lost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import pytest

from flashinterp.audit.baseline import load_results, lost_claims
from flashinterp.audit.session import SCHEMA_VERSION
from flashinterp.claims import VerdictName
from flashinterp.errors import RunError
from tests.helpers import assert_one_line_with_next_step

VERDICTS = get_args(VerdictName)


def entry(verdict: str = "validated", neuron: str = "L1N17", token: str | int = " dog", **more: str) -> dict[str, Any]:
    """One verdict as it stands in results.json."""
    return {"id": "dog", "token": token, "neuron": neuron, "verdict": verdict, "reason": "so it came out", **more}


def lost(before: list[dict[str, Any]], now: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """The neurons lost, each with what it is now."""
    return [(one.neuron, one.now) for one in lost_claims({"verdicts": before}, now)]


# --- what is lost -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("verdict", VERDICTS)
def test_a_validated_neuron_is_kept_by_validated_alone(verdict: str) -> None:
    expected = [] if verdict == "validated" else [("L1N17", verdict)]
    assert lost([entry()], [entry(verdict)]) == expected


@pytest.mark.parametrize("verdict", [v for v in VERDICTS if v != "validated"])
def test_what_was_not_validated_cannot_be_lost(verdict: str) -> None:
    assert lost([entry(verdict)], [entry("refuted")]) == []
    assert lost([entry(verdict)], []) == []


@pytest.mark.parametrize(
    "now",
    [[], [entry(neuron="L1N18")], [entry(token=" cat")], [entry(token=17)]],
    ids=["no claims", "another neuron", "another token", "a token id"],
)
def test_a_neuron_that_no_claim_is_about_is_lost(now: list[dict[str, Any]]) -> None:
    (one,) = lost_claims({"verdicts": [entry()]}, now)
    assert (one.id, one.token, one.neuron, one.now) == ("dog", " dog", "L1N17", "not_measured")
    assert one.reason == "no claim of this run is about it"


def test_a_lost_neuron_says_why() -> None:
    (one,) = lost_claims({"verdicts": [entry()]}, [entry("lever", reason="it no longer reads")])
    assert (one.now, one.reason) == ("lever", "it no longer reads")


def test_a_neuron_is_the_same_under_another_id_or_lens() -> None:
    assert lost([entry(lens="paper")], [entry(id="hound", lens="read")]) == []


@pytest.mark.parametrize("turned", [False, True])
def test_of_several_claims_about_a_neuron_one_that_holds_is_enough(turned: bool) -> None:
    now = [entry("refuted", pole="-"), entry("validated", pole="+")]
    assert lost([entry()], now[::-1] if turned else now) == []


def test_the_order_is_the_baselines() -> None:
    before = [entry(neuron=n) for n in ("L3N1", "L0N2", "L2N9")]
    assert lost(before, [entry(neuron="L0N2")]) == [("L3N1", "not_measured"), ("L2N9", "not_measured")]


def test_nothing_before_nothing_lost() -> None:
    assert lost([], [entry("refuted")]) == []


# --- reading it -------------------------------------------------------------------------------------------


def test_the_results_of_a_run_are_read(tmp_path: Path) -> None:
    results = {"schema_version": SCHEMA_VERSION, "verdicts": [entry()]}
    (tmp_path / "results.json").write_text(json.dumps(results))
    assert load_results(tmp_path) == results
    assert load_results(str(tmp_path)) == results


@pytest.mark.parametrize(
    ("content", "told"),
    [
        pytest.param(None, "cannot be read", id="no file"),
        pytest.param(b"", "cannot be read", id="empty"),
        pytest.param(b'{"schema_version": 1', "cannot be read", id="cut off"),
        pytest.param(b"\xff\xfe", "cannot be read", id="not UTF-8"),
        pytest.param(b"[]", "no run's results", id="list"),
        pytest.param(b"null", "no run's results", id="null"),
        pytest.param(b"{}", "no run's results", id="empty object"),
        pytest.param(b'{"schema_version": 1}', "no run's results", id="no verdicts"),
        pytest.param(b'{"schema_version": 0, "verdicts": []}', "has schema 0, this release reads", id="older"),
        pytest.param(b'{"schema_version": 99, "verdicts": []}', "has schema 99, this release reads", id="newer"),
        pytest.param(b'{"verdicts": []}', "has schema None", id="no schema"),
    ],
)
def test_what_is_no_run_is_refused_in_one_line(tmp_path: Path, content: bytes | None, told: str) -> None:
    if content is not None:
        (tmp_path / "results.json").write_bytes(content)
    with pytest.raises(RunError, match=told) as caught:
        load_results(tmp_path)
    assert_one_line_with_next_step(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("x")
    with pytest.raises(RunError, match="cannot be read"):
        load_results(tmp_path / "report.html")
