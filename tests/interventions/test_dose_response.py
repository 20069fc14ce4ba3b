"""The sweep against one clamp at a time; log-odds against the formula in float64."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fixtures.build import VOCAB
from flashinterp import (
    Checkpoint,
    ClampError,
    Curves,
    FlashinterpError,
    NeuronError,
    NeuronId,
    Token,
    TokenError,
    clamp,
    sweep,
)
from flashinterp.models.activations import capture, encode
from flashinterp.neurons import SITES
from flashinterp.stats import log_odds
from tests.examples import examples
from tests.helpers import n_hooks

PROMPTS = ("We walked down the road and then we saw the", "The next word is")
NEURONS = ("L0N3", "L1N17", "L3N31", "L1N60")
VALUES = (-20.0, 0.5, 145.0)
TOKENS = (" dog", " California", " king")


def one_clamp_at_a_time(
    model: Any, checkpoint: Checkpoint, neurons: Any, values: np.ndarray, site: Any = "up"
) -> np.ndarray:
    """[neurons, values, prompts, tokens] the plain way, with whole logits."""
    ids = [checkpoint.vocabulary.resolve(t).id for t in TOKENS]
    result = np.empty((*values.shape, len(PROMPTS), len(TOKENS)))
    for (i, neuron), j, (k, prompt) in product(enumerate(neurons), range(values.shape[1]), enumerate(PROMPTS)):
        with torch.no_grad(), clamp(model, {neuron: float(values[i, j])}, site=site):
            z = model(encode(checkpoint.tokenizer, prompt)).logits[0, -1].double()
        result[i, j, k] = z.log_softmax(-1)[ids].numpy()
    return result


def shared() -> np.ndarray:
    return np.tile(VALUES, (len(NEURONS), 1))


@pytest.fixture(scope="module")
def expected(planted: Checkpoint, planted_model: Any) -> np.ndarray:
    return one_clamp_at_a_time(planted_model, planted, NEURONS, shared())


def swept(
    planted: Checkpoint, planted_model: Any, neurons: Any = NEURONS, values: Any = VALUES, **kwargs: Any
) -> Curves:
    return sweep(planted_model, planted.tokenizer, PROMPTS, neurons, values, TOKENS, **kwargs)


@pytest.mark.parametrize("site", SITES)
def test_sweep_equals_one_clamp_at_a_time(planted: Checkpoint, planted_model: Any, site: Any) -> None:
    wanted = one_clamp_at_a_time(planted_model, planted, NEURONS, shared(), site)
    curves = swept(planted, planted_model, site=site)
    assert curves.site == site
    assert curves.log_probs.shape == (4, 3, 2, 3)
    assert np.ptp(wanted, axis=1).max(axis=(1, 2)).min() > 0.01, "some neuron does nothing: weak test"
    np.testing.assert_allclose(curves.log_probs, wanted, atol=2e-5, rtol=1e-5)


@examples(12)
@given(batch_size=st.integers(1, 14), order=st.permutations(range(len(NEURONS))))
def test_neither_batch_size_nor_order_matters(
    planted: Checkpoint, planted_model: Any, expected: np.ndarray, batch_size: int, order: list[int]
) -> None:
    curves = swept(planted, planted_model, [NEURONS[i] for i in order], batch_size=batch_size)
    assert [str(n) for n in curves.neurons] == [NEURONS[i] for i in order]
    np.testing.assert_allclose(curves.log_probs, expected[order], atol=2e-5, rtol=1e-5)


def test_each_neuron_may_have_its_own_values(planted: Checkpoint, planted_model: Any) -> None:
    own = shared() * np.array([[1.0], [0.1], [-2.0], [0.0]]) + np.arange(4)[:, None]
    curves = swept(planted, planted_model, values=own)
    np.testing.assert_array_equal(curves.values, own.astype(np.float32))
    np.testing.assert_allclose(curves.log_probs, one_clamp_at_a_time(planted_model, planted, NEURONS, own), atol=2e-5)


@pytest.mark.parametrize("values", [7.0, [7.0], [[7.0]] * 4, torch.tensor([7.0]), np.array(7)], ids=repr)
def test_values_are_shared_where_they_are_not_each_ones_own(
    planted: Checkpoint, planted_model: Any, values: Any
) -> None:
    curves = swept(planted, planted_model, values=values)
    assert curves.values.tolist() == [[7.0]] * 4
    assert curves.log_probs.shape == (4, 1, 2, 3)


def test_one_neuron_may_be_swept_twice(planted: Checkpoint, planted_model: Any, expected: np.ndarray) -> None:
    curves = swept(planted, planted_model, ["L1N17", NeuronId(1, 17)])
    np.testing.assert_array_equal(curves.log_probs[0], curves.log_probs[1])
    np.testing.assert_allclose(curves.log_probs[0], expected[1], atol=2e-5)


@pytest.mark.parametrize("site", SITES)
def test_own_gate_and_clean_are_those_of_the_last_position_unclamped(
    planted: Checkpoint, planted_model: Any, site: Any
) -> None:
    curves = swept(planted, planted_model, site=site)
    ids = [planted.vocabulary.resolve(t).id for t in TOKENS]
    for k, prompt in enumerate(PROMPTS):
        sequence = encode(planted.tokenizer, prompt)
        with torch.no_grad():
            clean = planted_model(sequence).logits[0, -1].log_softmax(-1)[ids]
        np.testing.assert_allclose(curves.clean[k], clean.numpy(), atol=2e-5)
        natural = capture(planted_model, [sequence], range(4))[0]
        for i, neuron in enumerate(curves.neurons):
            last = {what: getattr(natural[neuron.block], what)[-1, neuron.neuron] for what in ("gate", "act", site)}
            assert (curves.gate[i, k], curves.act_gate[i, k], curves.own[i, k]) == pytest.approx(
                (last["gate"], last["act"], last[site])
            )
    assert (curves.routed == 1).all()


def test_tokens_by_text_id_and_token_are_the_same(planted: Checkpoint, planted_model: Any) -> None:
    token = planted.vocabulary.resolve(" dog")
    many = [" dog", "dog", token.id, np.int64(token.id), token]
    curves = sweep(planted_model, planted.tokenizer, PROMPTS, ["L1N17"], VALUES, many)
    assert {t.id for t in curves.tokens} == {token.id}
    assert (curves.log_probs == curves.log_probs[..., :1]).all()


def test_the_planted_neuron_drives_its_own_token(expected: np.ndarray) -> None:
    dog = expected[NEURONS.index("L1N17"), :, :, 0]  # [values, prompts]
    california = expected[NEURONS.index("L3N31"), :, :, 1]
    assert (np.diff(dog, axis=0) > 0).all()
    assert (np.diff(california, axis=0) < 0).all()  # planted on the negative pole


def test_a_sweep_computes_what_lies_before_a_clamped_layer_once(planted: Checkpoint, planted_model: Any) -> None:
    calls = [0, 0, 0, 0]

    def count(layer: int) -> Any:
        return planted_model.model.layers[layer].register_forward_hook(
            lambda *_: calls.__setitem__(layer, calls[layer] + 1)
        )

    handles = [count(layer) for layer in range(4)]
    curves = swept(planted, planted_model, ["L1N17", "L1N60", "L3N31"], batch_size=4)
    for handle in handles:
        handle.remove()
    assert curves.whole is None
    # For each of two prompts three whole passes: the clean one, the proof's, and one for the gate. The proof goes again
    # from layer 1, and so do the 6 rows of layer 1, in batches of 4; the 3 rows of layer 3 from there.
    assert calls == [2 * 3, 2 * (3 + 1 + 2), 2 * (3 + 1 + 2), 2 * (3 + 1 + 2 + 1)]


@pytest.mark.parametrize(
    ("changed", "error", "match"),
    [
        ({"prompts": []}, ClampError, "nothing to sweep: 0 prompts"),
        ({"neurons": []}, ClampError, "0 neurons"),
        ({"tokens": []}, ClampError, "0 tokens"),
        ({"values": []}, ClampError, "values"),
        ({"values": [[1.0, 2.0]] * 3}, ClampError, r"values, of shape \(3, 2\)"),
        ({"values": [[[1.0]]]}, ClampError, r"values, of shape \(1, 1, 1\)"),
        ({"values": ["loud"]}, ClampError, "values"),
        ({"values": [1.0, float("nan")]}, ClampError, "L1N17 .*finite"),
        ({"values": [np.inf]}, ClampError, "L1N17 .*finite"),
        ({"batch_size": 0}, ClampError, "batch_size"),
        ({"neurons": ["L9N0"]}, NeuronError, "L9N0 is out of range"),
        ({"neurons": ["L0N256"]}, NeuronError, "L0N256 is out of range"),
        ({"neurons": ["dog"]}, NeuronError, "'dog' is not a neuron"),
        ({"tokens": [" Dumbledore"]}, TokenError, "not one token"),
        ({"tokens": [VOCAB]}, TokenError, f"{VOCAB} is out of range"),
        ({"tokens": [Token(VOCAB, "?", "by id")]}, TokenError, f"{VOCAB} is out of range"),
        ({"site": "middle"}, ClampError, "unknown site"),
        ({"prompts": [""]}, FlashinterpError, "no tokens"),
        ({"prompts": "The next word is"}, ClampError, "list"),
        ({"tokens": " dog"}, ClampError, "list"),
    ],
    ids=lambda v: str(v)[:30] if isinstance(v, dict) else "",
)
def test_what_cannot_be_swept_is_told_in_one_line(
    planted: Checkpoint, planted_model: Any, changed: dict[str, Any], error: Any, match: str
) -> None:
    given_ = {"prompts": PROMPTS, "neurons": ["L1N17"], "values": VALUES, "tokens": TOKENS, **changed}
    with pytest.raises(error, match=match) as caught:
        sweep(planted_model, planted.tokenizer, **given_)
    assert len(str(caught.value).splitlines()) == 1
    assert n_hooks(planted_model) == 0


def test_progress_counts_every_point(planted: Checkpoint, planted_model: Any) -> None:
    seen: list[tuple[int, int]] = []
    given_: dict[str, Any] = {"batch_size": 5, "progress": lambda *at: seen.append(at)}
    loud = sweep(planted_model, planted.tokenizer, PROMPTS, NEURONS, VALUES, TOKENS, **given_)
    quiet = sweep(planted_model, planted.tokenizer, PROMPTS, NEURONS, VALUES, TOKENS, batch_size=5)
    np.testing.assert_array_equal(loud.log_probs, quiet.log_probs)
    # Layers 0 and 3 have one neuron, layer 1 two: passes of 3, 5 and 1, and 3 rows, for each prompt.
    done = [at for at, _ in seen]
    assert sorted(np.diff([0, *done])) == [1, 1, 3, 3, 3, 3, 5, 5]
    assert done[-1] == len(NEURONS) * len(VALUES) * len(PROMPTS)
    assert {total for _, total in seen} == {done[-1]}


# --- log-odds ---------------------------------------------------------------------------------------


def test_log_odds_do_not_flatten_where_the_probability_does(planted: Checkpoint, planted_model: Any) -> None:
    curves = swept(planted, planted_model, ["L1N17"], [100.0, 200.0])
    np.testing.assert_array_equal(curves.log_odds, log_odds(curves.log_probs))
    assert np.isfinite(curves.log_odds).all()
