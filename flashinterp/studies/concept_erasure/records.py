"""What is kept of removals and of exported clamps: what the passes gave, of which tables and verdicts are made."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from flashinterp.neurons import NeuronId, Site
from flashinterp.provenance.registry import record
from flashinterp.stats import rank_p
from flashinterp.studies.concept_erasure.removal import Floats, Point, RankedRow, Verdict, change, choose, verdict
from flashinterp.tokens import Token

if TYPE_CHECKING:
    from flashinterp.studies.concept_erasure.reverse import Reversal

_STEPS = {"float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}
"""From 1 to the next number of a dtype."""


@record("concept_erasure.removed_concept", version=1)
@dataclass(frozen=True)
class Removed:
    """A concept taken out, without weights and logits.

    Attributes:
        token: the concept.
        p_approximate, p_refined: its probability when its vector, before and after the search, goes through the head.
        ranked: the nearest rows of the model, nearest first.
        selection, heldout: what each number of edits does on either part of the texts; the first is none.
        before, after: by direction, [texts] log-probabilities of the concept on held-out texts, without and with the
            edits.
        kl: [positions] what the edits change of held-out text about something else, in nats.
        vocabulary: V.
        rows, directions: [draws] change of the log of the concept's mean probability by control edits, in nats.
        rows_kl, directions_kl: [draws] each draw's median KL on text about something else.
    """

    token: Token
    p_approximate: float
    p_refined: float
    ranked: tuple[RankedRow, ...]
    selection: tuple[Point, ...]
    heldout: tuple[Point, ...]
    before: dict[str, Floats]
    after: dict[str, Floats]
    kl: Floats
    vocabulary: int
    rows: Floats
    directions: Floats
    rows_kl: Floats
    directions_kl: Floats

    @classmethod
    def of(cls, found: Reversal) -> Removed:
        """What was measured for a removal whose number of edits was chosen on selection texts."""
        return cls(
            token=found.concept.token,
            p_approximate=found.concept.p_approximate,
            p_refined=found.concept.p_refined,
            ranked=found.ranked,
            selection=found.selection,
            heldout=found.heldout,
            before=found.before.log_probs,
            after=found.after.log_probs,
            kl=found.kl,
            vocabulary=found.before.other.shape[-1],
            **vars(found.controls),
        )

    @cached_property
    def _chosen(self) -> tuple[int, str]:
        return choose(self.selection, self.vocabulary)

    @property
    def edits(self) -> int:
        """The number of edits that the selection texts choose."""
        return self._chosen[0]

    @property
    def reason(self) -> str:
        """By which rule, in words."""
        return self._chosen[1]

    @property
    def change(self) -> float:
        """By how many nats the log of the concept's mean probability on held-out texts changes."""
        return change(self.before, self.after)

    @property
    def p_rows(self) -> float | None:
        """The change's rank among the controls on other rows."""
        return rank_p(-self.change, -self.rows)

    @property
    def p_directions(self) -> float | None:
        """The change's rank among the controls in random directions."""
        return rank_p(-self.change, -self.directions)

    @property
    def verdict(self) -> Verdict:
        """What the held-out texts say."""
        return verdict(self.before, self.after, self.kl, self.vocabulary, self.p_rows)


@record("concept_erasure.exported_clamp", version=1)
@dataclass(frozen=True)
class ClampKept:
    """An exported clamp beside the same clamp by hooks.

    Attributes:
        site: where the neurons are fixed.
        neurons: which.
        switch: the setting that gives the copy its biases; None where the model had them.
        dtype: of the stored weights.
        moved: [texts] largest change of any logit at any position by the clamp.
        off: [texts] largest difference of any logit between the exported model and the clamped one.
        largest: [texts] the largest logit, by its absolute value.
    """

    site: Site
    neurons: tuple[NeuronId, ...]
    switch: str | None
    dtype: str
    moved: NDArray[np.float64]
    off: NDArray[np.float64]
    largest: NDArray[np.float64]

    @property
    def allowed(self) -> float:
        """The difference that rounding makes."""
        step = 64 * _STEPS["float32"]
        if self.site == "post":
            step += _STEPS[self.dtype]
        return step * float(self.largest.max())

    @property
    def reading(self) -> str:
        """Whether the exported model is the clamped one, as far as this clamp shows it."""
        if not self.off.max() <= self.allowed:  # also where a logit is no number
            return "no"
        return "yes" if self.moved.max() > self.allowed else "the clamp moves nothing"
