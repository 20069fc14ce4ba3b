"""The tables of a decode by hand: sums and largest errors over comparisons, medians over rounds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from flashinterp.studies.instrument_checks.decode_tables import (
    BARE,
    WAYS,
    Compared,
    Timed,
    lens_formulas_table,
    random_weights_table,
    speed_table,
)
from tests.runs.made_again import cells, made_again

SMALL = Compared(
    ("float32", "zero rows"), np.array([10, 20]), np.array([0, 1]), np.array([1e-6, 3e-6]), np.array([2e-6, 1e-6])
)
OTHER = Compared(("bfloat16", "random"), np.array([5]), np.array([2]), np.array([4e-6]), np.array([5e-6]))


def test_random_weights_are_told_by_dtype_and_pattern_in_order() -> None:
    _, rows, _ = made_again(random_weights_table, [SMALL, OTHER])
    assert rows == [["bfloat16", "random", 5, 2, 4e-6, 5e-6], ["float32", "zero rows", 30, 1, 3e-6, 2e-6]]


def test_lenses_are_told_in_the_order_of_the_models() -> None:
    read = replace(SMALL, kind=("read", "read"))
    _, rows, _ = made_again(lens_formulas_table, [read, replace(OTHER, kind=("paper", "read"))])
    assert rows == [["read", "read", 30, 1, 3e-6], ["paper", "read", 5, 2, 4e-6]]


@pytest.mark.parametrize("make", [random_weights_table, lens_formulas_table])
@pytest.mark.parametrize("forged", ["ids", "swapped", "errors"])
def test_one_comparison_forged_shows(make: object, forged: str) -> None:
    values = getattr(SMALL, forged).copy()
    values[1] *= 3
    assert made_again(make, [replace(SMALL, **{forged: values})]) != made_again(make, [SMALL])  # type: ignore[arg-type]


def _timed(**changes: float) -> Timed:
    """Three rounds, in which the machine slows down; one way takes 2, 3 and 7 times the bare product's time."""
    bare = np.array([0.001, 0.002, 0.004])
    both = bare * [2, 3, 7]
    both[0] *= changes.get("first", 1)
    return Timed("random", 512, 64, 1000, {BARE: bare, "both poles": both, "naive, one pole": bare * 5})


def test_a_ratio_is_the_median_of_the_rounds_own_ratios() -> None:
    made = made_again(speed_table, [_timed()], "cpu", 2)
    headers, rows, caption = made
    assert headers[:5] == ["weights", "rows", "d", "V", "bare product, ms"]
    assert headers[5:] == list(WAYS)
    assert rows[0][:4] == ["random", 512, 64, 1000]
    assert cells(made, "bare product, ms") == pytest.approx([2.0])
    # The medians' own ratio is 3 as well, and stays 3 where the first round takes 5 times as long.
    assert cells(made, "both poles") == pytest.approx([3.0])
    assert cells(made_again(speed_table, [_timed(first=2.5)], "cpu", 2), "both poles") == pytest.approx([5.0])
    assert cells(made, "naive, one pole") == pytest.approx([5.0])
    assert cells(made, "faiss.knn, one pole") == cells(made, "bfloat16 weights, both poles") == [None]
    assert "medians of 3 interleaved rounds on cpu, 2 threads" in caption
