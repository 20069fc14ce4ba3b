"""The decision rule on evidence made by hand: a strong case, and one thing broken at a time."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from flashinterp.evaluation.evidence import Evidence
from flashinterp.evaluation.verdict import judge
from tests.evaluation.verdict.broken_cases import (
    CASES,
    COLLAPSING,
    LOUD_ONE,
    QUIET,
    RULE,
    TINY,
    above,
    ending_at,
    judged,
    other_words,
    tangled,
)
from tests.evidence_by_hand import CLAIM, FLAT, beaten, evidence


@pytest.mark.parametrize("case", CASES)
def test_the_rule_table(case: str) -> None:
    claim_changes, changes, wanted, reason = CASES[case]
    verdict = judged(claim_changes, changes)
    assert verdict.verdict == wanted, verdict.record()
    assert reason in verdict.reason


@pytest.mark.parametrize("case", CASES)
def test_every_record_can_be_written_and_holds_no_nan(case: str) -> None:
    record = judged(*CASES[case][:2]).record()
    text = json.dumps(record, allow_nan=False)
    assert json.loads(text) == record


@pytest.mark.parametrize("case", CASES)
def test_a_verdict_can_be_computed_again_from_the_file(case: str) -> None:
    claim_changes, changes, *_ = CASES[case]
    claim, found = replace(CLAIM, **claim_changes), evidence(**changes)
    file = io.BytesIO()
    np.savez(file, **found.arrays())
    file.seek(0)
    with np.load(file, allow_pickle=False) as loaded:
        again = Evidence.from_arrays(dict(loaded))
    first, second = (judge([claim], [e], rule=RULE, seed=3)[0] for e in (found, again))
    assert first.record() == second.record()


@pytest.mark.parametrize(
    ("changes", "writes", "reads"),
    [
        # 39 of 199 above it: p = 0.2, which is still something; 40: it does what others do.
        ({"control_effects": beaten(39, 9.0)}, "unclear", "yes"),
        ({"control_effects": beaten(40, 9.0)}, "no", "yes"),
        ({"control_separations": beaten(39, 50.0)}, "yes", "unclear"),
        ({"control_separations": beaten(40, 50.0)}, "yes", "no"),
        # The interval reaches above the least effect that counts, or stays below it.
        ({"log_odds": ending_at(-0.3, 0.01, 0.3, 0.4, 0.5, 0.6), **TINY}, "unclear", "yes"),
        ({"log_odds": ending_at(-0.3, 0.01, 0.05, 0.1, 0.15, 0.4), **TINY}, "unclear", "yes"),
        ({"log_odds": ending_at(0.01, 0.02, 0.03, 0.04, 0.05, 0.06), **TINY}, "no", "yes"),
        ({"log_odds": FLAT}, "no", "yes"),
        # A strong effect that lacks something else is no absence of an effect.
        ({"log_odds": COLLAPSING}, "unclear", "yes"),
        ({"log_odds": tangled(4)}, "unclear", "yes"),
        ({"unrelated_effects": other_words(11, of=100)}, "unclear", "yes"),
        ({"kl": LOUD_ONE + 1e-3}, "unclear", "yes"),
        ({"control_scale_ratio": 50.0}, "unclear", "unclear"),
        # What does not tell the word apart, or is dead, reads nothing.
        ({"relative_scale": 0.0}, "yes", "no"),
        ({**above(6, 6, 6, 6, 6, 6, 6, 5), **QUIET}, "yes", "no"),
        ({**above(6, 6, 6, 6), **QUIET}, "yes", "unclear"),
        ({"control_effects": np.empty(0), "control_separations": np.empty(0)}, "no", "no"),
    ],
)
def test_a_side_says_no_only_where_there_is_nothing(changes: dict[str, Any], writes: str, reads: str) -> None:
    verdict = judged({}, changes)
    assert verdict.writes is not None
    assert verdict.reads is not None
    assert (verdict.writes.answer, verdict.reads.answer) == (writes, reads)


@pytest.mark.parametrize(
    "case", ["nothing", "reads nothing", "a flat curve", "a dead neuron", "a curve that collapses"]
)
def test_the_whole_rule_is_symmetric_under_the_gauge(case: str) -> None:
    _, changes, wanted, _ = CASES[case]
    e = evidence(**changes)
    turned = replace(
        e, doses=-e.doses[::-1], log_odds=e.log_odds[:, ::-1], control_effects=-e.control_effects, present=-e.present,
        absent=-e.absent, control_separations=-e.control_separations, z_read=-e.z_read, z_write=-e.z_write,
    )  # fmt: skip
    (verdict,) = judge([replace(CLAIM, pole="-")], [turned], rule=RULE, seed=0)
    assert verdict.verdict == wanted
