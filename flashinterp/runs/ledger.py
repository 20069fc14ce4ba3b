"""One line per test: how outcomes are counted, in the run and again from its event log."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

OUTCOMES = ("passed", "failed", "errors", "skipped", "xfailed", "xpassed")


@dataclass
class Ledger:
    """Outcomes so far. Mutable: a run fills it.

    Attributes:
        counts: outcome to number of tests; the plugin adds what was collected and deselected.
        reasons: outcome to lines ``test: reason``.
        tests: test to its outcome, reason and duration in seconds.
    """

    counts: Counter[str] = field(default_factory=Counter)
    reasons: dict[str, list[str]] = field(default_factory=dict)
    tests: dict[str, dict[str, Any]] = field(default_factory=dict)

    def enter(self, outcome: str, test: str, reason: str = "", seconds: float | None = None) -> None:
        """Enter one test's outcome; an error in its clean-up replaces it, but hides no failure."""
        former = self.tests.get(test)
        if former is None or former["outcome"] != "failed":
            self.counts[outcome] += 1
            if former is not None:
                self.counts[former["outcome"]] -= 1
            self.tests[test] = {"id": test, "outcome": outcome, "reason": reason, "seconds": seconds}
        if reason:
            self.reasons.setdefault(outcome, []).append(f"{test}: {reason}")
