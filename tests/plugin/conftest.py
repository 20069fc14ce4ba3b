"""The dummy evals as a fixture. Everything below this folder is slow: each test runs pytest and writes a run folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from flashinterp.models.checkpoint import Checkpoint
from tests.helpers import import_all
from tests.plugin.dummies import CONFTEST, Evals

FOLDER = Path(__file__).parent


@pytest.hookimpl(tryfirst=True)  # before -m is looked at
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark them; this hook is given the tests of other folders, too."""
    for item in items:
        if item.path.is_relative_to(FOLDER):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="module", autouse=True)
def imported(planted: Checkpoint) -> None:
    """What pytester would forget after each run and import again is imported before the first."""
    assert planted.vocabulary
    import_all()


@pytest.fixture
def evals(pytester: pytest.Pytester) -> Evals:
    pytester.makeconftest(CONFTEST)
    pytester.makepyprojecttoml('[tool.pytest]\nstrict = true\nfilterwarnings = ["error"]\njunit_family = "xunit1"\n')
    return Evals(pytester)
