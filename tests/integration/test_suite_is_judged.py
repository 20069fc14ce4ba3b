"""The evals are put to the test themselves: with one fault planted in the library, the right one must fail."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import import_all
from tests.integration.faults import clamping, decoding, editing, judging, naming, preserving
from tests.integration.faults.running import CAUSALITY, REGRESSION, ROOT, Evals, Run

pytest_plugins = ["pytester"]

FAULTS = {
    **decoding.FAULTS,
    **clamping.FAULTS,
    **judging.FAULTS,
    **naming.FAULTS,
    **preserving.FAULTS,
    **editing.FAULTS,
}


@pytest.fixture(scope="module", autouse=True)
def imported(planted_model: Any) -> None:
    """What pytester would forget after each run and import again is imported before the first."""
    assert planted_model is not None
    import_all()


@pytest.fixture
def evals(pytester: pytest.Pytester) -> Evals:
    return Evals(pytester)


# --- one fault at a time --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_turns_its_eval_red(evals: Evals, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    fault = FAULTS[name]
    fault.plant(monkeypatch)
    run = evals(f"{fault.where}::{fault.test}", *fault.args)
    assert run.code == 1
    assert list(run.red) == [fault.test]
    assert fault.told in run.red[fault.test]
    assert run.results["status"] == "failed"


def test_the_decoys_are_named(evals: Evals, truth: dict[str, Any]) -> None:
    run = evals(CAUSALITY)
    assert run.code == 0, run.red
    assert run.verdicts == {plant["id"]: plant["verdict"] for plant in truth["plants"]}


# --- claims from a file, and a baseline -------------------------------------------------------------------


def write_claims(path: Path, truth: dict[str, Any], expect: dict[str, str], more: str = "") -> Path:
    """A claim file about the planted neurons, with the verdicts that are expected of them."""
    keys = {"id": "id", "token": "token", "name": "neuron", "pole": "pole", "lens": "lens"}
    tables = [
        "[[claim]]\n" + "".join(f"{key} = {json.dumps(plant[name])}\n" for name, key in keys.items())
        + f"expect = {json.dumps(expect[plant['id']])}\n"
        for plant in truth["plants"]
    ]  # fmt: skip
    path.write_text("\n".join([*tables, more]))
    return path


WRONG = '[[claim]]\nid = "wrong-dog"\ntoken = " dog"\nneuron = "L0N3"\nexpect = "validated"\n'


@pytest.fixture
def expected(truth: dict[str, Any]) -> dict[str, str]:
    """The verdict of each planted neuron."""
    return {plant["id"]: plant["verdict"] for plant in truth["plants"]}


@pytest.mark.parametrize("own_model", [False, True], ids=["self-test", "--model"])
def test_a_false_claim_fails_the_run_and_is_named(
    evals: Evals, fixture_folder: Path, truth: dict[str, Any], expected: dict[str, str], own_model: bool
) -> None:
    claims = write_claims(evals.pytester.path / "claims.toml", truth, expected, WRONG)
    given = ["--model", str(fixture_folder / "planted")] if own_model else []
    run = evals(f"{CAUSALITY}::test_claims", "--claims", str(claims), *given)
    assert run.code == 1
    reason = run.red["test_claims"]
    assert "wrong-dog" in reason
    assert not [i for i in expected if f" {i} " in reason]
    assert {i: v for i, v in run.verdicts.items() if i != "wrong-dog"} == expected


def test_a_lost_neuron_fails_the_run_that_has_a_baseline(
    evals: Evals, fixture_folder: Path, truth: dict[str, Any], expected: dict[str, str]
) -> None:
    folder = evals.pytester.path

    def audit(model: str, expect: dict[str, str], *args: str, out: str) -> Run:
        claims = write_claims(folder / f"{out}.toml", truth, expect)
        given = ["--model", str(fixture_folder / model), "--claims", str(claims), str(ROOT / "evals" / REGRESSION)]
        return evals(f"{CAUSALITY}::test_claims", *given, *args, out=out)

    before = audit("planted", expected, out="before")
    assert (before.code, before.verdicts) == (0, expected)

    unfounded = audit("unplanted", expected, out="unfounded")
    assert unfounded.code == 1
    assert "claims that do not hold" in unfounded.red["test_claims"]
    assert "validated" not in unfounded.verdicts.values()

    # The file now claims what is so: only the baseline can object.
    after_all = audit("unplanted", unfounded.verdicts, "--baseline", "before", out="after")
    assert after_all.code == 1
    assert set(after_all.red) == {"test_nothing_is_lost_since_the_baseline"}
    reason = after_all.red["test_nothing_is_lost_since_the_baseline"]
    assert "since the baseline LOST" in reason
    named = {plant["id"] for plant in truth["plants"] if f"at {plant['name']})" in reason}
    assert named == {i for i, v in expected.items() if v == "validated"}
