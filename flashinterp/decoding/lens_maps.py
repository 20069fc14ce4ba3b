"""The maps of one model by lens, each decoded when it is first asked for."""

from __future__ import annotations

from dataclasses import dataclass, field

from flashinterp.decoding.decode import decode
from flashinterp.decoding.neuron_map import NeuronMap
from flashinterp.models.checkpoint import Checkpoint


@dataclass(frozen=True)
class DecodedMaps:
    """A `LensMaps` that decodes; nothing is decoded twice.

    Attributes:
        checkpoint: the model.
        device: where its maps are decoded.
        head_of: another model whose head and final norm are used; see `decode`.
    """

    checkpoint: Checkpoint
    device: str
    head_of: Checkpoint | None = None
    _made: dict[str, NeuronMap] = field(default_factory=dict, repr=False)

    def __getitem__(self, lens: str, /) -> NeuronMap:
        if lens not in self._made:
            self._made[lens] = decode(self.checkpoint, lens=lens, device=self.device, head_of=self.head_of)
        return self._made[lens]
