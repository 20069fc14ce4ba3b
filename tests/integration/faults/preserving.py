"""Faults in the comparison of a model with its fine-tune: of words, and of roles."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from typing import Any

import numpy as np

from flashinterp.studies.finetuning import measure_labels
from tests.integration.faults.faults import Fault, after
from tests.integration.faults.running import PRESERVATION

measure_roles = import_module("flashinterp.studies.finetuning.measure_roles")


def first_layer_unseen(result: Any, *_: Any, **__: Any) -> Any:
    """The first layer's changes are not counted."""
    kept = result.kept.copy()
    kept[: result.map_a.roster.width(0)] = True
    return replace(result, kept=kept)


def without_the_fine_tunes_clamps(curves: Any, base: Any, side: Any, targets: Any) -> Any:
    """The fine-tune's curves are those of a model that no clamp moves: flat, at their own means."""
    if side is base:
        return curves
    return [np.broadcast_to(curve.mean(axis=1, keepdims=True), curve.shape) for curve in curves]


FAULTS = {
    "a layer not compared": Fault(
        after(measure_labels, "compare", first_layer_unseen),
        PRESERVATION,
        "test_top_tokens_kept",
        "== 0.75",
    ),
    "the fine-tune without its clamps": Fault(
        after(measure_roles, "_curves", without_the_fine_tunes_clamps),
        PRESERVATION,
        "test_causal_role_kept",
        "in the fine-tune: label kept, its causal curve differs",
    ),
    "other fine-tunes without their clamps": Fault(
        after(measure_roles, "_curves", without_the_fine_tunes_clamps),
        PRESERVATION,
        "test_fine_tunes_told_apart",
        "in light: label kept, its causal curve differs",
        ("--bundled", "storybook"),
    ),
}
