"""From evidence to a folder that a reviewer can read and check: tables, figures, report."""

from flashinterp.audit.figures import (
    DosePanel,
    Figure,
    alignment,
    dose_response,
    preservation,
    spikes,
)
from flashinterp.audit.folder import RunFolder
from flashinterp.audit.report import group, render_html, render_markdown
from flashinterp.audit.tables import Table, from_json, safe_text, to_json, to_markdown, to_text

__all__ = [
    "DosePanel",
    "Figure",
    "RunFolder",
    "Table",
    "alignment",
    "dose_response",
    "from_json",
    "group",
    "preservation",
    "render_html",
    "render_markdown",
    "safe_text",
    "spikes",
    "to_json",
    "to_markdown",
    "to_text",
]
