"""Fix neurons at values, as a context manager over forward hooks that proves it fired (METHOD 3).

Hooks only, never replaced modules. Each hook writes into a copy of the tensor that passes, so nothing of
the model is changed, and the context manager takes every hook away, also when an error leaves it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from flashinterp.errors import ClampError
from flashinterp.experts import BYPASSED, ExpertRows, Routing, Vectors, forget, written_in
from flashinterp.layout import Layout, module_at
from flashinterp.neuron import POSITIONS, SITES, Block, NeuronId, Positions, Site
from flashinterp.passes import Held, PassShape

Value = float | Tensor
"""A number, or a tensor [positions], [batch, 1] or [batch, positions] of values that may differ by place."""


class NeverRouted(ClampError):
    """A clamp on experts' neurons whose experts got no token.

    Attributes:
        blocks: the experts.
    """

    def __init__(self, blocks: Sequence[Block]) -> None:
        self.blocks = frozenset(blocks)
        first = min(blocks)
        super().__init__(
            f"no token was routed to expert {first.expert} of layer {first.layer} at the clamped positions, and its "
            "clamp did nothing: give a text that this expert reads, or choose a neuron of another one"
        )


@dataclass
class ClampLog:
    """What the hooks of one clamp did: the proof that it fired.

    Attributes:
        calls: how often each clamped layer's hooks ran: one for a dense or shared MLP, one for all its experts.
        written: how many values each layer's hooks wrote, over all calls; an expert's at tokens routed to it only.
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

    Equivalent, for site ``up``, to this line inside the MLP of layer l, or inside its expert e::

        up = x @ W_up.T; up[..., n] = value; out = (act(x @ W_gate.T) * up) @ W_down.T

    Args:
        model: a live transformers model of a known family.
        clamps: neuron to value, as in ``{"L25N1442": 145.0}``.
        site: ``up`` (W_up's output before the gate; the paper's), ``gate`` (W_gate's output before its
            activation) or ``post`` (the input of W_down; in an expert before the routing weight). An MLP without
            a gate has no ``gate``, and its ``up`` is before the activation.
        positions: ``all`` positions ("permanently clamped"); the ``last`` of each forward pass; or only
            those ``generated`` after the first pass in the context, with or without a KV cache.

    Raises:
        NeuronError: a neuron is not a name or is out of range.
        LayoutError: the model has no such site.
        ClampError: a value is not finite in the model's dtype, there is nothing to clamp, or, on leaving, a
            clamped layer was never run, or no token was routed to a clamped expert.
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
    model: Any,
    clamps: Sequence[RowClamp],
    *,
    site: Site = "up",
    positions: Positions = "all",
    unrouted: bool = False,
    experts: ExpertRows | None = None,
) -> Iterator[ClampLog]:
    """`clamp` where each row of a batch may carry its own neurons and values.

    Args:
        model, clamps, site, positions: as for `clamp`.
        unrouted: whether an expert may be clamped that no token is routed to.
        experts: the experts' vectors that were read for an earlier clamp.
    """
    if site not in SITES:
        raise ClampError(f"unknown site {site!r}: choose one of {', '.join(SITES)}")
    if positions not in POSITIONS:
        raise ClampError(f"unknown positions {positions!r}: choose one of {', '.join(POSITIONS)}")
    layout = Layout.of(model)
    by_layer: dict[int, list[RowClamp]] = defaultdict(list)
    for one in clamps:
        layout.roster.check(one.neuron)
        by_layer[one.neuron.layer].append(one)
    _check_values(clamps, model.dtype)

    log = ClampLog(calls=dict.fromkeys(by_layer, 0), written=dict.fromkeys(by_layer, 0))
    experts = experts or ExpertRows(model)
    hooks: list[_Hook] = []
    handles: list[Any] = []
    try:
        for layer, wanted in by_layer.items():
            place = _Place(model, layout, layer, site, PassShape(), log)
            whole = module_at(model, layout.layer(layer), layout.model_type)
            handles.append(whole.register_forward_pre_hook(place.shape, with_kwargs=True))
            for hook in _hooks(place, wanted, positions, experts):
                hooks.append(hook)
                handles.append(hook.register())
        yield log
    finally:
        for handle in handles:
            handle.remove()
        for hook in hooks:
            hook.close()
    # Reached only when the body did not raise: an error of its own is the one to show.
    _check_fired(hooks, log, site, positions, unrouted)


def _check_fired(hooks: Sequence[_Hook], log: ClampLog, site: Site, positions: Positions, unrouted: bool) -> None:
    for hook in hooks:
        if not hook.writer.written:
            never = f"never ran{hook.hint}"
            told = "ran, but no position was one of those to clamp" if log.calls[hook.place.layer] else never
            raise ClampError(
                f"the clamp at site {site} of layer {hook.place.layer} did not fire ({told}): run the model inside the "
                f"context; with positions={positions!r} it must also reach such a position"
            )
    silent = [block for hook in hooks for block in hook.silent()]
    if silent and not unrouted:
        raise NeverRouted(silent)


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


# --- the hooks --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Place:
    """Where a hook hangs, and what it shares with the others of its layer."""

    model: Any
    layout: Layout
    layer: int
    site: Site
    shape: PassShape
    log: ClampLog

    def module(self, path: str) -> Any:
        return module_at(self.model, path, self.layout.model_type)


def _hooks(place: _Place, clamps: Sequence[RowClamp], positions: Positions, rows: ExpertRows) -> Iterator[_Hook]:
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

    def __init__(self, place: _Place, writer: _Writer) -> None:
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

    def __init__(self, place: _Place, writer: _Writer, rows: ExpertRows) -> None:
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


_Hook = _Dense | _Experts


def _check_values(clamps: Sequence[RowClamp], dtype: torch.dtype) -> None:
    numbers = [one.value for one in clamps if isinstance(one.value, float)]
    # Hundreds of rows of a sweep at once; what is wrong with one of them is told by itself.
    if len(numbers) < len(clamps) or not torch.isfinite(torch.tensor(numbers, dtype=torch.float64).to(dtype)).all():
        for one in clamps:
            _check_value(one, dtype)


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
