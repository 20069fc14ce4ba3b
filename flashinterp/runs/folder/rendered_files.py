"""The files that follow from results.json and the drawings: the run makes them here, and `verify` again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flashinterp._util.json_text import canonical_json
from flashinterp.report.figure import Figure
from flashinterp.report.html import render_html, render_markdown
from flashinterp.report.junit import to_junit
from flashinterp.report.table import from_json
from flashinterp.report.table_text import to_markdown
from flashinterp.runs.folder.results_schema import read_results

# What the report is given apart, or does not show: the rest of results.json is its subject and settings.
_APART = frozenset({"docs", "figures", "tests", "judgements", "roles", "studies", "derivations", "tables"})


def rendered(results: Mapping[str, Any], drawings: Mapping[str, str]) -> dict[str, str]:
    """The text of each such file, by its path in the folder.

    Args:
        results: as read from results.json, so that the order of its keys is the file's.
        drawings: a figure's name to its SVG.

    Raises:
        RunError: a table or a drawing cannot be shown.
        KeyError: results are not of this schema, or a drawing is missing.
    """
    tables = [from_json(table) for table in results["tables"]]
    figures = [Figure(f["name"], f["title"], f["alt"], drawings[f["name"]], {}) for f in results["figures"]]
    docs = {entry["eval"]: entry["text"] for entry in results["docs"]}
    subject = {key: value for key, value in results.items() if key not in _APART}
    return {
        **{f"tables/{table.name}.md": to_markdown(table, level=1) for table in tables},
        "environment.json": canonical_json(results["environment"]),
        "junit.xml": to_junit(results),
        "report.html": render_html(subject, tables, figures, docs),
        "report.md": render_markdown(subject, tables),
    }


def rendered_from(folder: str | Path) -> dict[str, str]:
    """`rendered`, of a finished run's folder.

    Raises:
        RunError: not a finished run's folder, or of another schema.
    """
    results = read_results(folder)
    names = [f["name"] for f in results["figures"]]
    drawn = {n: (Path(folder) / "figures" / f"{n}.svg").read_bytes().decode() for n in names}
    return rendered(results, drawn)


def encoded(text: str) -> bytes:
    """A rendered file's bytes; a lone surrogate, which UTF-8 cannot hold, becomes an escape."""
    return text.encode("utf-8", errors="backslashreplace")
