"""A `Table` as text: for a terminal, and as Markdown."""

from __future__ import annotations

import re
import textwrap

from tabulate import tabulate

from flashinterp._util.text import clip, safe_text
from flashinterp.report.table import CLIP_REPORT, Table, format_cell

TERMINAL_WIDTH = 120
CLIP_TERMINAL = 200  # characters of one cell: about five lines of a 40-column column
ROWS_TERMINAL = 40  # of a table; results.json and tables/*.md have all
_MARKDOWN_ACTIVE = re.compile(r"[\\`*_{}\[\]<>#|~$&!@^]")
_MARKDOWN_LEAD = re.compile(r"^(\s*)(?:([-+=])|(\d+)([.)]))")


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
