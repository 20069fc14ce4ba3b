"""Every architecture, live: clamp, capture, sweep and generation against each model's own parameters, in float64."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fixtures.architectures import ARCHITECTURES, make
from flashinterp import LayoutError, NeuronId, Token, clamp, sweep
from flashinterp.interventions.clamp_values import NeverRouted
from flashinterp.interventions.steer import steer
from flashinterp.models.activations import Activations, capture
from flashinterp.models.layout import Layout
from flashinterp.models.layout_reader import layout_of
from flashinterp.neurons import Block
from tests.architecture_cases import by_kind
from tests.by_hand import IDS, Numbers, Written, by_hand, layers_of, off
from tests.helpers import n_hooks

TOLERANCE = 1e-5  # of the largest logit; float32 loses 1e-6 in these models
VALUE = 2.5
NAMES = pytest.mark.parametrize("name", by_kind(ARCHITECTURES))


@cache
def model_of(name: str) -> Any:
    return make(ARCHITECTURES[name]).requires_grad_(False)


def blocks_of(name: str) -> list[Block]:
    """One dense or shared MLP and one expert, as far as the model has them, of the last layers that do."""
    blocks = layout_of(model_of(name)).roster.blocks
    dense = [block for block in blocks if block.expert is None]
    experts = [block for block in blocks if block.expert == 1]
    return dense[-1:] + experts[-1:]


def logits_of(name: str, ids: Tensor = IDS) -> Tensor:
    return model_of(name)(ids, use_cache=False).logits.double()


# --- clamp ------------------------------------------------------------------------------------------


@NAMES
def test_clamp_equals_the_mlp_by_hand(name: str) -> None:
    model, layout = model_of(name), layout_of(model_of(name))
    clean = logits_of(name)
    for block in blocks_of(name):
        fixed = {0: VALUE, layout.roster.width(block) - 1: -VALUE}
        clamps = {NeuronId(block.layer, n, block.expert): value for n, value in fixed.items()}
        for site in layout.sites:
            with by_hand(model, block, Written(site, fixed)):
                wanted = logits_of(name)
            with clamp(model, clamps, site=site) as log:
                got = logits_of(name)
            assert off(wanted, clean) > 100 * TOLERANCE, (block, site)
            assert off(got, wanted) < TOLERANCE, (block, site)
            assert log.calls == {block.layer: 1}
            assert 0 < log.written[block.layer] <= 2 * IDS.numel()
            assert block.expert is not None or log.written[block.layer] == 2 * IDS.numel()
    assert n_hooks(model) == 0


@NAMES
def test_values_by_row_and_position_are_written_where_they_belong(name: str) -> None:
    model = model_of(name)
    values = torch.linspace(-3, 3, IDS.numel()).reshape(IDS.shape)
    for block in blocks_of(name):
        neuron = NeuronId(block.layer, 5, block.expert)
        write = Written("up", {5: values})
        with by_hand(model, block, write):
            wanted = logits_of(name)
        with clamp(model, {neuron: values}):
            assert off(logits_of(name), wanted) < TOLERANCE
        write.values, write.where = {5: torch.tensor([[VALUE], [-VALUE]])}, slice(-1, None)
        with by_hand(model, block, write):
            wanted = logits_of(name)
        try:
            with clamp(model, {neuron: torch.tensor([[VALUE], [-VALUE]])}, positions="last") as log:
                assert off(logits_of(name), wanted) < TOLERANCE
            assert log.written[block.layer] in (1, 2)
        except NeverRouted:
            assert log.written[block.layer] == 0
            assert off(wanted, logits_of(name)) < TOLERANCE


@NAMES
def test_clamp_to_the_own_values_changes_nothing(name: str) -> None:
    model, layout = model_of(name), layout_of(model_of(name))
    for block in blocks_of(name):
        seen = [one[block] for one in capture(model, list(IDS.split(1)), [block])]
        for site in layout.sites:
            own = torch.tensor(np.stack([getattr(one, site)[:, 5] for one in seen]))
            with clamp(model, {NeuronId(block.layer, 5, block.expert): own}, site=site):
                assert off(logits_of(name), logits_of(name)) < TOLERANCE


@pytest.mark.parametrize("name", by_kind(name for name in ARCHITECTURES if not layout_of(model_of(name)).formula.gated))
def test_a_gate_that_is_not_there_is_refused(name: str) -> None:
    model = model_of(name)
    with pytest.raises(LayoutError, match="has no gate: .* site of up, post"), clamp(model, {"L2N3": 1.0}, site="gate"):
        pass
    with pytest.raises(LayoutError, match="has no gate: .* site of up, post"):
        sweep(model, Numbers(), PROMPTS, ["L2N3"], [1.0], TOKENS, site="gate")
    assert n_hooks(model) == 0


@contextmanager
def edited_expert(model: Any, block: Block, neuron: int, site: str) -> Iterator[None]:
    """A neuron at `VALUE` in the eager loop over experts: its weights edited where a bias can hold the value, else its
    column overwritten in the expert's own product.
    """
    experts = layers_of(model)[block.layer].mlp.experts
    if type(experts).__name__ == "GptOssExperts":
        kept = {name: parameter.clone() for name, parameter in experts.named_parameters()}
        if site == "post":
            experts.down_proj_bias[block.expert] += VALUE * experts.down_proj[block.expert, neuron]
            experts.down_proj[block.expert, neuron] = 0
        else:
            column = 2 * neuron + (site == "up")
            experts.gate_up_proj[block.expert, :, column] = 0
            experts.gate_up_proj_bias[block.expert, column] = VALUE
        try:
            yield
        finally:
            for name, parameter in experts.named_parameters():
                parameter.copy_(kept[name])
        return
    target = (experts.down_proj if site == "post" else experts.gate_up_proj)[block.expert]
    column = neuron + (target.shape[0] // 2 if site == "up" else 0)
    plain = torch.nn.functional.linear

    def overwritten(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        own = weight.data_ptr() == target.data_ptr() and weight.shape == target.shape
        if own and site == "post":
            x = x.clone()
            x[:, column] = VALUE
        out = plain(x, weight, bias)
        if own and site != "post":
            out[:, column] = VALUE
        return out

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.functional, "linear", overwritten)
        yield


@pytest.mark.parametrize("name", by_kind(name for name in ARCHITECTURES if layout_of(model_of(name)).experts))
def test_an_experts_clamp_equals_its_neuron_overwritten_in_the_eager_loop(name: str) -> None:
    model = model_of(name)
    block = blocks_of(name)[-1]
    neuron = NeuronId(block.layer, 7, block.expert)
    for site in layout_of(model).sites:
        model.set_experts_implementation("eager")
        with edited_expert(model, block, 7, site):
            wanted = logits_of(name)
        for implementation in ("eager", "batched_mm", "grouped_mm"):
            model.set_experts_implementation(implementation)
            with clamp(model, {neuron: VALUE}, site=site):
                assert off(logits_of(name), wanted) < TOLERANCE, (site, implementation)
            assert off(logits_of(name), wanted) > 100 * TOLERANCE


# --- capture ----------------------------------------------------------------------------------------


@NAMES
def test_capture_equals_the_mlp_by_hand(name: str) -> None:
    model, layout = model_of(name), layout_of(model_of(name))
    seen = capture(model, list(IDS.split(1)), layout.roster.blocks)
    assert all(set(one) == set(layout.roster.blocks) for one in seen)
    for block in blocks_of(name):
        write = Written()
        with by_hand(model, block, write):
            logits_of(name)
        assert_captured([one[block] for one in seen], write, layout)
        assert_weights_captured(model, block, seen)


def assert_weights_captured(model: Any, block: Block, seen: Sequence[Mapping[Block, Activations]]) -> None:
    """Each of a layer's experts has the weight that the router gave it, and a dense MLP has 1."""
    if block.expert is None:
        assert all((one[block].weight == 1).all() for one in seen)
        return
    experts = layers_of(model)[block.layer].mlp.experts
    routed: list[Any] = []
    handle = experts.register_forward_hook(lambda module, args, out: routed.append(args))
    model(IDS)
    handle.remove()
    _, index, weights = routed[0]
    for expert in range(len(experts.down_proj)):
        weight = (weights * (index == expert)).sum(-1).reshape(IDS.shape)
        got = np.stack([one[Block(block.layer, expert)].weight for one in seen])
        np.testing.assert_allclose(got, weight.numpy(), atol=1e-6)
        own = seen[0][Block(block.layer, expert)]
        np.testing.assert_allclose(own.written, own.post * weight[0, :, None].numpy(), atol=1e-5, rtol=1e-5)


