"""One finished run for all tests of `verify`, and a copy of it to damage."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flashinterp.models.checkpoint import Checkpoint
from flashinterp.provenance.derivation import CallValues
from flashinterp.report.charts import canvas
from tests.runs.finished_run import copied, finished

DRAWN: dict[Hashable, Any] = {}
"""Figures by what they were drawn from: function, whether with strokes, and every value."""


@pytest.fixture(autouse=True)
def drawn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing is half of what `verify` takes, and most tests damage something else: what was drawn is not drawn again.

    A changed value or another function is another figure.
    """
    sound = CallValues.called

    def called(self: CallValues, make: Any, resolve: Any, *first: Any) -> Any:
        if not first:  # a table or a finding
            return sound(self, make, resolve)
        given: list[Any] = []
        sound(self, lambda *args, **kwargs: given.extend((args, kwargs)), resolve, *first)
        args, kwargs = given
        key = make, canvas._STROKES.get(), _content(args), _content(kwargs)
        if key not in DRAWN:
            DRAWN[key] = make(*args, **kwargs)
        return DRAWN[key]

    monkeypatch.setattr(CallValues, "called", called)


def _content(value: Any) -> Hashable:
    """All that a value holds, such that equal contents are equal."""
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    if is_dataclass(value):
        return type(value), *(_content(getattr(value, f.name)) for f in fields(value))
    if isinstance(value, Mapping):
        return tuple((repr(key), _content(item)) for key, item in value.items())
    if isinstance(value, list | tuple):
        return type(value), *map(_content, value)
    return repr(value)


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory, planted: Checkpoint, tuned: Checkpoint) -> Path:
    """A finished run; tests leave it as it is."""
    return finished(tmp_path_factory.mktemp("whole") / "run", planted, tuned)


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    """A copy of it, to damage."""
    return copied(whole, tmp_path / "run")
