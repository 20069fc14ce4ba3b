"""What is kept of removals and of exported clamps: what the passes gave, of which tables and verdicts are made."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from flashinterp.neurons import NeuronId, Site
from flashinterp.provenance.registry import record
from flashinterp.stats import rank_p
from flashinterp.studies.concept_erasure.concept_vector import ConceptVector
from flashinterp.studies.concept_erasure.measure import Floats, Measured, change
from flashinterp.studies.concept_erasure.reading_rows import RankedRow
from flashinterp.studies.concept_erasure.reverse import ErasureControls, Point, Reversal, choose, reversed_rows
from flashinterp.tokens import Token


@dataclass(frozen=True)
class _State(Measured):
    """A measured state whose logits are gone: of other text there is what has changed.

    Attributes:
        changed: [positions] KL(clean ‖ this), in nats.
    """

    changed: Floats

    def kl(self, clean: Measured) -> Floats:
        return self.changed


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

    def again(self) -> Reversal:
        """The removal, its number of edits chosen and its ranks taken again; all vectors are empty."""
        none = torch.empty(0)
        vector = ConceptVector(self.token, none, none, self.p_approximate, self.p_refined, steps=0, texts=0)
        number, reason = choose(self.selection, self.vocabulary)
        logits = torch.empty(0, self.vocabulary)
        before = _State(self.before, logits, np.zeros_like(self.kl))
        after = _State(self.after, logits, self.kl)
        moved = change(before, after)
        return Reversal(
            concept=vector,
            ranked=self.ranked,
            edits=tuple(reversed_rows(vector, self.ranked[:number])),
            selection=self.selection,
            heldout=self.heldout,
            reason=reason,
            before=before,
            after=after,
            controls=ErasureControls(self.rows, self.directions, self.rows_kl, self.directions_kl),
            p_rows=rank_p(-moved, -self.rows),
            p_directions=rank_p(-moved, -self.directions),
            folder=None,
        )


def kept(found: Reversal, approximate: NDArray[np.float32], refined: NDArray[np.float32]) -> float:
    """Cosine of a concept's refined vector with the approximate one, both [d]: how much of what was read is left."""
    return replace(found.concept, approximate=torch.tensor(approximate), refined=torch.tensor(refined)).kept


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
        step: float = 64 * torch.finfo(torch.float32).eps
        if self.site == "post":
            step += torch.finfo(getattr(torch, self.dtype)).eps
        return step * float(self.largest.max())

    @property
    def reading(self) -> str:
        """Whether the exported model is the clamped one, as far as this clamp shows it."""
        if not self.off.max() <= self.allowed:  # also where a logit is no number
            return "no"
        return "yes" if self.moved.max() > self.allowed else "the clamp moves nothing"
