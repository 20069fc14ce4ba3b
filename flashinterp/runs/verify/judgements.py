"""What was judged, kept in the folder such that anyone can judge it again without the model.

A record names the claims, the rule, the seed, and for each claim the file of raw evidence, or why there is none.
From it and from ``raw/`` come the same verdicts and the same tables, by the functions that made them in the run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flashinterp.evaluation.judgement import Raw, judged_again
from flashinterp.provenance.derivation import Again
from flashinterp.studies.finetuning.role_records import roles_again
from flashinterp.studies.lens_causality.records import study_again


def judge_again(results: Mapping[str, Any], raw: Raw) -> Again:
    """Reach every verdict and role of a run again, from results.json's records and the raw arrays.

    Raises:
        RunError: a record names another that is not there, or evidence that is neither a file nor a reason.
    """
    judgements = {entry["name"]: judged_again(entry, raw) for entry in results["judgements"]}
    roles = {entry["name"]: roles_again(entry, judgements, raw) for entry in results["roles"]}
    return Again(judgements, roles, {entry["name"]: study_again(entry, raw) for entry in results["studies"]})
