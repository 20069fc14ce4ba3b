"""Two runs compared: which neurons kept, moved or lost their role or their words, and by how much (METHOD 5).

By arithmetic on what the runs recorded; no model is opened. Where texts, dtype or profile differ it is said what that
means; where neurons or words are not the same things, there is no comparison.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from flashinterp.audit.baseline import Run, read_run
from flashinterp.audit.diff_conditions import Condition, check_comparable, conditions, paired
from flashinterp.audit.diff_tables import tables
from flashinterp.audit.diff_words import Fate, LabelDiff, WordChange, claim_words, compare_labels, labels_of
from flashinterp.audit.tables import Table, clip, safe_text
from flashinterp.roles import RoleRule
from flashinterp.stats import Equivalence, Interval, equivalence
from flashinterp.tokens import show

RoleFate = Literal["kept", "changed", "moved", "lost", "not measured", "gained", "never"]
"""What became of a claim's role.

kept: validated before, and its effect is shown to be the same and it still reads its word, whatever the verdict, since
a figure near a threshold falls on either side of it; changed: validated in both, and that is not shown; moved: another
neuron is validated for the word now, which did not name it before; lost: validated before, and none of these; not
measured: validated before, and now nothing is known; gained: validated now only; never: in neither.
"""

FATES: tuple[RoleFate, ...] = get_args(RoleFate)
LOSSES: tuple[RoleFate, ...] = ("lost", "not measured")
"""What fails a gate. A neuron that was not measured again cannot be shown to be kept."""

MOST_NAMED = 8  # neurons in the verdict's line
MOST_TOLD = 20  # neurons in the message, one a line
_CLIP, _CLIP_REASON = 60, 120  # characters of what a run may hold at any length


@dataclass(frozen=True)
class RoleChange:
    """What became of one claim.

    Attributes:
        id, token, neuron, lens: the claim, as in the run that has it.
        fate: see `RoleFate`.
        before, after: the verdicts; None where the run has no such claim.
        effect_before, effect_after: nats of log-odds over the neuron's own natural range in each model, 95 % intervals.
        difference: of the effects, prompt by prompt, against the margin; None where the runs cannot be paired.
        auc_before, auc_after: of the neuron's output, the word against others.
        heir: the neuron that the role moved to.
        reason: of what it came out as, from the later run.
    """

    id: str
    token: str
    neuron: str
    lens: str
    fate: RoleFate
    before: str | None
    after: str | None
    effect_before: Interval | None
    effect_after: Interval | None
    difference: Equivalence | None
    auc_before: float | None
    auc_after: float | None
    heir: str | None
    reason: str

    @property
    def name(self) -> str:
        """Which claim about which word and neuron, short."""
        claim, word, neuron = (safe_text(clip(text, _CLIP)) for text in (self.id, self.token, self.neuron))
        return f"{claim} ({word} at {neuron})"

    @property
    def said(self) -> str:
        """What became of it, in one line: of a lost one the figures that decide, else the reason."""
        if self.after is None:
            return f"{self.name} is not among the claims of the later run"
        why = (self._figures if self.fate == "lost" else "") or safe_text(clip(self.reason, _CLIP_REASON))
        return f"{self.name} is now {self.after}: {why}"

    @property
    def _figures(self) -> str:
        told = []
        if self.effect_before is not None and self.effect_after is not None:
            effect = f"effect {self.effect_after.estimate:.3g}, was {self.effect_before.estimate:.3g} nats"
            if self.difference is not None:
                effect += f" (change {self.difference.estimate:+.3g}, margin {self.difference.margin:.3g})"
            told.append(effect)
        if self.auc_before is not None and self.auc_after is not None:
            told.append(f"AUC {self.auc_after:.3g}, was {self.auc_before:.3g}")
        return "; ".join(told)


@dataclass(frozen=True)
class Diff:
    """Two runs compared.

    Attributes:
        before, after: the runs' names.
        roles: one per claim of either run, those of the first in its order.
        words: one per claim whose words both runs recorded.
        labels: the words of all neurons; None where a run did not record them.
        conditions: what else differs.
        baseline_sha256: of the first run's ``results.json``.
    """

    before: str
    after: str
    roles: tuple[RoleChange, ...]
    words: tuple[WordChange, ...]
    labels: LabelDiff | None
    conditions: tuple[Condition, ...]
    baseline_sha256: str | None = None

    @property
    def losses(self) -> tuple[RoleChange, ...]:
        """The validated neurons that are lost, or were not measured again."""
        return tuple(r for r in self.roles if r.fate in LOSSES)

    @property
    def exit_code(self) -> int:
        """1 where a validated neuron is lost or was not measured again; else 0."""
        return 1 if self.losses else 0

    @property
    def verdict(self) -> str:
        """In one line: what was lost, by name, or that nothing was."""
        known = [r for r in self.roles if r.before == "validated"]
        if not known:
            return f"nothing to lose: no neuron was validated in {self.before}{self._words_said}"
        if self.losses:
            return f"LOST {len(self.losses)} of {len(known)} validated neurons: {_named(self.losses)}"
        counts = Counter(r.fate for r in known)
        told = ", ".join(f"{counts[f]} {_FATE_SAID[f]}" for f in ("kept", "changed", "moved") if counts[f])
        doubt = f"; kept, but by a threshold no longer validated: {_named(self._doubted)}" if self._doubted else ""
        return f"no loss: of {len(known)} validated neurons {told}{doubt}{self._words_said}"

    @property
    def message(self) -> str:
        """The verdict, then a line for each neuron that is lost or in doubt, and what to do next."""
        told = self.losses or self._doubted
        lines = [f"  {r.said}" for r in told[:MOST_TOLD]]
        if len(told) > MOST_TOLD:
            lines.append(f"  and {len(told) - MOST_TOLD} more: see the table of roles")
        return "\n".join([self.verdict, *lines, *([_NEXT] if self.losses else [])])

    @property
    def _doubted(self) -> tuple[RoleChange, ...]:
        """Those that kept their role, and fell by a threshold."""
        return tuple(r for r in self.roles if r.fate == "kept" and r.after != "validated")

    @property
    def _words_said(self) -> str:
        share = self.labels.share if self.labels else None
        if share is None or share.low is None or share.high is None:
            return ""
        return f"; {share.estimate:.1%} [{share.low:.1%}, {share.high:.1%}] of all neurons keep their best word"

    @cached_property
    def tables(self) -> list[Table]:
        """What moved: roles, effects, the claimed neurons' words, all neurons' words, and what else differs."""
        return tables(self)

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain values, for JSON."""
        return {
            **asdict(self),
            "losses": [r.id for r in self.losses],
            "verdict": self.verdict,
            "exit_code": self.exit_code,
        }


