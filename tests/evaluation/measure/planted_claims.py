"""The planted claims, small profiles to measure them with, and single clamped passes to compare with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, cast

import pytest
import torch

from flashinterp import NeuronId, clamp
from flashinterp.evaluation import measure as measure_module
from flashinterp.evaluation.claims import Claim
from flashinterp.evaluation.evidence import Evidence
from flashinterp.evaluation.experiment import Experiment
from flashinterp.evaluation.matched_controls import Controls, matched_controls
from flashinterp.evaluation.measure import measure
from flashinterp.evaluation.profiles import PROFILES
from flashinterp.evaluation.verdict import Rule, Verdict, judge

SMOKE = PROFILES["smoke"]
QUICK = replace(SMOKE, prompts=4, controls=59, unrelated=10, unrelated_texts=2, stress_doses=3)
# Every size another number, so that none stands for another.
ODD = replace(
    SMOKE, selection=13, prompts=3, contexts=5, absent=7, doses=4, controls=8, unrelated=6, unrelated_texts=2,
    stress_doses=9,
)  # fmt: skip
ODD_CLAIMS = [(" dog", "L1N17"), (" king", "L1N60"), (" California", "L3N31")]


def claims_of(truth: dict[str, Any], *ids: str) -> list[Claim]:
    return [
        Claim(p["id"], p["token"], NeuronId.parse(p["name"]), p["pole"], p["lens"], None, "fixture", p["verdict"])
        for p in truth["plants"]
        if not ids or p["id"] in ids
    ]


def odd_claims(truth: dict[str, Any]) -> list[Claim]:
    by_id = {c.id: c for c in claims_of(truth)}
    return [by_id[i] for i in ("dog", "king", "california")]


def family_verdicts(bench: Experiment, claims: Sequence[Claim]) -> dict[str, Verdict]:
    return {v.claim.id: v for v in judge(claims, measure(bench, claims), rule=Rule(), seed=0)}


def evidence_of(bench: Experiment, truth: dict[str, Any], *ids: str) -> list[Evidence]:
    """The evidence for planted claims, in this order; all of it must be there."""
    by_id = {c.id: c for c in claims_of(truth)}
    found = measure(bench, [by_id[i] for i in ids])
    assert all(isinstance(e, Evidence) for e in found), found
    return cast(list[Evidence], found)


@contextmanager
def controls_noted() -> Iterator[list[Controls]]:
    """The controls that are chosen meanwhile, in order."""
    chosen: list[Controls] = []

    def spy(*args: Any) -> Controls:
        chosen.append(matched_controls(*args))
        return chosen[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure_module, "matched_controls", spy)
        yield chosen


def clamped(bench: Experiment, neuron: NeuronId, value: float | None, ids: torch.Tensor) -> torch.Tensor:
    """[positions, V] log-probabilities in float64, of one text by itself under one clamp, or under none."""
    with torch.no_grad():
        if value is None:
            return bench.model(ids).logits[0].double().log_softmax(-1)
        with clamp(bench.model, {neuron: value}):
            return bench.model(ids).logits[0].double().log_softmax(-1)


def odds(log_p: torch.Tensor) -> float:
    return float(log_p - torch.log(-torch.expm1(log_p)))
