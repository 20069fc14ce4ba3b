"""The first-order attribution against finite differences of real clamps, in float64, and what it leaves behind."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fixtures.architectures import ARCHITECTURES, make
from flashinterp import NeuronId, RunError, clamp
from flashinterp.interventions.attribution import attribution
from flashinterp.interventions.clamp_values import NeverRouted
from flashinterp.models.activations import Activations, capture
from flashinterp.models.layout_reader import layout_of
from tests.helpers import assert_one_line_with_next_step, n_hooks

PROMPTS = (torch.tensor([[7, 21, 3, 50, 12]]), torch.tensor([[9, 330, 1, 60, 5, 17, 222]]))
TOKENS = (11, 40, 203)
STEP = {"opt": 1e-5}  # of the neuron's way from low to high: short of the next kink of a ReLU, where there are any
USUAL_STEP = 0.1
TOLERANCE = 1e-3  # of the neuron's largest derivative; experts are clamped in float32
# Dense; no gate, Conv1D; a norm after the MLP and a soft-cap; flat MLPs, norms of the sum; a residual multiplier;
# experts with biases and a cut; experts beside a shared MLP, after a dense layer.
NAMES = ("llama", "gpt2", "gemma2", "opt-postnorm", "granite", "gpt_oss", "deepseek_v3")


@cache
def model_of(name: str) -> Any:
    model = make(ARCHITECTURES[name]).double().requires_grad_(False)
    model.set_experts_implementation("eager")  # the grouped kernel has no float64
    return model


def ranges_of(model: Any, seed: int = 0) -> np.ndarray:
    """[N, 2] a low and a high u of each neuron."""
    drawn = np.random.default_rng(seed).normal(size=(len(layout_of(model).roster), 2))
    return np.sort(drawn, axis=1).astype(np.float32)


def log_odds(model: Any, ids: Tensor, tokens: Sequence[int] = TOKENS) -> Tensor:
    """[tokens] log(p / (1 - p)) in float64, from probabilities."""
    with torch.no_grad():
        p = model(ids, use_cache=False).logits[0, -1].double().softmax(-1)[list(tokens)]
    return p.log() - (1 - p).log()


def nudged(model: Any, ids: Tensor, neuron: NeuronId, seen: Activations, change: Tensor, step: float) -> Tensor:
    """The log-odds when the neuron's output goes a step of a change [positions] beyond its own."""
    own = torch.from_numpy(seen.post[:, neuron.neuron]).double()
    with clamp(model, {neuron: own + step * change}, site="post"):
        return log_odds(model, ids)


def by_differences(model: Any, neuron: NeuronId, ends: np.ndarray) -> Tensor:
    """[tokens] mean over the prompts of the log-odds' derivative along the way of the output from low to high.

    By four points, so that the step may be large: many norms compute in float32 whatever the model's dtype.
    """
    found, h = [], STEP.get(model.config.model_type, USUAL_STEP)
    for ids in PROMPTS:
        seen = capture(model, [ids], [neuron.block])[0][neuron.block]
        gate = torch.from_numpy(seen.gate[:, neuron.neuron]).double()
        low, high = (torch.full_like(gate, float(end)) for end in ends)
        change = seen.formula.output(gate, high) - seen.formula.output(gate, low)
        try:
            at = {k: nudged(model, ids, neuron, seen, change, k * h) for k in (-2, -1, 1, 2)}
            found.append((8 * (at[1] - at[-1]) - (at[2] - at[-2])) / (12 * h))
        except NeverRouted:
            found.append(torch.zeros(len(TOKENS), dtype=torch.float64))
    return torch.stack(found).mean(0)


