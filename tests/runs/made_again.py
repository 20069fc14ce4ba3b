"""What `verify` does with a table: its values packed, unpacked, and its function called again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flashinterp.provenance.derivation import keep, read
from flashinterp.provenance.registry import derivation_id


def made_again(make: Callable[..., Any], *values: Any) -> Any:
    """The outcome from the values as a reader of ``raw/`` has them; it equals that from the values themselves."""
    assert derivation_id(make)
    arrays, _ = keep(("A title",), values, {})
    made = read(arrays).called(make, lambda recorded: recorded)
    assert made == make(*values)
    return made


def cells(made: Any, column: str) -> list[Any]:
    """One column of a table; of two of the same name the first."""
    headers, rows, _ = made
    assert all(len(row) == len(headers) for row in rows)
    return [row[headers.index(column)] for row in rows]
