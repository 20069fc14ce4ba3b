"""Natural text: doses and scales against explicit arithmetic, and which positions count for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from flashinterp import Checkpoint, NeuronId
from flashinterp.errors import NeuronError, RunError
from flashinterp.evaluation import natural_range as natural_range_module
from flashinterp.evaluation.experiment import Experiment
from flashinterp.evaluation.matched_controls import LayerScale
from flashinterp.evaluation.natural_range import HIGH, LOW, Natural, append, check_routed, natural_range, natural_text
from flashinterp.evaluation.profiles import PROFILES
from flashinterp.evaluation.prompts import Group, PromptSet
from flashinterp.models.activations import Activations, capture, encode
from flashinterp.neurons import Block
from tests.architecture_cases import Case
from tests.examples import examples
from tests.helpers import assert_one_line_with_next_step, n_hooks

PROMPTS = PromptSet(
    groups=(
        Group("any", (), ("We saw the old", "They like to go home and", "Tell me"), ("He took a",)),
        Group("pets", (" dog",), ("It was on the road and", "I know what"), ("The small one saw my",)),
    ),
    contexts_selection=("I know of", "The next word is"),
    contexts_heldout=("A word is",),
    questions=("What?",),
    concepts=(" dog",),
)
TEXTS = [*PROMPTS.selection, *PROMPTS.contexts_selection]
SIZES = replace(PROFILES["smoke"], selection=99)


@pytest.fixture(scope="module")
def bench(planted: Checkpoint, planted_model: Any) -> Experiment:
    return Experiment(planted_model, planted, PROMPTS, SIZES, seed=0)


@pytest.fixture(scope="module")
def experts(case: Callable[[str], Case]) -> Experiment:
    mixtral = case("mixtral")
    return Experiment(mixtral.model, mixtral.checkpoint, PROMPTS, SIZES, seed=0)


def alone(bench: Experiment, texts: Sequence[str], block: Block) -> list[Activations]:
    """What a block does on each text by itself."""
    return [capture(bench.model, [encode(bench.tokenizer, text)], [block])[0][block] for text in texts]


def quantile(values: np.ndarray, q: float) -> float:
    """By hand: between the two nearest of the sorted values, in proportion."""
    ordered = np.sort(values)
    at = q * (len(ordered) - 1)
    below = int(np.floor(at))
    above = min(below + 1, len(ordered) - 1)
    return float(ordered[below] + (at - below) * (ordered[above] - ordered[below]))


# --- doses ------------------------------------------------------------------------------------------


def of(up: np.ndarray) -> Natural:
    n = up.shape[1]
    return Natural(up, LayerScale(np.ones(n), np.ones(n)), np.zeros((n, 2)), np.zeros((n, 2)))


@examples(40)
@given(st.integers(1, 30), st.integers(1, 4), st.integers(2, 11), st.data())
def test_doses_are_quantiles_evenly_from_the_first_to_the_last_percentile(
    positions: int, neurons: int, n: int, data: st.DataObject
) -> None:
    up = data.draw(arrays(np.float64, (positions, neurons), elements=st.floats(-1e3, 1e3)))
    steps = [0.01 + 0.98 * i / (n - 1) for i in range(n)]
    one = of(up).doses(0, n)
    every = of(up).doses(list(range(neurons)), n)
    assert one.shape == (n,)
    assert every.shape == (n, neurons)
    np.testing.assert_allclose(one, [quantile(up[:, 0], q) for q in steps], atol=1e-9)
    for j in range(neurons):
        np.testing.assert_allclose(every[:, j], [quantile(up[:, j], q) for q in steps], atol=1e-9)
    assert (np.diff(one) >= -1e-9).all()


def test_doses_leave_the_single_extremes_out() -> None:
    up = np.arange(101.0)[:, None]
    assert of(up).doses(0, 3).tolist() == [1, 50, 99]
    assert (LOW, HIGH) == (0.01, 0.99)


@examples(40)
@given(st.integers(1, 30), st.integers(1, 4), st.data())
def test_what_is_written_is_the_range_times_the_columns_length(
    positions: int, neurons: int, data: st.DataObject
) -> None:
    up = data.draw(arrays(np.float64, (positions, neurons), elements=st.floats(-1e3, 1e3)))
    norms = data.draw(arrays(np.float64, neurons, elements=st.floats(0, 1e2)))
    one = replace(of(up), scale=LayerScale(np.full(neurons, 7.0), norms))  # how loud it is does not count
    for j in range(neurons):
        wanted = (quantile(up[:, j], 0.99) - quantile(up[:, j], 0.01)) * norms[j]
        assert one.written(j) == pytest.approx(wanted, abs=1e-7)
        assert one.written(j) >= 0
    turned = replace(one, up=-up)  # the gauge
    assert [turned.written(j) for j in range(neurons)] == pytest.approx([one.written(j) for j in range(neurons)])


@pytest.mark.parametrize("case", ["a constant value", "an empty column"])
def test_what_has_no_range_or_no_column_writes_nothing(case: str) -> None:
    constant = case == "a constant value"
    up = np.full((9, 1), 3.0) if constant else np.arange(9.0)[:, None]
    one = replace(of(up), scale=LayerScale(np.ones(1), np.array([float(constant)])))
    assert one.written(0) == 0


# --- natural text -----------------------------------------------------------------------------------


@pytest.mark.parametrize("concepts", [[], [269], [269, 300, 269]], ids=str)
def test_the_texts_are_the_selection_and_each_concept_once_after_each_context(
    bench: Experiment, concepts: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[int]] = []

    def spy(model: Any, sequences: Sequence[torch.Tensor], blocks: Any) -> Any:
        seen.extend(ids[0].tolist() for ids in sequences)
        return capture(model, sequences, blocks)

    monkeypatch.setattr(natural_range_module, "capture", spy)
    natural_text(bench, [Block(1)], concepts)
    ids = {text: encode(bench.tokenizer, text)[0].tolist() for text in TEXTS}
    wanted = [ids[text] for text in TEXTS]
    wanted += [[*ids[context], i] for context in PROMPTS.contexts_selection for i in dict.fromkeys(concepts)]
    assert seen == wanted


@pytest.mark.parametrize("selection", [1, 3, 5])
def test_no_more_prompts_are_taken_than_the_profile_says(bench: Experiment, selection: int) -> None:
    few = replace(bench, profile=replace(SIZES, selection=selection))
    texts = [*PROMPTS.selection[:selection], *PROMPTS.contexts_selection]
    wanted = np.concatenate([a.up for a in alone(bench, texts, Block(1))])
    got = natural_text(few, [Block(1)])[Block(1)].up
    assert got.shape == wanted.shape
    np.testing.assert_allclose(got, wanted, atol=1e-4)


def test_a_block_is_what_its_weights_and_its_outputs_say(bench: Experiment, planted: Checkpoint) -> None:
    blocks = [Block(1), Block(3)]
    got = natural_text(bench, blocks)
    assert list(got) == blocks
    mlps = [layer.mlp for layer in bench.model.model.layers]
    for block in blocks:
        seen = alone(bench, TEXTS, block)
        u, g = (np.concatenate([getattr(a, what) for a in seen]).astype(np.float64) for what in ("up", "gate"))
        one = got[block]
        assert one.up.dtype == np.float64
        np.testing.assert_allclose(one.up, u, atol=1e-4)
        post = u * g / (1 + np.exp(-g))
        mean = post.mean(axis=0)
        np.testing.assert_allclose(one.scale.activation, np.sqrt(((post - mean) ** 2).mean(axis=0)), rtol=1e-3)
        down = mlps[block.layer].down_proj.weight.detach().double().numpy()  # [d, F]
        np.testing.assert_allclose(one.scale.column_norm, np.sqrt((down**2).sum(axis=0)), rtol=1e-9)
        np.testing.assert_array_equal(one.writing, down.T)
        np.testing.assert_array_equal(one.reading, mlps[block.layer].up_proj.weight.detach().double().numpy())
    assert n_hooks(bench.model) == 0


def test_a_planted_neuron_has_its_concept_in_its_range(bench: Experiment, planted: Checkpoint) -> None:
    dog = planted.vocabulary.resolve(" dog").id
    without, with_it = (natural_text(bench, [Block(1)], ids)[Block(1)].doses(17, 2) for ids in ([], [dog]))
    assert with_it[1] > 2 * without[1]


class Beginning:
    """A tokenizer that puts special tokens in front, as Llama's does."""

    def __init__(self, inner: Any, front: list[int]) -> None:
        self.inner, self.front = inner, front
        self.all_special_ids = inner.all_special_ids

    def __call__(self, text: str, **kwargs: Any) -> dict[str, Any]:
        ids = self.inner(text, **kwargs)["input_ids"]
        return {"input_ids": torch.cat([torch.tensor([self.front], dtype=ids.dtype), ids], dim=1)}


