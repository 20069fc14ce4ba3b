"""Nearest twins by explicit cosines."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashinterp.studies.limitations.twin_records import cosines_with, nearest_twin


@given(st.integers(0, 2**32 - 1), st.integers(2, 8))
def test_it_is_the_best_of_all_pairs(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    reading, writing = rng.standard_normal((2, n, 3))

    def cosine(a: np.ndarray, b: np.ndarray) -> float:
        return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))

    def pair(i: int) -> tuple[float, float]:
        return cosine(reading[0], reading[i]), cosine(writing[0], writing[i])

    def likeness(i: int) -> float:
        read, write = pair(i)
        return max(min(read, write), min(-read, -write))

    twin = nearest_twin(0, cosines_with(0, reading, writing))
    assert twin is not None
    assert twin.neuron != 0
    assert twin.likeness == pytest.approx(max(likeness(i) for i in range(1, n)))
    assert twin.likeness == pytest.approx(likeness(twin.neuron))
    turn = -1 if twin.mirrored else 1
    assert (twin.read, twin.write) == pytest.approx(tuple(turn * c for c in pair(twin.neuron)))


def test_a_mirrored_copy_is_a_twin_and_half_a_mirror_is_none() -> None:
    reading = np.array([[1.0, 2, 0], [-1, -2, 0], [-1, -2, 0], [0, 0, 1]])
    writing = np.array([[0.0, 1, 1], [0, 1, 1], [0, -2, -2], [1, 0, 0]])
    twin = nearest_twin(0, cosines_with(0, reading, writing))
    assert twin is not None
    assert (twin.neuron, twin.mirrored) == (2, True)
    assert twin.likeness == pytest.approx(1)


def test_a_neuron_alone_has_no_twin() -> None:
    assert nearest_twin(0, cosines_with(0, np.ones((1, 3)), np.ones((1, 3)))) is None
