"""What a clamp sets, checked before it runs, and the log of what it did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from flashinterp.errors import ClampError
from flashinterp.neurons import Block, NeuronId

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


def check_values(clamps: Sequence[RowClamp], dtype: torch.dtype) -> None:
    """Refuse values that are no finite numbers in the model's dtype.

    Raises:
        ClampError: names the neuron and its value.
    """
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
