"""The tables that show roles before and after fine-tuning: made from roles alone, by the eval and again by `verify`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flashinterp.evaluation.verdict import Verdict
from flashinterp.provenance.registry import derivation
from flashinterp.report.table import Told
from flashinterp.stats import Equivalence
from flashinterp.studies.finetuning.roles import Role, RoleEvidence, RoleRule


@derivation("finetuning.roles", version=1)
def role_table(roles: Sequence[Role], found: Sequence[RoleEvidence | str], words: Mapping[int, str]) -> Told:
    """What became of each claim's role, with the effects and the labels on both sides.

    Args:
        roles, found: one per claim.
        words: how each label's token is shown.
    """
    rows = []
    for role, measured in zip(roles, found, strict=True):
        labels: list[Any] = [None, None]
        if isinstance(measured, RoleEvidence):
            labels = [words.get(i) for i in (measured.label_before, measured.label_after)]
        rows.append(
            [role.claim.id, str(role.claim.neuron), role.role or "-"]
            + [e.estimate if e else None for e in (role.effect_before, role.effect_after)]
            + [*difference(role.effect), *labels, str(role.heir) if role.role == "moved" else None]
        )
    share = RoleRule().share
    return (
        ["claim", "neuron", "role", "effect, base", "effect, tuned", "difference", "low", "high", "margin"]
        + ["label, base", "label, tuned", "moved to"],
        rows,
        "Effect: change of the word's log-odds (nats) from the lowest to the highest of the base's natural doses, in "
        "both models. Difference: paired by prompt, 90 % interval; the same where it lies within ± the margin "
        f"({share:.0%} of the base's effect, 0.1 at least, half of it at most), here and at every other dose. A dash: "
        "not validated on the base, so that there is no role to keep.",
    )


@derivation("finetuning.role_reasons", version=1)
def roles_why_table(roles: Sequence[Role], base: Sequence[Verdict], tuned: Sequence[Verdict]) -> Told:
    """Why each role is what it is, beside the whole verdicts on both models."""
    rows = []
    for role, old, new in zip(roles, base, tuned, strict=True):
        natural = new.writes.figures["effect"] if new.writes else None
        largest = role.deviation.estimate if role.deviation else None
        reads = [role.auc_before, role.auc_after, role.drive]
        heir = [str(role.heir) if role.heir else None, role.heir_effect.estimate if role.heir_effect else None]
        rows.append([role.claim.id, old.verdict, new.verdict, natural, largest, *reads, *heir, role.reason])
    return (
        [
            "claim",
            "verdict, base",
            "verdict, tuned",
            "own effect, tuned",
            "largest deviation",
            "AUC, base",
            "AUC, tuned",
        ]
        + ["drive", "best neuron now", "its effect", "reason"],
        rows,
        "Own effect: over the neuron's natural range in the fine-tune, by which the verdict there is reached. Largest "
        "deviation: of the two curves, at any dose. Drive: how far the word moves the neuron, over that in the base.",
    )


def difference(tested: Equivalence | None) -> list[Any]:
    """The four cells of a tested difference."""
    return [tested.estimate, tested.low, tested.high, tested.margin] if tested else [None] * 4


def label_words(found: Sequence[RoleEvidence | str], show: Any) -> dict[int, str]:
    """How each label that roles rest on is shown, by token id, from ``vocabulary.show``."""
    measured = [e for e in found if isinstance(e, RoleEvidence)]
    ids = {i for e in measured for i in (e.label_before, e.label_after) if i >= 0}
    return {i: show(i) for i in ids}
