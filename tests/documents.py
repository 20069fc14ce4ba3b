"""Reading the project's Markdown: code blocks, tables, and what the pages of the evals explain."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = DOCS / "evals"

_BLOCK = re.compile(
    r"(?:^<!-- (?P<mark>[^\n]*?) -->\n)?^```(?P<language>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)


@dataclass(frozen=True)
class Block:
    """One fenced block of a page.

    Attributes:
        language: sh, python, text, toml, json or another.
        text: what is in it.
        mark: the comment in the line above it; empty without one.
    """

    language: str
    text: str
    mark: str


def blocks(text: str) -> list[Block]:
    """The fenced blocks of a page, in order."""
    return [Block(m["language"], m["text"], m["mark"] or "") for m in _BLOCK.finditer(text)]


def sections(text: str, level: int) -> dict[str, str]:
    """Heading to what stands below it, up to the next heading of the same or a higher level."""
    parts = re.split(rf"^(#{{1,{level}}}) (.+)$", text, flags=re.MULTILINE)
    return {title: body for marks, title, body in zip(parts[1::3], parts[2::3], parts[3::3], strict=True)
            if len(marks) == level}  # fmt: skip


def explained(page: str) -> dict[str, set[str]]:
    """Table name to the columns that an eval's page explains."""
    return {title.strip("`"): _columns(body) for title, body in sections(page, 3).items()}


def _columns(body: str) -> set[str]:
    """What stands in backticks in the first cells of the table under ``| column |``."""
    cells = [row.split(" | ")[0] for row in re.findall(r"^\| (`.*)$", body, re.MULTILINE)]
    return {name.replace("\\|", "|") for cell in cells for name in re.findall(r"`([^`]+)`", cell)}


def unexplained(tables: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Tables of a run's ``results.json``, and columns of them, that no page explains."""
    for table in tables:
        module, _, name = table["name"].partition("--")
        if module == "answers":
            known: set[str] | None = _columns((PAGES / "README.md").read_text(encoding="utf-8"))
        else:
            known = explained((PAGES / f"{module}.md").read_text(encoding="utf-8")).get(name)
        if known is None:
            yield table["name"]
        elif known:
            yield from (f"{table['name']}: {column}" for column in table["headers"] if column and column not in known)