def assert_captured(seen: Sequence[Activations], write: Written, layout: Layout) -> None:
    gate = write.seen.get("gate", write.seen["up"])
    act = write.seen["post"] / write.seen["up"]
    if layout.formula.limit is not None:
        act = gate.clamp(max=7) * torch.sigmoid(1.702 * gate.clamp(max=7))
    wanted = {"up": write.seen["up"], "gate": gate, "act": act, "post": write.seen["post"]}
    for what, values in wanted.items():
        got = np.concatenate([getattr(one, what) for one in seen])
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, values.numpy(), atol=1e-4, rtol=1e-4, err_msg=what)


# --- sweep, and generation --------------------------------------------------------------------------


PROMPTS = tuple(" ".join(map(str, row.tolist())) for row in (IDS[0], IDS[1, :5]))
TOKENS = [Token(i, str(i), "by id") for i in (2, 300, 670)]


def log_probs(model: Any, prompt: str) -> Tensor:
    ids = Numbers()(prompt)["input_ids"]
    return model(ids).logits[0, -1].double().log_softmax(-1)[[token.id for token in TOKENS]]


@NAMES
def test_sweep_equals_one_clamp_at_a_time(name: str) -> None:
    model, layout = model_of(name), layout_of(model_of(name))
    blocks = list(dict.fromkeys([*blocks_of(name), *layout.roster.blocks[:2], layout.roster.blocks[-1]]))
    neurons = [NeuronId(block.layer, n, block.expert) for block in blocks for n in (3, 11)]
    values = (VALUE, -VALUE)
    for site in layout.sites:
        curves = sweep(model, Numbers(), PROMPTS, neurons, values, TOKENS, site=site)
        assert curves.whole is None
        for k, prompt in enumerate(PROMPTS):
            clean = log_probs(model, prompt)
            natural = capture(model, [Numbers()(prompt)["input_ids"]], blocks)[0]
            np.testing.assert_allclose(curves.clean[k], clean, atol=1e-5)
            for i, neuron in enumerate(neurons):
                own = natural[neuron.block]
                assert curves.routed[i, k] == own.weight[-1]
                assert curves.own[i, k] == pytest.approx(getattr(own, site)[-1, neuron.neuron])
                for j, value in enumerate(values):
                    try:
                        with clamp(model, {neuron: value}, site=site):
                            wanted = log_probs(model, prompt)
                    except NeverRouted:
                        np.testing.assert_allclose(wanted, clean, atol=1e-6)
                        assert not own.weight.any()
                    np.testing.assert_allclose(curves.log_probs[i, j, k], wanted, atol=1e-5)
    assert n_hooks(model) == 0


@NAMES
def test_the_cache_changes_no_generated_token(name: str) -> None:
    model = model_of(name)
    layer = max(block.layer for block in blocks_of(name))
    blocks = layout_of(model).roster.of_layers([layer]).blocks
    seen = capture(model, [IDS[:1]], blocks)[0]
    used = [block for block in blocks if seen[block].weight[-1] > 0]  # a clamp on an expert without tokens is an error
    clamps = {NeuronId(layer, n, block.expert): 100.0 for block in used for n in (1, 2, 3)}
    answers = [
        steer(
            model, Numbers(), PROMPTS[0], clamps, n=1, rng=np.random.default_rng(0), do_sample=False,
            site="post", use_cache=use_cache, max_new_tokens=8, min_new_tokens=8,
        )
        for use_cache in (True, False)
    ]  # fmt: skip
    assert answers[0].clamped == answers[1].clamped
    assert len(answers[0].clamped[0].split()) == 8
    assert answers[0].clamped != answers[0].clean, "the clamp is too weak to test anything"
