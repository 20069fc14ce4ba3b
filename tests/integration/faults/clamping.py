"""Faults in the clamp, and in the files that a clamp is proved by."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch

import flashinterp
from flashinterp.interventions import clamp, clamp_hooks, generation
from flashinterp.models.checkpoint import Checkpoint
from flashinterp.models.layout import Layout
from tests.integration.faults.faults import Fault, after, both, instead
from tests.integration.faults.running import INSTRUMENT


def one_layer_off(tap: Any, layout: Layout, site: Any, layer: int) -> Any:
    """The clamp hangs on the next layer's module."""
    own, other = layout.layer(layer), layout.layer((layer + 1) % layout.n_layers)
    return replace(tap, module=tap.module.replace(own, other))


def multiply(self: Any, x: Any, one: Any, where: slice, column: int) -> None:
    """A clamp scales where it should fix."""
    rows = slice(None) if one.rows is None else list(one.rows)
    x[rows, where, column] *= float(one.value)
    self.written += 1


def leave_a_hook(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clamp that forgets one of its hooks on the model."""
    sound = clamp.clamp_rows

    @contextmanager
    def forgetful(model: Any, *args: Any, **kwargs: Any) -> Iterator[Any]:
        with sound(model, *args, **kwargs) as log:
            yield log
        model.lm_head.register_forward_hook(lambda module, given, out: None)

    monkeypatch.setattr(clamp, "clamp_rows", forgetful)


def shuffled(rows: torch.Tensor, *_: Any) -> torch.Tensor:
    """The rows on disk are not in the live model's order."""
    return rows.roll(1, dims=0)


def shuffled_down(rows: torch.Tensor, checkpoint: Checkpoint, kind: str, layer: int) -> torch.Tensor:
    """The columns of W_down are not in the live model's order."""
    return rows.roll(1, dims=0) if kind == "down" else rows


def does_not_fire(self: Any, x: torch.Tensor) -> torch.Tensor:
    """The hook runs, counts, and changes nothing."""
    self.place.log.calls[self.place.layer] += 1
    self.writer.written += 1
    return x.clone()


def last_position_only(where: slice | None, self: Any, length: int) -> slice | None:
    """What comes before the last position stays as it was before the clamp: as if its keys and values were old ones."""
    return where and slice(length - 1, length)


def after_the_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Text is generated over keys and values that the prompt left before the clamp."""
    sound = generation.clamp
    monkeypatch.setattr(
        generation, "clamp", lambda *args, **kwargs: sound(*args, **{**kwargs, "positions": "generated"})
    )


BOTH_ON_DISK = after(Checkpoint, "rows", shuffled_down)
MECHANICS = "test_clamp_is_what_it_says"
GENERATED = "test_generated_text_is_that_of_clamped_passes"

FAULTS = {
    "clamp one layer off": Fault(after(Layout, "tap", one_layer_off), INSTRUMENT, MECHANICS, "L1N17 at up: off by"),
    "clamp multiplies": Fault(
        instead(clamp_hooks._Writer, "_write_one", multiply), INSTRUMENT, MECHANICS, "L1N17 at up: off by"
    ),
    "hook left behind": Fault(leave_a_hook, INSTRUMENT, MECHANICS, "hooks were left on lm_head"),
    "head shuffled": Fault(after(Checkpoint, "head", shuffled), INSTRUMENT, MECHANICS, "LayoutError: the llama layout"),
    "W_down shuffled": Fault(BOTH_ON_DISK, INSTRUMENT, MECHANICS, "LayoutError: the llama layout"),
    "W_down shuffled and no probe": Fault(
        both(BOTH_ON_DISK, instead(flashinterp, "probe", lambda *_: {})),
        INSTRUMENT,
        MECHANICS,
        "L1N17 at up: off by",
    ),
    "clamp does not fire": Fault(
        instead(clamp_hooks._Dense, "__call__", does_not_fire),
        INSTRUMENT,
        MECHANICS,
        "L1N17 at up: off by",
    ),
    "keys and values from before the clamp": Fault(
        after(clamp_hooks._Writer, "where", last_position_only),
        INSTRUMENT,
        "test_the_measure_is_finer_than_what_it_measures",
        "clamped at 7, in two parts, with a cache: log-probabilities move",
    ),
    "generated over a stale cache": Fault(after_the_prompt, INSTRUMENT, GENERATED, "dog: generated"),
}
