"""What was judged is kept under names that cannot clash, and comes back as it was."""

from __future__ import annotations

from typing import Any

import pytest

from flashinterp.errors import RunError
from flashinterp.evaluation.claims import Claim, lock
from flashinterp.evaluation.judgement import keep_verdicts
from flashinterp.evaluation.verdict import Rule, judge
from flashinterp.provenance.recorded import Recorded
from flashinterp.runs.verify.judgements import judge_again
from flashinterp.studies.finetuning.role_records import keep_roles
from flashinterp.studies.finetuning.roles import RoleRule, judge_roles
from flashinterp.studies.lens_causality.records import keep_study, studied
from tests.helpers import assert_one_line_with_next_step
from tests.runs.finished_run import CLAIMS, EVIDENCE, SEED, role_evidence, small_study

VERDICTS = judge(CLAIMS, EVIDENCE, rule=Rule(), seed=SEED)
KEPT = keep_verdicts("claims", VERDICTS, EVIDENCE, rule=Rule(), seed=SEED)


def results(**more: Any) -> dict[str, Any]:
    return {"judgements": [KEPT.record], "roles": [], "studies": [], **more}


def test_ids_that_differ_in_signs_only_have_files_of_their_own() -> None:
    """Claims "a b" and "a-b" would overwrite each other's evidence."""
    files = [entry["raw"] for entry in KEPT.record["evidence"]]
    assert files == ["claims--dog", "claims--a-b", "claims--a-b-2", None]
    assert KEPT.record["evidence"][-1]["reason"] == "no time was left"
    assert set(KEPT.arrays) == set(files) - {None}


def test_claims_come_back_as_they_were() -> None:
    assert tuple(map(Claim.from_json, lock(CLAIMS)["claims"])) == CLAIMS


def test_verdicts_roles_and_studies_are_reached_again() -> None:
    found: list[Any] = [role_evidence(), "none", role_evidence(0.0), "none"]
    roles = judge_roles(VERDICTS, found)
    kept = keep_roles("roles", roles, found, base="claims", tuned=None, rule=RoleRule(), words={5: " dog"})
    study = keep_study("lens_predicts_causality--", small_study(), SEED)
    arrays = {**KEPT.arrays, **kept.arrays, **study.arrays}
    again = judge_again(results(roles=[kept.record], studies=[study.record]), arrays.__getitem__)
    assert again.judgements["claims"].verdicts == tuple(VERDICTS)
    assert again.judgements["claims"].claims == CLAIMS
    assert again.roles["roles"].roles == roles
    assert again.roles["roles"].words == {5: " dog"}
    assert again.roles["roles"].tuned is None
    found_again = again.studies["lens_predicts_causality--"]
    assert list(found_again.found.real.picks) == ["write", "paper"]
    assert found_again.results == studied(small_study(), SEED).results
    assert again.resolve(Recorded("judgements", "claims", "verdicts")) == tuple(VERDICTS)


@pytest.mark.parametrize(
    ("recorded", "told"),
    [
        (Recorded("judgements", "none"), "no 'none' among the judgements"),
        (Recorded("roles", "claims"), "no 'claims' among the roles"),
        (Recorded("files", "claims"), "no 'claims' among the files"),  # type: ignore[arg-type]
        (Recorded("judgements", "claims", "__class__"), "is no part of a record"),
    ],
)
def test_what_was_not_recorded_is_not_resolved(recorded: Recorded, told: str) -> None:
    again = judge_again(results(), KEPT.arrays.__getitem__)
    with pytest.raises(RunError, match=told) as caught:
        again.resolve(recorded)
    assert_one_line_with_next_step(caught.value)


@pytest.mark.parametrize("entry", [{"raw": None, "reason": None}, {"raw": "claims--dog", "reason": "both"}])
def test_evidence_is_a_file_or_a_reason(entry: dict[str, Any]) -> None:
    record = {**KEPT.record, "evidence": [entry, *KEPT.record["evidence"][1:]]}
    with pytest.raises(RunError, match="one of the two, and not both"):
        judge_again(results(judgements=[record]), KEPT.arrays.__getitem__)


def test_roles_of_a_judgement_that_is_not_there_are_refused() -> None:
    kept = keep_roles("roles", [], [], base="none", tuned=None, rule=RoleRule(), words={})
    with pytest.raises(RunError, match="which is not recorded"):
        judge_again(results(roles=[kept.record]), KEPT.arrays.__getitem__)
