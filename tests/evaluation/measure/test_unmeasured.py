"""What cannot be measured gives its reason and spoils no other claim; a mistake of ours or a leak stops everything."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fixtures.build import VOCAB
from flashinterp import NeuronId
from flashinterp.errors import ClampError, RunError
from flashinterp.evaluation import measure as measure_module
from flashinterp.evaluation import natural_range as natural_module
from flashinterp.evaluation.claims import Claim
from flashinterp.evaluation.evidence import Evidence
from flashinterp.evaluation.experiment import Experiment
from flashinterp.evaluation.matched_controls import Controls
from flashinterp.evaluation.measure import measure
from flashinterp.evaluation.prompts import PromptSet, shipped
from flashinterp.evaluation.verdict import Rule, judge
from flashinterp.interventions.dose_response import sweep
from flashinterp.models.activations import Activations, capture
from flashinterp.neurons import Block
from tests.architecture_cases import Case
from tests.evaluation.measure.planted_claims import ODD, QUICK, claims_of, odd_claims

# --- what cannot be measured -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"token": " Dumbledore"}, "not one token"),
        ({"token": VOCAB}, f"{VOCAB} is out of range"),
        ({"neuron": NeuronId(4, 0)}, "L4N0 is out of range"),
        ({"neuron": NeuronId(0, 256)}, "L0N256 is out of range"),
        ({"neuron": None}, "broken names no neuron"),
    ],
    ids=str,
)
def test_a_claim_that_cannot_be_measured_gives_its_reason_and_spoils_no_other(
    bench: Experiment, truth: dict[str, Any], change: dict[str, Any], reason: str
) -> None:
    (good,) = claims_of(truth, "dog")
    small = replace(bench, profile=replace(QUICK, controls=19, prompts=3))
    bad, fine = measure(small, [replace(good, id="broken", **change), good])
    assert isinstance(bad, str)
    assert reason in bad
    (alone,) = measure(small, [good])
    assert isinstance(fine, Evidence)
    assert isinstance(alone, Evidence)
    np.testing.assert_array_equal(fine.log_odds, alone.log_odds)


@pytest.mark.parametrize(
    ("what", "value"), [("up", np.nan), ("up", np.inf), ("up", -np.inf), ("gate", np.nan), ("gate", np.inf)]
)
def test_a_block_without_finite_values_spoils_the_claims_of_that_block_alone(
    bench: Experiment,
    truth: dict[str, Any],
    odd: list[Evidence],
    monkeypatch: pytest.MonkeyPatch,
    what: str,
    value: float,
) -> None:
    def overflows(*args: Any) -> list[dict[Block, Activations]]:
        found = capture(*args)
        getattr(found[2][Block(1)], what)[1, 200] = value  # one number of a neuron that nobody claims
        return found

    monkeypatch.setattr(natural_module, "capture", overflows)
    dog, king, california = measure(replace(bench, profile=ODD), odd_claims(truth))
    assert dog == king == "neurons of layer 1 have values that are not finite numbers: run the model in a wider dtype"
    assert isinstance(california, Evidence)
    np.testing.assert_allclose(california.log_odds, odd[2].log_odds, atol=1e-4)
    np.testing.assert_allclose(california.control_effects, odd[2].control_effects, atol=1e-4)
    verdicts = judge(odd_claims(truth), [dog, king, california], rule=Rule(), seed=0)
    assert [v.verdict for v in verdicts[:2]] == ["not_measured"] * 2
    assert verdicts[2].verdict != "not_measured"


def test_a_control_that_cannot_be_swept_spoils_the_claims_of_its_block_alone(
    bench: Experiment,
    truth: dict[str, Any],
    odd: list[Evidence],
    odd_controls: list[Controls],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broken = NeuronId(1, odd_controls[0].neurons[0])

    def refuses(model: Any, tokenizer: Any, prompts: Any, neurons: Any, *rest: Any) -> Any:
        if broken in neurons:
            raise ClampError(f"{broken} cannot be clamped: choose another neuron")
        return sweep(model, tokenizer, prompts, neurons, *rest)

    monkeypatch.setattr(measure_module, "sweep", refuses)
    dog, king, california = measure(replace(bench, profile=ODD), odd_claims(truth))
    assert dog == king == f"its controls cannot be swept: {broken} cannot be clamped: choose another neuron"
    assert isinstance(california, Evidence)
    np.testing.assert_allclose(california.log_odds, odd[2].log_odds, atol=1e-4)
    np.testing.assert_allclose(california.control_effects, odd[2].control_effects, atol=1e-4)
    verdicts = judge(odd_claims(truth), [dog, king, california], rule=Rule(), seed=0)
    assert [v.verdict for v in verdicts[:2]] == ["not_measured"] * 2
    assert verdicts[0].reason == dog


@pytest.mark.parametrize("step", ["measure_kl", "measure_identity_error", "_theme"])
def test_a_target_that_cannot_be_measured_spoils_itself_alone(
    bench: Experiment, truth: dict[str, Any], odd: list[Evidence], monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    right = getattr(measure_module, step)

    def refuses(bench: Experiment, target: Any, *rest: Any) -> Any:
        if getattr(target, "neuron", None) in (17, NeuronId(1, 17)):
            raise ClampError("no")
        return right(bench, target, *rest)

    monkeypatch.setattr(measure_module, step, refuses)
    dog, king, california = measure(replace(bench, profile=ODD), odd_claims(truth))
    assert dog == "no"
    for again, e in ((king, odd[1]), (california, odd[2])):
        assert isinstance(again, Evidence)
        np.testing.assert_array_equal(again.log_odds, e.log_odds)
        np.testing.assert_array_equal(again.control_effects, e.control_effects)


def test_a_neuron_of_an_expert_is_measured_and_one_that_is_not_reached_is_not(
    case: Callable[[str], Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    mixtral = case("mixtral")
    bench = Experiment(mixtral.model, mixtral.checkpoint, shipped(), ODD, seed=0)
    claims = [Claim(f"e{e}", " dog", NeuronId(1, 3, e), "+", "paper", None, "file") for e in (1, 2)]
    whole = measure(bench, claims)

    def without_the_second(*args: Any) -> list[dict[Block, Activations]]:
        found = capture(*args)
        for seen in found:
            if Block(1, 2) in seen:
                seen[Block(1, 2)] = replace(seen[Block(1, 2)], weight=0 * seen[Block(1, 2)].weight)
        return found

    monkeypatch.setattr(natural_module, "capture", without_the_second)
    one, two = measure(bench, claims)
    assert isinstance(one, Evidence)
    assert isinstance(two, str)
    assert "L1E2N3" in two
    assert "only 0 tokens are routed" in two
    for e in whole:
        assert isinstance(e, Evidence)
        assert e.unfit() is None
        assert e.identity_error <= 1e-5
        assert e.control_effects.shape == (8,)
    assert isinstance(whole[0], Evidence)
    np.testing.assert_allclose(one.log_odds, whole[0].log_odds, atol=1e-4)


# --- mistakes of ours ------------------------------------------------------------------------------------


def test_a_mistake_of_ours_in_a_controls_sweep_is_not_hidden(
    bench: Experiment, truth: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(model: Any, tokenizer: Any, prompts: Any, neurons: Any, *rest: Any) -> Any:
        if len(neurons) > 1:
            raise ZeroDivisionError
        return sweep(model, tokenizer, prompts, neurons, *rest)

    monkeypatch.setattr(measure_module, "sweep", breaks)
    with pytest.raises(ZeroDivisionError):
        measure(replace(bench, profile=ODD), claims_of(truth, "dog"))


def test_what_only_breaks_by_a_mistake_of_ours_is_not_hidden(
    bench: Experiment, truth: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(*_: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr(measure_module, "measure_kl", breaks)
    with pytest.raises(ZeroDivisionError):
        measure(replace(bench, profile=ODD), claims_of(truth, "dog"))


# --- the split -------------------------------------------------------------------------------------------


def leaked_prompt(prompts: PromptSet) -> PromptSet:
    first, *rest = prompts.groups
    return replace(prompts, groups=(replace(first, heldout=(*first.heldout, rest[3].selection[2])), *rest))


def leaked_context(prompts: PromptSet) -> PromptSet:
    return replace(prompts, contexts_heldout=(*prompts.contexts_heldout, prompts.contexts_selection[0].upper()))


def leaked_beginning(prompts: PromptSet) -> PromptSet:
    return replace(prompts, contexts_selection=(*prompts.contexts_selection, prompts.heldout[-1].rsplit(" ", 1)[0]))


@pytest.mark.parametrize("leak", [leaked_prompt, leaked_context, leaked_beginning])
def test_a_text_on_both_sides_stops_everything_before_the_model_is_run(
    bench: Experiment, truth: dict[str, Any], leak: Callable[[PromptSet], PromptSet]
) -> None:
    leaky = replace(bench, model=None, prompts=leak(bench.prompts))
    with pytest.raises(RunError, match="is not apart from the selection text"):
        measure(leaky, claims_of(truth))
    with pytest.raises(RunError):
        measure(leaky, [])
