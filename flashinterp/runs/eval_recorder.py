"""What one eval hands in: tables, figures, findings, raw numbers, verdicts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from flashinterp.errors import FlashinterpError
from flashinterp.evaluation.verdict import Verdict
from flashinterp.provenance.recorded import Recorded
from flashinterp.report.table import Table
from flashinterp.runs.session import AuditSession


class EvalRecorder:
    """The recorder of one eval. A test that hands in nothing fails.

    `derived`, `figure` and `finding` take the function that makes them and what it makes them of: None, text, numbers,
    arrays, lists, tuples, dicts, records, or what was `Recorded` before. The function and the records must have an id,
    see `flashinterp.provenance.registry`. The values are kept in ``raw/``, and `verify` calls the functions of this
    package again on them. It does not have those of an eval of one's own, and says so.
    """

    def __init__(self, audit: AuditSession, name: str) -> None:
        self._audit, self._name, self.recorded = audit, name, 0

    def derived(self, make: Callable[..., Any], name: str, title: str, *args: Any, **kwargs: Any) -> None:
        """A table whose headers, rows and caption the function returns; its name is unique within the eval."""
        self._audit.derive_table(make, self._named(name), title, *args, **kwargs)
        self.recorded += 1

    def table(self, name: str, title: str, headers: list[str], rows: list[list[Any]], caption: str = "") -> None:
        """A table that is handed in as it stands: in the folder its digest alone speaks for it."""
        if not rows:
            raise FlashinterpError(f"the table {name!r} has no rows: record what was measured, or why nothing was")
        self._audit.add_table(Table(self._named(name), title, tuple(headers), tuple(map(tuple, rows)), caption))
        self.recorded += 1

    def value(self, name: str, value: Any) -> Recorded:
        """Keep a value that several tables and figures are made of once, and hand what is returned to each of them."""
        return self._audit.add_value(self._named(f"{name}--values"), value)

    def figure(self, make: Callable[..., Any], name: str, title: str, *args: Any, **kwargs: Any) -> None:
        """A figure, drawn by one of `flashinterp.report.charts.neurons`."""
        self._audit.derive_figure(make, self._named(name), title, *args, **kwargs)
        self.recorded += 1

    def finding(self, order: int, paper: str, make: Callable[..., Any], *args: Any) -> None:
        """One of the paper's results beside this model's: the function returns what is here, and what was planted."""
        self._audit.derive_finding(make, self._name, order, paper, *args)

    def arrays(self, name: str, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Raw numbers, kept beside the report."""
        self._audit.add_arrays(self._named(name), arrays)
        self.recorded += 1

    def verdicts(self, verdicts: Sequence[Verdict]) -> None:
        """Verdicts that the library reached."""
        self._audit.add_verdicts(verdicts)
        self.recorded += 1

    def _named(self, name: str) -> str:
        return f"{self._name}--{name}"