_NEXT = (
    "Next: the table of roles says why, neuron by neuron; where a loss is meant, take the later run as the baseline "
    "from now on."
)
_FATE_SAID = {
    "kept": "keep their role",
    "changed": "are validated still, their effect not shown to be the same",
    "moved": "moved to another neuron",
}


def _named(roles: Sequence[RoleChange]) -> str:
    """The first ones by name, and how many more there are."""
    more = len(roles) - MOST_NAMED
    return ", ".join(r.name for r in roles[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def diff(before: str | Path | Run, after: str | Path | Run) -> Diff:
    """Compare two runs.

    Args:
        before: the earlier run's folder, or the run as read.
        after: the later one.

    Raises:
        RunError: a folder is not a finished run's, or of another schema.
        NotComparable: the models' neurons or their words are not the same things.
    """
    a, b = (run if isinstance(run, Run) else read_run(run) for run in (before, after))
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


# --- roles ----------------------------------------------------------------------------------------------


def _roles(a: Run, b: Run) -> list[RoleChange]:
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


def _role(a: Run, b: Run, old: dict[str, Any] | None, now: dict[str, Any] | None) -> RoleChange:
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


def _heir(a: Run, b: Run, old: dict[str, Any]) -> str | None:
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


def _difference(a: Run, b: Run, old: dict[str, Any] | None, now: dict[str, Any] | None) -> Equivalence | None:
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


# --- the claims' words ------------------------------------------------------------------------------------


def _words(a: Run, b: Run) -> list[WordChange]:
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


__all__ = ["FATES", "Condition", "Diff", "Fate", "LabelDiff", "RoleChange", "RoleFate", "WordChange", "diff"]
