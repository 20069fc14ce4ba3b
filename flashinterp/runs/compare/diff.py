"""Two runs compared: which neurons kept, moved or lost their role or their words, and by how much (METHOD 5).

By arithmetic on what the runs recorded; no model is opened. Where texts, dtype or profile differ it is said what that
means; where neurons or words are not the same things, there is no comparison.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flashinterp.runs.compare.baseline import FinishedRun, read_run
from flashinterp.runs.compare.changes import Diff, RoleChange, RoleFate
from flashinterp.runs.compare.conditions import check_comparable, conditions, paired
from flashinterp.runs.compare.words import WordChange, claim_words, compare_labels, labels_of
from flashinterp.stats import Equivalence, Interval, equivalence
from flashinterp.studies.finetuning.roles import RoleRule
from flashinterp.tokens import show


def diff(before: str | Path | FinishedRun, after: str | Path | FinishedRun) -> Diff:
    """Compare two runs.

    Args:
        before: the earlier run's folder, or the run as read.
        after: the later one.

    Raises:
        RunError: a folder is not a finished run's, or of another schema.
        NotComparable: the models' neurons or their words are not the same things.
    """
    a, b = (run if isinstance(run, FinishedRun) else read_run(run) for run in (before, after))
    check_comparable(a, b)
    return Diff(
        before=a.name,
        after=b.name,
        roles=tuple(_roles(a, b)),
        words=tuple(_words(a, b)),
        labels=compare_labels(a.reference, b.reference) if a.reference and b.reference else None,
        conditions=tuple(conditions(a, b)),
        baseline_sha256=a.sha256,
    )


def _roles(a: FinishedRun, b: FinishedRun) -> list[RoleChange]:
    matched = [(old, _same_claim(old, b.verdicts)) for old in a.verdicts]
    taken = {_key(old) for old in a.verdicts}
    new = [(None, v) for v in b.verdicts if _key(v) not in taken]
    return [_role(a, b, old, now) for old, now in (*matched, *new)]


def _key(verdict: dict[str, Any]) -> tuple[Any, ...]:
    """What a claim is about: a token, a neuron, and which way driving it should move the token."""
    return verdict["token"], verdict["neuron"], verdict.get("direction")


def _same_claim(old: dict[str, Any], verdicts: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The claim about the same thing; of several one that holds, then one found by the same lens and of the same id."""
    same = [v for v in verdicts if _key(v) == _key(old)]
    return max(
        same,
        key=lambda v: (v["verdict"] == "validated", v.get("lens") == old.get("lens"), v["id"] == old["id"]),
        default=None,
    )


def _role(a: FinishedRun, b: FinishedRun, old: dict[str, Any] | None, now: dict[str, Any] | None) -> RoleChange:
    one = old or now or {}
    difference = _difference(a, b, old, now)
    heir = _heir(a, b, old) if old is not None and old["verdict"] == "validated" and not _holds(now) else None
    return RoleChange(
        id=one["id"],
        token=show(one["token"]) if isinstance(one["token"], str) else f"id {one['token']}",
        neuron=str(one["neuron"]),
        lens=str(one.get("lens")),
        fate=_fate(old, now, difference, heir),
        before=old["verdict"] if old else None,
        after=now["verdict"] if now else None,
        effect_before=_effect(old),
        effect_after=_effect(now),
        difference=difference,
        auc_before=_figure(old, "reads", "auc"),
        auc_after=_figure(now, "reads", "auc"),
        heir=heir,
        reason=_reason(old, now, heir),
    )


def _fate(
    old: dict[str, Any] | None, now: dict[str, Any] | None, difference: Equivalence | None, heir: str | None
) -> RoleFate:
    if not _holds(old):
        return "gained" if _holds(now) else "never"
    if difference is not None and difference.shown and _reads(now):
        return "kept"
    if _holds(now):
        return "changed"
    if heir is not None:
        return "moved"
    return "not measured" if now is None or now["verdict"] in ("not_measured", "not_comparable") else "lost"


def _holds(verdict: dict[str, Any] | None) -> bool:
    return verdict is not None and verdict["verdict"] == "validated"


def _reads(verdict: dict[str, Any] | None) -> bool:
    """Whether a neuron fires where its word is, as METHOD 5 asks of a role."""
    area = _figure(verdict, "reads", "auc")
    return area is not None and area >= RoleRule().min_auc


def _heir(a: FinishedRun, b: FinishedRun, old: dict[str, Any]) -> str | None:
    """Another neuron that is validated for the word now, and of which it is known that it did not name it before."""
    if a.reference is None:
        return None
    held = {v["neuron"] for v in a.verdicts if v["token"] == old["token"] and _holds(v)}
    others = [v for v in b.verdicts if v["token"] == old["token"] and _holds(v) and v["neuron"] not in held]
    word = labels_of(a.reference)
    place = a.reference.place(old["id"])
    named = None if place is None else int(a.reference.claim_words.ids[place, 0])
    new = [v["neuron"] for v in others if int(word[a.reference.roster.index(v["neuron"])]) != named]
    return new[0] if new else None


def _reason(old: dict[str, Any] | None, now: dict[str, Any] | None, heir: str | None) -> str:
    told = str(now["reason"]) if now is not None else "no claim of the later run is about it"
    if old is None:
        return f"{told} (no claim of the earlier run was about it)"
    if heir is not None:
        return f"{told}; {heir} is validated for the word now, and did not name it before"
    return told


def _effect(verdict: dict[str, Any] | None) -> Interval | None:
    estimate = _figure(verdict, "writes", "effect")
    if estimate is None:
        return None
    return Interval(estimate, _figure(verdict, "writes", "effect_low"), _figure(verdict, "writes", "effect_high"))


def _figure(verdict: dict[str, Any] | None, side: str, name: str) -> float | None:
    """A number of a verdict; None where the run has none."""
    value: Any = (verdict or {}).get("figures")
    for key in (side, "figures", name):
        value = value.get(key) if isinstance(value, dict) else None
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _difference(
    a: FinishedRun, b: FinishedRun, old: dict[str, Any] | None, now: dict[str, Any] | None
) -> Equivalence | None:
    """The effect's paired difference over prompts against the margin of METHOD 5; None where there are no pairs."""
    if old is None or now is None or a.reference is None or b.reference is None or not paired(a, b):
        return None
    places = a.reference.place(old["id"]), b.reference.place(now["id"])
    if places[0] is None or places[1] is None:
        return None
    if not (a.reference.measured[places[0]] and b.reference.measured[places[1]]):
        return None
    before, after = a.reference.effects[places[0]], b.reference.effects[places[1]]
    if before.shape != after.shape:
        return None
    rule = RoleRule()
    floors = [_figure(v, "writes", "noise_floor") or 0.0 for v in (old, now)]
    margin = rule.margin(float(np.mean(before)))
    return equivalence(after - before, margin, alpha=rule.alpha, slack=max(floors))


def _words(a: FinishedRun, b: FinishedRun) -> list[WordChange]:
    if a.reference is None or b.reference is None:
        return []
    changes = []
    for old in a.verdicts:
        now = _same_claim(old, b.verdicts)
        same_lens = now is not None and all(now.get(k) == old.get(k) for k in ("lens", "pole"))
        after = now["id"] if now is not None and same_lens else None
        found = claim_words(a.reference, b.reference, old, after)
        if found is not None:
            changes.append(found)
    return changes
