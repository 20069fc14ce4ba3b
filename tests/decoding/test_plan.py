"""The plan of a decode: everything resolved before anything is computed, and once."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from typing import Any

import pytest
import torch

from flashinterp.decoding import lens_rows as lens_rows_module
from flashinterp.decoding import plan as plan_module
from flashinterp.decoding.decode import decode
from flashinterp.decoding.plan import check_layers, make_plan
from flashinterp.errors import NeuronError
from flashinterp.neurons import LENSES


def test_every_auto_is_resolved_and_what_was_passed_is_recorded(planted: Any) -> None:
    plan = make_plan(planted)
    assert (plan.lens, plan.layers, plan.dtype) == (LENSES["paper"], (0, 1, 2, 3), torch.float32)
    assert plan.device in ("cpu", "cuda")
    assert plan.way.reason
    assert plan.meta["passed"] == {"device": "auto", "dtype": "auto"}
    assert (plan.meta["device"], plan.meta["dtype"]) == (plan.device, "float32")
    with pytest.raises(FrozenInstanceError):
        plan.device = "cuda"  # type: ignore[misc]


def test_a_decode_looks_its_lens_and_its_backend_up_once(planted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many layers there are: what a layer uses is the plan's."""
    asked: list[str] = []
    for name in ("get_lens", "choose_way"):
        right = getattr(plan_module, name)
        monkeypatch.setattr(plan_module, name, lambda *a, _n=name, _f=right, **k: asked.append(_n) or _f(*a, **k))
    right = lens_rows_module.get_lens
    monkeypatch.setattr(
        lens_rows_module, "get_lens", lambda lens: asked.append("by name") if isinstance(lens, str) else right(lens)
    )
    decode(planted, lens="write")
    assert asked == ["get_lens", "choose_way"]


@pytest.mark.parametrize(
    ("wanted", "want"), [(None, (0, 1, 2, 3)), ([2], (2,)), ([3, 0, 3], (0, 3)), (range(2), (0, 1))]
)
def test_layers_come_ascending_and_once(wanted: Any, want: tuple[int, ...], planted: Any) -> None:
    assert check_layers(planted, wanted) == want


@pytest.mark.parametrize(("wanted", "told"), [([4], "layer 4"), ([0, -1], "layer -1"), ([], "no layer")])
def test_layers_that_are_not_there_are_refused_with_the_range(wanted: list[int], told: str, planted: Any) -> None:
    with pytest.raises(NeuronError, match=f"{told}.*layers 0 to 3"):
        check_layers(planted, wanted)
