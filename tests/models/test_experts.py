"""The clamp on experts' neurons against itself: contexts within contexts, rows, positions, and what is never routed to.

What it computes is compared with every family's own modules in test_architectures_live.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import cache
from itertools import permutations
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fixtures.architectures import ARCHITECTURES, make
from flashinterp import ClampError, NeuronId, Token, clamp, sweep
from flashinterp.interventions.clamp import clamp_rows
from flashinterp.interventions.clamp_values import NeverRouted, RowClamp
from flashinterp.interventions.steer import steer
from flashinterp.models.activations import capture
from flashinterp.models.experts import ExpertRows
from flashinterp.neurons import SITES, Block
from tests.by_hand import IDS as PAIR
from tests.by_hand import Numbers, Written, experts_by_hand
from tests.helpers import assert_one_line_with_next_step, n_hooks

IDS = torch.tensor([[7, 21, 3, 50, 12, 600, 44, 9], [9, 330, 1, 60, 5, 17, 222, 8], [4, 2, 8, 170, 5, 333, 401, 77]])
LAYER = 2
SEVERAL = {"L2E0N3": 2.0, "L2E1N3": -1.5, "L2E1N9": 3.0, "L1E2N40": 1.0}


@cache
def mixtral() -> Any:
    return make(ARCHITECTURES["mixtral"]).requires_grad_(False)


def logits(model: Any, ids: Tensor = IDS) -> Tensor:
    return model(ids, use_cache=False).logits.double()


def close(got: Tensor, wanted: Tensor) -> bool:
    return bool(torch.allclose(got, wanted, atol=1e-5, rtol=1e-5))


def routing(model: Any, ids: Tensor = IDS, layer: int = LAYER) -> Tensor:
    """[batch, positions, E] the router's weights."""
    seen: list[Any] = []
    handle = model.model.layers[layer].mlp.experts.register_forward_hook(lambda module, args, out: seen.append(args))
    logits(model, ids)
    handle.remove()
    _, index, weights = seen[0]
    spread = torch.zeros(len(index), 4).scatter(-1, index, weights)
    return spread.reshape(*ids.shape, 4)


@contextmanager
def avoiding(model: Any, expert: int) -> Iterator[None]:
    """A router that does not choose an expert."""

    def reroute(module: Any, args: Any, out: Any) -> Any:
        scores, weights, index = out
        return scores, weights, torch.where(index == expert, (expert + 2) % 4, index)

    handle = model.model.layers[LAYER].mlp.gate.register_forward_hook(reroute)
    try:
        yield
    finally:
        handle.remove()


# --- several clamps ---------------------------------------------------------------------------------


@pytest.mark.parametrize("site", SITES)
def test_clamp_twice_is_clamp_once_and_the_inner_value_holds(site: Any) -> None:
    model = mixtral()
    with clamp(model, SEVERAL, site=site):
        once = logits(model)
        with clamp(model, SEVERAL, site=site):
            assert close(logits(model), once)
        assert close(logits(model), once)
    with clamp(model, dict.fromkeys(SEVERAL, -4.0), site=site), clamp(model, SEVERAL, site=site):
        assert close(logits(model), once)
    assert not close(logits(model), once)


@pytest.mark.parametrize("site", SITES)
def test_clamps_of_different_neurons_commute(site: Any) -> None:
    model = mixtral()
    with clamp(model, SEVERAL, site=site):
        together = logits(model)
    for order in permutations(SEVERAL):
        with ExitStack() as stack:
            for name in order:
                stack.enter_context(clamp(model, {name: SEVERAL[name]}, site=site))
            assert close(logits(model), together)


def test_clamps_of_one_neuron_at_two_sites_act_together() -> None:
    model, up, gate = mixtral(), 2.0, -0.7
    with clamp(model, {"L2E1N3": up * gate / (1 + np.exp(-gate))}, site="post"):
        wanted = logits(model)
    for first, second in permutations([("up", up), ("gate", gate)]):
        with clamp(model, {"L2E1N3": first[1]}, site=first[0]), clamp(model, {"L2E1N3": second[1]}, site=second[0]):
            assert close(logits(model), wanted)
    for outer, inner in permutations([("up", 9.0), ("post", up * gate / (1 + np.exp(-gate)))]):
        with clamp(model, {"L2E1N3": outer[1]}, site=outer[0]), clamp(model, {"L2E1N3": inner[1]}, site=inner[0]):
            assert close(logits(model), wanted), "what W_down reads is written last"


def test_capture_inside_a_clamp_sees_what_the_clamp_wrote() -> None:
    model, block = mixtral(), Block(LAYER, 1)
    clean = capture(model, list(IDS.split(1)), [block])
    with clamp(model, {"L2E1N3": 2.5}):
        seen = capture(model, list(IDS.split(1)), [block])
    for clamped, plain in zip(seen, clean, strict=True):
        assert (clamped[block].up[:, 3] == 2.5).all()
        np.testing.assert_array_equal(np.delete(clamped[block].up, 3, axis=1), np.delete(plain[block].up, 3, axis=1))
        np.testing.assert_allclose(clamped[block].gate, plain[block].gate, atol=1e-6)


