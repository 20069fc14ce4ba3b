"""A family's verdicts as a run folder records them, such that anyone can judge again without the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from numpy.typing import NDArray

from flashinterp.errors import RunError
from flashinterp.evaluation.claims import Claim, lock
from flashinterp.evaluation.evidence import Evidence
from flashinterp.evaluation.verdict import Rule, Verdict, judge

Arrays = dict[str, NDArray[Any]]
Raw = Callable[[str], Arrays]
"""The arrays of ``raw/<name>.npz``."""
CLAIMS = "claims"
"""The name of the judgement whose verdicts are the run's: of the locked claims, on the model under audit."""


@dataclass(frozen=True)
class Kept:
    """A record for results.json, and the arrays that go to ``raw/`` by their names there."""

    record: dict[str, Any]
    arrays: dict[str, Arrays]


@dataclass(frozen=True)
class Judged:
    """One family of claims with its evidence and verdicts."""

    claims: tuple[Claim, ...]
    evidence: tuple[Evidence | str, ...]
    verdicts: tuple[Verdict, ...]

    @property
    def measured(self) -> list[tuple[Claim, Evidence]]:
        """The claims that could be measured, with what was."""
        both = zip(self.claims, self.evidence, strict=True)
        return [(claim, found) for claim, found in both if isinstance(found, Evidence)]


def keep_verdicts(
    name: str, verdicts: Sequence[Verdict], evidence: Sequence[Evidence | str], *, rule: Rule, seed: int
) -> Kept:
    """Keep a family's verdicts with all that they rest on."""
    claims = [v.claim for v in verdicts]
    listed, arrays = list_evidence(name, claims, evidence)
    return Kept(
        {
            "name": name,
            "seed": seed,
            "rule": asdict(rule),
            "claims": lock(claims)["claims"],
            "evidence": listed,
            "outcome": [v.record() for v in verdicts],
        },
        arrays,
    )


def judged_again(entry: Mapping[str, Any], raw: Raw) -> Judged:
    """Judge the claims of a record again, from their raw evidence."""
    claims = tuple(Claim.from_json(c) for c in entry["claims"])
    found = tuple(read_evidence(e, raw, Evidence.from_arrays) for e in entry["evidence"])
    return Judged(claims, found, tuple(judge(claims, found, rule=Rule(**entry["rule"]), seed=entry["seed"])))


def read_evidence(entry: Mapping[str, Any], raw: Raw, made: Callable[[Arrays], Any]) -> Any:
    """One claim's evidence, or the reason why there is none."""
    if (entry["raw"] is None) == (entry["reason"] is None):
        raise RunError("evidence is a file of raw/ or the reason why there is none: one of the two, and not both")
    return entry["reason"] if entry["raw"] is None else made(raw(entry["raw"]))


def list_evidence(
    name: str, claims: Sequence[Claim], evidence: Sequence[Any]
) -> tuple[list[dict[str, str | None]], dict[str, Arrays]]:
    """Where each claim's evidence is, or why there is none; and the arrays by their files' names."""
    listed: list[dict[str, str | None]] = []
    arrays: dict[str, Arrays] = {}
    for claim, found in zip(claims, evidence, strict=True):
        if isinstance(found, str):
            listed.append({"raw": None, "reason": found})
            continue
        file = _file(f"{_slug(name)}--{_slug(claim.id)}", arrays)
        listed.append({"raw": file, "reason": None})
        arrays[file] = found.arrays()
    return listed, arrays


def _slug(text: str) -> str:
    plain = "".join(c if c.isalnum() and c.isascii() else "-" for c in text[:60]).strip("-").lower()
    return plain or "claim"


def _file(wanted: str, taken: Mapping[str, Any]) -> str:
    """The wanted name, or with a number where two claims' ids differ in signs only."""
    n = 1
    while (name := wanted if n == 1 else f"{wanted}-{n}") in taken:
        n += 1
    return name
