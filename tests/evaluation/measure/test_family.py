"""Claims measured together: what they share, the order they come in, the seed, and how far it has come."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from flashinterp import NeuronId
from flashinterp.evaluation import measure as measure_module
from flashinterp.evaluation.evidence import Evidence
from flashinterp.evaluation.experiment import Experiment
from flashinterp.evaluation.measure import measure
from flashinterp.interventions.dose_response import sweep
from flashinterp.tokens import Token
from tests.evaluation.measure.planted_claims import ODD, QUICK, claims_of, controls_noted, evidence_of


def test_what_claims_share_is_swept_once_for_all_of_them(
    bench: Experiment, truth: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[list[NeuronId], list[str]]] = []

    def spy(model: Any, tokenizer: Any, prompts: Any, neurons: Any, values: Any, tokens: Sequence[Token]) -> Any:
        seen.append((list(neurons), [t.text for t in tokens]))
        return sweep(model, tokenizer, prompts, neurons, values, tokens)

    monkeypatch.setattr(measure_module, "sweep", spy)
    with controls_noted() as chosen:
        evidence_of(replace(bench, profile=ODD), truth, "dog", "california", "king", "king-twin")
    names = [NeuronId.parse(name) for name in ("L1N17", "L3N31", "L1N60", "L1N61")]
    controls = {NeuronId(name.layer, n) for name, c in zip(names, chosen, strict=True) for n in c.neurons}
    every = [neurons for neurons, _ in seen]
    assert every[:2] == [names, names]
    assert [{n.layer for n in neurons} for neurons in every[2:]] == [{1}, {3}]  # controls, block by block
    assert {n for neurons in every[2:] for n in neurons} == controls
    assert all(len(set(neurons)) == len(neurons) for neurons in every)
    for _, tokens in seen[:2]:
        assert {" dog", " king", " California"} <= set(tokens)
        assert len(set(tokens)) == len(tokens)
    # A block's controls are looked at for its own claims' tokens alone; the king and its twin have one.
    assert [tokens for _, tokens in seen[2:]] == [[" dog", " king"], [" California"]]


def test_the_order_of_the_family_does_not_change_what_controls_do(
    bench: Experiment, truth: dict[str, Any], odd: list[Evidence]
) -> None:
    order = ["california", "king", "dog"]
    for name, e in zip(order, evidence_of(replace(bench, profile=ODD), truth, *order), strict=True):
        same = odd[["dog", "king", "california"].index(name)]
        np.testing.assert_allclose(e.control_effects, same.control_effects, atol=1e-5)
        np.testing.assert_allclose(e.control_separations, same.control_separations, rtol=1e-4, atol=1e-6)


def quick_family(
    bench: Experiment, truth: dict[str, Any], ids: Sequence[str], seed: int = 0
) -> dict[str, Evidence | str]:
    by_id = {c.id: c for c in claims_of(truth)}
    return dict(zip(ids, measure(replace(bench, profile=QUICK, seed=seed), [by_id[i] for i in ids]), strict=True))


def test_the_same_seed_measures_the_same_numbers(bench: Experiment, truth: dict[str, Any]) -> None:
    order = ["dog", "california"]
    first, same, other = (quick_family(bench, truth, order, seed) for seed in (0, 0, 1))
    turned = quick_family(bench, truth, order[::-1])
    for name in order:
        one, two, three, four = (family[name] for family in (first, same, other, turned))
        assert isinstance(one, Evidence)
        assert isinstance(two, Evidence)
        assert isinstance(three, Evidence)
        assert isinstance(four, Evidence)
        for field, values in one.arrays().items():
            np.testing.assert_array_equal(two.arrays()[field], values, err_msg=field)
            # Another order of the claims is another order of the sums behind the scales.
            np.testing.assert_allclose(four.arrays()[field], values, rtol=1e-9, err_msg=field)
        np.testing.assert_array_equal(three.log_odds, one.log_odds)  # the prompts are not drawn
        assert not np.array_equal(three.absent, one.absent)  # the words are


def test_progress_counts_every_claim(bench: Experiment, truth: dict[str, Any]) -> None:
    seen: list[tuple[int, int]] = []
    claims = [replace(c, neuron=NeuronId(9, 0)) for c in claims_of(truth, "dog", "king")]
    assert len(measure(bench, claims, lambda done, total: seen.append((done, total)))) == 2
    assert seen == [(1, 2), (2, 2)]


def test_nothing_claimed_is_nothing_measured(bench: Experiment) -> None:
    assert measure(bench, []) == []
