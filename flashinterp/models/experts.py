"""The neurons of routed experts, which no module's output or input shows (METHOD 3).

An experts module runs all its experts in one kernel. So their neurons' values are computed again from what the module
reads and the neurons' own rows, and a clamp is what it changes, added to the module's output.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from flashinterp.errors import ClampError
from flashinterp.models.checkpoint import Checkpoint, open_checkpoint
from flashinterp.models.forward_pass import PassShape
from flashinterp.models.mlp_formula import Formula
from flashinterp.neurons import Block, NeuronId

BYPASSED = (
    "packed mxfp4 weights and kernels from the Hub route the tokens by themselves: use the dequantised model, without "
    "use_kernels"
)
"""Why an experts module may not be run as transformers' own are."""


@dataclass(frozen=True)
class Vectors:
    """What K neurons of one layer's experts are made of, in float32.

    Attributes:
        gate, up, down: [K, d] their rows of W_gate and W_up, and their columns of W_down.
        gate_bias, up_bias: [K] zero without biases.
        experts: [E] the experts that have any of them.
        expert_of: [K] which of those is each neuron's.
    """

    gate: Tensor
    up: Tensor
    down: Tensor
    gate_bias: Tensor
    up_bias: Tensor
    experts: Tensor
    expert_of: Tensor

    def values(self, x: Tensor) -> ExpertValues:
        """g and u for the experts' inputs x [batch, positions, d]."""
        gate, up = x @ self.gate.T + self.gate_bias, x @ self.up.T + self.up_bias
        return ExpertValues(gate, up, torch.full_like(up, torch.nan))


@dataclass
class ExpertValues:
    """K neurons' values in one pass, each [batch, positions, K] in float32.

    Attributes:
        gate, up: g and u.
        post: what the output is fixed at; NaN where it is the formula's.
    """

    gate: Tensor
    up: Tensor
    post: Tensor

    def output(self, formula: Formula) -> Tensor:
        """What multiplies the columns of W_down."""
        return torch.where(self.post.isnan(), formula.output(self.gate, self.up), self.post)

    def rows(self, at: slice) -> ExpertValues:
        """Some rows of the batch."""
        return ExpertValues(self.gate[at], self.up[at], self.post[at])

    def take(self, columns: Mapping[NeuronId, int], other: ExpertValues, theirs: Mapping[NeuronId, int]) -> None:
        """Take the values of the neurons that both have from the other."""
        shared = [neuron for neuron in columns if neuron in theirs]
        mine, from_ = [columns[n] for n in shared], [theirs[n] for n in shared]
        for site in ("gate", "up", "post"):
            getattr(self, site)[..., mine] = getattr(other, site)[..., from_]


class ExpertRows:
    """The vectors of a model's experts' neurons, each read once, from wherever the weights are."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._kept: dict[NeuronId, tuple[Tensor, ...]] = {}

    @cached_property
    def _checkpoint(self) -> Checkpoint:
        return open_checkpoint(self._model)

    def read(self, neurons: Sequence[NeuronId]) -> None:
        """Read what is not read yet, block by block: an offloaded block is fetched once."""
        wanted: dict[Block, list[NeuronId]] = defaultdict(list)
        for neuron in dict.fromkeys(neurons):
            if neuron not in self._kept:
                wanted[neuron.block].append(neuron)
        for block, members in wanted.items():
            parts = self._read(block, [n.neuron for n in members])
            self._kept |= {neuron: tuple(part[i] for part in parts) for i, neuron in enumerate(members)}

    def of(self, neurons: Sequence[NeuronId], device: torch.device) -> Vectors:
        """The vectors of these neurons, of one layer, on a device."""
        self.read(neurons)
        parts = [torch.stack(part) for part in zip(*(self._kept[n] for n in neurons), strict=True)]
        return _vectors(parts, [n.block for n in neurons], device)

    def of_block(self, block: Block, device: torch.device) -> Vectors:
        """The vectors of all neurons of an expert, on a device; they are not kept."""
        parts = self._read(block, slice(None))
        return _vectors(parts, [block] * len(parts[0]), device)

    def _read(self, block: Block, chosen: list[int] | slice) -> list[Tensor]:
        """gate, up, down, and the biases of the first two, in float32."""
        rows = [self._checkpoint.rows(kind, block)[chosen].float() for kind in ("gate", "up", "down")]
        biases = [self._checkpoint.bias(kind, block) for kind in ("gate", "up")]
        zero = rows[0].new_zeros(len(rows[0]))
        return rows + [zero if bias is None else bias[chosen].float() for bias in biases]


@dataclass(frozen=True)
class Routing:
    """What one experts module got in one pass.

    Attributes:
        x: [batch, positions, d] float32.
        index, weights: [batch, positions, k] the experts of each token, and their weights in float32.
    """

    x: Tensor
    index: Tensor
    weights: Tensor

    @classmethod
    def of(cls, module: Any, args: tuple[Any, ...], shape: PassShape, device: torch.device) -> Routing:
        """Read the arguments of an experts module, which may be on another device than its output.

        Raises:
            ClampError: they are not hidden states, indices and weights.
        """
        x, index, weights = args[:3] if len(args) >= 3 else (None, None, None)
        plain = all(isinstance(each, Tensor) for each in (x, index, weights)) and index.shape == weights.shape
        if not plain or index.is_floating_point() or index.ndim != x.ndim:
            told = ", ".join(type(each).__name__ for each in args)
            raise ClampError(
                f"{type(module).__name__} is called with ({told}), not with hidden states and each token's experts and "
                f"weights, so that its neurons cannot be seen; {BYPASSED}"
            )
        x, index, weights = (shape.unflatten(each.to(device)) for each in (x, index, weights))
        return cls(x.float(), index, weights.float())

    def weight(self, experts: Tensor) -> Tensor:
        """[batch, positions, E] the weight that each token gives to each of the experts [E]; 0 for none."""
        chosen = self.index[..., None, :] == experts[:, None]  # [batch, positions, E, k]
        return torch.where(chosen, self.weights[..., None, :], 0).sum(-1)


def _vectors(parts: Sequence[Tensor], blocks: Sequence[Block], device: torch.device) -> Vectors:
    """What `ExpertRows._read` gives for neurons of these blocks, on a device."""
    gate, up, down, gate_bias, up_bias = (part.to(device) for part in parts)
    order = {block: i for i, block in enumerate(dict.fromkeys(blocks))}
    experts = torch.tensor([block.expert for block in order], device=device)
    expert_of = torch.tensor([order[block] for block in blocks], device=device)
    return Vectors(gate, up, down, gate_bias, up_bias, experts, expert_of)


_Written = list[tuple[Mapping[NeuronId, int], ExpertValues]]
_PASSES: WeakKeyDictionary[Any, tuple[tuple[Any, ...], _Written]] = WeakKeyDictionary()


def written_in(module: Any, args: tuple[Any, ...]) -> _Written:
    """What clamps wrote in the call of an experts module with these arguments, the outer clamp first.

    Hooks cannot see each other's values in the module's output, and a clamp inside another one must.
    """
    # One call passes one tuple to all hooks; it is kept, so that no later one can be taken for it.
    if module not in _PASSES or _PASSES[module][0] is not args:
        _PASSES[module] = args, []
    return _PASSES[module][1]


def forget(module: Any) -> None:
    """Let go of the last call's tensors."""
    _PASSES.pop(module, None)
