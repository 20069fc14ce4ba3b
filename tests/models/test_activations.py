"""Natural activations against the same numbers worked out by hand from the weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from flashinterp import Checkpoint, NeuronError, clamp
from flashinterp.errors import RunError
from flashinterp.models.activations import capture, encode
from flashinterp.neurons import Block
from tests.helpers import n_hooks

TEXTS = ("We walked down the road and then we saw the", "The next word is", "dog")


@pytest.fixture(scope="module")
def sequences(planted: Checkpoint) -> list[Tensor]:
    return [encode(planted.tokenizer, text) for text in TEXTS]


def activations_by_hand(model: Any, checkpoint: Checkpoint, ids: Tensor, layer: int) -> dict[str, Tensor]:
    """The layer's norm, W_up and W_gate in float64, on the residual stream that transformers reports."""
    seen: dict[str, Tensor] = {}
    block = model.model.layers[layer]
    handle = block.post_attention_layernorm.register_forward_pre_hook(lambda _, args: seen.__setitem__("x", args[0]))
    with torch.no_grad():
        model(ids)
    handle.remove()
    x = seen["x"][0].double()  # [positions, d]
    x = x / torch.sqrt((x**2).mean(-1, keepdim=True) + checkpoint.config.rms_norm_eps)
    x = x * block.post_attention_layernorm.weight.double()
    up, gate = (x @ checkpoint.rows(kind, layer).double().T for kind in ("up", "gate"))
    act = gate * torch.sigmoid(gate)
    return {"up": up, "gate": gate, "act": act, "post": up * act, "written": up * act}


@pytest.mark.parametrize("layer", range(4))
def test_capture_equals_the_arithmetic_of_the_layer(
    planted: Checkpoint, planted_model: Any, sequences: list[Tensor], layer: int
) -> None:
    got = capture(planted_model, sequences, [layer])
    assert len(got) == len(sequences)
    for seen, ids in zip(got, sequences, strict=True):
        wanted = activations_by_hand(planted_model, planted, ids, layer)
        assert set(seen) == {Block(layer)}
        assert seen[Block(layer)].weight.tolist() == [1.0] * ids.shape[1]
        for what, by_hand in wanted.items():
            values = getattr(seen[Block(layer)], what)
            assert values.shape == (ids.shape[1], 256)
            assert values.dtype == np.float32
            np.testing.assert_allclose(values, by_hand.numpy(), atol=2e-5, rtol=1e-4)


def test_layers_and_sequences_do_not_mix(planted_model: Any, sequences: list[Tensor]) -> None:
    together = capture(planted_model, sequences, [3, 1])
    for i, ids in enumerate(sequences):
        for layer in (1, 3):
            block = Block(layer)
            alone = capture(planted_model, [ids], [layer])[0][block]
            np.testing.assert_array_equal(together[i][block].up, alone.up)
            np.testing.assert_array_equal(together[i][block].gate, alone.gate)
    assert not np.array_equal(together[0][Block(1)].up, together[0][Block(3)].up)


def test_capture_inside_a_clamp_sees_what_the_clamp_wrote(planted_model: Any, sequences: list[Tensor]) -> None:
    with clamp(planted_model, {"L1N17": 5.0}):
        seen = capture(planted_model, sequences, [1, 2])
    clean = capture(planted_model, sequences, [1, 2])
    first, second = Block(1), Block(2)
    for clamped, plain in zip(seen, clean, strict=True):
        assert (clamped[first].up[:, 17] == 5.0).all()
        np.testing.assert_array_equal(np.delete(clamped[first].up, 17, axis=1), np.delete(plain[first].up, 17, axis=1))
        assert not np.array_equal(clamped[second].up, plain[second].up)


def test_a_planted_neuron_is_loudest_where_its_token_is(planted: Checkpoint, planted_model: Any) -> None:
    token = planted.vocabulary.resolve(" dog").id
    ids = torch.cat([encode(planted.tokenizer, "The next word is"), torch.tensor([[token]])], dim=1)
    up = capture(planted_model, [ids], [1])[0][Block(1)].up[:, 17]
    assert up.argmax() == len(up) - 1
    assert up[-1] > 2 * np.abs(up[:-1]).max()


def test_capture_changes_nothing_and_leaves_no_hook(planted_model: Any, sequences: list[Tensor]) -> None:
    with torch.no_grad():
        before = planted_model(sequences[0]).logits
        capture(planted_model, sequences, [0, 1])
        assert torch.equal(planted_model(sequences[0]).logits, before)
    assert n_hooks(planted_model) == 0


@pytest.mark.parametrize(
    ("ids", "layers", "error"), [([[9999]], [0], IndexError), ([[1]], [0, 4], NeuronError)], ids=["bad-id", "bad-layer"]
)
def test_an_error_leaves_no_hook(planted_model: Any, ids: list[list[int]], layers: list[int], error: Any) -> None:
    with pytest.raises(error):
        capture(planted_model, [torch.tensor(ids)], layers)
    assert n_hooks(planted_model) == 0


# --- encode -----------------------------------------------------------------------------------------


def test_encode_is_the_tokenizers_own(planted: Checkpoint) -> None:
    ids = encode(planted.tokenizer, TEXTS[0])
    assert ids.shape == (1, ids.numel())
    assert ids[0].tolist() == planted.tokenizer(TEXTS[0])["input_ids"]
    assert planted.tokenizer.decode(ids[0]) == TEXTS[0]


def test_encode_refuses_a_text_without_tokens(planted: Checkpoint) -> None:
    with pytest.raises(RunError, match="'' has no tokens: give a text"):
        encode(planted.tokenizer, "")


def test_encode_keeps_the_special_tokens_that_the_tokenizer_adds(real_model: str) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(real_model)
    ids = encode(tokenizer, "Once upon a time")
    assert ids[0].tolist() == tokenizer("Once upon a time")["input_ids"]
