"""A report's tables: one frozen value, shown on a terminal, in Markdown and in JSON.

The text of a cell comes from models and tokenizers, so it is hostile: every renderer here passes it
through `safe_text`, and the Markdown renderer escapes what Markdown would act on. HTML is made by
the report's template.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from flashinterp._util.text import check_name, clip, safe_text
from flashinterp.errors import RunError

Told = tuple[list[str], list[list[Any]], str]
"""A table's headers, rows and caption."""
Cell = str | int | float | bool | None
CLIP_REPORT = 1000  # characters of one cell in Markdown and HTML; results.json keeps the whole text


@dataclass(frozen=True)
class Table:
    """One table of a report.

    Attributes:
        name: file-safe slug; ``evalname--rest`` puts the table in that eval's section.
        title: its heading.
        headers: one name per column, with the unit where there is one.
        rows: one tuple of cells per row. NumPy scalars are taken as the builtin they stand for.
        caption: what a reader must know to read it.
        sorted_by: the column or rule that orders the rows.

    Raises:
        RunError: the name is not file-safe, a row's length is not the header's, or a cell is not
            finite or not text, number, bool or None.
    """

    name: str
    title: str
    headers: tuple[str, ...]
    rows: tuple[tuple[object, ...], ...]
    caption: str = ""
    sorted_by: str = ""

    def __post_init__(self) -> None:
        check_name(self.name)
        if not self.headers:
            raise RunError(f"table {self.name} has no columns: give it at least one header")
        object.__setattr__(self, "headers", tuple(str(header) for header in self.headers))
        object.__setattr__(self, "rows", tuple(self._row(i, row) for i, row in enumerate(self.rows)))

    def _row(self, index: int, row: tuple[object, ...]) -> tuple[Cell, ...]:
        if len(row) != len(self.headers):
            raise RunError(
                f"table {self.name}, row {index} has {len(row)} cells for {len(self.headers)} "
                "columns: give each column a cell, None where there is no value"
            )
        return tuple(self._cell(index, head, cell) for head, cell in zip(self.headers, row, strict=True))

    def _cell(self, index: int, header: str, cell: object) -> Cell:
        value = cell.item() if isinstance(cell, np.generic) else cell
        where = f"table {self.name}, row {index}, column {header!r}"
        if isinstance(value, float) and not math.isfinite(value):
            raise RunError(f"{where} is {value}: write None and give the reason in a column beside it")
        if value is None or isinstance(value, (str, bool, int, float)):
            return value
        raise RunError(f"{where} holds a {type(value).__name__}: a cell is text, a number, a bool or None")

    def is_numeric(self, column: int) -> bool:
        """Whether a column holds numbers (or gaps) only, and so is aligned to the right."""
        return self._numeric[column]

    @cached_property
    def _numeric(self) -> list[bool]:
        return [_all_numbers([row[i] for row in self.rows]) for i in range(len(self.headers))]

    @property
    def note(self) -> str:
        """The caption, and what the rows are sorted by."""
        order = f"Sorted by {self.sorted_by}." if self.sorted_by else ""
        stop = "" if not self.caption or self.caption[-1] in ".!?:" else "."
        return " ".join(part for part in (self.caption + stop, order) if part)


def _all_numbers(column: Sequence[object]) -> bool:
    cells = [cell for cell in column if cell is not None]
    return bool(cells) and all(isinstance(cell, (int, float)) and not isinstance(cell, bool) for cell in cells)


def format_number(value: float) -> str:
    """A float to 4 significant digits; the whole part of one below ten million is never cut."""
    return f"{value:.0f}" if 1e4 <= abs(value) < 1e7 else f"{value:.4g}"


def format_cell(cell: object, limit: int = CLIP_REPORT) -> str:
    """How a cell reads: None is "-", a bool yes or no, text is made safe and clipped."""
    if cell is None:
        return "-"
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if isinstance(cell, float):
        return format_number(cell)
    return safe_text(clip(str(cell), limit))


def to_json(table: Table) -> dict[str, Any]:
    """The table as plain JSON values, as results.json keeps it."""
    return {
        "name": table.name,
        "title": table.title,
        "headers": list(table.headers),
        "rows": [list(row) for row in table.rows],
        "caption": table.caption,
        "sorted_by": table.sorted_by,
    }


def from_json(record: Mapping[str, Any]) -> Table:
    """The table that `to_json` wrote, so a report can be made again from results.json alone.

    Raises:
        RunError: a field is missing, or holds what a table cannot.
    """
    try:
        headers, rows = tuple(record["headers"]), tuple(tuple(row) for row in record["rows"])
        return Table(
            record["name"],
            record["title"],
            headers,
            rows,
            record.get("caption", ""),
            record.get("sorted_by", ""),
        )
    except (KeyError, TypeError) as error:
        raise RunError(
            f"a table in results.json cannot be read ({type(error).__name__}: {error}): run the "
            "evals again, or check the folder with `flashinterp verify`"
        ) from error