@pytest.mark.parametrize("name", NAMES)
def test_attribution_is_the_derivative_of_a_clamp(name: str) -> None:
    model, layout = model_of(name), layout_of(model_of(name))
    ranges = ranges_of(model)
    got = attribution(model, PROMPTS, TOKENS, ranges)
    assert got.shape == (len(layout.roster), len(TOKENS))
    rng, large = np.random.default_rng(1), 0
    for block in layout.roster.blocks:
        for n in rng.choice(layout.roster.width(block), 2, replace=False):
            neuron = NeuronId(block.layer, int(n), block.expert)
            i = layout.roster.index(neuron)
            wanted = by_differences(model, neuron, ranges[i]).numpy()
            scale = max(float(np.abs(wanted).max()), float(np.abs(got).max()) / 10)
            np.testing.assert_allclose(got[i], wanted, atol=TOLERANCE * scale, rtol=0, err_msg=str(neuron))
            large += bool(np.abs(wanted).max() > 100 * TOLERANCE * np.abs(got).max() / 10)
    assert large >= len(layout.roster.blocks) / 2, "hardly any neuron does anything: weak test"


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_close_to_the_own_value_it_is_the_effect_of_a_clamp_at_up(name: str) -> None:
    """At a single position the natural value is a constant, and low and high may stand close on both sides of it."""
    model, layout = model_of(name), layout_of(model_of(name))
    ids, step = torch.tensor([[21]]), 0.02
    seen = capture(model, [ids], layout.roster.blocks)[0]
    own = np.concatenate([seen[block].up[0] for block in layout.roster.blocks])
    got = attribution(model, [ids], TOKENS, np.stack([own - step, own + step], axis=1).astype(np.float32))
    for name_of in ("L0N3", "L1N40", "L2N17"):
        i = layout.roster.index(name_of)
        low, high = (float(np.float32(own[i] + sign * step)) for sign in (-1, 1))
        effects = []
        for value in (low, high):
            with clamp(model, {name_of: value}):
                effects.append(log_odds(model, ids))
        wanted = (effects[1] - effects[0]).numpy()
        assert np.abs(wanted).max() > 1e-6
        np.testing.assert_allclose(got[i], wanted, rtol=0, atol=0.01 * np.abs(wanted).max())


def test_chunks_of_tokens_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib import import_module

    model = model_of("llama")
    whole = attribution(model, PROMPTS, TOKENS, ranges_of(model))
    monkeypatch.setattr(import_module("flashinterp.interventions.attribution"), "_GRAPH_NUMBERS", 1)
    np.testing.assert_allclose(attribution(model, PROMPTS, TOKENS, ranges_of(model)), whole, rtol=1e-5, atol=1e-9)


def test_an_unknown_range_is_unknown_and_a_point_is_nothing() -> None:
    model = model_of("llama")
    ranges = ranges_of(model)
    ranges[5], ranges[7] = np.nan, 0.3
    got = attribution(model, PROMPTS, TOKENS, ranges)
    assert np.isnan(got[5]).all()
    assert (got[7] == 0).all()
    assert np.isfinite(np.delete(got, 5, axis=0)).all()


def test_turning_a_gated_neuron_around_turns_its_attribution() -> None:
    model = make(ARCHITECTURES["llama"]).double().requires_grad_(False)
    ranges = ranges_of(model)
    before = attribution(model, PROMPTS, TOKENS, ranges)
    mlp, i = model.model.layers[1].mlp, layout_of(model).roster.index("L1N9")
    mlp.up_proj.weight[9] *= -1
    mlp.down_proj.weight[:, 9] *= -1
    ranges[i] = -ranges[i, ::-1]
    after = attribution(model, PROMPTS, TOKENS, ranges)
    np.testing.assert_allclose(after[i], -before[i], rtol=1e-5)
    np.testing.assert_allclose(np.delete(after, i, axis=0), np.delete(before, i, axis=0), rtol=1e-4, atol=1e-9)


def test_it_leaves_no_gradient_and_no_hook_also_within_no_grad() -> None:
    model = make(ARCHITECTURES["olmoe"])  # as it is loaded: its parameters want gradients
    assert all(p.requires_grad for p in model.parameters())
    with torch.no_grad():
        attribution(model, PROMPTS[:1], TOKENS, ranges_of(model))
    assert all(p.grad is None for p in model.parameters())
    assert n_hooks(model) == 0


def test_a_model_without_a_backward_pass_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make(ARCHITECTURES["llama"]).requires_grad_(False)
    mlp = model.model.layers[2].mlp
    monkeypatch.setattr(mlp, "forward", torch.no_grad()(mlp.forward))
    monkeypatch.setattr(model.model.norm, "forward", torch.no_grad()(model.model.norm.forward))
    with pytest.raises(RunError, match="cannot be differentiated here") as caught:
        attribution(model, PROMPTS, TOKENS, ranges_of(model))
    assert_one_line_with_next_step(caught.value)
    assert n_hooks(model) == 0


def test_offloaded_weights_are_refused() -> None:
    model = make(ARCHITECTURES["llama"])
    model.model.layers[2].mlp.down_proj.weight = torch.nn.Parameter(torch.empty(32, 48, device="meta"))
    with pytest.raises(RunError, match="is offloaded") as caught:
        attribution(model, PROMPTS, TOKENS, ranges_of(model))
    assert_one_line_with_next_step(caught.value)
