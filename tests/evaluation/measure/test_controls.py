"""Controls: their effects, their scales, and which neurons they are."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from flashinterp import NeuronId
from flashinterp.evaluation import measure as measure_module
from flashinterp.evaluation.evidence import Evidence
from flashinterp.evaluation.experiment import Experiment
from flashinterp.evaluation.matched_controls import DEAD_SCALE, Controls, LayerScale, matched_controls
from flashinterp.evaluation.measure import measure
from flashinterp.evaluation.natural_range import natural_text
from flashinterp.evaluation.verdict import Rule, judge
from flashinterp.interventions.dose_response import sweep
from tests.evaluation.measure.planted_claims import ODD, ODD_CLAIMS, QUICK, claims_of, evidence_of


def test_a_controls_effect_is_that_of_a_sweep_of_it_alone(
    bench: Experiment, odd: list[Evidence], odd_controls: list[Controls]
) -> None:
    ids = [bench.checkpoint.vocabulary.resolve(text).id for text, _ in ODD_CLAIMS]
    small = replace(bench, profile=ODD)
    natural = natural_text(small, [NeuronId.parse(name).block for _, name in ODD_CLAIMS], ids)
    for e, controls, (text, name) in zip(odd, odd_controls, ODD_CLAIMS, strict=True):
        block = NeuronId.parse(name).block
        for i, n in enumerate(controls.neurons):
            ends = np.quantile(natural[block].up[:, n], [0.01, 0.99])
            alone = sweep(bench.model, bench.tokenizer, small.heldout, [NeuronId(block.layer, n)], ends, [text])
            low, high = alone.log_odds[0, :, :, 0].astype(np.float64)
            assert e.control_effects[i] == pytest.approx((high - low).mean(), abs=1e-4)


def test_a_controls_scale_is_its_output_over_its_layers_median(
    bench: Experiment, odd: list[Evidence], odd_controls: list[Controls]
) -> None:
    ids = [bench.checkpoint.vocabulary.resolve(text).id for text, _ in ODD_CLAIMS]
    small = replace(bench, profile=ODD)
    for e, controls, (_, name) in zip(odd, odd_controls, ODD_CLAIMS, strict=True):
        neuron = NeuronId.parse(name)
        scale = natural_text(small, [neuron.block], ids)[neuron.block].scale
        output = scale.activation * scale.column_norm
        np.testing.assert_allclose(e.control_scales, output[list(controls.neurons)] / np.median(output), rtol=1e-4)
        assert e.relative_scale == pytest.approx(output[neuron.neuron] / np.median(output), rel=1e-4)
        assert (e.control_scales > DEAD_SCALE).all()
        assert (e.control_scale_ratio, e.control_norm_ratio) == pytest.approx(
            [controls.scale_ratio, controls.norm_ratio], rel=1e-4
        )


def test_controls_are_alive_and_not_the_target_or_its_twin(
    bench: Experiment, truth: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen: list[Controls] = []

    def spy(scale: LayerScale, *args: Any) -> Controls:
        chosen.append(matched_controls(scale, *args))
        assert (scale.output[list(chosen[-1].neurons)] > DEAD_SCALE * np.median(scale.output)).all()
        return chosen[-1]

    monkeypatch.setattr(measure_module, "matched_controls", spy)
    measure(replace(bench, profile=QUICK), claims_of(truth, "king"))
    assert len(chosen[0].neurons) == QUICK.controls
    assert not {60, 61} & set(chosen[0].neurons)  # the king and its planted twin
    assert 101 not in chosen[0].neurons  # planted dead


def test_without_a_control_there_are_no_effects_and_no_power(
    bench: Experiment, truth: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure_module, "matched_controls", lambda *_: Controls((), None, None))
    (e,) = evidence_of(replace(bench, profile=ODD), truth, "dog")
    for field in ("effects", "written", "scales", "separations"):
        assert getattr(e, f"control_{field}").shape == (0,)
    assert (e.control_scale_ratio, e.control_norm_ratio) == (None, None)
    (verdict,) = judge(claims_of(truth, "dog"), [e], rule=Rule(), seed=0)
    assert (verdict.verdict, "only 0 live neurons" in verdict.reason) == ("inconclusive", True)


def test_controls_that_do_what_the_target_does_leave_nothing_that_only_it_does(
    bench: Experiment, truth: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def itself(scale: LayerScale, target: int, n: int, _: Any) -> Controls:
        return Controls((target,) * n, 1.0, 1.0)

    monkeypatch.setattr(measure_module, "matched_controls", itself)
    claims = claims_of(truth, "dog", "california")
    found = []
    for e in evidence_of(replace(bench, profile=QUICK), truth, "dog", "california"):
        own = float((e.log_odds[:, -1] - e.log_odds[:, 0]).mean())
        np.testing.assert_allclose(e.control_effects, own, atol=1e-5)  # another batch rounds another way
        found.append(replace(e, control_effects=np.full_like(e.control_effects, own)))
    assert {v.verdict for v in judge(claims, found, rule=Rule(), seed=0)} == {"refuted"}