# --- rows, positions, counts ------------------------------------------------------------------------


@pytest.mark.parametrize("site", SITES)
def test_rows_may_carry_their_own_neurons_and_values(site: Any) -> None:
    model = mixtral()
    rows = [
        RowClamp(NeuronId(2, 3, 1), 2.5, (0, 2)),
        RowClamp(NeuronId(2, 3, 1), -3.0, (1,)),
        RowClamp(NeuronId(2, 7, 0), 1.5, (1,)),
        RowClamp(NeuronId(1, 7, 2), 1.0, (2,)),
    ]
    alone: list[dict[str, float]] = [{"L2E1N3": 2.5}, {"L2E1N3": -3.0, "L2E0N7": 1.5}, {"L2E1N3": 2.5, "L1E2N7": 1.0}]
    tensors = [RowClamp(one.neuron, torch.tensor(one.value), one.rows) for one in rows]
    with clamp_rows(model, rows, site=site, unrouted=True) as log:
        got = logits(model)
    with clamp_rows(model, tensors, site=site, unrouted=True) as other:
        assert torch.equal(logits(model), got)
    assert log == other
    for row, clamps in enumerate(alone):
        parsed = [RowClamp(NeuronId.parse(name), value) for name, value in clamps.items()]
        with clamp_rows(model, parsed, site=site, unrouted=True):
            assert close(got[row], logits(model, IDS[row : row + 1])[0])


def test_log_counts_the_tokens_that_are_routed_to_the_expert() -> None:
    model, weight = mixtral(), routing(mixtral())
    for expert in range(4):
        routed = weight[..., expert] > 0
        with clamp_rows(model, [RowClamp(NeuronId(LAYER, 3, expert), 1.0)], unrouted=True) as log:
            logits(model)
            logits(model)
        assert log.calls == {LAYER: 2}
        assert log.written == {LAYER: 2 * int(routed.sum())}
        with clamp_rows(model, [RowClamp(NeuronId(LAYER, 3, expert), 1.0)], positions="last", unrouted=True) as log:
            logits(model)
        assert log.written == {LAYER: int(routed[:, -1].sum())}


def test_a_shared_mlp_and_the_experts_of_its_layer_are_clamped_together() -> None:
    model = make(ARCHITECTURES["deepseek_v3"])
    clamps = {"L2N3": 2.0, "L2E1N3": -2.0}
    with clamp(model, {"L2N3": 2.0}), clamp(model, {"L2E1N3": -2.0}):
        wanted = logits(model)
    with clamp(model, clamps) as log:
        assert close(logits(model), wanted)
    assert log.calls == {2: 2}
    assert n_hooks(model) == 0


@pytest.mark.parametrize("positions", ["all", "last", "generated"])
def test_a_generated_text_is_clamped_at_the_stated_positions(positions: Any) -> None:
    """With a cache, against whole passes in which the values by position do the same."""
    model, length, new = mixtral(), IDS.shape[1], 5
    best = int(routing(model, IDS[:1])[0, -1].argmax())
    neuron = NeuronId(LAYER, 3, best)
    settings = {"do_sample": False, "max_new_tokens": new, "min_new_tokens": new, "pad_token_id": 1}
    with clamp_rows(model, [RowClamp(neuron, 60.0)], site="post", positions=positions, unrouted=True):
        out = model.generate(IDS[:1], attention_mask=torch.ones_like(IDS[:1]), use_cache=True, **settings)
    own = capture(model, [out], [neuron.block])[0][neuron.block].post[:, neuron.neuron]
    first = {"all": 0, "last": length - 1, "generated": length}[positions]
    values = torch.tensor(np.where(np.arange(out.shape[1]) < first, own, 60.0))
    with clamp_rows(model, [RowClamp(neuron, values)], site="post", unrouted=True):
        whole = logits(model, out)[0]
    whole[:, 1] = -torch.inf  # the end, which min_new_tokens keeps away
    assert out[0, length:].tolist() == whole[length - 1 : -1].argmax(-1).tolist()


# --- what is never routed to ------------------------------------------------------------------------


def test_an_expert_without_tokens_is_an_error() -> None:
    model = mixtral()
    with avoiding(model, 3):
        never = pytest.raises(NeverRouted, match="no token was routed to expert 3 of layer 2")
        with never as caught, clamp(model, {"L2E3N5": 2.0, "L2E0N5": 2.0}):
            logits(model)
        with clamp_rows(model, [RowClamp(NeuronId(2, 5, 3), 2.0)], unrouted=True) as log:
            same = logits(model)
        assert torch.equal(same, logits(model))
    assert caught.value.blocks == {Block(2, 3)}
    assert log.written == {2: 0}
    assert_one_line_with_next_step(caught.value)
    assert n_hooks(model) == 0


def test_an_expert_whose_layer_never_ran_is_an_error_also_where_no_routing_is_allowed() -> None:
    silent = pytest.raises(ClampError, match="layer 2 did not fire .never ran; packed mxfp4")
    with silent, clamp_rows(mixtral(), [RowClamp(NeuronId(2, 5, 3), 2.0)], unrouted=True):
        pass


