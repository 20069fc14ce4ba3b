"""The decision rule: from evidence to verdicts, by arithmetic alone (METHOD 4).

Nothing here runs a model. A verdict can be computed again by anyone who has the evidence's arrays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from flashinterp.claims import Claim, VerdictName
from flashinterp.controls import DEAD_SCALE
from flashinterp.neuron import LENSES
from flashinterp.stats import (
    bootstrap_mean,
    false_discovery,
    isotonic_violation,
    mann_whitney_p,
    page_trend,
    rank_p,
    separation,
    smallest_family_p,
)

Floats = NDArray[np.float64]
Side = Literal["yes", "no", "unclear"]


@dataclass(frozen=True)
class Rule:
    """The thresholds, fixed before anything is measured and recorded with the claims.

    Attributes:
        alpha: false discovery rate over the family of claims, on each side.
        min_effect: the smallest change of the token's log-odds over the neuron's natural range that counts;
            0.1 nats is a tenth more or less likely.
        max_violation: how far a curve may be from monotone, as a share of its range, before it has no direction.
        identity_slack: nats by which clamping a neuron to its own value may move a log-probability beyond
            the measured noise floor; float32 log-softmax itself rounds at 1e-6.
        min_auc: the smallest AUC at which a neuron reads its concept.
        unremarkable: a rank among controls above this says that the target does no more than they do.
        max_mismatch: how many times louder or quieter than the controls' median a target may be; beyond
            that they are no controls of it, and no side can be a yes.
    """

    alpha: float = 0.05
    min_effect: float = 0.1
    max_violation: float = 0.05
    identity_slack: float = 1e-5
    min_auc: float = 0.75
    unremarkable: float = 0.2
    max_mismatch: float = 5.0


@dataclass(frozen=True)
class Evidence:
    """What was measured for one claim; every number that its verdict rests on.

    Attributes:
        doses: [D] clamp values at site up, ascending, from the neuron's own quantiles.
        log_odds: [P, D] the token's log-odds over held-out prompts.
        clean_log_odds: [P] without a clamp.
        control_effects: [N] each control's change of the same token's log-odds over its own natural range.
        unrelated_effects: [T] the target's effect on other tokens.
        identity_error: nats, the largest change of any log-probability under a clamp to the own values.
        noise_floor: nats, the largest difference between a prompt run alone and in a batch.
        present: [C] the neuron's output u · act(g) where the token stands, over held-out contexts.
        absent: [C, K] the same with K other words in its place.
        control_separations: [N] each control's separation of the same two sets.
        relative_scale: the neuron's output over its layer's median on natural text; near 0 is dead.
        gate, act_gate: [P] g and act(g) at the measured position, unclamped.
        z_read, z_write: the token's logit by the paper lens and by the write lens.
        own: [P] u at the measured position, unclamped.
        stress_doses, stress_log_odds: [S], [P', S] the paper's -500…500, drawn and not judged.
        control_scale_ratio, control_norm_ratio: how well the controls match.
    """

    doses: Floats
    log_odds: Floats
    clean_log_odds: Floats
    control_effects: Floats
    unrelated_effects: Floats
    identity_error: float
    noise_floor: float
    present: Floats
    absent: Floats
    control_separations: Floats
    relative_scale: float
    gate: Floats
    act_gate: Floats
    z_read: float
    z_write: float
    own: Floats
    stress_doses: Floats
    stress_log_odds: Floats
    control_scale_ratio: float | None = None
    control_norm_ratio: float | None = None

    def arrays(self) -> dict[str, Floats]:
        """Every field as an array, for ``raw/*.npz``; an unknown ratio is left out."""
        return {k: np.asarray(v, dtype=np.float64) for k, v in vars(self).items() if v is not None}

    @classmethod
    def from_arrays(cls, arrays: dict[str, Floats]) -> Evidence:
        """The inverse of `arrays`."""
        values: dict[str, Any] = {f.name: arrays[f.name] for f in fields(cls) if f.name in arrays}
        scalars: dict[str, Any] = {k: v if np.ndim(v) else float(v) for k, v in values.items()}
        return cls(**scalars)


@dataclass(frozen=True)
class SideResult:
    """One side's answer: yes, no or unclear, its p before and q after the family, and each check that was made."""

    answer: Side
    p: float | None
    q: float | None
    checks: dict[str, bool]
    figures: dict[str, float | None]


@dataclass(frozen=True)
class Verdict:
    """What became of a claim."""

    claim: Claim
    verdict: VerdictName
    reason: str
    writes: SideResult | None = None
    reads: SideResult | None = None
    explained: dict[str, Any] = field(default_factory=dict)

    @property
    def lacking(self) -> str:
        """The conditions that were not met, by side."""
        sides = (("reads", self.reads), ("writes", self.writes))
        missed = [(name, [k for k, ok in side.checks.items() if not ok]) for name, side in sides if side]
        return "; ".join(f"{name}: {', '.join(checks)}" for name, checks in missed if checks)

    def record(self) -> dict[str, Any]:
        """The entry of ``results.json``."""
        figures = {
            "writes": asdict(self.writes) if self.writes else None,
            "reads": asdict(self.reads) if self.reads else None,
            "explained": self.explained,
        }
        return {
            "id": self.claim.id,
            "token": self.claim.token,
            "neuron": str(self.claim.neuron) if self.claim.neuron else None,
            "lens": self.claim.lens,
            "pole": self.claim.pole,
            "direction": self.claim.drive,
            "source": self.claim.source,
            "expect": self.claim.expect,
            "verdict": self.verdict,
            "reason": self.reason + (f" (not met: {self.lacking})" if self.lacking else ""),
            "figures": figures,
        }


def judge(claims: Sequence[Claim], evidence: Sequence[Evidence | str], *, rule: Rule, seed: int) -> list[Verdict]:
    """Judge a family of claims together.

    A neuron *writes* its token if clamping it, over its own natural range, moves the token's log-odds in the
    claimed direction: null under the identity clamp, near-monotone, trending (Page's L), larger than the
    stated minimum, and more than its matched controls do. It *reads* it if its natural output tells the
    token's presence from other words, and better than the controls' does. The p of a side is the larger of
    its trend (or Mann-Whitney) p and its rank among controls, so that both must hold; q is
    Benjamini-Hochberg over the family, each side its own.

    Args:
        claims: the family.
        evidence: one per claim, or the reason why there is none.
        rule: the thresholds.
        seed: of the bootstrap's random stream.
    """
    reasons = [e if isinstance(e, str) else _unfit(e) for e in evidence]
    measured = [
        (c, e)
        for c, e, reason in zip(claims, evidence, reasons, strict=True)
        if isinstance(e, Evidence) and reason is None
    ]
    write_ps = [_write_p(c, e) for c, e in measured]
    read_ps = [_read_p(c, e) for c, e in measured]
    # A test that had nothing to work on is no reason to be milder to the rest of the family: it counts as p = 1.
    write_qs, read_qs = (iter(false_discovery([1.0 if p is None else p for p in ps])) for ps in (write_ps, read_ps))
    verdicts = []
    for claim, found, unfit in zip(claims, evidence, reasons, strict=True):
        if isinstance(found, str) or unfit is not None:
            verdicts.append(Verdict(claim, "not_measured", unfit or ""))
            continue
        rng = np.random.default_rng([seed, *claim.id.encode()])
        writes = _writes(claim, found, next(write_qs), rule, rng)
        reads = _reads(claim, found, next(read_qs), rule, rng)
        name, reason = _combine(claim, writes, reads, found, len(measured), rule)
        verdicts.append(Verdict(claim, name, reason, writes, reads, _explain(claim, found)))
    return verdicts


def _unfit(e: Evidence) -> str | None:
    """Why evidence cannot be judged at all: a measurement that is empty or not a number. None where it can be."""
    for name, values in e.arrays().items():
        if name.startswith("stress"):
            continue  # drawn, not judged
        if values.size == 0 and name in ("doses", "log_odds", "present", "absent"):
            return f"nothing was measured for {name}: give more texts and doses"
        # A separation is infinite where the control does not vary without the concept.
        wrong = np.isnan(values) if name == "control_separations" else ~np.isfinite(values)
        if wrong.any():
            return f"{int(wrong.sum())} of {wrong.size} {name} are not finite numbers: run the model in a wider dtype"
    return None


# --- the writing side -------------------------------------------------------------------------------


def _effects(claim: Claim, e: Evidence) -> Floats:
    """[P] the change of log-odds from one end of the natural range to the other, in the claimed direction."""
    sign = 1.0 if claim.drive == "+" else -1.0
    result: Floats = sign * (e.log_odds[:, -1] - e.log_odds[:, 0])
    return result


def _control_effects(claim: Claim, e: Evidence) -> Floats:
    """[N] the controls' effects in the claimed direction."""
    return e.control_effects if claim.drive == "+" else -e.control_effects


def _write_p(claim: Claim, e: Evidence) -> float | None:
    trend = page_trend(e.log_odds, claim.drive)
    rank = rank_p(float(_effects(claim, e).mean()), _control_effects(claim, e))
    return None if trend is None or rank is None else max(trend, rank)


def _writes(claim: Claim, e: Evidence, q: float | None, rule: Rule, rng: np.random.Generator) -> SideResult:
    effects = _effects(claim, e)
    effect = bootstrap_mean(effects, rng)
    mean_curve = e.log_odds.mean(axis=0)
    violation = isotonic_violation(mean_curve, claim.drive)
    rank = rank_p(effect.estimate, _control_effects(claim, e))
    low = effect.estimate if effect.low is None else effect.low
    high = effect.estimate if effect.high is None else effect.high
    checks = {
        "identity": e.identity_error <= e.noise_floor + rule.identity_slack,
        "shape": violation <= max(e.noise_floor, rule.max_violation * float(np.ptp(mean_curve))),
        "trend and rank": q is not None and q <= rule.alpha,
        "size": low >= rule.min_effect,
        "controls match": _matched(e, rule),
    }
    figures = {
        "effect": effect.estimate,
        "effect_low": effect.low,
        "effect_high": effect.high,
        "violation": violation,
        "trend_p": page_trend(e.log_odds, claim.drive),
        "rank_p": rank,
        "n_controls": float(e.control_effects.size),
        "identity_error": e.identity_error,
        "noise_floor": e.noise_floor,
        "specificity": _specificity(claim, e),
    }
    nothing = high < rule.min_effect or rank is None or rank > rule.unremarkable
    answer: Side = "yes" if all(checks.values()) else "no" if nothing else "unclear"
    return SideResult(answer, _write_p(claim, e), q, checks, figures)


def _specificity(claim: Claim, e: Evidence) -> float | None:
    """The share of unrelated tokens that the target moves less, in absolute log-odds, than its own token."""
    if e.unrelated_effects.size == 0:
        return None
    return float((np.abs(e.unrelated_effects) < abs(float(_effects(claim, e).mean()))).mean())


# --- the reading side -------------------------------------------------------------------------------


def _signed(claim: Claim, e: Evidence) -> tuple[Floats, Floats, Floats]:
    """present, absent and the controls' separations, turned so that the pole's sign means "fires"."""
    sign = -1.0 if claim.pole == "-" else 1.0
    return sign * e.present, sign * e.absent.ravel(), sign * e.control_separations


def _read_p(claim: Claim, e: Evidence) -> float | None:
    present, absent, controls = _signed(claim, e)
    rank = rank_p(float(separation(present, absent)), controls)
    return None if rank is None else max(mann_whitney_p(present, absent), rank)


def _reads(claim: Claim, e: Evidence, q: float | None, rule: Rule, rng: np.random.Generator) -> SideResult:
    present, absent, controls = _signed(claim, e)
    others = absent.reshape(e.absent.shape)  # [C, K]: each context is its own match
    by_context = (present[:, None] > others).mean(axis=1) + 0.5 * (present[:, None] == others).mean(axis=1)
    interval = bootstrap_mean(by_context, rng)
    area = interval.estimate
    gap = float(separation(present, absent))
    rank = rank_p(gap, controls)
    checks = {
        "alive": e.relative_scale >= DEAD_SCALE,
        "separates": area >= rule.min_auc,
        "test and rank": q is not None and q <= rule.alpha,
        "controls match": _matched(e, rule),
    }
    figures = {
        "auc": area,
        "auc_low": interval.low,
        "auc_high": interval.high,
        "auc_p": mann_whitney_p(present, absent),
        "separation": gap if np.isfinite(gap) else None,
        "rank_p": rank,
        "relative_scale": e.relative_scale,
    }
    nothing = not checks["alive"] or not checks["separates"] or rank is None or rank > rule.unremarkable
    answer: Side = "yes" if all(checks.values()) else "no" if nothing else "unclear"
    return SideResult(answer, _read_p(claim, e), q, checks, figures)


# --- both ------------------------------------------------------------------------------------------


def _matched(e: Evidence, rule: Rule) -> bool:
    """Whether the controls are of the target's kind, in activation scale and in column norm."""
    ratios = [r for r in (e.control_scale_ratio, e.control_norm_ratio) if r is not None]
    return all(1 / rule.max_mismatch <= r <= rule.max_mismatch for r in ratios)


def _combine(
    claim: Claim, writes: SideResult, reads: SideResult, e: Evidence, n_claims: int, rule: Rule
) -> tuple[VerdictName, str]:
    if not writes.checks["identity"]:
        return "not_measured", (
            f"clamping to the own value moved a log-probability by {e.identity_error:.2g} nats, beyond the noise "
            f"floor {e.noise_floor:.2g}: the clamp cannot be trusted on this model"
        )
    n_controls = int(e.control_effects.size)
    if n_controls == 0 or smallest_family_p(n_controls, n_claims, n_claims) > rule.alpha:
        return "inconclusive", f"underpowered: only {n_controls} live neurons of the layer can serve as controls"
    table: dict[tuple[Side, Side], tuple[VerdictName, str]] = {
        ("yes", "yes"): (
            "validated",
            "it fires where the token is, and driving it brings the token, more than controls do",
        ),
        ("no", "yes"): ("lever", "driving it brings the token, but it does not fire where the token is"),
        ("yes", "no"): ("detector", "it fires where the token is, but driving it does not bring the token"),
        ("no", "no"): ("refuted", "it neither fires where the token is nor brings it, more than its controls do"),
    }
    name, reason = table.get((reads.answer, writes.answer), ("inconclusive", "the evidence goes neither way"))
    if (name, LENSES[claim.lens].side) in (("lever", "write"), ("detector", "read")):
        reason += f", and it was by what it {LENSES[claim.lens].side}s that it was chosen: mechanics, not a finding"
    if not reads.checks["alive"]:
        reason += f" (dead: its output is {e.relative_scale:.1g} of the layer's median)"
    return name, reason


def _explain(claim: Claim, e: Evidence) -> dict[str, Any]:
    """Why the curve goes the way it goes: the gate's sign times what the neuron writes (METHOD 3)."""
    act = float(e.act_gate.mean())
    observed = float((e.log_odds[:, -1] - e.log_odds[:, 0]).mean())
    predicted = np.sign(act) * np.sign(e.z_write)
    return {
        "gate": float(e.gate.mean()),
        "act_gate": act,
        "own_value": float(e.own.mean()),
        "z_read": e.z_read,
        "z_write": e.z_write,
        "predicted_direction": "+" if predicted > 0 else "-" if predicted < 0 else "0",
        "observed_direction": "0" if abs(observed) <= e.noise_floor else "+" if observed > 0 else "-",
        "dose_low": float(e.doses[0]),
        "dose_high": float(e.doses[-1]),
        # What no gauge can change: whether the neuron writes what it reads, or its opposite.
        "reads_times_writes": {1.0: "+", -1.0: "-"}.get(float(np.sign(e.z_read * e.z_write)), "0"),
        "selected_by": LENSES[claim.lens].side,
        "control_scale_ratio": e.control_scale_ratio,
        "control_norm_ratio": e.control_norm_ratio,
    }
