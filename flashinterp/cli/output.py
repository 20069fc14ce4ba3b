"""What a command prints: tables for people, or one JSON object; text of a model never reaches the terminal raw."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from flashinterp._util.text import one_line

if TYPE_CHECKING:
    from flashinterp.report.table import Table


JSON_VERSION = 1
"""Of the commands' JSON: a key that is there stays and keeps its meaning."""


class ReaderGone(Exception):
    """Whoever read our output has closed it."""


def show(command: str, as_json: bool, record: Mapping[str, Any], tables: Sequence[Table]) -> None:
    """Print tables, or with ``--json`` the record.

    Raises:
        RunError: the record holds a number that is not finite.
    """
    if as_json:
        from flashinterp._util.json_text import plain

        whole = plain({"command": command, "json_version": JSON_VERSION, **record})
        write(json.dumps(whole, indent=1, allow_nan=False))  # ASCII: no control or bidi character gets through
    else:
        from flashinterp.report.table_text import to_text

        write("\n\n".join(to_text(table, most=None) for table in tables))


def write(text: str) -> None:
    """Print text that is safe already."""
    try:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
    except UnicodeEncodeError:  # a terminal that cannot show the text's characters
        sys.stdout.write(text.encode("ascii", errors="backslashreplace").decode() + "\n")
    except BrokenPipeError as error:
        raise ReaderGone from error


@contextmanager
def progress(what: str, unit: str = "it") -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal's stderr, from the second second on; gives the function (done, in all) that moves it."""
    from tqdm import tqdm

    with tqdm(desc=one_line(what), delay=2, disable=None, unit=unit, unit_scale=True) as bar:

        def step(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield step


def note(text: str) -> None:
    """Say on a terminal's stderr what takes a while; silent where stderr is a file."""
    if sys.stderr.isatty():
        sys.stderr.write(one_line(text) + "\n")
