"""The nouns: a neuron's name, the sites of a clamp, the poles of a direction, the lenses.

Layers and neurons count from 0 everywhere. Neuron n of a layer is row n of W_up and W_gate, column n
of W_down, and coordinate n of the input of the down-projection.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import total_ordering
from typing import Literal, NamedTuple, get_args

from flashinterp.errors import NeuronError

Site = Literal["up", "gate", "post"]
"""Where a neuron's value is read or fixed: W_up's output, W_gate's output, or W_down's input."""
Pole = Literal["+", "-"]
"""The direction w itself, or its opposite -w (METHOD 2: the sign of a gated neuron is a gauge)."""
Positions = Literal["all", "last", "generated"]
"""Which positions of a sequence a clamp touches (METHOD 3)."""
WeightKind = Literal["up", "gate", "down"]
"""Whose vectors: the rows of W_up or of W_gate, or the columns of W_down."""
Side = Literal["read", "write"]
"""What a lens looks at: what the neuron reads from the residual stream, or what it writes to it."""
SITES: tuple[Site, ...] = get_args(Site)
POLES: tuple[Pole, ...] = get_args(Pole)
POSITIONS: tuple[Positions, ...] = get_args(Positions)
_NAME = re.compile(r"L(\d+)(?:E(\d+))?N(\d+)")


class Block(NamedTuple):
    """One MLP of a layer: its dense (or shared) one, or one expert."""

    layer: int
    expert: int | None = None

    @classmethod
    def of(cls, where: int | Block) -> Block:
        """A layer's number stands for its dense MLP."""
        return where if isinstance(where, Block) else cls(where)

    def __str__(self) -> str:
        return f"layer {self.layer}" + ("" if self.expert is None else f" expert {self.expert}")


@total_ordering
@dataclass(frozen=True)
class NeuronId:
    """One MLP neuron, printed as ``L25N1442`` (layer 25, neuron 1,442, both from 0), or ``L12E3N40`` in expert 3.

    In a layer of experts, a name without an expert means the experts' shared MLP, where there is one.
    Neurons are ordered by layer, then expert, then neuron.
    """

    layer: int
    neuron: int
    expert: int | None = None

    def __str__(self) -> str:
        return f"L{self.layer}" + ("" if self.expert is None else f"E{self.expert}") + f"N{self.neuron}"

    def __lt__(self, other: NeuronId) -> bool:
        return self._place < other._place

    @property
    def _place(self) -> tuple[int, int, int]:
        return self.layer, -1 if self.expert is None else self.expert, self.neuron

    @property
    def block(self) -> Block:
        """The MLP that it is in."""
        return Block(self.layer, self.expert)

    @classmethod
    def parse(cls, name: str | NeuronId) -> NeuronId:
        """Read ``"L25N1442"`` or ``"L12E3N40"``; a `NeuronId` passes through.

        Raises:
            NeuronError: the text is not a neuron's name.
        """
        if isinstance(name, NeuronId):
            return name
        match = _NAME.fullmatch(name.strip())
        if match is None:
            raise NeuronError(
                f"{name!r} is not a neuron's name: write it as L<layer>N<neuron>, both counted from 0, as in L25N1442, "
                "or L<layer>E<expert>N<neuron> for an expert's, as in L12E3N40"
            )
        return cls(int(match[1]), int(match[3]), None if match[2] is None else int(match[2]))


@dataclass(frozen=True)
class Lens:
    """How one weight vector w of a neuron becomes V logits (METHOD 2).

    Every map keeps both poles, so a ranking by |logit|, as the logit lens takes it, is the two merged.

    Attributes:
        name: the name that every result carries.
        weight: whose vector.
        residual: True takes w the way a residual vector takes, head(final_norm(w)), with the norm in
            front of the MLP folded into the rows that read through it; False is the bare product U·w.
        side: which side of the neuron the lens selects on, hence which side it cannot test.
    """

    name: str
    weight: WeightKind
    residual: bool
    side: Side


LENSES: dict[str, Lens] = {
    lens.name: lens
    for lens in (
        Lens("paper", "up", residual=False, side="read"),
        Lens("read", "up", residual=True, side="read"),
        Lens("gate", "gate", residual=True, side="read"),
        Lens("write", "down", residual=True, side="write"),
        Lens("logit-lens", "down", residual=False, side="write"),
    )
}


def get_lens(name: str | Lens) -> Lens:
    """Look a lens up by name; a `Lens` passes through.

    Raises:
        NeuronError: there is no such lens.
    """
    if isinstance(name, Lens):
        return name
    if name not in LENSES:
        raise NeuronError(f"unknown lens {name!r}: choose one of {', '.join(LENSES)}")
    return LENSES[name]
