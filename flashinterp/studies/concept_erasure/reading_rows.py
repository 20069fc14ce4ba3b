"""Every row of W_up and W_gate beside one vector of the residual stream, which is what these rows read (TARS)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flashinterp.errors import LayoutError, RunError
from flashinterp.interventions.row_place import RowKind, RowPlace
from flashinterp.models.checkpoint import Checkpoint
from flashinterp.neurons import Block, NeuronId
from flashinterp.studies.concept_erasure.removal import RankedRow

Floats = NDArray[np.float64]
_NEAREST = 16  # rows of the nearest norms, among which a control's is drawn


@dataclass(frozen=True)
class ReadingRows:
    """The rows of all dense MLPs: block after block, W_up before W_gate.

    Attributes:
        starts: where the rows of a block's matrix begin.
        cosines, norms: [rows].
    """

    starts: dict[tuple[Block, RowKind], int]
    cosines: Floats
    norms: Floats

    @classmethod
    def of(cls, checkpoint: Checkpoint, vector: Tensor) -> ReadingRows:
        """Read matrix by matrix, as they are stored: the weight of the norm in front of the MLP is not folded in.

        An expert's rows are left out, as no copy is written of them.

        Raises:
            LayoutError: there is no dense MLP.
        """
        kinds: tuple[RowKind, ...] = ("up", "gate") if checkpoint.layout.formula.gated else ("up",)
        blocks = [block for block in checkpoint.layout.roster.blocks if block.expert is None]
        if not blocks:
            raise LayoutError(
                f"all neurons of this {checkpoint.layout.model_type} model are in experts, whose rows are not edited: "
                "choose a model with dense MLPs"
            )
        unit = (vector / vector.norm()).double()
        starts: dict[tuple[Block, RowKind], int] = {}
        cosines, norms, at = [], [], 0
        for block in blocks:
            for kind in kinds:
                rows = checkpoint.rows(kind, block).double()
                norm = rows.norm(dim=1)
                starts[block, kind] = at
                at += len(rows)
                cosines.append((rows @ unit / norm.clamp(min=torch.finfo(torch.float64).tiny)).numpy())
                norms.append(norm.numpy())
        return cls(starts, np.concatenate(cosines), np.concatenate(norms))

    def __len__(self) -> int:
        return len(self.cosines)

    def best(self, n: int) -> list[RankedRow]:
        """The n nearest to the vector, nearest first; ties go to the lower layer, W_up before W_gate."""
        order = np.argsort(-self.cosines, kind="stable")[:n]
        return [RankedRow(self._place(int(i)), float(self.cosines[i]), float(self.norms[i])) for i in order]

    def matched(self, places: Sequence[RowPlace], rng: np.random.Generator) -> list[RankedRow]:
        """For each row another one of its layer and kind, drawn among the 16 of the nearest norms; no row twice.

        Raises:
            RunError: a layer has no other row left.
        """
        taken = {self._index(place) for place in places}
        chosen = []
        for place in places:
            there = self._span(place)
            free = np.array([i for i in there if i not in taken], dtype=np.int64)
            if not len(free):
                raise RunError(f"{place} has no row left to be compared with: choose fewer edits")
            far = np.abs(self.norms[free] - self.norms[self._index(place)])
            at = int(rng.choice(free[np.argsort(far, kind="stable")[:_NEAREST]]))
            taken.add(at)
            chosen.append(RankedRow(self._place(at), float(self.cosines[at]), float(self.norms[at])))
        return chosen

    def _index(self, place: RowPlace) -> int:
        return self.starts[place.neuron.block, place.kind] + place.neuron.neuron

    def _span(self, place: RowPlace) -> range:
        first = self.starts[place.neuron.block, place.kind]
        return range(first, min(s for s in (*self.starts.values(), len(self)) if s > first))

    def _place(self, i: int) -> RowPlace:
        (block, kind), first = max(
            ((key, start) for key, start in self.starts.items() if start <= i), key=lambda found: found[1]
        )
        return RowPlace(NeuronId(block.layer, i - first), kind)