@pytest.mark.parametrize("front", [[0], [0, 1]], ids=["one special", "two specials"])
def test_special_tokens_in_front_set_no_range_and_no_scale(
    planted: Checkpoint, planted_model: Any, monkeypatch: pytest.MonkeyPatch, front: list[int]
) -> None:
    assert {*front} <= {*planted.tokenizer.all_special_ids}
    tokenizer = Beginning(planted.tokenizer, front)
    monkeypatch.setattr(Experiment, "tokenizer", property(lambda self: tokenizer))
    bench = Experiment(planted_model, planted, PROMPTS, SIZES, seed=0)
    seen = alone(bench, TEXTS, Block(1))
    up = np.concatenate([a.up[len(front) :] for a in seen])
    written = np.concatenate([a.post[len(front) :] for a in seen]).astype(np.float64)
    got = natural_text(bench, [Block(1)])[Block(1)]
    np.testing.assert_allclose(got.up, up, atol=1e-4)
    np.testing.assert_allclose(got.scale.activation, written.std(axis=0), rtol=1e-3)
    wanted = [quantile(up[:, 17].astype(np.float64), q) for q in (0.01, 0.99)]
    assert natural_range(bench, NeuronId(1, 17)) == pytest.approx(wanted, rel=1e-4)


def test_where_nothing_stands_in_front_nothing_is_left_out(bench: Experiment) -> None:
    n = sum(encode(bench.tokenizer, text).shape[1] for text in TEXTS)
    assert len(natural_text(bench, [Block(0)])[Block(0)].up) == n


