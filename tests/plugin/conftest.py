"""The dummy evals as a fixture."""

from __future__ import annotations

import pytest

from flashinterp.models.checkpoint import Checkpoint
from tests.helpers import import_all
from tests.plugin.dummies import CONFTEST, Evals


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
