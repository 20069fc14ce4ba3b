"""The hooks that write clamped values into a pass, in dense MLPs and in experts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flashinterp.errors import ClampError
from flashinterp.interventions.clamp_values import ClampLog, RowClamp
from flashinterp.models.experts import BYPASSED, ExpertRows, Routing, Vectors, forget, written_in
from flashinterp.models.forward_pass import Held, PassShape
from flashinterp.models.layout import Layout, module_at
from flashinterp.neurons import Block, NeuronId, Positions, Site


class _Writer:
    """Writes clamped values into tensors [batch, positions, neurons] that pass.

    Attributes:
        written: into how many places, over all calls.
    """

    def __init__(self, clamps: list[RowClamp], positions: Positions) -> None:
        self.clamps, self.positions = clamps, positions
        self.prompt_length: int | None = None
        self.written = 0

    def where(self, length: int) -> slice | None:
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

    def write(self, x: Tensor, where: slice, columns: Mapping[NeuronId, int]) -> int:
        """Write every value whose neuron has a column of x; returns the number of all, here or in other processes."""
        before = self.written
        scalar = [c for c in self.clamps if c.rows is not None and not isinstance(c.value, Tensor)]
        if len(scalar) == len(self.clamps):
            self._write_many(x, where, columns)  # a sweep: hundreds of rows, one write
        else:
            for one in self.clamps:
                self._write_one(x, one, where, columns.get(one.neuron))
        return self.written - before

    def _write_many(self, x: Tensor, where: slice, columns: Mapping[NeuronId, int]) -> None:
        here = [(row, columns[c.neuron], c.value) for c in self.clamps if c.neuron in columns for row in c.rows or ()]
        rows, at, values = zip(*here, strict=True) if here else ((), (), ())
        place = torch.tensor(rows, device=x.device, dtype=torch.long), where, torch.tensor(at, device=x.device).long()
        x[place] = torch.tensor(values, device=x.device, dtype=x.dtype)[:, None]
        self.written += sum(len(c.rows or ()) for c in self.clamps) * (where.stop - where.start)

    def _write_one(self, x: Tensor, one: RowClamp, where: slice, column: int | None) -> None:
        rows = slice(None) if one.rows is None else list(one.rows)
        target = len(x) if one.rows is None else len(one.rows), where.stop - where.start  # rows, positions
        value = torch.as_tensor(one.value, device=x.device).to(x.dtype)
        try:
            value = value.expand(target)
        except RuntimeError as error:
            raise ClampError(
                f"the values of {one.neuron} have shape {tuple(value.shape)}, the clamped part of this pass has "
                f"{target} (rows, positions): give one number, or values that broadcast to it"
            ) from error
        if column is not None:
            x[rows, where, column] = value
        self.written += target[0] * target[1]


@dataclass(frozen=True)
class ClampPlace:
    """Where a hook hangs, and what it shares with the others of its layer."""

    model: Any
    layout: Layout
    layer: int
    site: Site
    shape: PassShape
    log: ClampLog

    def module(self, path: str) -> Any:
        return module_at(self.model, path, self.layout.model_type)


def hooks_for(
    place: ClampPlace, clamps: Sequence[RowClamp], positions: Positions, rows: ExpertRows
) -> Iterator[ClampHook]:
    """The hooks that one layer needs: one for its dense or shared MLP, one for all its experts."""
    dense = [one for one in clamps if one.neuron.expert is None]
    routed = [one for one in clamps if one.neuron.expert is not None]
    if dense:
        yield _Dense(place, _Writer(dense, positions))
    if routed:
        yield _Experts(place, _Writer(routed, positions), rows)


class _Dense:
    """Hangs on the module of one site of a dense MLP, and writes into a copy of the tensor that passes."""

    hint = ""

    def __init__(self, place: ClampPlace, writer: _Writer) -> None:
        self.place, self.writer = place, writer
        self.tap = place.layout.tap(place.site, place.layer)
        self.module = place.module(self.tap.module)

    def register(self) -> Any:
        if self.tap.at_input:
            return self.module.register_forward_pre_hook(lambda _, args: (self(args[0]), *args[1:]))
        return self.module.register_forward_hook(lambda _, args, out: self(out))

    def close(self) -> None:
        """Nothing is kept from pass to pass."""

    def silent(self) -> list[Block]:
        return []

    def __call__(self, x: Tensor) -> Tensor:
        place = self.place
        place.log.calls[place.layer] += 1
        where = self.writer.where(place.shape.unflatten(x).shape[1])
        if where is None:
            return x
        x = x.clone()
        held = Held.of(x, self.tap, self.module)
        numbers = {one.neuron: one.neuron.neuron for one in self.writer.clamps}
        here = {neuron: held.neurons.index(n) for neuron, n in numbers.items() if n in held.neurons}
        place.log.written[place.layer] += self.writer.write(held.columns(place.shape.unflatten(x)), where, here)
        return x


class _Experts:
    """Hangs on a layer's routed experts, and adds to their output what the clamped values change in it."""

    hint = f"; {BYPASSED}"

    def __init__(self, place: ClampPlace, writer: _Writer, rows: ExpertRows) -> None:
        self.place, self.writer, self.rows = place, writer, rows
        self.module = place.module(place.layout.experts_module(place.layer))
        self.columns = {neuron: i for i, neuron in enumerate(dict.fromkeys(one.neuron for one in writer.clamps))}
        self.routed: Counter[Block] = Counter()
        self._vectors: Vectors | None = None

    def register(self) -> Any:
        self.rows.read(list(self.columns))  # now, and not in a pass: under a parallel plan all processes read together
        return self.module.register_forward_hook(self)

    def close(self) -> None:
        forget(self.module)

    def silent(self) -> list[Block]:
        """The experts that no clamped token was routed to."""
        return [block for block in {neuron.block for neuron in self.columns} if not self.routed[block]]

    def _vectors_on(self, device: torch.device) -> Vectors:
        if self._vectors is None or self._vectors.down.device != device:
            self._vectors = self.rows.of(list(self.columns), device)
        return self._vectors

    def __call__(self, module: Any, args: tuple[Any, ...], out: Tensor) -> Tensor:
        place = self.place
        place.log.calls[place.layer] += 1
        routing = Routing.of(module, args, place.shape, out.device)
        where = self.writer.where(routing.x.shape[1])
        if where is None:
            return out
        vectors = self._vectors_on(out.device)
        values = vectors.values(routing.x)
        written = written_in(module, args)
        for theirs, outer in written:
            values.take(self.columns, outer, theirs)
        formula = place.layout.formula
        before = values.output(formula)
        # Written into nothing but NaN, the clamped values show where they are.
        fixed = torch.full_like(before, torch.nan)
        self.writer.write(fixed, where, self.columns)
        setattr(values, place.site, torch.where(fixed.isnan(), getattr(values, place.site), fixed))
        written.append((self.columns, values))
        weight = routing.weight(vectors.experts)[..., vectors.expert_of]
        self._count(~fixed.isnan() & (weight != 0))
        change = ((values.output(formula) - before) * weight) @ vectors.down
        return out + change.reshape(out.shape).to(out.dtype)

    def _count(self, places: Tensor) -> None:
        for neuron, count in zip(self.columns, places.sum((0, 1)).tolist(), strict=True):
            self.routed[neuron.block] += count
            self.place.log.written[self.place.layer] += count


ClampHook = _Dense | _Experts
