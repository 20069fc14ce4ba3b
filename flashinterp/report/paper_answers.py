"""The paper's results beside those found here, in words: the first table of a report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flashinterp.report.sections import ANSWERS
from flashinterp.report.table import Table

NAME = f"{ANSWERS}--paper"
_CAPTION = "Each has its tables, with intervals and controls, under the eval of its name."


@dataclass(frozen=True)
class Finding:
    """One result of the paper beside what was found here, in words.

    Attributes:
        order: where it stands among the others.
        paper, here: the result there and here.
        planted: what is true here, on bundled models.
    """

    order: int
    paper: str
    here: str
    planted: str | None = None


def answers_table(findings: Sequence[Finding]) -> Table:
    """All findings in their order; what was planted where anything is known of it."""
    known = any(f.planted is not None for f in findings)
    headers = ("in the paper (Llama 3.1 8B)", "in this model", *(["planted"] if known else []))
    ordered = sorted(findings, key=lambda f: f.order)
    rows = tuple((f.paper, f.here, *([f.planted] if known else [])) for f in ordered)
    return Table(NAME, "The paper's results, and this model's", headers, rows, _CAPTION)
