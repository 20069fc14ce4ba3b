"""The noise floor and the identity of a clamp; and a broken instrument is no finding."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from flashinterp import NeuronId, clamp
from flashinterp.errors import ClampError
from flashinterp.evaluation import clamp_checks
from flashinterp.evaluation import measure as measure_module
from flashinterp.evaluation.claims import Claim
from flashinterp.evaluation.evidence import Evidence
from flashinterp.evaluation.experiment import Experiment
from flashinterp.evaluation.matched_controls import Controls, LayerScale, matched_controls
from flashinterp.interventions import clamp_hooks, clamp_values
from flashinterp.interventions import dose_response as sweep_module
from flashinterp.models.activations import capture, encode
from flashinterp.neurons import Block
from tests.evaluation.measure.planted_claims import (
    QUICK,
    claims_of,
    clamped,
    family_verdicts,
)

# --- the means -------------------------------------------------------------------------------------------


def test_the_means_are_sound(measured: list[Evidence | str]) -> None:
    for e in measured:
        assert isinstance(e, Evidence)
        assert e.identity_error <= e.noise_floor + 1e-6
        assert 0 < e.noise_floor < 1e-4  # float32, where two batches never agree for certain


@contextmanager
def logits_that_differ(
    bench: Experiment, by: float, at: Callable[[int], bool] = lambda rows: rows > 1
) -> Iterator[None]:
    """A model whose logit of token 7 depends on how many rows share its pass."""

    def shift(module: Any, args: Any, out: torch.Tensor) -> torch.Tensor:
        out = out.clone()
        out[..., 7] += by if at(len(out)) else 0.0
        return out

    handle = bench.model.lm_head.register_forward_hook(shift)
    try:
        yield
    finally:
        handle.remove()


def test_the_noise_floor_is_what_the_batch_alone_changes(bench: Experiment) -> None:
    prompt = bench.heldout[0]
    quiet = clamp_checks.measure_noise_floor(bench, prompt)
    with logits_that_differ(bench, 0.01):
        loud = clamp_checks.measure_noise_floor(bench, prompt)
    assert quiet < 1e-5
    assert loud == pytest.approx(0.01, rel=0.05)  # the other tokens lose next to nothing


@pytest.mark.parametrize("differs", [2, 7, 64])
def test_the_noise_floor_is_the_worst_of_several_batches(bench: Experiment, differs: int) -> None:
    with logits_that_differ(bench, 0.01, lambda rows: rows == differs):
        assert clamp_checks.measure_noise_floor(bench, bench.heldout[0]) == pytest.approx(0.01, rel=0.05)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_noise_floor_is_a_unit_in_the_last_place_where_all_batches_agree(
    bench: Experiment, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_p = torch.tensor([[-0.5, -17.25, -3.0]])
    monkeypatch.setattr(clamp_checks, "last_log_probs", lambda model, ids: log_p.expand(len(ids), -1))
    model = SimpleNamespace(dtype=dtype, device=torch.device("cpu"))
    floor = clamp_checks.measure_noise_floor(replace(bench, model=model), bench.heldout[0])
    assert floor == pytest.approx({torch.float32: 2.0**-23, torch.bfloat16: 2.0**-7}[dtype] * 17.25)


def test_the_noise_floor_is_never_below_a_unit_in_the_last_place(bench: Experiment) -> None:
    for prompt in bench.heldout[:4]:
        with torch.no_grad():
            largest = float(bench.model(encode(bench.tokenizer, prompt)).logits[0, -1].log_softmax(-1).abs().max())
        assert clamp_checks.measure_noise_floor(bench, prompt) >= 2.0**-23 * largest * (1 - 1e-5)


def test_an_identity_error_is_the_largest_of_any_token(bench: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    writes_with(lambda before, after: after + 0.05)(monkeypatch, bench)
    worst = 0.0
    for prompt in bench.heldout[:2]:
        ids = encode(bench.tokenizer, prompt)
        own = torch.from_numpy(capture(bench.model, [ids], [1])[0][Block(1)].up[:, 17])
        with torch.no_grad(), clamp(bench.model, {"L1N17": own}):
            same = bench.model(ids).logits[0, -1].double().log_softmax(-1)
        worst = max(worst, float((same - clamped(bench, NeuronId(1, 17), None, ids)[-1]).abs().max()))
    assert worst > 1e-3
    assert clamp_checks.measure_identity_error(bench, NeuronId(1, 17)) == pytest.approx(worst, rel=1e-3)


# --- a broken instrument ---------------------------------------------------------------------------------

Patch = Callable[[pytest.MonkeyPatch, Experiment], None]


def one_layer_off(patch: pytest.MonkeyPatch, _: Experiment) -> None:
    """The clamp hangs on the next layer; what is recorded is the right one's."""
    right = clamp_hooks._Dense.__init__

    def shifted(self: Any, place: Any, writer: Any) -> None:
        right(self, place, writer)
        own, other = (place.layout.layer(n) for n in (place.layer, (place.layer + 1) % place.layout.n_layers))
        self.module = place.module(self.tap.module.replace(own, other))

    patch.setattr(clamp_hooks._Dense, "__init__", shifted)


