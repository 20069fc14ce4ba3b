"""The report a reviewer reads: one HTML file that needs nothing else.

It starts with the answer, then says what was measured, shows the evidence per eval, and ends with
what was not measured and how to check the folder. All text is hostile until shown otherwise: HTML
is autoescaped, every value passes `safe_text` on its way in, and `inline_svg` lets a figure in.
It is made from its arguments alone, so that the same folder gives the same page again.
"""

from __future__ import annotations

import base64
import hashlib
import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from flashinterp.report.content import make_view
from flashinterp.report.figure import Figure
from flashinterp.report.inline_svg import inline_svg
from flashinterp.report.markdown import render_markdown
from flashinterp.report.sections import ANSWERS, CATALOGUE, apart, group, is_paired
from flashinterp.report.table import Table, format_cell
from flashinterp.report.wording import HOW_TO_CHECK, VERDICTS, WORDS, heading

__all__ = ["ANSWERS", "CATALOGUE", "group", "render_html", "render_markdown"]
_TEMPLATES = Path(__file__).parent / "templates"
# Adds a filter box to long tables. It reads text and hides rows, never writes markup; the page's
# content security policy allows this script by its digest and no other.
_SCRIPT = (_TEMPLATES / "report.js.j2").read_text(encoding="utf-8")
_FILTER_FROM = 15  # rows: a shorter table is read faster than it is filtered
_WIDE_FROM = 9  # columns: such a table is set smaller on paper
_CLIP_PAGE = 20_000  # characters: no honest paragraph is longer
_METHOD = "Implementation:"
_LIST_ITEM = re.compile(r"\s*(?:[-*•]|\d+[.)])\s")


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
    environment.filters["coded"] = _coded
    environment.tests["paired"] = is_paired
    answers, catalogues, rest = apart(tables)
    view, sections = make_view(results), _sections(rest, figures, docs)
    return environment.get_template("report.html.j2").render(
        view=view,
        answers=answers,
        sections=sections,
        catalogues=catalogues,
        measured_in=_measured_in([limit.id for limit in view.known_limits], sections),
        known_verdicts=list(VERDICTS),
        words=WORDS,
        how_to_check=HOW_TO_CHECK,
        script=Markup(_SCRIPT),
        script_digest=Markup(base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()),
        filter_from=_FILTER_FROM,
        wide_from=_WIDE_FROM,
    )


@dataclass(frozen=True)
class _Section:
    """One eval's part of the HTML report; its figures with their numbers in the whole report."""

    anchor: str
    heading: str
    paragraphs: list[tuple[str, list[str]]]
    figures: list[tuple[int, Figure, Markup]]
    tables: list[Table]


def _sections(tables: Sequence[Table], figures: Sequence[Figure], docs: Mapping[str, str]) -> list[_Section]:
    """One section per eval, in the order of the docstrings; what belongs to none comes last."""
    by_table, by_figure = group(tables), group(figures)
    names = list(dict.fromkeys([*docs, *by_table, *by_figure]))
    names.sort(key=lambda name: name == "")
    ordered = [figure for name in names for figure in by_figure.get(name, [])]
    numbers = {figure.name: i for i, figure in enumerate(ordered, 1)}
    return [
        _Section(
            anchor=f"eval-{i}",
            heading=heading(name),
            paragraphs=_paragraphs(docs.get(name, "")),
            # Markup, because inline_svg lets nothing through but shapes and escaped text.
            figures=[(numbers[f.name], f, Markup(inline_svg(f))) for f in by_figure.get(name, [])],
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
        elif block.startswith(_METHOD):
            blocks.append(("method", [" ".join(lines)]))
        elif block.strip():
            blocks.append(("list", lines) if listed else ("text", [" ".join(lines)]))
    return blocks


def _finalize(value: object) -> object:
    """What each value of the template passes: markup of our own as it is, the rest made safe."""
    return value if isinstance(value, Markup) else format_cell(value, _CLIP_PAGE)


def _coded(text: str) -> Markup:
    """Text in which `this` is code and *this* is stressed: made safe and escaped first, then marked."""
    shown = re.sub(r"`{1,2}([^`]+)`{1,2}", r"<code>\1</code>", str(escape(_finalize(text))))
    return Markup(re.sub(r"(?<![\w*])\*(\w[\w ]*)\*(?![\w*])", r"<em>\1</em>", shown))


def _measured_in(limits: Sequence[str], sections: Sequence[_Section]) -> dict[str, _Section]:
    """For each numbered limit the first eval whose text names it."""
    said = {s.anchor: " ".join(line for _, lines in s.paragraphs for line in lines) for s in sections}
    return {
        limit: found
        for limit in limits
        if limit and (found := next((s for s in sections if limit in said[s.anchor]), None)) is not None
    }
