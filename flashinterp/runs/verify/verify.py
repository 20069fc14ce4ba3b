"""Is a run folder what its run wrote, and does what it says follow from what it measured? Without model and evals.

Each check says what it proves and what it does not. None of them proves that the run was honest: whoever can write the
whole folder can write another. What pins it is the sha256 of manifest.json, told from elsewhere than the folder.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from flashinterp._util.text import clip, safe_text
from flashinterp.errors import RunError, first_line
from flashinterp.report.table import Table
from flashinterp.runs.folder.results_schema import INCOMPLETE, status_of
from flashinterp.runs.folder.run_folder import EVENTS, MANIFEST
from flashinterp.runs.verify.derivations import check_figures, check_files, check_raw, check_tables, check_verdicts
from flashinterp.runs.verify.files import SHA256, check_complete, check_digests, check_manifest, check_pinned
from flashinterp.runs.verify.run import NotChecked, RunUnderCheck
from flashinterp.runs.verify.statements import check_claims, check_events, check_results

State = Literal["ok", "differs", "not checked"]


@dataclass(frozen=True)
class Check:
    """One check's answer.

    Attributes:
        name: what was checked.
        state: ok, differs, or not checked.
        told: what was compared; or the first thing that differs; or why it was not checked.
        proves, leaves: what a check that is ok shows, and what it does not.
    """

    name: str
    state: State
    told: str
    proves: str
    leaves: str


@dataclass(frozen=True)
class Verification:
    """What became of all checks of one folder.

    Attributes:
        folder: its path.
        status: how the run ended by its own word: passed, failed, incomplete ...
        manifest: sha256 of manifest.json, to be compared with the one that the run printed; None where there is none.
        checks: in the order in which they were made.
        derived: tables that were made again from ``raw/``.
        drawn: figures that were drawn again from ``raw/``.
        covered: tables and figures that are covered by digests and by results.json only.
        not_checked: tables, figures and findings that this release cannot make again, each with the reason.
    """

    folder: str
    status: str
    manifest: str | None
    checks: tuple[Check, ...]
    derived: tuple[str, ...] = ()
    drawn: tuple[str, ...] = ()
    covered: tuple[str, ...] = ()
    not_checked: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether nothing differs; an incomplete run is never ok."""
        return all(check.state != "differs" for check in self.checks)

    @property
    def first(self) -> str | None:
        """The first thing that differs, in one line."""
        return next((f"{c.name}: {c.told}" for c in self.checks if c.state == "differs"), None)

    def record(self) -> dict[str, Any]:
        """Everything as plain values, for JSON."""
        return {**asdict(self), "ok": self.ok, "first": self.first}

    def table(self) -> Table:
        """The checks as a table for a terminal."""
        rows = tuple((c.name, c.state, c.told, c.proves, c.leaves) for c in self.checks)
        return Table("verification", f"Verification of {safe_text(self.folder)}", _COLUMNS, rows, self.said())

    def said(self) -> str:
        """The outcome, and what rests on what, in a few sentences."""
        outcome = "Nothing differs." if self.ok else f"It differs. {self.first}."
        end = _HONESTY if self.ok else _DIFFERS
        left = f" {self._left()}" if self.not_checked else ""
        if not self.derived and not self.drawn:
            return f"{outcome} No table or figure was made again from raw/.{left} {end}"
        again = f"Made again from raw/: {len(self.derived)} tables and {len(self.drawn)} figures."
        rest = f"Covered by digests only: {', '.join(self.covered) or 'none'}."
        return f"{outcome} {again} {rest}{left} {end}"

    def _left(self) -> str:
        """What could not be made again and why, the first of many."""
        more = len(self.not_checked) - _SHOWN
        rest = f"; and {more} more, see --json" if more > 0 else ""
        return f"Not checked, {len(self.not_checked)}: {'; '.join(self.not_checked[:_SHOWN])}{rest}."


_SHOWN = 5
_COLUMNS = ("check", "", "told", "shows", "does not show")
_HONESTY = (
    "This shows that the folder has not changed since its manifest was written and that its verdicts follow from its "
    "evidence. It does not show that the run was honest: for that, run it again."
)
_DIFFERS = "As it stands the folder is no evidence: ask for the one that the run wrote, or run it again."


