"""A report's tables: one frozen value, shown on a terminal, in Markdown and in JSON.

The text of a cell comes from models and tokenizers, so it is hostile: every renderer here passes it
through `safe_text`, and the Markdown renderer escapes what Markdown would act on. HTML is made by
the report's template.
"""

from __future__ import annotations

import math
import re
import textwrap
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from tabulate import tabulate

from flashinterp.errors import RunError

Cell = str | int | float | bool | None

TERMINAL_WIDTH = 120
CLIP_TERMINAL = 200  # characters of one cell: about five lines of a 40-column column
ROWS_TERMINAL = 40  # of a table; results.json and tables/*.md have all
CLIP_REPORT = 1000  # characters of one cell in Markdown and HTML; results.json keeps the whole text

# Control, format (bidi, zero-width), surrogate and private-use characters, line and paragraph
# separators: what can move a cursor, reverse a line, or hide.
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})
_SLUG = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,118}[A-Za-z0-9])?")
_MARKDOWN_ACTIVE = re.compile(r"[\\`*_{}\[\]<>#|~$&!@^]")
_MARKDOWN_LEAD = re.compile(r"^(\s*)(?:([-+=])|(\d+)([.)]))")


def safe_text(text: str) -> str:
    r"""Make what cannot be seen visible: U+202E becomes ``\u{202e}``, a newline ``\u{a}``.

    Covers Unicode categories Cc, Cf, Cs, Co, Zl and Zp, and noncharacters, which XML cannot hold; everything else is
    kept as it is. A text that spells such an escape itself comes out the same: this is for reading, not for decoding.
    """
    if text.isascii() and text.isprintable():
        return text
    return text.translate({ord(char): f"\\u{{{ord(char):x}}}" for char in set(text) if _is_hidden(char)})


def _is_hidden(char: str) -> bool:
    code = ord(char)
    return unicodedata.category(char) in _HIDDEN or code & 0xFFFE == 0xFFFE or 0xFDD0 <= code <= 0xFDEF


def clip(text: str, limit: int) -> str:
    """Cut a text after ``limit`` characters, and say how many there were."""
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text):,} characters)"


def check_name(name: str) -> str:
    """Return the name if it can be a file's name anywhere: letters, digits, and ``-_.`` inside.

    Raises:
        RunError: it is empty, too long, holds a separator or "..", or starts or ends with a sign.
    """
    if not isinstance(name, str) or _SLUG.fullmatch(name) is None or ".." in name:
        shown = clip(safe_text(str(name)), 80)
        raise RunError(
            f"{shown!r} cannot name a file of a run: use up to 120 letters, digits, '-', '_' and "
            "single '.', with a letter or digit at both ends"
        )
    return name


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
        cells = [row[column] for row in self.rows if row[column] is not None]
        return bool(cells) and all(isinstance(cell, (int, float)) and not isinstance(cell, bool) for cell in cells)

    @property
    def note(self) -> str:
        """The caption, and what the rows are sorted by."""
        order = f"Sorted by {self.sorted_by}." if self.sorted_by else ""
        stop = "" if not self.caption or self.caption[-1] in ".!?:" else "."
        return " ".join(part for part in (self.caption + stop, order) if part)


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


def to_text(table: Table, most: int | None = ROWS_TERMINAL) -> str:
    """Render for a terminal 120 columns wide; long text wraps inside its column.

    Args:
        table: what to show.
        most: rows to show, the rest of a run's table being in its file; None for all.
    """
    head = [safe_text(header) for header in table.headers]
    body = [[format_cell(cell, CLIP_TERMINAL) for cell in row] for row in table.rows[:most]]
    numeric = [table.is_numeric(column) for column in range(len(head))]
    widths = _fit(head, body, numeric)
    wrapped = [[_wrap(*pair) for pair in zip(row, widths, strict=True)] for row in body]
    many_lines = any("\n" in cell for row in wrapped for cell in row)
    grid = tabulate(
        wrapped,
        headers=[_wrap(name, width - 2) for name, width in zip(head, widths, strict=True)],
        tablefmt="simple_grid" if many_lines else "simple_outline",  # rules only where rows need them
        disable_numparse=True,
        colalign=["right" if is_number else "left" for is_number in numeric] if body else None,
        preserve_whitespace=True,
    )
    note = textwrap.fill(safe_text(table.note), TERMINAL_WIDTH)
    more = len(table.rows) - len(body)
    rest = f"… and {more:,} more rows: see tables/{table.name}.md" if more else ""
    return "\n".join(part for part in (safe_text(table.title), grid, note, rest) if part)


def _fit(head: list[str], body: list[list[str]], numeric: list[bool]) -> list[int]:
    """Column widths that fit the terminal: the column with most to give is narrowed, repeatedly."""
    # tabulate keeps two characters more than the header; a number is never broken, words may be.
    cells = [max((len(row[i]) for row in body), default=1) for i in range(len(head))]
    widths = [max(len(name) + 2, cell) for name, cell in zip(head, cells, strict=True)]
    words = [2 + max(map(len, name.split()), default=0) for name in head]
    floors = [max(words[i], cells[i] if numeric[i] else 12) for i in range(len(head))]
    room = TERMINAL_WIDTH - 3 * len(widths) - 1  # each column has "│ " and " ", the last one "│"
    while sum(widths) > room:
        column = max(range(len(widths)), key=lambda i: widths[i] - floors[i])
        if widths[column] <= floors[column]:
            break
        widths[column] -= 1
    return widths


def _wrap(text: str, width: int) -> str:
    if len(text) <= width:  # keeps the leading space of " dog", which textwrap would drop on a new line
        return text
    return "\n".join(textwrap.wrap(text, width, break_on_hyphens=False))


def escape_markdown(text: str) -> str:
    """Make a text inert in GitHub's Markdown: no markup, HTML, link, mention, cell or list."""
    shown = _MARKDOWN_ACTIVE.sub(r"\\\g<0>", safe_text(text))
    shown = shown.replace("://", "\\://").replace("www.", "www\\.")
    return _MARKDOWN_LEAD.sub(lambda m: f"{m[1]}\\{m[2]}" if m[2] else f"{m[1]}{m[3]}\\{m[4]}", shown)


def to_markdown(table: Table, level: int = 2) -> str:
    """Render as a GitHub pipe table under its title (a heading of ``level``), the caption below."""
    rules = ["---:" if table.is_numeric(i) else "---" for i in range(len(table.headers))]
    rows = [[_markdown_cell(cell) for cell in row] for row in table.rows]
    lines = [f"{'#' * level} {escape_markdown(table.title)}", ""]
    for row in ([escape_markdown(header) for header in table.headers], rules, *rows):
        lines.append(f"| {' | '.join(row)} |")
    if table.note:
        lines += ["", escape_markdown(table.note)]
    return "\n".join(lines) + "\n"


def _markdown_cell(cell: object) -> str:
    return escape_markdown(clip(cell, CLIP_REPORT)) if isinstance(cell, str) else format_cell(cell)


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
