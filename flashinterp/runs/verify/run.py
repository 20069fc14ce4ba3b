"""A run's folder under verification, and what keeps a check from being made."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flashinterp._util.text import check_name
from flashinterp.errors import RunError
from flashinterp.evaluation.judgement import Arrays
from flashinterp.provenance.derivation import Again, read_value
from flashinterp.provenance.recorded import Recorded
from flashinterp.runs.folder.environment import code_digest
from flashinterp.runs.folder.run_folder import read_arrays
from flashinterp.runs.verify.stored_ids import stored_record


@dataclass
class RunUnderCheck:
    """A folder under verification, read as far as the checks have come. Mutable: each check leaves what it read."""

    path: Path
    expected: str | None
    manifest: str | None = None
    listed: dict[str, dict[str, Any]] = field(default_factory=dict)
    results: dict[str, Any] = field(default_factory=dict)
    again: Again | None = None
    derived: set[str] = field(default_factory=set)
    drawn: set[str] = field(default_factory=set)
    not_checked: list[str] = field(default_factory=list)

    def raw(self, name: str) -> Arrays:
        """The arrays of a file of ``raw/`` that the manifest lists."""
        path = f"raw/{check_name(name)}.npz"
        if path not in self.listed:
            raise RunError(f"{path} is what a verdict, table or figure rests on, and is not there")
        return read_arrays(self.path / path)

    def resolve(self, recorded: Recorded) -> Any:
        """What a table or figure rests on that was recorded apart: judged again, or read from ``raw/`` once."""
        if self.again is None:
            raise RunError("the verdicts could not be reached again: see what differs before this")
        if recorded.among == "values" and recorded.name not in self.again.values:
            self.again.values[recorded.name] = read_value(self.raw(recorded.name), stored_record)
        return self.again.resolve(recorded)


class NotChecked(Exception):
    """There is nothing to check, and why."""


def other_code(run: RunUnderCheck) -> str | None:
    """What to verify with, where other code than this wrote the folder, in other words perhaps; None for the same."""
    environment = run.results["environment"]
    if environment["code"]["sha256"] == code_digest():
        return None
    wrote = environment["packages"].get("flashinterp")
    return f"verify it with the one that wrote it, flashinterp {wrote}, code {environment['code']['sha256'][:16]}…"
