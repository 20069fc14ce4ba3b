"""Log-odds of log-probabilities, against the formula, and where p rounds to 1."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashinterp.stats import log_odds


@given(st.lists(st.floats(-30, -0.001), min_size=1, max_size=9))
def test_log_odds_are_the_formula_in_float64(log_probs: list[float]) -> None:
    p = np.array(log_probs, dtype=np.float32)
    wide = p.astype(np.float64)
    got = log_odds(p)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, wide - np.log(-np.expm1(wide)), rtol=1e-6, atol=1e-6)


def test_log_odds_stay_finite_and_ordered_where_p_rounds_to_one() -> None:
    got = log_odds(np.array([-1.0, -1e-3, -1e-7, -1e-9, -1e-30, 0.0], dtype=np.float32))
    assert np.isfinite(got).all()
    assert (np.diff(got) >= 0).all()
    assert got[-1] == pytest.approx(np.log(2 / np.finfo(np.float32).eps), abs=1e-3)
