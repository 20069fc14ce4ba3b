"""Drawn data for the statistics: tables and vectors in which ties are common, and random streams."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

finite = st.one_of(
    st.floats(-1e6, 1e6), st.sampled_from([0.0, 1.0, 0.1, 1e-300, -1e-300])
)  # ties are common on purpose


def table(rows: tuple[int, int], columns: tuple[int, int]) -> st.SearchStrategy[Any]:
    return st.tuples(st.integers(*rows), st.integers(*columns)).flatmap(
        lambda s: arrays(np.float64, s, elements=finite)
    )


def vector(least: int, most: int) -> st.SearchStrategy[Any]:
    return st.integers(least, most).flatmap(lambda n: arrays(np.float64, n, elements=finite))


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)
