"""Rows of W_up and W_gate replaced for as long as a context is open, by hooks: the model itself is not changed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flashinterp.errors import ClampError
from flashinterp.interventions.row_place import RowPlace
from flashinterp.models.checkpoint import open_checkpoint
from flashinterp.models.layout import Layout, module_at
from flashinterp.models.layout_reader import layout_of


@dataclass(frozen=True)
class RowEdit:
    """What stands in the place of one row.

    Attributes:
        place: whose.
        row: [d] float32.
    """

    place: RowPlace
    row: Tensor


@contextmanager
def edited_rows(model: Any, edits: Sequence[RowEdit]) -> Iterator[None]:
    """Let a live model compute with other rows: x · row + bias, in its own dtype, in the place of x · W[n] + bias.

    No edits leave it as it is.

    Raises:
        ClampError: a row is an expert's or named twice, a matrix is split among processes, or, on leaving, one was
            never used.
        NeuronError, LayoutError: there is no such row.
    """
    layout = layout_of(model)
    if len({edit.place for edit in edits}) < len(edits):
        raise ClampError("a row is named twice: give each one vector")
    by_module: dict[str, list[RowEdit]] = defaultdict(list)
    for edit in edits:
        layout.roster.check(edit.place.neuron)
        if edit.place.neuron.expert is not None:
            raise ClampError(f"{edit.place} is in an expert, whose rows are not edited: choose one of a dense MLP")
        by_module[layout.tap(edit.place.kind, edit.place.neuron.layer).module].append(edit)
    calls = dict.fromkeys(by_module, 0)
    with ExitStack() as hooks:
        for path, own in by_module.items():
            hook = _hook(model, layout, own, path, calls)
            hooks.enter_context(module_at(model, path, layout.model_type).register_forward_hook(hook))
        yield
    silent = [path for path, count in calls.items() if not count]
    if silent:
        raise ClampError(f"the edited rows of {silent[0]} were never used: add a forward pass inside the context")


def _hook(
    model: Any, layout: Layout, edits: Sequence[RowEdit], path: str, calls: dict[str, int]
) -> Callable[[Any, tuple[Any, ...], Tensor], Tensor]:
    checkpoint = open_checkpoint(model)
    columns, biases = [], []
    for edit in edits:
        neuron, kind = edit.place
        tap, bias = layout.tap(kind, neuron.layer), checkpoint.bias(kind, neuron.block)
        columns.append(range(*tap.columns.indices(tap.width))[neuron.neuron])
        biases.append(0.0 if bias is None else float(bias[neuron.neuron]))
    rows, added = torch.stack([edit.row for edit in edits]), torch.tensor(biases)

    def hook(module: Any, args: tuple[Any, ...], out: Tensor) -> Tensor:
        if out.shape[-1] != tap.width:
            raise ClampError(f"{path} is split among processes: use the model without this parallel plan")
        calls[path] += 1
        x = args[0]
        out = out.clone()
        out[..., columns] = torch.nn.functional.linear(x, rows.to(x), added.to(x))
        return out

    return hook