def one_neuron_off(patch: pytest.MonkeyPatch, _: Experiment) -> None:
    right = clamp_values._check_value

    def shifted(one: Any, dtype: Any) -> None:
        right(one, dtype)
        object.__setattr__(one, "neuron", NeuronId(one.neuron.layer, (one.neuron.neuron + 1) % 256))

    patch.setattr(clamp_values, "_check_value", shifted)


def writes_with(change: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Patch:
    """A writer whose result is ``change(before, after)``, and whose log says that all is well."""

    def plant(patch: pytest.MonkeyPatch, _: Experiment) -> None:
        right = clamp_hooks._Dense.__call__
        patch.setattr(clamp_hooks._Dense, "__call__", lambda self, x: change(x, right(self, x)))

    return plant


_OTHER = 60  # ids further on stands a word that has nothing to do with any planted one


def swept_token_off(patch: pytest.MonkeyPatch, _: Experiment) -> None:
    right = sweep_module._tokens
    patch.setattr(sweep_module, "_tokens", lambda *args: tuple(replace(t, id=t.id + _OTHER) for t in right(*args)))


def claimed_token_off(patch: pytest.MonkeyPatch, _: Experiment) -> None:
    right = Experiment.token
    patch.setattr(
        Experiment, "token", lambda self, claim: replace(right(self, claim), id=right(self, claim).id + _OTHER)
    )


def all_others_dead(patch: pytest.MonkeyPatch, _: Experiment) -> None:
    def only_dead(scale: LayerScale, target: int, n: int, duplicates: Any) -> Controls:
        quiet = np.zeros_like(scale.activation)
        quiet[target] = scale.activation[target]
        return matched_controls(LayerScale(quiet, scale.column_norm), target, n, duplicates)

    patch.setattr(measure_module, "matched_controls", only_dead)


def verdicts_or_error(bench: Experiment, claims: Sequence[Claim]) -> set[str]:
    """What becomes of the claims; a clamp that proves to be broken stops them all."""
    try:
        return {v.verdict for v in family_verdicts(bench, claims).values()}
    except ClampError:
        return {"error"}


@pytest.mark.parametrize(
    ("fault", "allowed"),
    [
        (one_layer_off, {"not_measured", "error"}),
        (one_neuron_off, {"not_measured"}),
        (writes_with(lambda before, after: 2 * before - after), {"not_measured", "detector"}),  # the change reversed
        (writes_with(lambda before, after: -after), {"not_measured"}),
        (writes_with(lambda before, after: before), {"detector"}),  # writes nothing, and says it did
        (writes_with(lambda before, after: after + 0.01), {"not_measured"}),
        (swept_token_off, {"detector", "inconclusive"}),
        (claimed_token_off, {"refuted", "inconclusive"}),
        (all_others_dead, {"inconclusive"}),
    ],
    ids=[
        "one-layer-off", "one-neuron-off", "change-reversed", "sign-flipped", "writes-nothing", "writes-too-much",
        "swept-token-off", "claimed-token-off", "others-dead",
    ],
)  # fmt: skip
def test_a_fault_in_the_instrument_is_no_finding(
    bench: Experiment, truth: dict[str, Any], monkeypatch: pytest.MonkeyPatch, fault: Patch, allowed: set[str]
) -> None:
    claims = claims_of(truth, "dog", "california")
    quick = replace(bench, profile=QUICK)
    fault(monkeypatch, quick)
    assert verdicts_or_error(quick, claims) <= allowed


def test_without_a_fault_the_same_quick_bench_validates(bench: Experiment, truth: dict[str, Any]) -> None:
    claims = claims_of(truth, "dog", "california")
    verdicts = family_verdicts(replace(bench, profile=QUICK), claims)
    assert {v.verdict for v in verdicts.values()} == {"validated"}


def test_a_model_that_overflows_is_not_measured(
    bench: Experiment, truth: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    writes_with(lambda before, after: torch.full_like(after, float("nan")))(monkeypatch, bench)
    verdicts = family_verdicts(replace(bench, profile=QUICK), claims_of(truth, "dog"))
    assert verdicts["dog"].verdict == "not_measured"
    assert "not finite numbers" in verdicts["dog"].reason
