"""The clamp against explicit arithmetic, and against itself: what it writes, where, and what it leaves behind."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from itertools import permutations
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)

from flashinterp import ClampError, LayoutError, NeuronError, NeuronId, clamp
from flashinterp.interventions.clamp import clamp_rows
from flashinterp.interventions.clamp_values import RowClamp
from flashinterp.neurons import POSITIONS, SITES
from tests.examples import examples
from tests.helpers import n_hooks

FAMILIES = {"llama": LlamaConfig, "mistral": MistralConfig, "qwen2": Qwen2Config, "qwen3": Qwen3Config}
LAYERS, NEURONS, VOCAB = 3, 40, 61
PROMPT = torch.tensor([[7, 21, 3, 50, 12]])
BATCH = torch.tensor([[7, 21, 3, 50, 12], [9, 9, 33, 1, 60], [44, 2, 8, 17, 5]])
SEVERAL = {"L0N3": 12.0, "L1N17": -8.5, "L1N39": 6.0, "L2N0": 16.0}  # exact in bfloat16

neuron_names = st.builds("L{}N{}".format, st.integers(0, LAYERS - 1), st.integers(0, NEURONS - 1))
doses = st.floats(-20, 20, width=32)


@cache
def tiny(family: str = "llama", dtype: torch.dtype = torch.float32) -> Any:
    """A random model of a family, with weights large enough that a clamp moves its logits by whole nats."""
    config = FAMILIES[family](
        vocab_size=VOCAB, hidden_size=32, intermediate_size=NEURONS, num_hidden_layers=LAYERS,
        num_attention_heads=4, num_key_value_heads=2, head_dim=8, max_position_embeddings=64,
        initializer_range=0.3, bos_token_id=0, eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(20250105)
        model = AutoModelForCausalLM.from_config(config)
    return model.to(dtype).eval().requires_grad_(False)


# --- the independent implementation -----------------------------------------------------------------


def mlp_by_hand(mlp: Any, fixed: Mapping[int, float], site: str, where: slice, x: Tensor) -> Tensor:
    """One MLP in explicit arithmetic, with some neurons' values written in: x [batch, positions, d] to the same."""

    def written(values: Tensor, here: str) -> Tensor:
        columns = list(values.unbind(-1))  # F tensors [batch, positions]
        for n, value in fixed.items() if here == site else ():
            keep = torch.ones(x.shape[1], dtype=torch.bool)
            keep[where] = False
            columns[n] = torch.where(keep, columns[n], value)
        return torch.stack(columns, dim=-1)

    up = written(x @ mlp.up_proj.weight.T, "up")
    gate = written(x @ mlp.gate_proj.weight.T, "gate")
    post = written(up * gate / (1 + torch.exp(-gate)), "post")
    return post @ mlp.down_proj.weight.T


@cache
def twin_of(family: str, dtype: torch.dtype, precision: torch.dtype) -> Any:
    """A copy of a tiny model, weights rounded to ``dtype``, that computes in ``precision``."""
    return copy.deepcopy(tiny(family, dtype)).to(precision)


@contextmanager
def written_by_hand(twin: Any, clamps: Mapping[str, float], site: str, where: slice = slice(None)) -> Iterator[Any]:
    """A model's MLPs replaced by `mlp_by_hand` while the context is open."""
    named = [(NeuronId.parse(name), value) for name, value in clamps.items()]
    blocks = list(twin.model.layers)
    for layer, block in enumerate(blocks):
        fixed = {n.neuron: value for n, value in named if n.layer == layer}
        block.mlp.forward = partial(mlp_by_hand, block.mlp, fixed, site, where)
    try:
        yield twin
    finally:
        for block in blocks:
            del block.mlp.forward


def logits(model: Any, ids: Tensor = BATCH, **kwargs: Any) -> Tensor:
    """[batch, positions, V] in float64."""
    with torch.no_grad():
        return model(ids, use_cache=False, **kwargs).logits.double()


