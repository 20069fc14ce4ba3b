"""What stands, among the values of a table or figure, for what the run recorded elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from flashinterp.errors import RunError
from flashinterp.provenance.registry import record


@record("runs.recorded_reference", version=1)
@dataclass(frozen=True)
class Recorded:
    """Stands for what another record of the run holds, and for what `verify` derives again from that record's evidence.

    Attributes:
        among: judgements, roles, studies, or values, which several tables and figures rest on.
        name: of the record.
        part: one attribute of what is recorded: of judgements ``claims``, ``evidence``, ``verdicts``; of roles
            ``roles``, ``found``, ``words``, ``base``, ``tuned``; of studies ``found``, ``results``. Empty for all.
    """

    among: Literal["judgements", "roles", "studies", "values"]
    name: str
    part: str = ""

    def of(self, record: Any) -> Any:
        """What it stands for, from the whole record."""
        if self.part.startswith("_"):
            raise RunError(f"{self.part!r} is no part of a record: use a public name")
        return getattr(record, self.part) if self.part else record
