"""Fix neurons at values, as a context manager over forward hooks that proves it fired (METHOD 3).

Hooks only, never replaced modules. Each hook writes into a copy of the tensor that passes, so nothing of
the model is changed, and the context manager takes every hook away, also when an error leaves it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from flashinterp.errors import ClampError
from flashinterp.layout import Layout
from flashinterp.neuron import POSITIONS, SITES, NeuronId, Positions, Site

Value = float | Tensor
"""A number, or a tensor [positions], [batch, 1] or [batch, positions] of values that may differ by place."""


@dataclass
class ClampLog:
    """What the hooks of one clamp did: the proof that it fired.

    Attributes:
        calls: how often each clamped layer's hook ran.
        written: how many values each layer's hook wrote, over all calls.
    """

    calls: dict[int, int] = field(default_factory=dict)
    written: dict[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class RowClamp:
    """One neuron fixed in some rows of a batch: what `sweep` makes many of.

    Attributes:
        neuron: which.
        value: the constant, or values by place within the rows that are clamped.
        rows: which rows of the batch; None for all.
    """

    neuron: NeuronId
    value: Value
    rows: tuple[int, ...] | None = None


@contextmanager
def clamp(
    model: Any,
    clamps: Mapping[str, Value] | Mapping[NeuronId, Value],
    *,
    site: Site = "up",
    positions: Positions = "all",
) -> Iterator[ClampLog]:
    """Fix neurons at values while the context is open; the model itself is not changed.

    Equivalent, for site ``up``, to this line inside the MLP of layer l::

        up = x @ W_up.T; up[..., n] = value; out = (act(x @ W_gate.T) * up) @ W_down.T

    Args:
        model: a live transformers model of a known family.
        clamps: neuron to value, as in ``{"L25N1442": 145.0}``.
        site: ``up`` (W_up's output before the gate; the paper's), ``gate`` (W_gate's output before its
            activation) or ``post`` (the input of W_down).
        positions: ``all`` positions ("permanently clamped"); the ``last`` of each forward pass; or only
            those ``generated`` after the first pass in the context, with or without a KV cache.

    Raises:
        NeuronError: a neuron is not a name or is out of range.
        ClampError: a value is not finite in the model's dtype, there is nothing to clamp, or, on leaving, a
            clamped layer was never run.
    """
    if not clamps:
        raise ClampError("there is nothing to clamp: name at least one neuron and its value")
    parsed = [(NeuronId.parse(name), value) for name, value in clamps.items()]
    if len({neuron for neuron, _ in parsed}) < len(parsed):
        raise ClampError("a neuron is named twice in one clamp: give it one value")
    with clamp_rows(model, [RowClamp(n, v) for n, v in parsed], site=site, positions=positions) as log:
        yield log


@contextmanager
def clamp_rows(
    model: Any, clamps: Sequence[RowClamp], *, site: Site = "up", positions: Positions = "all"
) -> Iterator[ClampLog]:
    """`clamp` where each row of a batch may carry its own neurons and values."""
    if site not in SITES:
        raise ClampError(f"unknown site {site!r}: choose one of {', '.join(SITES)}")
    if positions not in POSITIONS:
        raise ClampError(f"unknown positions {positions!r}: choose one of {', '.join(POSITIONS)}")
    layout = Layout.of(model.config)
    by_layer: dict[int, list[RowClamp]] = defaultdict(list)
    for one in clamps:
        one.neuron.check(layout.n_layers, layout.n_neurons)
        _check_value(one, model.dtype)
        by_layer[one.neuron.layer].append(one)

    log = ClampLog(calls=dict.fromkeys(by_layer, 0), written=dict.fromkeys(by_layer, 0))
    handles = []
    try:
        for layer, wanted in by_layer.items():
            write = _Writer(layer, wanted, positions, log)
            module = layout.site_module(model, site, layer)
            handles.append(
                module.register_forward_pre_hook(lambda _, args, write=write: (write(args[0]), *args[1:]))
                if site == "post"
                else module.register_forward_hook(lambda _, args, out, write=write: write(out))
            )
        yield log
    finally:
        for handle in handles:
            handle.remove()
    # Reached only when the body did not raise: an error of its own is the one to show.
    silent = [layer for layer, written in log.written.items() if written == 0]
    if silent:
        told = "never ran" if log.calls[silent[0]] == 0 else "ran, but no position was one of those to clamp"
        raise ClampError(
            f"the clamp at site {site} of layer {silent[0]} did not fire ({told}): run the model inside the "
            f"context; with positions={positions!r} it must also reach such a position"
        )


class _Writer:
    """Writes one layer's clamped values into a copy of the tensor [batch, positions, F] that passes."""

    def __init__(self, layer: int, clamps: list[RowClamp], positions: Positions, log: ClampLog) -> None:
        self.layer, self.clamps, self.positions, self.log = layer, clamps, positions, log
        self.prompt_length: int | None = None

    def __call__(self, x: Tensor) -> Tensor:
        self.log.calls[self.layer] += 1
        where = self._where(x.shape[-2])
        if where is None:
            return x
        x = x.clone()
        scalar = [c for c in self.clamps if c.rows is not None and not isinstance(c.value, Tensor)]
        if len(scalar) == len(self.clamps):
            self._write_many(x, where)  # a sweep: hundreds of rows, one write
        else:
            for one in self.clamps:
                self._write_one(x, one, where)
        return x

    def _where(self, length: int) -> slice | None:
        """The positions of this pass to clamp; None for none of them."""
        if self.positions == "last":
            return slice(length - 1, length)
        if self.positions == "all":
            return slice(0, length)
        if self.prompt_length is None:
            self.prompt_length = length
            return None
        # With a cache, a later pass holds new positions only; without one, the prompt again in front.
        return slice(self.prompt_length if length > self.prompt_length else 0, length)

    def _write_many(self, x: Tensor, where: slice) -> None:
        rows = torch.tensor([row for c in self.clamps for row in c.rows or ()], device=x.device)
        columns = torch.tensor([c.neuron.neuron for c in self.clamps for _ in c.rows or ()], device=x.device)
        values = torch.tensor([c.value for c in self.clamps for _ in c.rows or ()], device=x.device, dtype=x.dtype)
        x[rows, where, columns] = values[:, None]
        self.log.written[self.layer] += len(rows) * (where.stop - where.start)

    def _write_one(self, x: Tensor, one: RowClamp, where: slice) -> None:
        rows = slice(None) if one.rows is None else list(one.rows)
        target = x[rows, where, one.neuron.neuron]  # [rows, positions]
        value = torch.as_tensor(one.value, device=x.device).to(x.dtype)
        try:
            x[rows, where, one.neuron.neuron] = value.expand_as(target)
        except RuntimeError as error:
            raise ClampError(
                f"the values of {one.neuron} have shape {tuple(value.shape)}, the clamped part of this pass has "
                f"{tuple(target.shape)} (rows, positions): give one number, or values that broadcast to it"
            ) from error
        self.log.written[self.layer] += target.numel()


def _check_value(one: RowClamp, dtype: torch.dtype) -> None:
    try:
        cast = torch.as_tensor(one.value, dtype=torch.float64).to(dtype)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ClampError(
            f"{one.neuron} cannot be clamped at {one.value!r}: give a number, or a tensor of numbers"
        ) from error
    bad = int((~torch.isfinite(cast)).sum())
    if bad:
        what = f"at {one.value}" if cast.ndim == 0 else f"at {bad} of its {cast.numel()} values"
        raise ClampError(
            f"{one.neuron} cannot be clamped {what}, which is not a finite number in {dtype}: give a value in its range"
        )
