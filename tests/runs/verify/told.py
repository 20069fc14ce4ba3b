"""What `verify` says of a folder, and of one that was forged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from flashinterp.runs.verify.verify import verify
from tests.runs.finished_run import edit_json, list_anew

DERIVED = (
    "answers--paper",
    *(f"clamp_causality--{name}" for name in ("verdicts", "writing", "reading", "direction", "why")),
    *(f"lens_predicts_causality--{name}" for name in ("lenses", "nulls", "parts", "parts-rest")),
    *("finetune_preservation--roles", "finetune_preservation--roles-why"),
)


def states(folder: Path, manifest: str | None = None) -> dict[str, str]:
    return {check.name: check.state for check in verify(folder, manifest).checks}


def first(folder: Path) -> str:
    """The first thing that differs, which must be one line."""
    found = verify(folder)
    assert not found.ok
    assert found.first is not None
    assert found.first.isprintable()
    return found.first


def forged(run: Path, change: Callable[[Any], Any], name: str = "results.json") -> str:
    """What verify says of a file that was edited in its own form and listed anew."""
    edit_json(run / name, change)
    list_anew(run)
    return first(run)


def drawn(run: Path) -> dict[str, str]:
    return {file.stem: file.read_text() for file in (run / "figures").iterdir()}
