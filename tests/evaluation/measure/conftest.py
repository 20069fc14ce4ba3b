"""One bench and one family of evidence, which the tests of measuring share."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from flashinterp import Checkpoint
from flashinterp.evaluation.evidence import Evidence
from flashinterp.evaluation.experiment import Experiment
from flashinterp.evaluation.matched_controls import Controls
from flashinterp.evaluation.measure import measure
from flashinterp.evaluation.prompts import shipped
from flashinterp.evaluation.verdict import Rule, Verdict, judge
from tests.evaluation.measure.planted_claims import (
    ODD,
    ODD_CLAIMS,
    SMOKE,
    claims_of,
    controls_noted,
    evidence_of,
    odd_claims,
)


@pytest.fixture(scope="session")
def bench(planted: Checkpoint, planted_model: Any) -> Experiment:
    return Experiment(planted_model, planted, shipped(), SMOKE, seed=0)


@pytest.fixture(scope="session")
def measured(bench: Experiment, truth: dict[str, Any]) -> list[Evidence | str]:
    return measure(bench, claims_of(truth))


@pytest.fixture(scope="session")
def verdicts(measured: list[Evidence | str], truth: dict[str, Any]) -> dict[str, Verdict]:
    claims = claims_of(truth)
    return {v.claim.id: v for v in judge(claims, measured, rule=Rule(), seed=0)}


@pytest.fixture(scope="session")
def odd_measured(bench: Experiment, truth: dict[str, Any]) -> tuple[list[Evidence], list[Controls]]:
    with controls_noted() as chosen:
        found = evidence_of(replace(bench, profile=ODD), truth, "dog", "king", "california")
    assert [(c.token, str(c.neuron)) for c in odd_claims(truth)] == ODD_CLAIMS
    return found, chosen


@pytest.fixture(scope="session")
def odd(odd_measured: tuple[list[Evidence], list[Controls]]) -> list[Evidence]:
    """Dog, king and California, with sizes that are all different."""
    return odd_measured[0]


@pytest.fixture(scope="session")
def odd_controls(odd_measured: tuple[list[Evidence], list[Controls]]) -> list[Controls]:
    """Their controls."""
    return odd_measured[1]