def verify(folder: str | os.PathLike[str], manifest: str | None = None) -> Verification:
    """Check a run folder without its model: digests, schema, claims, verdicts, tables, reports.

    Args:
        folder: a run's output folder.
        manifest: the sha256 of manifest.json as it was told elsewhere: printed at the end of the run, signed, filed.

    Raises:
        RunError: the folder is not there or is no run's, or the sha256 is none.
    """
    path = Path(folder)
    status = _status(path)
    if manifest is not None and not SHA256.fullmatch(manifest.strip().lower()):
        raise RunError(f"{clip(safe_text(manifest), 80)!r} is no sha256: give the 64 hex digits that the run printed")
    run = RunUnderCheck(path, manifest.strip().lower() if manifest else None)
    checks: list[Check] = []
    stopped = ""
    for name, (check, stops, proves, leaves) in _CHECKS.items():
        state, told = _answer(check, run) if not stopped else ("not checked", stopped)
        checks.append(Check(name, state, told, proves, leaves))
        if stops and state == "differs":
            stopped = f"after what differs under {name!r}, there is nothing to compare with"
    tables = [str(table["name"]) for table in run.results.get("tables", [])]
    figures = [str(figure["name"]) for figure in run.results.get("figures", [])]
    derived = tuple(name for name in tables if name in run.derived)
    drawn = tuple(name for name in figures if name in run.drawn)
    covered = tuple(name for name in tables + figures if name not in run.derived | run.drawn)
    left = tuple(run.not_checked)
    return Verification(str(path), status, run.manifest, tuple(checks), derived, drawn, covered, left)


def _status(path: Path) -> str:
    try:
        return status_of(path)
    except RunError:
        if (path / EVENTS).is_file() or (path / MANIFEST).is_file():
            return INCOMPLETE  # results.json cannot be read, which a check will say
        raise


def _answer(check: Callable[[RunUnderCheck], str], run: RunUnderCheck) -> tuple[State, str]:
    try:
        return "ok", check(run)
    except NotChecked as reason:
        return "not checked", str(reason)
    except RunError as error:
        return "differs", _line(str(error))
    except Exception as error:  # whatever a forged file breaks is a difference to report, and no crash
        return "differs", _line(f"cannot be made again ({type(error).__name__}: {first_line(error)})")


def _line(text: str) -> str:
    return clip(safe_text(text), 500)


# name → the check, whether later ones need it, what it shows, what it does not.
_CHECKS: dict[str, tuple[Callable[[RunUnderCheck], str], bool, str, str]] = {
    "complete": (check_complete, True, "the run was not killed", "that it passed: see its status"),
    "manifest": (check_manifest, True, "the list of files is in its one form", "that it is the run's own list"),
    "digests": (
        check_digests,
        True,
        "no file was changed, added or removed since the list",
        "when the list was written",
    ),
    "manifest's digest": (
        check_pinned,
        False,
        "this is the folder of which the digest was told",
        "who told it, and when",
    ),
    "results": (check_results, True, "every figure is finite and in its place", "that the figures are true"),
    "claims": (
        check_claims,
        False,
        "the verdicts are on the claims that were locked, with their rule and seed",
        "that nothing was measured before the lock",
    ),
    "events": (
        check_events,
        False,
        "no test was dropped from the ledger or changed in it",
        "that no run was thrown away",
    ),
    "raw": (check_raw, False, "the raw numbers are readable arrays", "that they were measured"),
    "verdicts": (check_verdicts, False, "verdicts follow from raw numbers by the rule", "that these were measured"),
    "tables": (
        check_tables,
        False,
        "these tables say what raw/ says",
        "that raw/ was measured, or anything of other tables",
    ),
    "figures": (check_figures, False, "these figures show what raw/ says", "that raw/ was measured"),
    "files": (
        check_files,
        False,
        "tables, report and junit.xml say what results.json says",
        "that a figure other than these shows its points",
    ),
}
