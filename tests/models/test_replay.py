"""A pass from a layer on against the whole pass, and what happens where the two differ."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flashinterp import Checkpoint, clamp, sweep
from flashinterp.interventions.clamp import clamp_rows
from flashinterp.interventions.clamp_values import RowClamp
from flashinterp.models import replay as replay_module
from flashinterp.models.activations import encode
from flashinterp.models.layout_reader import layout_of
from flashinterp.models.replay import last_log_probs, prepare
from flashinterp.neurons import NeuronId
from tests.examples import examples
from tests.helpers import n_hooks

LAYERS = 4


@pytest.fixture(scope="module")
def ids(planted: Checkpoint) -> torch.Tensor:
    return encode(planted.tokenizer, "We walked down the road and then we saw the")


@examples(20)
@given(layer=st.integers(0, LAYERS - 1), rows=st.integers(1, 9), value=st.floats(-50, 50, width=32), at=st.data())
def test_rows_of_a_pass_from_a_layer_on_are_those_of_whole_passes(
    planted_model: Any, ids: torch.Tensor, layer: int, rows: int, value: float, at: Any
) -> None:
    row, neuron = at.draw(st.integers(0, rows - 1)), NeuronId(layer, at.draw(st.integers(0, 255)))
    prompt = prepare(planted_model, ids, [layer])
    with clamp_rows(planted_model, [RowClamp(neuron, value, (row,))]):
        got = prompt.forward(layer, rows)
    with torch.no_grad(), clamp(planted_model, {neuron: value}):
        clamped = last_log_probs(planted_model, ids)[0]
    assert prompt.whole is None
    for i in range(rows):
        torch.testing.assert_close(got[i], clamped if i == row else prompt.clean, atol=2e-5, rtol=0)


def test_one_recording_serves_every_layer_it_was_made_for(planted_model: Any, ids: torch.Tensor) -> None:
    prompt = prepare(planted_model, ids, [3, 1])
    for layer in (1, 3, 1):
        torch.testing.assert_close(prompt.forward(layer, 2), prompt.clean.expand(2, -1), atol=2e-5, rtol=0)
    with pytest.raises(KeyError):
        prompt.forward(2, 1)
    assert n_hooks(planted_model) == 0


def test_a_clamp_around_the_recording_is_a_part_of_it(planted_model: Any, ids: torch.Tensor) -> None:
    with clamp(planted_model, {"L0N3": 40.0}):
        inside = prepare(planted_model, ids, [2])
        clamped = inside.forward(2, 1)[0]
    torch.testing.assert_close(clamped, inside.clean, atol=2e-5, rtol=0)
    assert (inside.clean - prepare(planted_model, ids, [2]).clean).abs().max() > 1e-3


# --- where the layers by themselves are not the model ----------------------------------------------------


@contextmanager
def edited(monkeypatch: pytest.MonkeyPatch, **changed: Any) -> Iterator[None]:
    """The layout that the replay reads is wrong."""
    with monkeypatch.context() as patch:
        sound = layout_of
        patch.setattr(replay_module, "layout_of", lambda model: replace(sound(model), **changed))
        yield


@pytest.mark.parametrize("changed", [{"logit_scale": 1.001}, {"softcap": 5.0}], ids=str)
def test_a_wrong_way_to_the_logits_is_noticed(
    monkeypatch: pytest.MonkeyPatch, planted_model: Any, ids: torch.Tensor, changed: Any
) -> None:
    with edited(monkeypatch, **changed):
        prompt = prepare(planted_model, ids, [1])
    assert prompt.whole
    assert "other logits" in prompt.whole
    torch.testing.assert_close(
        prompt.forward(1, 3), last_log_probs(planted_model, ids).expand(3, -1), atol=2e-5, rtol=0
    )


def test_what_a_pass_leaves_behind_is_noticed(planted_model: Any, ids: torch.Tensor) -> None:
    """A layer that behaves otherwise when it is called again, as one that keeps a cache does."""
    seen = []

    def remember(module: Any, args: Any, out: Any) -> Any:
        seen.append(1)
        return out + 0.01 * len(seen) * torch.linspace(-1, 1, out.shape[-1])

    handle = planted_model.model.layers[2].register_forward_hook(remember)
    prompt = prepare(planted_model, ids, [1])
    handle.remove()
    assert prompt.whole
    assert "other logits" in prompt.whole


def test_layers_that_need_more_than_their_arguments_run_in_whole_passes(
    planted: Checkpoint, planted_model: Any
) -> None:
    """Whatever a layer raises is the reason, and the sweep goes on as one whole pass a batch."""
    within: list[int] = []
    handles = [
        planted_model.register_forward_pre_hook(lambda *_: within.append(1)),
        planted_model.register_forward_hook(lambda *_: within.clear()),
    ]

    def alone(*_: Any) -> None:
        if not within:
            raise ValueError("no state of the model's own\nsecond line")

    given_ = (planted_model, planted.tokenizer, ["The next word is"], ["L1N17"], [-20.0, 145.0], [" dog"])
    sound = sweep(*given_)
    handles.append(planted_model.model.layers[3].register_forward_pre_hook(alone))
    curves = sweep(*given_)
    for handle in handles:
        handle.remove()
    assert curves.whole == "its layers cannot be called by themselves (no state of the model's own)"
    assert curves.log_probs == pytest.approx(sound.log_probs, abs=2e-5)


def test_a_result_that_is_not_a_number_is_no_proof(planted_model: Any, ids: torch.Tensor) -> None:
    handle = planted_model.model.norm.register_forward_hook(lambda module, args, out: out * torch.nan)
    assert prepare(planted_model, ids, [1]).whole
    handle.remove()
