"""The name of one row of W_up or W_gate."""

from __future__ import annotations

from typing import Literal, NamedTuple

from flashinterp.neurons import NeuronId
from flashinterp.provenance.registry import record

RowKind = Literal["up", "gate"]
"""Which of a neuron's two rows: both read the residual stream."""


@record("interventions.row_place", version=1)
class RowPlace(NamedTuple):
    """One row: a neuron's in W_up or in W_gate."""

    neuron: NeuronId
    kind: RowKind

    def __str__(self) -> str:
        return f"{self.neuron} {self.kind}"
