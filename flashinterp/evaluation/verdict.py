"""The decision rule: from evidence to verdicts, by arithmetic alone (METHOD 4).

Nothing here runs a model. A verdict can be computed again by anyone who has the evidence's arrays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flashinterp.evaluation.claims import Claim, VerdictName
from flashinterp.evaluation.evidence import Evidence
from flashinterp.evaluation.explanation import explain
from flashinterp.evaluation.matched_controls import DEAD_SCALE, MOST_MISMATCH
from flashinterp.neurons import LENSES
from flashinterp.stats import (
    auc,
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
        min_specificity: the share of unrelated tokens that must move less than the claim's own.
        max_kl: nats a token by which text about something else may change at either end of the natural range; a
            tenth of the way to what a change of one nat in every token's likelihood would be.
        min_auc: the smallest AUC at which a neuron reads its concept.
        unremarkable: a rank among controls above this says that the target does no more than they do.
        max_mismatch: how many times louder or quieter than the controls' median a target may be; beyond
            that they are no controls of it, and no side can be a yes. Those that the suite chooses are within it.
    """

    alpha: float = 0.05
    min_effect: float = 0.1
    max_violation: float = 0.05
    identity_slack: float = 1e-5
    min_specificity: float = 0.9
    max_kl: float = 0.1
    min_auc: float = 0.75
    unremarkable: float = 0.2
    max_mismatch: float = MOST_MISMATCH


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
        about = self.claim.as_json()
        figures = {
            "writes": asdict(self.writes) if self.writes else None,
            "reads": asdict(self.reads) if self.reads else None,
            "explained": self.explained,
        }
        return {
            **{key: about[key] for key in ("id", "token", "neuron", "lens", "pole", "source", "expect")},
            "direction": about["drive"],
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
    reasons = [e if isinstance(e, str) else e.unfit() for e in evidence]
    measured = [
        (c, e)
        for c, e, reason in zip(claims, evidence, reasons, strict=True)
        if isinstance(e, Evidence) and reason is None
    ]
    write_ps = [_both(*_write_ps(c, e)) for c, e in measured]
    read_ps = [_both(*_read_ps(c, e)) for c, e in measured]
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
        verdicts.append(Verdict(claim, name, reason, writes, reads, explain(claim, found)))
    return verdicts


def _effects(claim: Claim, e: Evidence) -> Floats:
    """[P] the change of log-odds from one end of the natural range to the other, in the claimed direction."""
    sign = 1.0 if claim.drive == "+" else -1.0
    result: Floats = sign * (e.log_odds[:, -1] - e.log_odds[:, 0])
    return result


def _rank(claim: Claim, e: Evidence) -> float | None:
    """Where the target stands among its controls, in effect per unit of what is written.

    A neuron that was chosen by what it reads has a wider range than its controls where its concept is in the texts, and
    the wider range alone moves every token further, whichever way.
    """
    sign = 1.0 if claim.drive == "+" else -1.0
    target = _per_unit(_effects(claim, e).mean(), e.written)
    noise = _per_unit(e.noise_floor, e.written)
    return rank_p(float(target), _per_unit(sign * e.control_effects, e.control_written), slack=float(noise))


def _per_unit(effects: ArrayLike, written: ArrayLike) -> Floats:
    """Effects over how much is written; 0 of nothing."""
    effect, amount = np.broadcast_arrays(np.asarray(effects, dtype=np.float64), np.asarray(written, dtype=np.float64))
    result: Floats = np.divide(effect, amount, out=np.zeros(effect.shape), where=amount > 0)
    return result


def _both(*ps: float | None) -> float | None:
    """The p of tests that must all hold: the largest; None where one of them is undefined."""
    known = [p for p in ps if p is not None]
    return max(known) if len(known) == len(ps) else None


def _write_ps(claim: Claim, e: Evidence) -> tuple[float | None, float | None]:
    """The p of the trend, and of the rank among controls."""
    return page_trend(e.log_odds, claim.drive), _rank(claim, e)


def _writes(claim: Claim, e: Evidence, q: float | None, rule: Rule, rng: np.random.Generator) -> SideResult:
    effects = _effects(claim, e)
    effect = bootstrap_mean(effects, rng)
    mean_curve = e.log_odds.mean(axis=0)
    violation = isotonic_violation(mean_curve, claim.drive)
    trend, rank = _write_ps(claim, e)
    specificity, kl = _specificity(claim, e), float(e.kl.mean(axis=1).max())
    low = effect.estimate if effect.low is None else effect.low
    high = effect.estimate if effect.high is None else effect.high
    checks = {
        "identity": e.identity_error <= e.noise_floor + rule.identity_slack,
        "shape": violation <= max(e.noise_floor, rule.max_violation * float(np.ptp(mean_curve))),
        "trend and rank": q is not None and q <= rule.alpha,
        "size": low >= rule.min_effect,
        "specific": specificity >= rule.min_specificity and kl <= rule.max_kl,
        "controls match": _matched(e, rule),
    }
    figures = {
        "effect": effect.estimate,
        "effect_low": effect.low,
        "effect_high": effect.high,
        "violation": violation,
        "trend_p": trend,
        "rank_p": rank,
        "n_controls": float(e.control_effects.size),
        "identity_error": e.identity_error,
        "noise_floor": e.noise_floor,
        "specificity": specificity,
        "kl": kl,
    }
    nothing = high < rule.min_effect or rank is None or rank > rule.unremarkable
    answer: Side = "yes" if all(checks.values()) else "no" if nothing else "unclear"
    return SideResult(answer, _both(trend, rank), q, checks, figures)


def _specificity(claim: Claim, e: Evidence) -> float:
    """The share of unrelated tokens that the target moves less, in absolute log-odds, than its own token."""
    return float((np.abs(e.unrelated_effects) < abs(float(_effects(claim, e).mean()))).mean())


def _signed(claim: Claim, e: Evidence) -> tuple[Floats, Floats, Floats]:
    """present, absent and the controls' separations, turned so that the pole's sign means "fires"."""
    sign = -1.0 if claim.pole == "-" else 1.0
    return sign * e.present, sign * e.absent.ravel(), sign * e.control_separations


def _read_ps(claim: Claim, e: Evidence) -> tuple[float, float | None]:
    """The p of Mann-Whitney's test, and of the rank among controls."""
    present, absent, controls = _signed(claim, e)
    return mann_whitney_p(present, absent), rank_p(float(separation(present, absent, e.activation_scale)), controls)


def _reads(claim: Claim, e: Evidence, q: float | None, rule: Rule, rng: np.random.Generator) -> SideResult:
    present, absent, _ = _signed(claim, e)
    others = absent.reshape(e.absent.shape)  # [C, K]: each context is its own match
    by_context = np.array([auc(value, row) for value, row in zip(present, others, strict=True)])
    interval = bootstrap_mean(by_context, rng)
    area = interval.estimate
    gap = float(separation(present, absent, e.activation_scale))
    test, rank = _read_ps(claim, e)
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
        "auc_p": test,
        "separation": gap if np.isfinite(gap) else None,
        "rank_p": rank,
        "relative_scale": e.relative_scale,
        "theme_auc": _theme_auc(claim, e),
    }
    nothing = not checks["alive"] or not checks["separates"] or rank is None or rank > rule.unremarkable
    answer: Side = "yes" if all(checks.values()) else "no" if nothing else "unclear"
    return SideResult(answer, _both(test, rank), q, checks, figures)


def _theme_auc(claim: Claim, e: Evidence) -> float | None:
    """The chance that the output is higher where a word of the concept's group may come than elsewhere."""
    sign = -1.0 if claim.pole == "-" else 1.0
    return auc(sign * e.theme, sign * e.other_themes) if e.theme.size and e.other_themes.size else None


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
    ends = [writes.figures[name] for name in ("effect", "effect_low", "effect_high")]
    moves = max(abs(end) for end in ends if end is not None)
    if not reads.checks["alive"] and moves < rule.min_effect:  # which needs no controls
        return "refuted", f"dead: its output is {e.relative_scale:.1g} of the layer's median, and it moves nothing"
    n_controls = int(e.control_effects.size)
    if n_controls == 0 or smallest_family_p(1 / (n_controls + 1), n_claims, n_claims) > rule.alpha:
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
    return name, reason
