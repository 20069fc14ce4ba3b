"""The evidence as an in-toto Statement v1: of its shape, about the model's bytes, and honest about who says it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from flashinterp._util.files import sha256_of
from flashinterp.errors import RunError
from flashinterp.models.checkpoint import Checkpoint
from flashinterp.runs.folder.run_folder import MANIFEST
from flashinterp.runs.verify.in_toto import statement
from tests.runs.finished_run import begun, copied, finished


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, planted: Checkpoint, tuned: Checkpoint) -> Path:
    return finished(tmp_path_factory.mktemp("whole") / "run", planted, tuned)


def assert_statement_v1(made: Any) -> None:
    """What the in-toto Attestation Framework's spec of Statement v1 demands, field by field.

    ``_type`` is its URI; ``subject`` has at least one ResourceDescriptor, each with a digest set of algorithm to lower
    case hex, names unique within the statement; ``predicateType`` is a URI; ``predicate`` is an object.
    """
    assert set(made) == {"_type", "subject", "predicateType", "predicate"}
    assert made["_type"] == "https://in-toto.io/Statement/v1"
    assert made["subject"]
    for subject in made["subject"]:
        assert set(subject) <= {"name", "uri", "digest", "content", "downloadLocation", "mediaType", "annotations"}
        assert subject["digest"]
        assert all(re.fullmatch("[0-9a-f]{64}", value) for value in subject["digest"].values())
        assert set(subject["digest"]) == {"sha256"}
    names = [subject["name"] for subject in made["subject"]]
    assert len(set(names)) == len(names)
    assert re.fullmatch(r"[a-z][a-z0-9+.-]*:\S+", made["predicateType"])
    assert isinstance(made["predicate"], dict)
    json.dumps(made, allow_nan=False)


def test_it_is_a_statement_about_the_models_files(whole: Path, planted: Checkpoint, tuned: Checkpoint) -> None:
    made = statement(whole)
    assert_statement_v1(made)
    found = {subject["name"]: subject["digest"]["sha256"] for subject in made["subject"]}
    expected = {f"model/{k}": v for k, v in planted.digests.items()} | {
        f"tuned/{k}": v for k, v in tuned.digests.items()
    }
    assert found == expected
    assert "model/model.safetensors" in found


def test_it_says_what_was_claimed_found_and_by_whom(whole: Path) -> None:
    predicate = statement(whole)["predicate"]
    assert predicate["assuranceLevel"] == "self_attested"
    assert predicate["evaluator"]["name"] == "flashinterp"
    assert predicate["outcome"] == {"status": "failed", "partial": False, "self_test": True}
    assert predicate["thresholds"]["claims"]["alpha"] == 0.05
    told = {r["claim"]["id"]: (r["threshold"], r["value"], r["passed"]) for r in predicate["results"]}
    assert told["dog"] == ("validated", "validated", True)
    assert told["late"] == ("validated", "not_measured", False)
    assert told["a b"] == (None, "detector", None)  # a discovery was claimed by nobody


def test_it_pins_the_evidence(whole: Path) -> None:
    evidence = {e["name"]: e["digest"]["sha256"] for e in statement(whole)["predicate"]["evidence"]}
    assert set(evidence) == {MANIFEST, "results.json", "claims.lock.json"}
    assert all(digest == sha256_of(whole / name) for name, digest in evidence.items())


def test_it_is_the_same_for_the_same_folder(whole: Path, tmp_path: Path) -> None:
    assert statement(whole) == statement(copied(whole, tmp_path / "run"))


def test_what_does_not_verify_is_not_attested(whole: Path, tmp_path: Path, planted: Checkpoint) -> None:
    run = copied(whole, tmp_path / "run")
    (run / "report.md").write_text("mine")
    with pytest.raises(RunError, match=r"cannot be attested: digests: report\.md"):
        statement(run)
    with pytest.raises(RunError, match="cannot be attested: manifest's digest"):
        statement(whole, "0" * 64)
    unfinished = begun(tmp_path / "begun", planted, None).folder.path
    with pytest.raises(RunError, match="cannot be attested: complete: the run is incomplete"):
        statement(unfinished)
