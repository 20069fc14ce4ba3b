"""Every architecture as the tests take it: its folder, opened, and the model that transformers makes of that folder."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from transformers import AutoConfig

from fixtures.architectures import ARCHITECTURES
from flashinterp.models.architectures import Family, family_of
from flashinterp.models.checkpoint import Checkpoint, open_checkpoint

# One of each: the other kind of head changes nothing but the head.
DISTINCT = [name for name in ARCHITECTURES if not name.endswith(("-tied", "-untied"))]


@dataclass(frozen=True)
class Case:
    """One architecture."""

    name: str
    checkpoint: Checkpoint
    model: Any

    @property
    def kind(self) -> str:
        """The family's name."""
        return ARCHITECTURES[self.name].model_type

    @cached_property
    def live(self) -> Checkpoint:
        """The model, opened."""
        return open_checkpoint(self.model)


def entry_of(name: str) -> Family:
    """An architecture's entry in the registry."""
    one = ARCHITECTURES[name]
    return family_of(AutoConfig.for_model(one.model_type, **one.config))
