"""The schema is what a run writes, key for key; what does not follow it is named and refused."""

from __future__ import annotations

import copy
import importlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flashinterp.errors import RunError
from flashinterp.evaluation.claims import VERDICTS
from flashinterp.evaluation.profiles import PROFILES
from flashinterp.models.checkpoint import Checkpoint
from flashinterp.runs.folder.results_schema import SCHEMA_VERSION, check, read_json, read_results, schema, status_of
from flashinterp.runs.folder.run_folder import MANIFEST, RunFolder
from flashinterp.studies.finetuning.roles import ROLES
from tests.helpers import assert_one_line_with_next_step
from tests.runs.finished_run import begun, copied, edit_json, finished


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, planted: Checkpoint, tuned: Checkpoint) -> Path:
    return finished(tmp_path_factory.mktemp("whole") / "run", planted, tuned)


@pytest.fixture(scope="module")
def results(whole: Path) -> dict[str, Any]:
    return read_results(whole)


@pytest.fixture(scope="module")
def validator() -> Any:
    """The reference implementation of the dialect, which CI must have."""
    if not os.environ.get("CI"):
        pytest.importorskip("jsonschema")
    return importlib.import_module("jsonschema").Draft202012Validator


def wrong(value: Any) -> list[str]:
    return list(check(value, schema()))


# --- what a run writes ------------------------------------------------------------------------------------


def test_what_a_run_writes_follows_the_schema(results: dict[str, Any], validator: Any) -> None:
    assert wrong(results) == []
    validator.check_schema(schema())
    validator(schema()).validate(results)


def objects(value: Any, rule: dict[str, Any]) -> Iterator[tuple[set[str], dict[str, Any]]]:
    """Each object of a value with the rule of its shape."""
    if "$ref" in rule:
        rule = schema()["$defs"][rule["$ref"].removeprefix("#/$defs/")]
    for one in rule.get("anyOf", ()):
        if not any(check(value, one)):
            yield from objects(value, one)
    if isinstance(value, dict):
        if "properties" in rule:
            yield set(value), rule
        for key, item in value.items():
            rest = rule.get("additionalProperties")
            inner = rule.get("properties", {}).get(key, rest if isinstance(rest, dict) else {})
            yield from objects(item, inner)
    if isinstance(value, list):
        for item in value:
            yield from objects(item, rule.get("items", {}))


def test_the_schema_knows_no_key_that_no_run_writes(results: dict[str, Any]) -> None:
    """And none that a run writes is unknown: the keys are exact in both directions, for every shape."""
    seen: dict[int, tuple[set[str], dict[str, Any]]] = {}
    for keys, rule in objects(results, schema()):
        written, _ = seen.get(id(rule), (set(), rule))
        seen[id(rule)] = written | keys, rule
    assert len(seen) >= 15  # every shape of the schema was met
    for written, rule in seen.values():
        assert set(rule["properties"]) - written == set()
        if rule["additionalProperties"] is False:
            assert written == set(rule["properties"]) == set(rule["required"])


def test_every_shape_of_the_schema_is_met(results: dict[str, Any]) -> None:
    met = {id(rule) for _, rule in objects(results, schema())}
    shapes = {name: rule for name, rule in schema()["$defs"].items() if "properties" in rule}
    assert {name for name, rule in shapes.items() if id(rule) not in met} == set()


def test_the_words_of_the_schema_are_the_librarys() -> None:
    defs = schema()["$defs"]
    assert defs["verdict"]["properties"]["verdict"]["enum"] == list(VERDICTS)
    assert defs["role"]["properties"]["role"]["enum"] == [*ROLES, None]
    assert schema()["properties"]["profile"]["enum"] == list(PROFILES)
    assert schema()["properties"]["schema_version"] == {"const": SCHEMA_VERSION}


# --- what is wrong is named -------------------------------------------------------------------------------


CHANGES: list[Any] = [
    pytest.param(lambda r: r.pop("seed"), "$ lacks 'seed'", id="a key less"),
    pytest.param(lambda r: r.update(mine=1), "$.mine is not known", id="a key more"),
    pytest.param(lambda r: r.update(seed="3"), "$.seed is a str, not integer", id="a type"),
    pytest.param(lambda r: r.update(seed=True), "$.seed is a bool, not integer", id="a bool is no integer"),
    pytest.param(lambda r: r.update(seed=1.5), "$.seed is a float", id="a fraction is no integer"),
    pytest.param(lambda r: r.update(seed=-1), "$.seed is -1, below 0", id="below the least"),
    pytest.param(lambda r: r.update(self_test=1), "$.self_test is a int", id="a number is no bool"),
    pytest.param(lambda r: r.update(model=None), "$.model is a NoneType", id="null"),
    pytest.param(lambda r: r["tuned"].pop("mlps"), "$.tuned is none of", id="one of several"),
    pytest.param(lambda r: r["verdicts"][1].update(verdict="true"), "$.verdicts[1].verdict is 'true'", id="a word"),
    pytest.param(lambda r: r["verdicts"][0].update(neuron="17"), "does not match", id="a pattern"),
    pytest.param(lambda r: r["model"]["digests"].update(x="00"), "$.model.digests.x is '00'", id="a digest"),
    pytest.param(lambda r: r["tables"][0]["rows"][0].__setitem__(0, []), "$.tables[0].rows[0][0]", id="a cell"),
    pytest.param(lambda r: r["ledger"].update(passed=0.5), "$.ledger.passed is a float", id="a count"),
    pytest.param(lambda r: r.update(docs={}), "$.docs is a dict, not array", id="no list"),
]


