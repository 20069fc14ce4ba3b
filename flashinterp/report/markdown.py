"""The report in GitHub's Markdown, short enough for a pull request's comment: the HTML's words, the tables that fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from flashinterp.report.content import View, make_view
from flashinterp.report.sections import apart, group
from flashinterp.report.table import Table
from flashinterp.report.table_text import escape_markdown, to_markdown
from flashinterp.report.wording import HOW_TO_CHECK, heading

# GitHub refuses a comment above 65,536 characters; bytes are what some of its clients count.
_MOST_BYTES = 60_000
_MOST_ROWS = 25
_LEFT = "Not shown for want of room:"


def render_markdown(results: Mapping[str, Any], tables: Sequence[Table]) -> str:
    """The answer and what was audited, then, folded, the evals' tables as far as a comment can hold them.

    A table that is cut or left out is named with its file; figures and docstrings are in the HTML only.
    """
    view = make_view(results)
    answers, _, rest = apart(tables)
    head, tail = _head(view, answers), _tail(view)
    room = _MOST_BYTES - _size([*head, *tail])
    return "\n\n".join(part.strip() for part in [*head, *_sections(rest, room), *tail] if part) + "\n"


def _head(view: View, answers: Sequence[Table]) -> list[str]:
    verdicts = [view.verdicts] if view.verdicts else []
    parts = [f"# {escape_markdown(view.title)}"]
    parts += [f"> **{escape_markdown(text)}**" for _, text in view.banners]
    parts += ["## The answer", escape_markdown(view.answer)]
    parts += [_bullets([f"{name}: {meaning}" for name, _, meaning in view.counts])]
    parts += [_cut(table) for table in [*verdicts, *answers]]
    return [*parts, "## What was audited", *_folded("Weights and settings", [_cut(table) for table in view.subject])]


def _tail(view: View) -> list[str]:
    known = [f"{limit.id}, {limit.title}: {limit.claim}" for limit in view.known_limits]
    limits = [_bullets(part) for part in (known, view.limits) if part] or ["None were recorded."]
    parts = ["## Ledger", *([_cut(table) for table in view.ledger] or ["No test was recorded."])]
    parts += ["## Limits of the method", *_folded("What the method cannot say", limits)]
    return [*parts, "## How to check this report", _bullets(HOW_TO_CHECK)]


def _sections(tables: Sequence[Table], room: int) -> list[str]:
    """Each eval folded, with the tables that there is room for; the first evals are served first."""
    groups = group(tables)
    # Room for every heading, and for the name of every table, whether it is shown or not.
    room -= sum(
        _size(_folded(heading(name), [_LEFT, *(_file(t) for t in members)])) for name, members in groups.items()
    )
    parts = ["## The evidence"] if tables else []
    for name, members in groups.items():
        shown, left = [], []
        for table in members:
            text = _cut(table)
            if _size([text]) <= room:
                room -= _size([text])
                shown.append(text)
            else:
                left.append(_file(table))
        if left:
            shown.append(f"{_LEFT} {', '.join(left)}.")
        parts += _folded(heading(name), shown)
    return parts


def _file(table: Table) -> str:
    return escape_markdown(f"tables/{table.name}.md")


def _cut(table: Table) -> str:
    """A table as a part of the report, its first rows only where it has many."""
    cut = table
    if len(table.rows) > _MOST_ROWS:
        rest = f"{len(table.rows) - _MOST_ROWS} more rows are in tables/{table.name}.md."
        note = f"{table.caption} {rest}" if table.caption[-1:] in ".!?:" else f"{table.caption}. {rest}"
        cut = replace(table, rows=table.rows[:_MOST_ROWS], caption=note.removeprefix(". "))
    return to_markdown(cut, level=3)


def _folded(title: str, parts: Sequence[str]) -> list[str]:
    """Parts behind a line to click on; GitHub reads Markdown in it between blank lines."""
    return [f"<details><summary>{escape_markdown(title)}</summary>", *parts, "</details>"]


def _bullets(lines: Sequence[str]) -> str:
    return "\n".join(f"- {escape_markdown(line)}" for line in lines)


def _size(parts: Sequence[str]) -> int:
    return sum(len(part.encode("utf-8", errors="backslashreplace")) + 2 for part in parts)
