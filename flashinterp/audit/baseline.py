"""What an earlier run had shown and this one does not: the regression gate."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flashinterp.audit.session import SCHEMA_VERSION
from flashinterp.errors import RunError


@dataclass(frozen=True)
class Lost:
    """One claim that the baseline validated and this run does not."""

    id: str
    token: str
    neuron: str
    now: str
    reason: str


def load_results(folder: str | Path) -> dict[str, Any]:
    """Read ``results.json`` of an earlier run.

    Raises:
        RunError: not a run folder, or of another schema.
    """
    path = Path(folder) / "results.json"
    try:
        results: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"the baseline {path} cannot be read ({error}): give the folder of a finished run") from error
    if not isinstance(results, dict) or not isinstance(results.get("verdicts"), list):
        raise RunError(f"the baseline {path} is JSON, but no run's results: give the folder of a finished run")
    if results.get("schema_version") != SCHEMA_VERSION:
        raise RunError(
            f"the baseline {path} has schema {results.get('schema_version')}, this release reads {SCHEMA_VERSION}: "
            "give a baseline that was run with this release"
        )
    return results


def lost_claims(baseline: dict[str, Any], verdicts: Sequence[dict[str, Any]]) -> list[Lost]:
    """The baseline's validated neurons that are not validated now, whatever they came out as."""
    # Where several claims of this run are about the same token and neuron, one that holds is enough.
    ordered = sorted(verdicts, key=lambda v: v["verdict"] == "validated")
    now = {(v["token"], v["neuron"]): v for v in ordered}
    lost = []
    for old in baseline["verdicts"]:
        if old["verdict"] != "validated":
            continue
        found = now.get((old["token"], old["neuron"]))
        if found is None or found["verdict"] != "validated":
            name, reason = (
                ("not_measured", "no claim of this run is about it")
                if found is None
                else (found["verdict"], found["reason"])
            )
            lost.append(Lost(old["id"], str(old["token"]), str(old["neuron"]), name, reason))
    return lost
