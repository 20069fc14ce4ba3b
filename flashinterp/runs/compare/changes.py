"""What two compared runs differ in: the fate of each claim's role, and the sentence that says it (METHOD 5)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from flashinterp._util.text import clip, safe_text
from flashinterp.runs.compare.conditions import Condition
from flashinterp.runs.compare.words import LabelDiff, WordChange
from flashinterp.stats import Equivalence, Interval

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
