"""A run as an in-toto Statement v1, to be signed by whoever vouches for it.

The statement's subject is the model, by the sha256 of each of its files. Its predicate says what was claimed and
locked, by which thresholds it was judged, what came out, and which digests pin the evidence. It is a report of the run
about itself, ``self_attested``: a signature, by any tool that signs in-toto statements, says who stands behind it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flashinterp._util.files import sha256_of
from flashinterp.errors import RunError
from flashinterp.runs.folder.results_schema import RESULTS, SCHEMA_VERSION, read_results
from flashinterp.runs.folder.run_folder import MANIFEST
from flashinterp.runs.verify.statements import LOCK
from flashinterp.runs.verify.verify import Verification, verify

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = f"urn:x-flashinterp:eval-result:v{SCHEMA_VERSION}"
"""A name and no address: what it stands for is `statement`, and the schema of results.json."""


def statement(folder: str | Path, manifest: str | None = None) -> dict[str, Any]:
    """The in-toto statement of a finished run, of plain JSON values.

    Args:
        folder: the run's folder.
        manifest: the sha256 of its manifest.json as it was told elsewhere, if it was.

    Raises:
        RunError: the folder is no finished run's, or `verify` finds that something differs.
    """
    found = verify(folder, manifest)
    if not found.ok:
        raise RunError(f"{folder} cannot be attested: {found.first}; attest a folder that verifies")
    results = read_results(folder)
    return {
        "_type": STATEMENT,
        "subject": _subject(results),
        "predicateType": PREDICATE,
        "predicate": _predicate(results, found, Path(folder)),
    }


def _subject(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The models' files; the two models' are told apart by their place in the run, as names must differ."""
    return [
        {"name": f"{place}/{name}", "digest": {"sha256": digest}}
        for place in ("model", "tuned")
        if results[place] is not None
        for name, digest in sorted(results[place]["digests"].items())
    ]


def _predicate(results: Mapping[str, Any], found: Verification, folder: Path) -> dict[str, Any]:
    environment = results["environment"]
    rules = {entry["name"]: entry["rule"] for entry in (*results["judgements"], *results["roles"])}
    return {
        "assuranceLevel": "self_attested",
        "evaluator": {
            "name": "flashinterp",
            "version": environment["packages"]["flashinterp"],
            "digest": {"sha256": environment["code"]["sha256"]},
            "annotations": {key: environment["code"][key] for key in ("commit", "dirty")},
        },
        "startedOn": environment["started"],
        "finishedOn": environment["finished"],
        "configuration": {
            "models": {place: results[place] and results[place]["name"] for place in ("model", "tuned")},
            "profile": results["profile"],
            "seed": results["seed"],
            "claims": {"sha256": results["claims_sha256"]},
            "evals": environment["evals"],
        },
        "outcome": {key: results[key] for key in ("status", "partial", "self_test")},
        "sampleSize": {"tests": len(results["tests"]), "claims": len(results["verdicts"])},
        "thresholds": rules,
        "results": [_result(verdict) for verdict in results["verdicts"]],
        "verification": [{"check": c.name, "state": c.state} for c in found.checks],
        "evidence": _evidence(folder),
    }


def _result(verdict: Mapping[str, Any]) -> dict[str, Any]:
    """One claim: what was to be, what was found."""
    discovered = verdict["source"] == "discovered"
    sides = {side: verdict["figures"][side] for side in ("writes", "reads")}
    return {
        "metric": "flashinterp.evaluation.verdict",
        "claim": {key: verdict[key] for key in ("id", "token", "neuron", "lens", "pole", "direction")},
        "comparator": "eq",
        # A neuron that was only discovered was claimed by nobody: there is nothing for it to pass or fail.
        "threshold": None if discovered else verdict["expect"],
        "value": verdict["verdict"],
        "passed": None if discovered else verdict["verdict"] == verdict["expect"],
        "reason": verdict["reason"],
        "q": {side: found and found["q"] for side, found in sides.items()},
    }


def _evidence(folder: Path) -> list[dict[str, Any]]:
    """The files that pin everything else: the manifest lists the sha256 of every file."""
    names = [name for name in (MANIFEST, RESULTS, LOCK) if (folder / name).is_file()]
    return [{"name": name, "digest": {"sha256": sha256_of(folder / name)}} for name in names]
