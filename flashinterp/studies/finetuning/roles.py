"""Is a role kept through fine-tuning? From recorded numbers to verdicts, by arithmetic alone (METHOD 5).

A validated neuron brings its word and fires where the word is. Both are compared between a model and its fine-tune,
prompt by prompt; "no difference was found" is not enough, equivalence has to be shown. Nothing here runs a model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from flashinterp.evaluation.claims import Claim
from flashinterp.evaluation.verdict import Verdict
from flashinterp.neurons import NeuronId
from flashinterp.stats import Equivalence, Interval, auc, equivalence, lower_bound, mean_interval

Floats = NDArray[np.float64]
RoleName = Literal["role kept", "label kept", "moved", "lost", "not comparable"]
ROLES: tuple[RoleName, ...] = get_args(RoleName)


@dataclass(frozen=True)
class RoleRule:
    """The thresholds.

    Attributes:
        alpha: level of each one-sided test; the intervals are of 1 - 2 alpha.
        share, least, most: the margin of equivalence, max(share of the base's effect, ``least`` nats), but never more
            than ``most`` of the effect, so that a neuron that lost half of a small effect has not kept its role.
            A quarter is above what the choice of texts makes and far below a loss. Measured on the bundled decoys: an
            effect over 12 prompts stands 4 to 8 % (s.d.; 13 % at most) around that over 120; rounding all weights to
            bfloat16 moves it by 0.2 %, noise of 10 % of each matrix's deviation by up to 8 %, of 20 % by up to 17 %;
            a fine-tune that draws a quarter of all other rows anew by at most 17 %; a neuron overwritten by 100 %.
        min_auc: as on the reading side of a verdict.
        min_drive: the share of the old gap between the neuron's output with the word and without it that must be left.
            A row scaled to a hundredth names the same words, separates them as well, and does nothing.
        moved_share: the share of the old effect that the label's new neuron must have, and must have gained.
    """

    alpha: float = 0.05
    share: float = 0.25
    least: float = 0.1
    most: float = 0.5
    min_auc: float = 0.75
    min_drive: float = 0.5
    moved_share: float = 0.5

    def margin(self, effect: float) -> float:
        """Nats of log-odds by which an effect may differ and still count as the same."""
        size = abs(effect)
        return min(max(self.share * size, self.least), self.most * size)


@dataclass(frozen=True)
class Heir:
    """The neuron that names the word best in the fine-tune, where it is not the claim's.

    Attributes:
        neuron: which.
        named_before: whether the word was its best in the base already, or it was the base's best neuron for it.
        score_before, score_after: its score for the word.
        doses: [2] the ends of its own natural range in the fine-tune.
        before, after: [P] the change of the word's log-odds from one to the other, in both models.
    """

    neuron: NeuronId
    named_before: bool
    score_before: float
    score_after: float
    doses: Floats
    before: Floats
    after: Floats


@dataclass(frozen=True)
class RoleEvidence:
    """What was measured for one claim in both models; every number that its verdict rests on.

    Attributes:
        doses: [D] clamp values, those of the base's natural range, in both models.
        before, after: [P, D] the word's log-odds over the same held-out prompts.
        noise_floor: nats, what the passes of the two models cannot tell apart.
        present_before, present_after: [C] the neuron's output u · act(g) where the word stands, over held-out contexts.
        absent_before, absent_after: [C, K] the same with other words in its place.
        label_before, label_after: id of the neuron's best word by the claim's lens and pole; -1 where it has none.
        heir: the label's new neuron; None where the claim's own is still the best.
    """

    doses: Floats
    before: Floats
    after: Floats
    noise_floor: float
    present_before: Floats
    absent_before: Floats
    present_after: Floats
    absent_after: Floats
    label_before: int
    label_after: int
    heir: Heir | None = None

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Every number as an array, for ``raw/*.npz``; without an heir its fields are left out."""
        own = {f.name: np.asarray(getattr(self, f.name)) for f in fields(self) if f.name != "heir"}
        if self.heir is None:
            return own
        h, n = self.heir, self.heir.neuron
        told = {f.name: np.asarray(getattr(h, f.name)) for f in fields(h) if f.name != "neuron"}
        told["neuron"] = np.array([n.layer, -1 if n.expert is None else n.expert, n.neuron])
        return own | {f"heir_{name}": value for name, value in told.items()}

    @classmethod
    def from_arrays(cls, arrays: dict[str, NDArray[Any]]) -> RoleEvidence:
        """The inverse of `arrays`."""
        values: dict[str, Any] = {k: v if v.ndim else v.item() for k, v in arrays.items()}
        told = {k.removeprefix("heir_"): values.pop(k) for k in list(values) if k.startswith("heir_")}
        if not told:
            return cls(**values)
        layer, expert, neuron = (int(i) for i in told.pop("neuron"))
        return cls(**values, heir=Heir(NeuronId(layer, neuron, None if expert < 0 else expert), **told))

    def unfit(self) -> str | None:
        """Why it cannot be judged: empty, or not a number. None where it can be."""
        for name, values in self.arrays().items():
            if values.size == 0:
                return f"nothing was measured for {name}: give more texts and doses"
            if not np.isfinite(values).all():
                wrong = int((~np.isfinite(values)).sum())
                return f"{wrong} of {values.size} {name} are not finite numbers: run the models in a wider dtype"
        return None


@dataclass(frozen=True)
class Role:
    """What became of one claim's role.

    Attributes:
        role: the verdict; None for a claim that was not validated on the base, and so has no role to keep.
        effect_before, effect_after: nats of log-odds over the base's natural doses, each with its interval.
        effect: the paired difference, tested against the margin.
        deviation: the same at the dose where the curves are, or may be, furthest apart.
        auc_before, auc_after: of the neuron's output, the word against others.
        drive: the gap of its output between them, over the base's.
        label_kept: the neuron's best word is the same.
        heir: the label's new neuron; heir_effect: what it does, with its interval.
    """

    claim: Claim
    role: RoleName | None
    reason: str
    effect_before: Interval | None = None
    effect_after: Interval | None = None
    effect: Equivalence | None = None
    deviation: Equivalence | None = None
    auc_before: float | None = None
    auc_after: float | None = None
    drive: float | None = None
    label_kept: bool | None = None
    heir: NeuronId | None = None
    heir_effect: Interval | None = None


def judge_roles(
    verdicts: Sequence[Verdict], evidence: Sequence[RoleEvidence | str], *, rule: RoleRule | None = None
) -> list[Role]:
    """Judge what became of each claim that was validated on the base.

    ``role kept``: the causal curve is equivalent, at the effect and at every other dose, and the neuron still
    fires where its word is; whatever its label. Else ``moved``: another neuron names the word best, did not
    before, and has gained a stated share of the old effect. Else ``label kept``: it still names the word that it named.
    Else ``lost``.

    Args:
        verdicts: of the base.
        evidence: one per verdict, or why there is none.
        rule: the thresholds.
    """
    rule = rule or RoleRule()
    return [_judge(verdict, found, rule) for verdict, found in zip(verdicts, evidence, strict=True)]


def _judge(verdict: Verdict, found: RoleEvidence | str, rule: RoleRule) -> Role:
    claim = verdict.claim
    if verdict.verdict != "validated":
        return Role(claim, None, f"{verdict.verdict} in the base: it has no role to keep")
    reason = found if isinstance(found, str) else found.unfit()
    if isinstance(found, str) or reason is not None:
        return Role(claim, "not comparable", reason or "")
    if min(len(found.before), len(found.present_before)) < 3 or len(found.doses) < 2:
        return Role(claim, "not comparable", "fewer than 3 prompts or contexts, or than 2 doses: give more")
    return _decide(claim, found, rule)


def _decide(claim: Claim, e: RoleEvidence, rule: RoleRule) -> Role:
    before, after = _rise(claim, e.before), _rise(claim, e.after)  # [P, D]
    margin = rule.margin(float(before[:, -1].mean()))

    def same(dose: int) -> Equivalence:
        return equivalence(after[:, dose] - before[:, dose], margin, alpha=rule.alpha, slack=e.noise_floor)

    # Every dose has to pass, so that no correction for their number is due.
    doses = [same(dose) for dose in range(1, len(e.doses))]
    reading, areas, drive = _reading(claim, e, rule)
    inherits, heir_told = _inherits(claim, e, before[:, -1], rule)
    label_kept = e.label_before >= 0 and e.label_before == e.label_after
    lacking = [told for told in (_lacks_writing(doses, margin), reading) if told is not None]
    role: RoleName
    if not lacking:
        role, reason = "role kept", "its causal curve is equivalent, and it fires where its word is"
    elif inherits:
        role, reason = "moved", f"{'; '.join(lacking)}; {heir_told}"
    else:
        role = "label kept" if label_kept else "lost"
        reason = "; ".join([*lacking, *([heir_told] if heir_told else [])])
    return Role(
        claim,
        role,
        reason,
        mean_interval(before[:, -1]),
        mean_interval(after[:, -1]),
        doses[-1],
        max(doses, key=_reach),
        *areas,
        drive,
        label_kept,
        e.heir.neuron if e.heir else None,
        mean_interval(_signed(claim) * e.heir.after) if e.heir else None,
    )


def _signed(claim: Claim) -> float:
    return 1.0 if claim.drive == "+" else -1.0


def _rise(claim: Claim, log_odds: Floats) -> Floats:
    """[P, D] the change of log-odds from the lowest dose on, in the claimed direction.

    From there and not from nothing: how likely a word is anyway is the fine-tune's business, not the neuron's.
    """
    result: Floats = _signed(claim) * (log_odds - log_odds[:, :1])
    return result


def _reach(difference: Equivalence) -> float:
    """How large a difference may be, for all that is known."""
    ends = (difference.low, difference.estimate, difference.high)
    return max(abs(end) for end in ends if end is not None)


def _lacks_writing(doses: Sequence[Equivalence], margin: float) -> str | None:
    """Why the curves are not shown to be equivalent: they differ, or too little is known. None where they are."""
    wrong = [d for d in doses if not d.shown]
    if not wrong:
        return None
    apart = [d for d in wrong if d.low is not None and d.high is not None and (d.low >= margin or d.high <= -margin)]
    worst = max(apart or wrong, key=lambda d: abs(d.estimate))
    told = f"by {worst.estimate:+.2f} nats, 90 % interval {worst.low:+.2f} to {worst.high:+.2f}, margin {margin:.2f}"
    if apart:
        return f"its causal curve differs ({told})"
    return f"its causal curve is not shown to be the same (it differs {told})"


def _reading(claim: Claim, e: RoleEvidence, rule: RoleRule) -> tuple[str | None, tuple[float, float], float | None]:
    """What the neuron lacks of reading its word as before, its AUC in both models, and its drive over the base's."""
    sign = -1.0 if claim.pole == "-" else 1.0
    old, new = (
        sign * (present - absent.mean(axis=1))
        for present, absent in ((e.present_before, e.absent_before), (e.present_after, e.absent_after))
    )  # [C]
    areas = (_auc(sign, e.present_before, e.absent_before), _auc(sign, e.present_after, e.absent_after))
    drive = float(new.mean() / old.mean()) if old.mean() > 0 else None
    left = lower_bound(new - rule.min_drive * old, alpha=rule.alpha)
    if areas[1] < rule.min_auc:
        return f"it no longer fires where its word is (AUC {areas[0]:.2f}, now {areas[1]:.2f})", areas, drive
    if drive is None or left is None or left <= 0:
        told = "" if drive is None else f", {drive:.0%} of before"
        return f"it is not shown to fire at its word at least {rule.min_drive:.0%} as strongly{told}", areas, drive
    return None, areas, drive


def _auc(sign: float, present: Floats, absent: Floats) -> float:
    """The mean over contexts: each is its own match."""
    return float(np.mean([auc(sign * p, sign * a) for p, a in zip(present, absent, strict=True)]))


def _inherits(claim: Claim, e: RoleEvidence, old: Floats, rule: RoleRule) -> tuple[bool, str]:
    """Whether the label's new neuron carries the role now, and what is to be said of it.

    Args:
        old: [P] the effect of the claim's neuron in the base.
    """
    if e.heir is None:
        return False, ""
    name = f"{e.heir.neuron} names the word best now"
    if e.heir.named_before:
        return False, f"{name}, and named it before"
    after, gain = _signed(claim) * e.heir.after, _signed(claim) * (e.heir.after - e.heir.before)
    bounds = [lower_bound(effect - rule.moved_share * old, alpha=rule.alpha) for effect in (after, gain)]
    told = f"its effect is {after.mean():+.2f} nats, of which {gain.mean():+.2f} are new"
    if any(bound is None or bound <= 0 for bound in bounds):
        return False, f"{name}, but is not shown to carry {rule.moved_share:.0%} of the old effect ({told})"
    return True, f"{name} and carries the effect ({told})"
