"""A model with edited rows computes what one with those rows in its weights does, and is itself again afterwards."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from flashinterp.errors import ClampError, LayoutError, NeuronError
from flashinterp.interventions.clamp_export import vector_of
from flashinterp.interventions.row_edits import RowEdit, edited_rows
from flashinterp.interventions.row_place import RowPlace
from flashinterp.models.checkpoint import Checkpoint
from flashinterp.models.layout_reader import layout_of
from flashinterp.neurons import NeuronId
from tests.architecture_cases import DISTINCT, Case, by_kind
from tests.examples import examples
from tests.helpers import assert_one_line_with_next_step, n_hooks

IDS = torch.tensor([[3, 141, 59, 265, 35], [643, 38, 327, 950, 288]])


def _logits(model: Any) -> Tensor:
    with torch.no_grad():
        logits: Tensor = model(IDS, use_cache=False).logits
    return logits


def _edit(layer: int, neuron: int, kind: Any = "up", d: int = 64, seed: int = 0, expert: int | None = None) -> RowEdit:
    row = torch.randn(d, generator=torch.Generator().manual_seed(seed))
    return RowEdit(RowPlace(NeuronId(layer, neuron, expert), kind), row)


def _with_weights(model: Any, edits: list[RowEdit]) -> Tensor:
    """The logits of a copy whose weights are edited."""
    other, layout = copy.deepcopy(model), layout_of(model)
    with torch.no_grad():
        for edit in edits:
            weight = layout.weight(edit.place.kind, edit.place.neuron.block)
            vector_of(other.get_parameter(weight.tensor), weight, edit.place.neuron.neuron).copy_(edit.row)
    return _logits(other)


@pytest.mark.parametrize("name", by_kind(name for name in DISTINCT if name not in ("mixtral", "olmoe", "gpt_oss")))
@examples(3)
@given(data=st.data())
def test_hooks_give_what_weights_give(case: Callable[[str], Case], name: str, data: st.DataObject) -> None:
    this = case(name)
    layout = this.checkpoint.layout
    dense = [block for block in layout.roster.blocks if block.expert is None]
    if not dense:  # qwen3_moe-all
        return
    kinds = ["up", "gate"] if layout.formula.gated else ["up"]
    drawn = st.tuples(st.sampled_from(dense), st.integers(0, 47), st.sampled_from(kinds))
    places = data.draw(st.lists(drawn, min_size=1, max_size=5, unique=True))
    edits = [_edit(b.layer, n, kind, layout.d_model, seed) for seed, (b, n, kind) in enumerate(places)]
    clean = _logits(this.model)
    with edited_rows(this.model, edits):
        found = _logits(this.model)
    wanted = _with_weights(this.model, edits)
    assert float((found - wanted).abs().max()) < 1e-5 * float(wanted.abs().max())
    assert float((found - clean).abs().max()) > 1e-5
    assert torch.equal(_logits(this.model), clean)
    assert n_hooks(this.model) == 0


def test_its_own_row_changes_nothing_but_rounding(planted: Checkpoint, planted_model: Any) -> None:
    own = planted.rows("gate", 2)[9].clone()
    with edited_rows(planted_model, [RowEdit(RowPlace(NeuronId(2, 9), "gate"), own)]):
        found = _logits(planted_model)
    assert torch.allclose(found, _logits(planted_model), atol=1e-5)


def test_no_edits_are_no_change(planted_model: Any) -> None:
    with edited_rows(planted_model, []):
        assert torch.equal(_logits(planted_model), _logits(planted_model))


def test_an_error_inside_leaves_nothing_behind(planted_model: Any) -> None:
    with pytest.raises(KeyError), edited_rows(planted_model, [_edit(1, 3)]):
        raise KeyError
    assert n_hooks(planted_model) == 0


@pytest.mark.parametrize(
    ("edits", "error", "match"),
    [
        ([_edit(1, 3), _edit(1, 3)], ClampError, "named twice"),
        ([_edit(1, 999)], NeuronError, "L1N999"),
        ([_edit(1, 3)], ClampError, "never used"),
    ],
)
def test_what_cannot_be_edited_is_refused(planted_model: Any, edits: Any, error: Any, match: str) -> None:
    with pytest.raises(error, match=match) as caught, edited_rows(planted_model, edits):
        pass
    assert_one_line_with_next_step(caught.value)
    assert n_hooks(planted_model) == 0


def test_experts_and_missing_gates_are_refused(case: Callable[[str], Case]) -> None:
    for name, edit, error in (
        ("mixtral", _edit(0, 3, expert=1), ClampError),
        ("gpt2", _edit(0, 3, "gate"), LayoutError),
    ):
        with pytest.raises(error) as caught, edited_rows(case(name).model, [edit]):
            pass
        assert_one_line_with_next_step(caught.value)
