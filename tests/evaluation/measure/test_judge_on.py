"""A family measured and judged at once: the rule and the seed are those that were given."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from flashinterp.evaluation import measure as module
from flashinterp.evaluation.measure import judge_on
from flashinterp.evaluation.verdict import Rule, judge
from tests.evidence_by_hand import CLAIM, STRONG


def test_it_is_measure_then_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "measure", lambda bench, claims: [STRONG, "no such neuron"])
    bench: Any = SimpleNamespace(seed=3)
    claims, rule = (CLAIM, replace(CLAIM, id="other")), replace(Rule(), alpha=0.2)
    found = judge_on(bench, claims, rule)
    assert (found.claims, found.evidence) == (claims, (STRONG, "no such neuron"))
    wanted = judge(claims, found.evidence, rule=rule, seed=3)
    assert [v.record() for v in found.verdicts] == [v.record() for v in wanted]
