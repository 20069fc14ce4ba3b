"""The tables of docs/limitations/FI-L003.md to FI-L005.md, from the lines that `benchmarks.frequency` wrote."""

from __future__ import annotations

from typing import Any

from tabulate import tabulate

from flashinterp.studies.word_frequency.training_records import Lines
from flashinterp.studies.word_frequency.training_tables import all_tables


def tables(lines: Lines) -> dict[str, str]:
    """Title to table, in Markdown."""
    made = {}
    for title, (header, rows) in all_tables(lines).items():
        made[title] = tabulate(
            [[_shown(cell) for cell in row] for row in rows], header, "github", disable_numparse=True
        )
    return made


def _shown(cell: Any) -> str:
    """Three digits for what was computed; a dash for nothing."""
    return "–" if cell is None else f"{cell:.3g}" if isinstance(cell, float) else str(cell)
