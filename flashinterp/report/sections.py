"""Which part of a report a table or a figure belongs to: its name says so."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar

from flashinterp.report.table import Table

ANSWERS = "answers"
"""What stands before ``--`` in the names of tables that belong to the answer, and to no eval."""
CATALOGUE = "catalogue"
"""What stands after ``--`` in the names of tables to look something up in, which have a part of their own."""
_BESIDE = ("unclamped", "clamped")


class NamedSection(Protocol):
    """A table or a figure: what has a name."""

    @property
    def name(self) -> str:
        """``evalname--rest``, or a name that belongs to no eval."""


Item = TypeVar("Item", bound=NamedSection)


def group(items: Iterable[Item]) -> dict[str, list[Item]]:
    """Items by the eval they belong to: what stands before ``--`` in the name, else ""."""
    groups: dict[str, list[Item]] = {}
    for item in items:
        prefix, dashes, _ = item.name.partition("--")
        groups.setdefault(prefix if dashes else "", []).append(item)
    return groups


def apart(tables: Sequence[Table]) -> tuple[list[Table], list[Table], list[Table]]:
    """The tables of the answer, which come first; those to look something up in; and those of the evals."""
    answers = group(tables).get(ANSWERS, [])
    catalogues = [t for t in tables if t.name.partition("--")[2] == CATALOGUE and t not in answers]
    return answers, catalogues, [t for t in tables if t not in answers and t not in catalogues]


def is_paired(table: Table) -> bool:
    """Whether a table's rows are pairs of texts to be read side by side: what answered unclamped, and clamped."""
    last = range(len(table.headers) - 2, len(table.headers))
    texts = len(table.headers) > 2 and all(isinstance(row[i], str) for row in table.rows for i in last)
    return texts and table.headers[-2:] == _BESIDE
