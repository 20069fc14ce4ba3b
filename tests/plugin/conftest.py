"""The dummy evals as a fixture."""

from __future__ import annotations

import pytest

from flashinterp.audit import baseline, session
from flashinterp.checkpoint import Checkpoint
from tests.plugin.dummies import CONFTEST, Evals


@pytest.fixture(scope="module", autouse=True)
def imported(planted: Checkpoint) -> None:
    """What pytester would forget after each run and import again is imported before the first."""
    assert planted.vocabulary
    assert baseline.RESULTS == session.RESULTS


@pytest.fixture
def evals(pytester: pytest.Pytester) -> Evals:
    pytester.makeconftest(CONFTEST)
    pytester.makepyprojecttoml('[tool.pytest]\nstrict = true\nfilterwarnings = ["error"]\njunit_family = "xunit1"\n')
    return Evals(pytester)
