"""The report a reviewer reads: one HTML file that needs nothing else, and the same in Markdown.

Both start with the answer, then say what was measured, show the evidence per eval, and end with
what was not measured and how to check the folder. All text is hostile until shown otherwise: HTML
is autoescaped, every value passes `safe_text` on its way in, and `inline_svg` lets a figure in.
"""

from __future__ import annotations

import base64
import hashlib
import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import jinja2
from markupsafe import Markup

from flashinterp.audit._inline import inline_svg
from flashinterp.audit._view import HOW_TO_CHECK, VERDICTS, heading, make_view
from flashinterp.audit.figures import Figure
from flashinterp.audit.tables import Table, escape_markdown, format_cell, to_markdown

_TEMPLATES = Path(__file__).parent / "templates"
# Adds a filter box to long tables. It reads text and hides rows, never writes markup; the page's
# content security policy allows this script by its digest and no other.
_SCRIPT = """
for (const box of document.querySelectorAll(".table[data-filter]")) {
  const input = document.createElement("input");
  input.type = "search";
  input.placeholder = "Filter rows";
  input.setAttribute("aria-label", "Filter the rows of the table below");
  input.addEventListener("input", () => {
    const wanted = input.value.toLowerCase();
    for (const row of box.querySelectorAll("tbody tr"))
      row.hidden = !row.textContent.toLowerCase().includes(wanted);
  });
  box.before(input);
}
"""
_FILTER_FROM = 15  # rows: a shorter table is read faster than it is filtered
_CLIP_PAGE = 20_000  # characters: no honest paragraph is longer
_LIST_ITEM = re.compile(r"\s*(?:[-*•]|\d+[.)])\s")


class Named(Protocol):
    """A table or a figure: what has a name."""

    @property
    def name(self) -> str:
        """``evalname--rest``, or a name that belongs to no eval."""


ANSWERS = "answers"
"""What stands before ``--`` in the names of tables that belong to the answer, and to no eval."""

Item = TypeVar("Item", bound=Named)


def group(items: Iterable[Item]) -> dict[str, list[Item]]:
    """Items by the eval they belong to: what stands before ``--`` in the name, else ""."""
    groups: dict[str, list[Item]] = {}
    for item in items:
        prefix, dashes, _ = item.name.partition("--")
        groups.setdefault(prefix if dashes else "", []).append(item)
    return groups


def render_html(
    results: Mapping[str, Any],
    tables: Sequence[Table],
    figures: Sequence[Figure],
    docs: Mapping[str, str],
) -> str:
    """The report as one HTML document: no address outside it, and readable without its script.

    Args:
        results: what results.json holds; a missing key leaves its part empty.
        tables: all tables, named ``evalname--rest``.
        figures: all figures, named likewise.
        docs: each eval's auditor's paragraph, the docstring as it stands in the code.

    Raises:
        RunError: a figure's SVG holds more than shapes and text.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["clipped"] = format_cell
    digest = hashlib.sha256(_SCRIPT.encode()).digest()
    answers, rest = _apart(tables)
    return environment.get_template("report.html.j2").render(
        view=make_view(results),
        answers=answers,
        sections=_sections(rest, figures, docs),
        known_verdicts=list(VERDICTS),
        how_to_check=HOW_TO_CHECK,
        script=Markup(_SCRIPT),
        script_digest=Markup(base64.b64encode(digest).decode()),
        filter_from=_FILTER_FROM,
    )


def render_markdown(results: Mapping[str, Any], tables: Sequence[Table]) -> str:
    """The report as GitHub Markdown: the HTML's order and words, without figures and docstrings."""
    view = make_view(results)
    verdicts = [view.verdicts] if view.verdicts else []
    answers, rest = _apart(tables)
    parts = [f"# {escape_markdown(view.title)}"]
    parts += [f"> **{escape_markdown(text)}**" for _, text in view.banners]
    parts += ["## The answer", escape_markdown(view.answer)]
    parts += [_bullets([f"{name}: {meaning}" for name, _, meaning in view.counts])]
    parts += _markdown_tables([*answers, *verdicts])
    parts += ["## What was audited", *_markdown_tables(view.subject)]
    for name, members in group(rest).items():
        parts += [f"## {escape_markdown(heading(name))}", *_markdown_tables(members)]
    parts += ["## Ledger", *(_markdown_tables(view.ledger) or ["No test was recorded."])]
    parts += ["## Limits of the method", _bullets(view.limits) or "None were recorded."]
    parts += ["## How to check this report", _bullets(HOW_TO_CHECK)]
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


def _apart(tables: Sequence[Table]) -> tuple[list[Table], list[Table]]:
    """The tables of the answer, which comes first, and those of the evals."""
    answers = group(tables).get(ANSWERS, [])
    return answers, [t for t in tables if t not in answers]


@dataclass(frozen=True)
class _Section:
    """One eval's part of the HTML report."""

    anchor: str
    heading: str
    paragraphs: list[tuple[str, list[str]]]
    figures: list[tuple[Figure, Markup]]
    tables: list[Table]


def _sections(tables: Sequence[Table], figures: Sequence[Figure], docs: Mapping[str, str]) -> list[_Section]:
    """One section per eval, in the order of the docstrings; what belongs to none comes last."""
    by_table, by_figure = group(tables), group(figures)
    names = list(dict.fromkeys([*docs, *by_table, *by_figure]))
    names.sort(key=lambda name: name == "")
    return [
        _Section(
            anchor=f"eval-{i}",
            heading=heading(name),
            paragraphs=_paragraphs(docs.get(name, "")),
            # Markup, because inline_svg lets nothing through but shapes and escaped text.
            figures=[(figure, Markup(inline_svg(figure))) for figure in by_figure.get(name, [])],
            tables=by_table.get(name, []),
        )
        for i, name in enumerate(names)
    ]


def _paragraphs(doc: str) -> list[tuple[str, list[str]]]:
    """A docstring as (kind, lines): text; a list, which keeps its lines; or a test's heading, after ``###``."""
    blocks = []
    for block in re.split(r"\n\s*\n", inspect.cleandoc(doc)):
        lines = block.splitlines()
        listed = any(_LIST_ITEM.match(line) or line.startswith((" ", "\t")) for line in lines[:2])
        if block.startswith("### "):
            blocks.append(("test", [block.removeprefix("### ")]))
        elif block.strip():
            blocks.append(("list", lines) if listed else ("text", [" ".join(lines)]))
    return blocks


def _finalize(value: object) -> object:
    """What each value of the template passes: markup of our own as it is, the rest made safe."""
    return value if isinstance(value, Markup) else format_cell(value, _CLIP_PAGE)


def _markdown_tables(tables: Sequence[Table]) -> list[str]:
    return [to_markdown(table, level=3) for table in tables]


def _bullets(lines: Sequence[str]) -> str:
    return "\n".join(f"- {escape_markdown(line)}" for line in lines)
