"""Claims judged together: false discovery, order and seed, what was not measured, and a family of noise."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashinterp import NeuronId
from flashinterp.evaluation.claims import Claim
from flashinterp.evaluation.evidence import Evidence
from flashinterp.evaluation.verdict import Rule, Verdict, judge
from tests.evaluation.verdict.broken_cases import CASES, RULE, judged
from tests.evidence_by_hand import (
    CLAIM,
    CONTEXTS,
    CONTROLS,
    DOSES,
    FLAT,
    PROMPTS,
    RISING,
    STRONG,
    WORDS,
    beaten,
    evidence,
)
from tests.examples import examples


def test_what_was_not_measured_says_why_and_does_not_count() -> None:
    claims = [replace(CLAIM, id=f"c{i}") for i in range(12)]
    verdicts = judge(claims, [evidence(), *["no such token"] * 11], rule=RULE, seed=0)
    assert [v.verdict for v in verdicts] == ["validated"] + ["not_measured"] * 11
    assert verdicts[1].reason == "no such token"
    assert (verdicts[1].writes, verdicts[1].reads) == (None, None)
    json.dumps([v.record() for v in verdicts], allow_nan=False)


def test_q_is_over_the_family() -> None:
    # 3 of 199 controls do as much: p = 4/200 on each side, enough alone, not beside nine claims of nothing.
    middling = evidence(control_effects=beaten(3, 9.0), control_separations=beaten(3, 50.0))
    nothing = evidence(log_odds=RISING[:, ::-1], present=-STRONG.present)

    def first(others: list[Evidence]) -> Verdict:
        claims = [replace(CLAIM, id=f"c{i}") for i in range(1 + len(others))]
        return judge(claims, [middling, *others], rule=RULE, seed=0)[0]

    alone, among_true, among_null = first([]), first([middling] * 9), first([nothing] * 9)
    assert [v.verdict for v in (alone, among_true, among_null)] == ["validated", "validated", "inconclusive"]
    assert [v.writes.q for v in (alone, among_true, among_null) if v.writes] == pytest.approx([0.02, 0.02, 0.2])
    assert [v.writes.p for v in (alone, among_true, among_null) if v.writes] == pytest.approx([0.02] * 3)


@examples(8)
@given(order=st.permutations(sorted(CASES)))
def test_the_order_of_the_claims_does_not_matter(order: list[str]) -> None:
    def family(names: list[str]) -> dict[str, Any]:
        claims = [replace(CLAIM, id=name, **CASES[name][0]) for name in names]
        found = [evidence(**CASES[name][1]) for name in names]
        return {v.claim.id: v.record() for v in judge(claims, found, rule=RULE, seed=1)}

    assert family(order) == family(sorted(CASES))


def test_the_seed_moves_the_interval_and_nothing_else() -> None:
    first, same, other = (judged({}, {}, seed).record() for seed in (0, 0, 1))
    assert first == same
    assert first != other
    for record in (first, other):
        for side in ("writes", "reads"):
            for name in [k for k in record["figures"][side]["figures"] if k.endswith(("_low", "_high"))]:
                del record["figures"][side]["figures"][name]
    assert first == other


def test_an_undefined_test_stays_in_the_family_as_one() -> None:
    claims = [Claim(f"c{i}", "x", NeuronId(0, i), "+", "paper", None, "file") for i in range(2)]
    alone, beside = (judge(claims[:n], [STRONG, evidence(log_odds=FLAT)][:n], rule=Rule(), seed=0)[0] for n in (1, 2))
    assert alone.writes is not None
    assert beside.writes is not None
    assert alone.writes.q is not None
    assert beside.writes.q == pytest.approx(2 * alone.writes.q)


def test_nothing_at_all_is_no_verdict() -> None:
    assert judge([], [], rule=RULE, seed=0) == []


def test_claims_and_evidence_must_pair() -> None:
    with pytest.raises(ValueError, match="zip"):
        judge([CLAIM], [], rule=RULE, seed=0)


@pytest.mark.slow  # a simulation
def test_a_family_of_noise_gives_no_more_validated_than_the_level() -> None:
    # Targets drawn like their controls, on both sides: the false discovery rate is the chance of any.
    draw, runs, wrong = np.random.default_rng(20250105), 60, 0
    for _ in range(runs):
        found = []
        for _ in range(5):
            slope, separations = draw.normal(0, 1, CONTROLS + 1), draw.normal(0, 1, (CONTEXTS, WORDS + 1))
            curve = draw.normal(size=(PROMPTS, 1)) + slope[0] * np.linspace(0, 1, DOSES)
            found.append(
                evidence(
                    log_odds=curve + 1e-3 * draw.normal(size=(PROMPTS, DOSES)),
                    control_effects=slope[1:],
                    present=separations[:, 0],
                    absent=separations[:, 1:],
                    control_separations=0.5 * draw.normal(size=CONTROLS),
                )
            )
        claims = [replace(CLAIM, id=f"c{i}") for i in range(5)]
        wrong += any(v.verdict == "validated" for v in judge(claims, found, rule=RULE, seed=0))
    assert wrong / runs <= 0.05