def test_the_curve_of_an_expert_without_tokens_is_flat() -> None:
    model = mixtral()
    prompt = " ".join(map(str, IDS[0].tolist()))
    with avoiding(model, 3):
        curves = sweep(model, Numbers(), [prompt], ["L2E3N5", "L2E0N5"], [2.0, -2.0], [Token(5, "5", "by id")])
    assert curves.routed[0, 0] == 0
    np.testing.assert_allclose(curves.log_probs[0, :, 0], np.stack([curves.clean[0]] * 2), atol=1e-6)


def test_answers_are_steered_where_only_some_of_them_reach_the_expert() -> None:
    model, prompt = mixtral(), " ".join(map(str, IDS[0].tolist()))
    given: dict[str, Any] = {"n": 3, "rng": np.random.default_rng(0), "max_new_tokens": 3, "site": "post"}
    passes: list[int] = []

    def sometimes(module: Any, args: Any, out: Any) -> Any:
        passes.append(1)
        scores, weights, index = out
        # Three passes an answer, and the three without the clamp first: only the second clamped answer is routed.
        return out if 12 < len(passes) <= 15 else (scores, weights, torch.where(index == 3, 1, index))

    handle = model.model.layers[LAYER].mlp.gate.register_forward_hook(sometimes)
    try:
        answers = steer(model, Numbers(), prompt, {"L2E3N5": 60.0}, **given, min_new_tokens=3)
    finally:
        handle.remove()
    assert answers.clean[::2] == answers.clamped[::2]
    with avoiding(model, 3), pytest.raises(NeverRouted, match="expert 3 of layer 2"):
        steer(model, Numbers(), prompt, {"L2E3N5": 60.0}, **given)


# --- what it refuses, and what it leaves behind -----------------------------------------------------


def test_experts_that_are_called_in_another_way_are_refused() -> None:
    """As kernels for packed mxfp4 weights are: with routing metadata of their own."""
    model = copy.deepcopy(mixtral())
    experts = model.model.layers[LAYER].mlp.experts
    experts.forward = lambda x, *routes: x
    refused = pytest.raises(ClampError, match="MixtralExperts is called with .Tensor, dict, dict, dict.*mxfp4")
    with refused as caught, clamp(model, {"L2E1N3": 1.0}):
        experts(torch.zeros(4, 32), {}, {}, {})
    assert_one_line_with_next_step(caught.value)
    assert n_hooks(model) == 0


def test_experts_outside_their_layer_are_refused() -> None:
    experts = mixtral().model.layers[LAYER].mlp.experts
    refused = pytest.raises(ClampError, match="batch and positions cannot be told apart")
    with refused, clamp(mixtral(), {"L2E1N3": 1.0}):
        experts(torch.zeros(4, 32), torch.ones(4, 2, dtype=torch.long), torch.ones(4, 2))
    assert n_hooks(mixtral()) == 0


@pytest.mark.parametrize("site", SITES)
def test_nothing_of_the_model_is_changed(site: Any) -> None:
    model = mixtral()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    clean = logits(model)
    with clamp(model, SEVERAL, site=site):
        logits(model)
    assert n_hooks(model) == 0
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert torch.equal(logits(model), clean)


def test_each_block_is_read_once() -> None:
    model, rows = mixtral(), ExpertRows(mixtral())
    reads: list[Block] = []
    plain = rows._checkpoint.rows
    rows._checkpoint.rows = lambda kind, block: (reads.append(block), plain(kind, block))[1]  # type: ignore[func-returns-value, method-assign]
    for value in (1.0, 2.0):
        clamps = [RowClamp(NeuronId(LAYER, n, e), value) for n in (3, 9) for e in (0, 1)]
        with clamp_rows(model, clamps, unrouted=True, experts=rows):
            logits(model)
    assert sorted(reads) == [Block(LAYER, e) for e in (0, 1) for _ in range(3)]


# --- half precision ---------------------------------------------------------------------------------


@pytest.mark.parametrize("site", SITES)
def test_in_bfloat16_the_correction_loses_no_more_than_the_model_itself(site: Any) -> None:
    """The experts' output, clamped, against float64 from the same rounded weights and inputs."""
    model = copy.deepcopy(mixtral()).to(torch.bfloat16)
    experts = model.model.layers[LAYER].mlp.experts
    seen: list[Any] = []
    for clamps in ({}, {"L2E1N3": 8.0}):
        with clamp(model, clamps, site=site) if clamps else nullcontext():
            handle = experts.register_forward_hook(lambda module, args, out: seen.append((args, out.double())))
            logits(model, PAIR)
            handle.remove()
    (args, clean), (_, clamped) = seen
    wanted, wanted_clean = (experts_by_hand(experts, args, 1, Written(site, fixed)) for fixed in ({3: 8.0}, {}))
    lost = float((clean - wanted_clean).abs().max())
    change = float((wanted - wanted_clean).abs().max())
    assert change > 20 * lost, "the clamp is too weak to test anything"
    # Twice what the model loses of its own output, and the rounding of what is added.
    assert float((clamped - wanted).abs().max()) <= 2 * lost + 2**-8 * change
