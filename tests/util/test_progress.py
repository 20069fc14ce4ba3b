"""What is counted is told: rising, to the end, and nothing where nothing was done."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from flashinterp._util.progress import Tally


@given(st.lists(st.integers(0, 5), max_size=9))
def test_each_step_is_told_once_and_the_last_one_is_the_total(steps: list[int]) -> None:
    seen: list[tuple[int, int]] = []
    tally = Tally(lambda *at: seen.append(at), sum(steps))
    for step in steps:
        tally.add(step)
    done = [at for at, _ in seen]
    assert done == sorted(set(done))
    assert {total for _, total in seen} <= {sum(steps)}
    assert len(seen) == sum(step > 0 for step in steps)
    assert done[-1:] == ([sum(steps)] if sum(steps) else [])


def test_nobody_need_listen() -> None:
    Tally(None, 1).add()
