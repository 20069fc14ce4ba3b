"""Every architecture as the tests take it: its folder, opened, and the model that transformers makes of that folder."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pytest
from transformers import AutoConfig

from fixtures.architectures import ARCHITECTURES
from flashinterp.models.architectures import Family, family_of
from flashinterp.models.checkpoint import Checkpoint, open_checkpoint

# One of each: the other kind of head changes nothing but the head.
DISTINCT = [name for name in ARCHITECTURES if not name.endswith(("-tied", "-untied"))]
# One of each kind: what a change breaks shows on one of these, and on the others for the same reason. Plain; norms on
# both sides, a soft-cap and a tied head; no gate, biases and transposed matrices; a parallel residual; gate and up in
# one matrix; experts; a dense layer, experts and a shared one; interleaved experts with biases.
KINDS = ("llama", "gemma2", "gpt2", "gpt_neox", "phi3", "mixtral", "deepseek_v3", "gpt_oss")


def by_kind(names: Iterable[str], *before: object) -> list[Any]:
    """The names as parameters of a test, of which all but one per kind wait for the night.

    Where no kind's own is among them, the first stays, so that every test runs by day.

    Args:
        before: other parameters, which stand before each name.
    """
    every = list(names)
    by_day = [name for name in every if name in KINDS] or every[:1]
    nightly = [pytest.mark.nightly]
    return [pytest.param(*before, name, marks=[] if name in by_day else nightly) for name in every]


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
