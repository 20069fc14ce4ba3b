"""How far a long measurement has come, told to whoever wants to know."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int], None]
"""Called with (done, in all)."""


class Tally:
    """Counts what is done of a known number of steps, and tells it after each."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0

    def add(self, steps: int = 1) -> None:
        """Count some more steps as done; no call where they are none."""
        self._done += steps
        if self._progress and steps:
            self._progress(self._done, self._total)
