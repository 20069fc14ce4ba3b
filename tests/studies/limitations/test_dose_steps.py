"""Steps of curves, counted."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from flashinterp.studies.limitations.dose_steps import Steps, count_steps


def test_steps_against_the_direction_and_steps_to_nowhere() -> None:
    curves = [[0, 1, 1, 0.5, 2], [3, 2, 2.5, 1, 1], [0, 1, 0, 1, 0]]
    assert count_steps(curves, [1, -1, 0]) == Steps(8, 2, 2)
    assert count_steps(curves, [-1, 1, 0]) == Steps(8, 4, 2)


def test_steps_add_up() -> None:
    assert Steps(4, 1, 2) + Steps(3, 0, 1) == Steps(7, 1, 3)


@given(
    arrays(np.float64, (3, 6), elements=st.integers(-3, 3)), st.lists(st.sampled_from([-1, 1]), min_size=3, max_size=3)
)
def test_every_step_goes_one_way_the_other_or_nowhere(curves: np.ndarray, way: list[int]) -> None:
    there, back = count_steps(curves, way), count_steps(curves, [-w for w in way])
    assert there.n == back.n == 15
    assert there.level == back.level
    assert there.reversed + back.reversed + there.level == 15
