"""Roles in a fine-tune as a run folder records them, and how they are reached again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from flashinterp.errors import RunError
from flashinterp.evaluation.judgement import Judged, Kept, Raw, list_evidence, read_evidence
from flashinterp.evaluation.verdict import Verdict
from flashinterp.studies.finetuning.roles import Role, RoleEvidence, RoleRule, judge_roles


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
    listed, arrays = list_evidence(name, [r.claim for r in roles], found)
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


def role_record(role: Role) -> dict[str, Any]:
    """A role as results.json holds it."""
    about = role.claim.as_json()
    return {
        **{key: about[key] for key in ("id", "token", "neuron")},
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


def roles_again(entry: Mapping[str, Any], judgements: Mapping[str, Judged], raw: Raw) -> Roles:
    """Judge the roles of a record again, from its raw evidence."""
    for name in (entry["base"], entry["tuned"]):
        if name is not None and name not in judgements:
            raise RunError(f"the roles {entry['name']!r} rest on the judgement {name!r}, which is not recorded")
    base = judgements[entry["base"]].verdicts
    tuned = judgements[entry["tuned"]].verdicts if entry["tuned"] is not None else None
    found = [read_evidence(e, raw, RoleEvidence.from_arrays) for e in entry["evidence"]]
    roles = judge_roles(base, found, rule=RoleRule(**entry["rule"]))
    return Roles(roles, found, {int(i): word for i, word in entry["words"].items()}, base, tuned)
