"""What was judged, kept in the folder such that anyone can judge it again without the model.

A record names the claims, the rule, the seed, and for each claim the file of raw evidence, or why there is none.
From it and from ``raw/`` come the same verdicts and the same tables, by the functions that made them in the run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from flashinterp.audit.recorded import Recorded
from flashinterp.claims import Claim, lock
from flashinterp.errors import RunError
from flashinterp.evidence import Evidence
from flashinterp.neuron import NeuronId
from flashinterp.ranking import Result, Study
from flashinterp.roles import Role, RoleEvidence, RoleRule, judge_roles
from flashinterp.verdict import Rule, Verdict, judge

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


@dataclass(frozen=True)
class Roles:
    """Roles in a fine-tune, what they rest on, and how the words of the labels are shown.

    Attributes:
        roles, found: one per claim of the base's judgement.
        words: by token id.
        base, tuned: the verdicts on both models; None where the claims were not judged on the fine-tune.
    """

    roles: list[Role]
    found: list[RoleEvidence | str]
    words: dict[int, str]
    base: Sequence[Verdict]
    tuned: Sequence[Verdict] | None


@dataclass(frozen=True)
class Studied:
    """A study of the lenses, and what comes out of it."""

    found: Study
    results: list[Result]


@dataclass(frozen=True)
class Again:
    """Everything of a run that can be judged again, by the names of its records."""

    judgements: dict[str, Judged]
    roles: dict[str, Roles]
    studies: dict[str, Studied] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)

    def resolve(self, recorded: Recorded) -> Any:
        """What a record of the run holds, judged again.

        Raises:
            RunError: there is no such record.
        """
        among = ("judgements", "roles", "studies", "values")
        found: Mapping[str, Any] = getattr(self, recorded.among) if recorded.among in among else {}
        if recorded.name not in found:
            raise RunError(f"there is no {recorded.name!r} among the {recorded.among} of the run: give a whole folder")
        return recorded.of(found[recorded.name])


def keep_verdicts(
    name: str, verdicts: Sequence[Verdict], evidence: Sequence[Evidence | str], *, rule: Rule, seed: int
) -> Kept:
    """Keep a family's verdicts with all that they rest on."""
    claims = [v.claim for v in verdicts]
    listed, arrays = _evidence(name, claims, evidence)
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


def keep_roles(
    name: str,
    roles: Sequence[Role],
    found: Sequence[RoleEvidence | str],
    *,
    base: str,
    tuned: str | None,
    rule: RoleRule,
    words: Mapping[int, str],
) -> Kept:
    """Keep the roles of a family in a fine-tune.

    Args:
        name: of this record.
        roles, found: one per claim of the base's judgement.
        base: the judgement on the base whose validated claims they are about.
        tuned: the judgement of the same claims on the fine-tune, where there is one.
        rule: the thresholds.
        words: how each label's token is shown.
    """
    listed, arrays = _evidence(name, [r.claim for r in roles], found)
    return Kept(
        {
            "name": name,
            "base": base,
            "tuned": tuned,
            "rule": asdict(rule),
            "words": {str(i): word for i, word in sorted(words.items())},
            "evidence": listed,
            "outcome": [role_record(role) for role in roles],
        },
        arrays,
    )


def keep_study(prefix: str, found: Study, seed: int) -> Kept:
    """Keep a study of the lenses with every number that its tables rest on.

    Args:
        prefix: what stands before the names of its tables and raw files, as ``lens_predicts_causality--``.
        found: the study.
        seed: root of the random streams that its intervals are drawn from.
    """
    arrays = {f"{prefix}{world}": numbers for world, numbers in found.arrays().items()}
    about = {"lenses": list(found.real.picks), "missing": dict(found.missing)}
    return Kept({"name": prefix, "seed": seed, "raw": sorted(arrays), **about}, arrays)


def role_record(role: Role) -> dict[str, Any]:
    """A role as results.json holds it."""
    return {
        "id": role.claim.id,
        "token": role.claim.token,
        "neuron": str(role.claim.neuron) if role.claim.neuron else None,
        "role": role.role,
        "reason": role.reason,
        "label_kept": role.label_kept,
        "heir": str(role.heir) if role.heir else None,
        "effect_before": asdict(role.effect_before) if role.effect_before else None,
        "effect_after": asdict(role.effect_after) if role.effect_after else None,
        "difference": asdict(role.effect) if role.effect else None,
        "auc_before": role.auc_before,
        "auc_after": role.auc_after,
        "drive": role.drive,
    }


def claim_of(entry: Mapping[str, Any]) -> Claim:
    """The claim of an entry that `flashinterp.claims.lock` wrote."""
    values = {key: value for key, value in entry.items() if key != "drive"}
    neuron = values.pop("neuron")
    return Claim(**values, neuron=NeuronId.parse(neuron) if neuron else None)


def judge_again(results: Mapping[str, Any], raw: Raw) -> Again:
    """Reach every verdict and role of a run again, from results.json's records and the raw arrays.

    Raises:
        RunError: a record names another that is not there, or evidence that is neither a file nor a reason.
    """
    judgements = {entry["name"]: _judged_again(entry, raw) for entry in results["judgements"]}
    roles = {entry["name"]: _roles_again(entry, judgements, raw) for entry in results["roles"]}
    return Again(judgements, roles, {entry["name"]: _studied_again(entry, raw) for entry in results["studies"]})


def _judged_again(entry: Mapping[str, Any], raw: Raw) -> Judged:
    claims = tuple(claim_of(c) for c in entry["claims"])
    found = tuple(_found(e, raw, Evidence.from_arrays) for e in entry["evidence"])
    return Judged(claims, found, tuple(judge(claims, found, rule=Rule(**entry["rule"]), seed=entry["seed"])))


def _roles_again(entry: Mapping[str, Any], judgements: Mapping[str, Judged], raw: Raw) -> Roles:
    for name in (entry["base"], entry["tuned"]):
        if name is not None and name not in judgements:
            raise RunError(f"the roles {entry['name']!r} rest on the judgement {name!r}, which is not recorded")
    base = judgements[entry["base"]].verdicts
    tuned = judgements[entry["tuned"]].verdicts if entry["tuned"] is not None else None
    found = [_found(e, raw, RoleEvidence.from_arrays) for e in entry["evidence"]]
    roles = judge_roles(base, found, rule=RoleRule(**entry["rule"]))
    return Roles(roles, found, {int(i): word for i, word in entry["words"].items()}, base, tuned)


def _studied_again(entry: Mapping[str, Any], raw: Raw) -> Studied:
    found = Study.from_arrays({name.removeprefix(entry["name"]): raw(name) for name in entry["raw"]})
    picks = {lens: found.real.picks[lens] for lens in entry["lenses"]}  # arrays have no order, a table's rows have
    return studied(replace(found, missing=entry["missing"], real=replace(found.real, picks=picks)), entry["seed"])


def studied(found: Study, seed: int) -> Studied:
    """A study's results; the random streams are by name from the seed, as `flashinterp.bench.Bench` draws them."""
    return Studied(found, found.results(lambda name: np.random.default_rng([seed, crc32(name.encode())])))


def _found(entry: Mapping[str, Any], raw: Raw, made: Callable[[Arrays], Any]) -> Any:
    if (entry["raw"] is None) == (entry["reason"] is None):
        raise RunError("evidence is a file of raw/ or the reason why there is none: one of the two, and not both")
    return entry["reason"] if entry["raw"] is None else made(raw(entry["raw"]))


def _evidence(
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
