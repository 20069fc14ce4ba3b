"""Which neurons an array over N holds, and where: layers, then the MLPs of a layer, then their neurons."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, groupby

import numpy as np
from numpy.typing import NDArray

from flashinterp.errors import NeuronError
from flashinterp.neurons import Block, NeuronId


@dataclass(frozen=True)
class NeuronIndex:
    """The blocks of a model, or of some of its layers, in order.

    Attributes:
        blocks: by layer; of one layer the dense or shared MLP first, then the experts.
        widths: F of each block.
    """

    blocks: tuple[Block, ...]
    widths: tuple[int, ...]

    @classmethod
    def from_rows(cls, rows: Sequence[Sequence[int]]) -> NeuronIndex:
        """From what `as_rows` gave."""
        return cls(
            tuple(Block(layer, None if expert < 0 else expert) for layer, expert, _ in rows),
            tuple(int(width) for _, _, width in rows),
        )

    def as_rows(self) -> list[list[int]]:
        """[layer, expert or -1, F] of each block, as plain numbers."""
        return [
            [b.layer, -1 if b.expert is None else b.expert, w] for b, w in zip(self.blocks, self.widths, strict=True)
        ]

    def __len__(self) -> int:
        return self._starts[-1]

    @cached_property
    def _starts(self) -> tuple[int, ...]:
        return (0, *accumulate(self.widths))

    @cached_property
    def _order(self) -> dict[Block, int]:
        return {block: at for at, block in enumerate(self.blocks)}

    @cached_property
    def layers(self) -> tuple[int, ...]:
        """The layers that have neurons here, ascending."""
        return tuple(layer for layer, _ in groupby(self.blocks, key=lambda block: block.layer))

    def width(self, where: int | Block) -> int:
        """F of a block.

        Raises:
            NeuronError: there is no such block.
        """
        block = Block.of(where)
        if block not in self._order:
            raise NeuronError(f"{block} is not among these MLPs: {self}; name one of them")
        return self.widths[self._order[block]]

    def span(self, where: int | Block) -> slice:
        """The positions of a block's neurons."""
        self.width(where)
        at = self._order[Block.of(where)]
        return slice(self._starts[at], self._starts[at + 1])

    def layer_span(self, layer: int) -> slice:
        """The positions of a layer's neurons, all its blocks."""
        own = [at for at, block in enumerate(self.blocks) if block.layer == layer]
        if not own:
            raise NeuronError(f"layer {layer} is not among these: {self}; name one of them")
        return slice(self._starts[own[0]], self._starts[own[-1] + 1])

    def of_layers(self, layers: Sequence[int]) -> NeuronIndex:
        """Some layers' part."""
        wanted = set(layers)
        chosen = [(b, w) for b, w in zip(self.blocks, self.widths, strict=True) if b.layer in wanted]
        return NeuronIndex(tuple(b for b, _ in chosen), tuple(w for _, w in chosen))

    def layer_of(self) -> NDArray[np.int64]:
        """[N] the layer of each neuron."""
        return np.repeat([block.layer for block in self.blocks], self.widths).astype(np.int64)

    def index(self, neuron: str | NeuronId) -> int:
        """The position 0..N-1 of a neuron.

        Raises:
            NeuronError: there is no such neuron.
        """
        wanted = self.check(neuron)
        return self._starts[self._order[wanted.block]] + wanted.neuron

    def neuron(self, i: int) -> NeuronId:
        """The neuron at position i; the inverse of `index`.

        Raises:
            NeuronError: the position is out of range.
        """
        if not 0 <= i < len(self):
            raise NeuronError(
                f"position {i} is out of range: there are {len(self)} neurons; choose 0 to {len(self) - 1}"
            )
        at = bisect_right(self._starts, i) - 1
        return NeuronId(self.blocks[at].layer, i - self._starts[at], self.blocks[at].expert)

    def check(self, neuron: str | NeuronId) -> NeuronId:
        """The neuron, if it is one of these.

        Raises:
            NeuronError: it is not, with what there is.
        """
        wanted = NeuronId.parse(neuron)
        at = self._order.get(wanted.block)
        if at is None or not 0 <= wanted.neuron < self.widths[at]:
            raise NeuronError(
                f"{wanted} is out of range: there are {self}; the paper counts layers from 1, so its layer 26 is "
                "layer 25 here; choose a neuron in this range"
            )
        return wanted

    def __str__(self) -> str:
        """As in "layers 0 to 31 with neurons 0 to 14335"."""
        kinds: dict[str, list[int]] = {}
        for layer, group in groupby(zip(self.blocks, self.widths, strict=True), key=lambda pair: pair[0].layer):
            members = list(group)
            dense = [f"neurons 0 to {w - 1}" for b, w in members if b.expert is None]
            experts = sorted({w - 1 for b, w in members if b.expert is not None})
            count = sum(b.expert is not None for b, _ in members)
            told = dense + [f"experts 0 to {count - 1} with neurons 0 to {last}" for last in experts]
            kinds.setdefault(" and ".join(told), []).append(layer)
        return "; ".join(
            f"layer{'s' if len(layers) > 1 else ''} {span(layers)} with {told}" for told, layers in kinds.items()
        )


def span(layers: Sequence[int]) -> str:
    """As in "0 to 31", or "1, 3"."""
    contiguous = list(layers) == list(range(layers[0], layers[-1] + 1))
    if contiguous and len(layers) > 1:
        return f"{layers[0]} to {layers[-1]}"
    return ", ".join(map(str, layers))