# --- experts ----------------------------------------------------------------------------------------


def test_an_experts_range_is_of_the_tokens_that_reach_it(experts: Experiment) -> None:
    blocks = [Block(1, expert) for expert in range(4)]
    got = natural_text(experts, blocks)
    tokens = sum(encode(experts.tokenizer, text).shape[1] for text in TEXTS)
    for block in blocks:
        seen = alone(experts, TEXTS, block)
        weight = np.concatenate([a.weight for a in seen])
        up, post = (np.concatenate([getattr(a, what) for a in seen]).astype(np.float64) for what in ("up", "post"))
        assert 0 < (weight > 0).sum() < tokens
        np.testing.assert_allclose(got[block].up, up[weight > 0], atol=1e-4)
        # How loud it is counts all tokens: an expert that is seldom used is seldom heard.
        heard = (post * weight[:, None]).std(axis=0)
        np.testing.assert_allclose(got[block].scale.activation, heard, rtol=1e-3, atol=1e-7)
    assert sum(len(got[block].up) for block in blocks) == 2 * tokens  # two experts a token


def test_an_experts_natural_range_is_that_of_its_doses(experts: Experiment) -> None:
    neuron = NeuronId(1, 3, 2)
    doses = natural_text(experts, [neuron.block])[neuron.block].doses(3, 2)
    assert natural_range(experts, neuron) == pytest.approx(doses.tolist(), rel=1e-4)


# --- one neuron's range -------------------------------------------------------------------------------


def test_the_natural_range_is_of_the_selection_texts_alone(bench: Experiment) -> None:
    own = np.concatenate([a.up[:, 17] for a in alone(bench, TEXTS, Block(1))]).astype(np.float64)
    wanted = [quantile(own, q) for q in (0.01, 0.99)]
    assert natural_range(bench, NeuronId(1, 17)) == pytest.approx(wanted, rel=1e-4)
    few = replace(bench, profile=replace(SIZES, selection=2))
    own = np.concatenate([a.up[:, 17] for a in alone(bench, [*TEXTS[:2], *TEXTS[-2:]], Block(1))]).astype(np.float64)
    assert natural_range(few, NeuronId(1, 17)) == pytest.approx([quantile(own, q) for q in (0.01, 0.99)], rel=1e-4)


def test_a_neuron_that_is_not_there_has_no_range(bench: Experiment) -> None:
    with pytest.raises(NeuronError):
        natural_range(bench, NeuronId(4, 0))


@pytest.mark.parametrize("positions", [0, 1, 7])
def test_an_expert_that_is_hardly_reached_is_refused_by_name(positions: int) -> None:
    with pytest.raises(RunError, match=f"L12E3N40 .*only {positions} tokens.*8 are needed") as caught:
        check_routed(NeuronId(12, 40, 3), positions)
    assert_one_line_with_next_step(caught.value)


def test_eight_tokens_are_enough() -> None:
    check_routed(NeuronId(12, 40, 3), 8)


def test_an_expert_that_no_text_reaches_has_no_natural_range(
    experts: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreached(*args: Any) -> list[dict[Block, Activations]]:
        return [{b: replace(a, weight=0 * a.weight) for b, a in seen.items()} for seen in capture(*args)]

    monkeypatch.setattr(natural_range_module, "capture", unreached)
    with pytest.raises(RunError, match="only 0 tokens"):
        natural_range(experts, NeuronId(1, 3, 2))


# --- one token more -----------------------------------------------------------------------------------


def test_a_token_is_put_at_the_end_and_the_text_is_left_alone() -> None:
    ids = torch.tensor([[3, 1, 2]])
    longer = append(ids, 9)
    assert longer.tolist() == [[3, 1, 2, 9]]
    assert ids.tolist() == [[3, 1, 2]]
    assert (longer.dtype, longer.device) == (ids.dtype, ids.device)