@pytest.mark.parametrize(("change", "told"), CHANGES)
def test_what_is_wrong_is_named_with_its_place(
    results: dict[str, Any], validator: Any, change: Callable[[Any], Any], told: str
) -> None:
    changed = copy.deepcopy(results)
    change(changed)
    found = wrong(changed)
    assert any(told in line for line in found), found
    assert not validator(schema()).is_valid(changed)


@pytest.mark.parametrize("value", [None, [], 3, "x", True, {}])
def test_anything_may_be_asked(value: Any, validator: Any) -> None:
    assert wrong(value) != []
    assert not validator(schema()).is_valid(value)


def test_a_whole_float_is_an_integer_as_the_standard_has_it(results: dict[str, Any], validator: Any) -> None:
    changed = {**results, "seed": 3.0}
    assert wrong(changed) == []
    assert validator(schema()).is_valid(changed)


# --- reading ----------------------------------------------------------------------------------------------


def test_results_are_read_and_their_end_is_told(whole: Path, results: dict[str, Any]) -> None:
    assert results["status"] == status_of(whole) == "failed"


@pytest.mark.parametrize("version", [0, 2, "1", None, True, 1e400])
def test_another_version_is_refused_by_name(whole: Path, tmp_path: Path, version: Any) -> None:
    run = copied(whole, tmp_path / "run")
    found = json.loads((run / "results.json").read_text())
    (run / "results.json").write_text(json.dumps({**found, "schema_version": version}))
    with pytest.raises(RunError, match="has schema .*, this release reads 1|holds Infinity") as caught:
        read_results(run)
    assert_one_line_with_next_step(caught.value)


def test_results_that_do_not_follow_are_refused_by_their_place(whole: Path, tmp_path: Path) -> None:
    run = copied(whole, tmp_path / "run")
    edit_json(run / "results.json", lambda r: r["verdicts"][0].pop("token"))
    with pytest.raises(RunError, match=r"\$\.verdicts\[0\] lacks 'token'") as caught:
        read_results(run)
    assert_one_line_with_next_step(caught.value)


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
def test_a_number_that_is_not_finite_is_refused(tmp_path: Path, constant: str) -> None:
    (tmp_path / "x.json").write_text(f'{{"p": {constant}}}')
    with pytest.raises(RunError, match=f"it holds {constant}"):
        read_json(tmp_path / "x.json")


@pytest.mark.parametrize("content", [b"", b"[1]", b"{", b"\xff", b"[" * 100_000], ids=str)
def test_what_is_no_object_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(RunError) as caught:
        read_json(tmp_path / "x.json")
    assert_one_line_with_next_step(caught.value)


# --- incomplete -------------------------------------------------------------------------------------------


def test_a_run_that_has_begun_is_incomplete_and_says_so(tmp_path: Path, planted: Checkpoint) -> None:
    run = begun(tmp_path / "run", planted, None).folder.path
    assert status_of(run) == "incomplete"
    assert "INCOMPLETE" in (run / "report.md").read_text()
    with pytest.raises(RunError, match=r"results\.json is not there: the run is incomplete") as caught:
        read_results(run)
    assert_one_line_with_next_step(caught.value)


def test_results_without_a_manifest_are_of_no_finished_run(whole: Path, tmp_path: Path) -> None:
    """A run that was killed between the last two files: its results say how the tests ended, and nothing pins them."""
    run = copied(whole, tmp_path / "run")
    (run / MANIFEST).unlink()
    assert status_of(run) == "incomplete"
    with pytest.raises(RunError, match="of a run that is incomplete") as caught:
        read_results(run)
    assert_one_line_with_next_step(caught.value)


def test_a_run_that_is_replaced_is_incomplete_from_its_first_moment(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The former manifest goes first: killed half-way, the folder is no finished run of yesterday."""
    run = copied(whole, tmp_path / "run")
    unlink, gone = Path.unlink, []

    def killed(path: Path, missing_ok: bool = False) -> None:
        if path.parent == run and path.name in ("claims.lock.json", MANIFEST):
            gone.append(path.name)
            if len(gone) == 2:
                raise KeyboardInterrupt
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", killed)
    with pytest.raises(KeyboardInterrupt):
        RunFolder.create(run)
    assert gone[0] == MANIFEST
    assert status_of(run) == "incomplete"


def test_what_is_no_run_has_no_status(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is no run's folder") as caught:
        status_of(tmp_path)
    assert_one_line_with_next_step(caught.value)
