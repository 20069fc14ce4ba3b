"""The pairing null: what is changed, what is not, and that everything is as before afterwards."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fixtures.architectures import ARCHITECTURES, make
from flashinterp import RunError, open_checkpoint
from flashinterp.models.layout_reader import layout_of
from flashinterp.neurons import Block
from flashinterp.studies.lens_causality.pairing_null import repaired
from tests.examples import examples
from tests.helpers import assert_one_line_with_next_step

IDS = torch.tensor([[7, 21, 3, 50, 12, 600, 44, 9]])
# Dense, transposed (Conv1D), fused, experts as [out, in] and [in, out], experts beside a shared MLP.
NAMES = ("llama", "gpt2", "phi3", "olmoe", "gpt_oss", "deepseek_v3")
KINDS = pytest.mark.parametrize("kind", ["permuted", "random"])


@cache
def model_of(name: str) -> Any:
    return make(ARCHITECTURES[name]).requires_grad_(False)


def down(model: Any) -> dict[Block, Tensor]:
    """The columns of W_down of every block, read anew."""
    checkpoint = open_checkpoint(model)
    return {block: checkpoint.rows("down", block).clone() for block in checkpoint.layout.roster.blocks}


def everything(model: Any) -> dict[str, tuple[int, int, Tensor]]:
    """Each parameter: which object, where its numbers lie, and a copy of them."""
    return {name: (id(p), p.data_ptr(), p.detach().clone()) for name, p in model.named_parameters()}


@pytest.mark.parametrize("name", NAMES)
def test_permuted_vectors_are_the_same_ones_in_another_order(name: str) -> None:
    model = model_of(name)
    before = down(model)
    with repaired(model, "permuted", np.random.default_rng(3)):
        after = down(model)
    rng = np.random.default_rng(3)  # block by block, in the roster's order
    for block, own in before.items():
        order = rng.permutation(len(own))
        assert not (order == np.arange(len(own))).all()
        assert torch.equal(after[block], own[torch.from_numpy(order)]), block


@pytest.mark.parametrize("name", NAMES)
def test_random_vectors_keep_their_norms_and_nothing_else(name: str) -> None:
    model = model_of(name)
    before = down(model)
    with repaired(model, "random", np.random.default_rng(3)):
        after = down(model)
    for block, own in before.items():
        torch.testing.assert_close(after[block].norm(dim=1), own.norm(dim=1), rtol=1e-5, atol=0)
        cosines = torch.cosine_similarity(after[block], own, dim=1)
        # Of random directions in 32 dimensions: mean 0, standard deviation 1 / sqrt(32).
        assert cosines.abs().mean() < 0.25, block
        assert cosines.abs().max() < 0.9, block


@KINDS
@pytest.mark.parametrize("name", NAMES)
def test_nothing_else_is_touched_and_all_is_as_before(name: str, kind: Any) -> None:
    model, layout = model_of(name), layout_of(model_of(name))
    changed = {layout.weight("down", block).tensor for block in layout.roster.blocks}
    before, clean = everything(model), model(IDS).logits
    with repaired(model, kind, np.random.default_rng(0)):
        for parameter_name, parameter in model.named_parameters():
            same_object, _, copy = before[parameter_name]
            assert id(parameter) == same_object
            assert torch.equal(parameter, copy) == (parameter_name not in changed), parameter_name
        assert not torch.equal(model(IDS).logits, clean)
    after = everything(model)
    assert after.keys() == before.keys()
    for parameter_name, (same_object, place, copy) in before.items():
        assert after[parameter_name][:2] == (same_object, place), parameter_name
        assert torch.equal(after[parameter_name][2], copy)
    assert torch.equal(model(IDS).logits, clean)


@KINDS
def test_an_error_in_the_body_leaves_nothing_behind(kind: Any) -> None:
    model = model_of("olmoe")
    before = everything(model)
    with pytest.raises(ZeroDivisionError), repaired(model, kind, np.random.default_rng(0)):
        raise ZeroDivisionError
    assert all(p.data_ptr() == before[name][1] for name, p in model.named_parameters())


def test_an_error_half_way_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of("llama")
    before = everything(model)
    clones: list[int] = []

    def full(tensor: Tensor) -> Tensor:
        clones.append(1)
        if len(clones) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return tensor + 0

    with monkeypatch.context() as patch:
        patch.setattr(Tensor, "clone", full)
        with (
            pytest.raises(RunError, match="does not fit the memory") as caught,
            repaired(model, "random", np.random.default_rng(0)),
        ):
            pass
    assert_one_line_with_next_step(caught.value)
    assert all(p.data_ptr() == before[name][1] for name, p in model.named_parameters())


@examples(10)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_seed_decides_it(seed: int) -> None:
    model, seen = model_of("llama"), []
    for _ in range(2):
        with repaired(model, "random", np.random.default_rng(seed)):
            seen.append(down(model)[Block(1)])
    assert torch.equal(*seen)


def test_a_vector_of_zeros_stays_one() -> None:
    model = make(ARCHITECTURES["llama"]).requires_grad_(False)
    model.model.layers[1].mlp.down_proj.weight[:, 5] = 0
    with repaired(model, "random", np.random.default_rng(0)):
        assert not down(model)[Block(1)][5].any()
        assert down(model)[Block(1)].isfinite().all()


def test_half_precision_stays_half_precision() -> None:
    model = make(ARCHITECTURES["llama"]).requires_grad_(False).bfloat16()
    norms = down(model)[Block(0)].float().norm(dim=1)
    with repaired(model, "random", np.random.default_rng(0)):
        after = down(model)[Block(0)]
    assert after.dtype == torch.bfloat16
    torch.testing.assert_close(after.float().norm(dim=1), norms, rtol=2e-3, atol=0)


class Shard(torch.nn.Parameter):
    """Says of itself what a DTensor does."""

    def full_tensor(self) -> Tensor:
        return self.data


@pytest.mark.parametrize(
    ("parameter", "told"),
    [
        (torch.nn.Parameter(torch.empty(32, 48, device="meta")), "is offloaded"),
        (torch.nn.Parameter(torch.zeros(32, 48, dtype=torch.int8), requires_grad=False), "is quantised"),
        (torch.nn.Parameter(torch.zeros(32, 48).to(torch.float8_e4m3fn), requires_grad=False), "is quantised"),
        (Shard(torch.zeros(32, 48)), "is split among processes"),
    ],
    ids=["meta", "int8", "fp8", "shard"],
)
@KINDS
def test_weights_that_are_not_plainly_there_are_refused(parameter: Any, told: str, kind: Any) -> None:
    model = make(ARCHITECTURES["llama"]).requires_grad_(False)
    model.model.layers[2].mlp.down_proj.weight = parameter
    before = {name: p.data_ptr() for name, p in model.named_parameters() if not p.is_meta}
    with pytest.raises(RunError, match=told) as caught, repaired(model, kind, np.random.default_rng(0)):
        pass
    assert_one_line_with_next_step(caught.value)
    assert {name: p.data_ptr() for name, p in model.named_parameters() if not p.is_meta} == before


def test_a_tensor_under_another_name_is_refused() -> None:
    model = make(ARCHITECTURES["llama"]).requires_grad_(False)
    layout = layout_of(model)  # as it was
    del model.model.layers[0].mlp.down_proj.weight
    assert layout is layout_of(model)
    with pytest.raises(RunError, match=r"layers\.0\.mlp\.down_proj\.weight is not stored under this name") as caught:
        repaired(model, "permuted", np.random.default_rng(0)).__enter__()
    assert_one_line_with_next_step(caught.value)