def by_hand(twin: Any, clamps: Mapping[str, float], site: str, ids: Tensor = BATCH, **kwargs: Any) -> Tensor:
    with written_by_hand(twin, clamps, site):
        return logits(twin, ids, **kwargs)


def off(got: Tensor, wanted: Tensor) -> float:
    return float((got - wanted).abs().max())


def natural(model: Any, site: str, layer: int, ids: Tensor = BATCH) -> Tensor:
    """[batch, positions, F] a site's own values, in the model's dtype, from plain hooks."""
    mlp, seen = model.model.layers[layer].mlp, {}
    handles = [
        mlp.up_proj.register_forward_hook(lambda _, args, out: seen.__setitem__("up", out.clone())),
        mlp.gate_proj.register_forward_hook(lambda _, args, out: seen.__setitem__("gate", out.clone())),
        mlp.down_proj.register_forward_pre_hook(lambda _, args: seen.__setitem__("post", args[0].clone())),
    ]
    logits(model, ids)
    for handle in handles:
        handle.remove()
    return seen[site]


# --- what it computes -------------------------------------------------------------------------------


@pytest.mark.parametrize("padded", [False, True], ids=["whole", "left-padded"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("clamps", [{"L1N17": 12.0}, SEVERAL], ids=["one", "several"])
@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("family", FAMILIES)
def test_clamp_equals_writing_the_value_by_hand(
    family: str, site: str, clamps: dict[str, float], dtype: torch.dtype, padded: bool
) -> None:
    model, mask = tiny(family, dtype), torch.ones_like(BATCH)
    exact, naive = (twin_of(family, dtype, precision) for precision in (torch.float64, dtype))
    if padded:
        mask[1, :2] = 0
    real = mask.bool()
    clean, wanted, rounded = (
        by_hand(twin, fixed, site, attention_mask=mask)[real]
        for twin, fixed in ((exact, {}), (exact, clamps), (naive, clamps))
    )
    with clamp(model, clamps, site=site):
        got = logits(model, attention_mask=mask)[real]

    # The budget is what explicit arithmetic loses in the same dtype, twice: float32 norms inside, other fusions.
    budget = 2 * off(rounded, wanted) + 1e-5
    assert off(wanted, clean) > 2 * budget, "the clamp is too weak to test anything"
    assert off(got, wanted) <= budget


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("family", FAMILIES)
def test_mlp_output_changes_by_the_linear_formula(family: str, site: str) -> None:
    model, layer, n, value = tiny(family), 1, 17, 6.5
    mlp = model.model.layers[layer].mlp
    u, g = (natural(model, s, layer)[..., n].double() for s in ("up", "gate"))  # [batch, positions]
    act = lambda z: z * torch.sigmoid(z)  # noqa: E731
    c = torch.tensor(value, dtype=torch.float64)
    change = {"up": act(g) * (c - u), "gate": u * (act(c) - act(g)), "post": c - u * act(g)}[site]
    wanted = change[..., None] * mlp.down_proj.weight[:, n].double()

    outputs: list[Tensor] = []
    handle = mlp.register_forward_hook(lambda _, args, out: outputs.append(out.double()))
    logits(model)
    with clamp(model, {f"L{layer}N{n}": value}, site=site):
        logits(model)
    handle.remove()
    assert float(wanted.abs().max()) > 1
    torch.testing.assert_close(outputs[1] - outputs[0], wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("layer", range(LAYERS))
def test_clamp_to_the_own_values_changes_not_one_bit(layer: int, dtype: torch.dtype, site: str) -> None:
    model = tiny(dtype=dtype)
    own = natural(model, site, layer)  # [batch, positions, F]
    with clamp(model, {NeuronId(layer, n): own[..., n] for n in (0, 17, 39)}, site=site) as log:
        same = logits(model)
    assert torch.equal(same, logits(model))
    assert log.written == {layer: 3 * BATCH.numel()}


@examples(15)
@given(name=neuron_names, value=doses, site=st.sampled_from(SITES))
def test_clamp_twice_is_clamp_once(name: str, value: float, site: str) -> None:
    with clamp(tiny(), {name: value}, site=site):
        once = logits(tiny())
        with clamp(tiny(), {name: value}, site=site):
            assert torch.equal(logits(tiny()), once)


@examples(10)
@given(names=st.lists(neuron_names, min_size=3, max_size=3, unique=True), value=doses, site=st.sampled_from(SITES))
def test_clamps_of_different_neurons_commute(names: list[str], value: float, site: str) -> None:
    clamps = {name: value + i for i, name in enumerate(names)}
    with clamp(tiny(), clamps, site=site):
        together = logits(tiny())
    for order in permutations(names):
        with ExitStack() as stack:
            for name in order:
                stack.enter_context(clamp(tiny(), {name: clamps[name]}, site=site))
            assert torch.equal(logits(tiny()), together)


def test_of_two_clamps_on_one_neuron_the_inner_holds() -> None:
    with clamp(tiny(), {"L1N17": 3.0}):
        wanted = logits(tiny())
    with clamp(tiny(), {"L1N17": -9.0}), clamp(tiny(), {"L1N17": 3.0}):
        assert torch.equal(logits(tiny()), wanted)


@pytest.mark.parametrize("site", SITES)
def test_batch_order_does_not_matter(site: str) -> None:
    values, order = torch.tensor([[5.0], [-3.0], [1.5]]), [2, 0, 1]
    with clamp(tiny(), {"L1N17": values}, site=site):
        straight = logits(tiny())
    with clamp(tiny(), {"L1N17": values[order]}, site=site):
        mixed = logits(tiny(), BATCH[order])
    torch.testing.assert_close(mixed, straight[order], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "value",
    [torch.tensor(5.0), torch.full((5,), 5.0), torch.full((3, 1), 5.0), torch.full((3, 5), 5.0), torch.tensor([5])],
    ids=lambda v: str(tuple(v.shape)),
)
def test_a_tensor_of_one_value_is_the_number(value: Tensor) -> None:
    with clamp(tiny(), {"L1N17": 5.0}):
        wanted = logits(tiny())
    with clamp(tiny(), {"L1N17": value}):
        assert torch.equal(logits(tiny()), wanted)


def test_values_by_row_are_those_of_each_row_alone() -> None:
    values = torch.tensor([[5.0], [-3.0], [1.5]])
    with clamp(tiny(), {"L1N17": values}):
        together = logits(tiny())
    for row in range(3):
        with clamp(tiny(), {"L1N17": float(values[row])}):
            torch.testing.assert_close(logits(tiny(), BATCH[row : row + 1])[0], together[row], atol=1e-5, rtol=1e-5)


def test_values_by_position_stand_at_their_positions() -> None:
    values = torch.tensor([1.0, -2.0, 3.0, -4.0, 5.0])
    with clamp(tiny(), {"L2N5": values}):
        assert torch.equal(natural(tiny(), "up", 2)[..., 5], values.expand(3, -1))


def test_rows_may_carry_their_own_neurons_and_values() -> None:
    rows = [
        RowClamp(NeuronId(0, 3), 6.5, (0, 2)),
        RowClamp(NeuronId(1, 17), -4.25, (1,)),
        RowClamp(NeuronId(0, 5), 2.0, (1,)),
    ]
    alone = [{"L0N3": 6.5}, {"L1N17": -4.25, "L0N5": 2.0}, {"L0N3": 6.5}]
    with clamp_rows(tiny(), rows) as log:
        got = logits(tiny())
    assert log.written == {0: 15, 1: 5}
    for row, clamps in enumerate(alone):
        with clamp(tiny(), clamps):
            torch.testing.assert_close(got[row], logits(tiny(), BATCH[row : row + 1])[0], atol=1e-5, rtol=1e-5)


def test_row_clamps_of_numbers_and_of_tensors_write_the_same() -> None:
    numbers = [RowClamp(NeuronId(1, 17), 6.5, (0, 2)), RowClamp(NeuronId(1, 3), 2.0, (1,))]
    tensors = [RowClamp(r.neuron, torch.tensor(r.value), r.rows) for r in numbers]
    with clamp_rows(tiny(), numbers) as first:
        wanted = logits(tiny())
    with clamp_rows(tiny(), tensors) as second:
        assert torch.equal(logits(tiny()), wanted)
    assert first == second


# --- positions --------------------------------------------------------------------------------------

NEW = 8
_PROMPT_LENGTH = PROMPT.shape[1]
# Which positions of the whole sequence so far the reference writes, when it has `length` positions.
_REACH: dict[tuple[str, bool], Callable[[int], slice]] = {
    ("all", True): lambda length: slice(None),
    ("all", False): lambda length: slice(None),
    ("generated", True): lambda length: slice(_PROMPT_LENGTH, None),
    ("generated", False): lambda length: slice(_PROMPT_LENGTH, None),
    # "The last of each forward pass": with a cache the last positions of earlier passes stay as they were.
    ("last", True): lambda length: slice(_PROMPT_LENGTH - 1, None),
    ("last", False): lambda length: slice(length - 1, None),
}


def generate(model: Any, use_cache: bool) -> list[int]:
    out = model.generate(
        PROMPT, attention_mask=torch.ones_like(PROMPT), max_new_tokens=NEW, do_sample=False, use_cache=use_cache
    )
    return out[0, _PROMPT_LENGTH:].tolist()


def greedy_by_hand(clamps: Mapping[str, float], reach: Callable[[int], slice]) -> list[int]:
    ids, exact = PROMPT, twin_of("llama", torch.float32, torch.float64)
    while ids.shape[1] < _PROMPT_LENGTH + NEW:
        with written_by_hand(exact, clamps, "up", reach(ids.shape[1])) as twin:
            best = logits(twin, ids)[:, -1].argmax(-1, keepdim=True)
        ids = torch.cat([ids, best], dim=1)
    return ids[0, _PROMPT_LENGTH:].tolist()


@pytest.mark.parametrize(
    ("positions", "use_cache"), _REACH, ids=lambda v: {True: "cached", False: "uncached"}.get(v, v)
)
def test_generation_is_clamped_at_the_stated_positions(positions: str, use_cache: bool) -> None:
    model, reach = tiny(), _REACH[positions, use_cache]
    with clamp(model, SEVERAL, positions=positions):
        got = generate(model, use_cache)
    assert got == greedy_by_hand(SEVERAL, reach)
    assert got != generate(model, use_cache), "the clamp is too weak to test anything"


@pytest.mark.parametrize("positions", ["all", "generated"])
def test_the_cache_changes_no_generated_token(positions: str) -> None:
    answers = []
    for use_cache in (True, False):
        with clamp(tiny(), SEVERAL, positions=positions):
            answers.append(generate(tiny(), use_cache))
    assert answers[0] == answers[1]


def test_positions_differ_from_each_other() -> None:
    answers = set()
    for positions in POSITIONS:
        with clamp(tiny(), SEVERAL, positions=positions):
            answers.add(tuple(generate(tiny(), use_cache=True)))
    assert len(answers) == len(POSITIONS)


def test_last_writes_the_last_position_only() -> None:
    clean = natural(tiny(), "up", 1)[..., 17]
    with clamp(tiny(), {"L1N17": 6.5}, positions="last") as log:
        clamped = natural(tiny(), "up", 1)[..., 17]
    assert torch.equal(clamped[:, :-1], clean[:, :-1])
    assert clamped[:, -1].tolist() == [6.5] * 3
    assert log.written == {1: 3}


def test_generated_leaves_the_prompt_alone() -> None:
    clean = logits(tiny(), PROMPT)
    with clamp(tiny(), SEVERAL, positions="generated"):
        assert torch.equal(logits(tiny(), PROMPT), clean)
        logits(tiny(), torch.cat([PROMPT, PROMPT[:, :1]], dim=1))


def test_log_counts_calls_and_values() -> None:
    with clamp(tiny(), SEVERAL) as log:
        logits(tiny())
        logits(tiny())
    assert log.calls == {0: 2, 1: 2, 2: 2}
    assert log.written == {0: 30, 1: 60, 2: 30}


# --- what it leaves behind --------------------------------------------------------------------------


@pytest.mark.parametrize("site", SITES)
def test_nothing_of_the_model_is_changed(site: str) -> None:
    model = copy.deepcopy(tiny()).train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    clean = logits(model)
    with clamp(model, SEVERAL, site=site):
        logits(model)
        assert n_hooks(model) == 6  # in each layer one that writes, and one that sees the batch's shape
    assert n_hooks(model) == 0
    assert model.training
    assert all(m.training for m in model.modules())
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert torch.equal(logits(model), clean)


@pytest.mark.parametrize("passes", [0, 1])
def test_an_error_inside_shows_itself_and_leaves_no_hook(passes: int) -> None:
    def fail() -> None:
        for _ in range(passes):
            logits(tiny())
        raise KeyError("my own")

    with pytest.raises(KeyError, match="my own"), clamp(tiny(), SEVERAL):
        fail()
    assert n_hooks(tiny()) == 0


def test_an_error_of_the_model_leaves_no_hook() -> None:
    with pytest.raises(IndexError), clamp(tiny(), SEVERAL):
        logits(tiny(), torch.tensor([[VOCAB + 1]]))
    assert n_hooks(tiny()) == 0


def test_an_error_while_hooks_are_set_leaves_no_hook() -> None:
    model = copy.deepcopy(tiny())
    model.model.layers[2].mlp.up_proj = None
    with pytest.raises(LayoutError, match="layers.2"), clamp(model, SEVERAL):
        pass
    assert n_hooks(model) == 0


@pytest.mark.parametrize("site", SITES)
def test_a_users_own_hook_on_the_same_module_survives_and_keeps_what_it_saw(site: str) -> None:
    model, seen = tiny(), []
    mlp = model.model.layers[1].mlp
    if site == "post":
        handle = mlp.down_proj.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    else:
        handle = getattr(mlp, f"{site}_proj").register_forward_hook(lambda _, args, out: seen.append(out))
    with clamp(model, {"L1N17": 6.5}, site=site):
        logits(model)
    logits(model)
    handle.remove()
    assert torch.equal(seen[0], seen[1])  # it came before the clamp, which writes into a copy
    assert n_hooks(model) == 0


# --- what it refuses --------------------------------------------------------------------------------


def refused(error: type[Exception], match: str, model: Any, clamps: Any, ids: Tensor = BATCH, **kwargs: Any) -> None:
    """Entering, running or leaving the clamp raises one line of this kind, and no hook stays."""
    with pytest.raises(error, match=match) as caught, clamp(model, clamps, **kwargs):
        logits(model, ids)
    assert len(str(caught.value).splitlines()) == 1
    assert n_hooks(model) == 0


@pytest.mark.parametrize(
    ("clamps", "kwargs", "error", "match"),
    [
        ({}, {}, ClampError, "nothing to clamp"),
        ({"L1N17": float("nan")}, {}, ClampError, "L1N17 .*finite"),
        ({"L1N17": float("inf")}, {}, ClampError, "L1N17 .*finite"),
        ({"L1N17": 1e39}, {}, ClampError, "finite number in torch.float32"),
        ({"L1N17": torch.full((3, 5), float("nan"))}, {}, ClampError, "L1N17 .*finite"),
        ({"L1N17": "loud"}, {}, ClampError, "L1N17.*number"),
        ({"L1N17": None}, {}, ClampError, "L1N17.*number"),
        ({"L3N0": 1.0}, {}, NeuronError, "L3N0 is out of range"),
        ({"L0N40": 1.0}, {}, NeuronError, "L0N40 is out of range"),
        ({"dog": 1.0}, {}, NeuronError, "'dog' is not a neuron's name"),
        ({"L1N17": 1.0, NeuronId(1, 17): 2.0}, {}, ClampError, "named twice"),
        ({"L1N17": 1.0, " L1N17": 1.0}, {}, ClampError, "named twice"),
        ({"L1N17": 1.0}, {"site": "middle"}, ClampError, "unknown site 'middle'.*up, gate, post"),
        ({"L1N17": 1.0}, {"positions": "first"}, ClampError, "unknown positions 'first'.*all, last, generated"),
        ({"L1N17": 1.0}, {"positions": "generated"}, ClampError, "did not fire .*generated"),
        ({"L1N17": torch.zeros(4)}, {}, ClampError, r"L1N17 have shape \(4,\).*\(3, 5\)"),
        ({"L1N17": torch.zeros(2, 1)}, {}, ClampError, r"\(2, 1\)"),
        ({"L1N17": torch.zeros(5, 3)}, {}, ClampError, r"\(5, 3\)"),
        ({"L1N17": torch.zeros(1, 3, 5)}, {}, ClampError, r"\(1, 3, 5\)"),
        ({"L1N17": torch.zeros(5)}, {"positions": "last"}, ClampError, r"\(3, 1\)"),
    ],
)  # fmt: skip
def test_what_cannot_be_clamped_is_told_in_one_line(
    clamps: Any, kwargs: dict[str, Any], error: type[Exception], match: str
) -> None:
    refused(error, match, tiny(), clamps, **kwargs)


def test_a_value_beyond_float16_is_refused() -> None:
    refused(ClampError, "finite number in torch.float16", tiny(dtype=torch.float16), {"L1N17": 70000.0})


def test_an_unknown_architecture_is_refused() -> None:
    config = BloomConfig(vocab_size=VOCAB, hidden_size=8, n_layer=1, n_head=2)
    refused(LayoutError, "'bloom' is not known", AutoModelForCausalLM.from_config(config), {"L0N0": 1.0})


@pytest.mark.parametrize("site", SITES)
def test_a_clamp_that_never_ran_is_an_error(site: str) -> None:
    with pytest.raises(ClampError, match="layer 1 did not fire .never ran"), clamp(tiny(), {"L1N17": 1.0}, site=site):
        pass
    assert n_hooks(tiny()) == 0


def test_a_clamp_whose_own_module_was_not_reached_is_an_error() -> None:
    with pytest.raises(ClampError, match="layer 2 did not fire"), clamp(tiny(), {"L0N3": 1.0, "L2N3": 1.0}):
        tiny().model.layers[0].mlp(torch.zeros(1, 1, 32))


# --- a trained model --------------------------------------------------------------------------------


@pytest.mark.parametrize("site", SITES)
def test_clamp_on_a_trained_model_equals_writing_by_hand(real_model: str, site: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(real_model, dtype=torch.float32).eval().requires_grad_(False)
    twin, ids = copy.deepcopy(model).double(), torch.tensor([[1, 403, 407, 261, 378]])
    clamps = {"L0N3": 2.5, f"L{model.config.num_hidden_layers - 1}N17": -4.25}
    with clamp(model, clamps, site=site):
        got = logits(model, ids)
    wanted = by_hand(twin, clamps, site, ids)
    assert off(wanted, by_hand(twin, {}, site, ids)) > 0.1
    assert off(got, wanted) < 1e-3
