"""One finished run for all tests of `verify`, and a copy of it to damage."""

from __future__ import annotations

from pathlib import Path

import pytest

from flashinterp.models.checkpoint import Checkpoint
from tests.runs.finished_run import copied, finished


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory, planted: Checkpoint, tuned: Checkpoint) -> Path:
    """A finished run; tests leave it as it is."""
    return finished(tmp_path_factory.mktemp("whole") / "run", planted, tuned)


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    """A copy of it, to damage."""
    return copied(whole, tmp_path / "run")
