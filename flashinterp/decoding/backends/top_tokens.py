"""What every backend returns: the best tokens of each row on each pole, and the buffers that it reuses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from flashinterp.decoding.backends.score import SCORE_TOKENS
from flashinterp.errors import CheckpointError

Poles = Literal["both", "+"]
"""Which poles are decoded: w and -w, or w alone."""


@dataclass(frozen=True)
class Proof:
    """Whether a faster way may be taken here, as what was tried on this machine shows, and why."""

    holds: bool
    reason: str


@dataclass(frozen=True)
class Pole:
    """The best tokens of n rows, best first, ties to the lower id.

    Attributes:
        ids: [n, k] int32.
        logits: [n, k] float32; for the negative pole these are the logits of -w.
        logsumexp: [n] float32, over all V.
        log_mean_top: [n] float32, logmeanexp of the 100 highest logits (of all V where V < 100).
    """

    ids: Tensor
    logits: Tensor
    logsumexp: Tensor
    log_mean_top: Tensor

    @classmethod
    def of(cls, ids: Tensor, logits: Tensor, logsumexp: Tensor, *, top_k: int, vocab: int) -> Pole:
        """From the best max(top_k, 100) of each row, of which top_k are kept."""
        count = min(SCORE_TOKENS, vocab)
        log_mean_top = logits[:, :count].logsumexp(1) - math.log(count)
        return cls(ids[:, :top_k].int(), logits[:, :top_k].clone(), logsumexp, log_mean_top).checked()

    def checked(self) -> Pole:
        """This pole, if it is finite in float32, in which a map keeps it.

        Raises:
            CheckpointError: it is not.
        """
        if not bool(torch.isfinite(self.logits.float()).all() & torch.isfinite(self.logsumexp.float()).all()):
            raise CheckpointError("a logit is beyond float32: the weights are damaged or not scaled; fetch them again")
        return self

    def clone(self) -> Pole:
        """A copy that shares nothing."""
        return Pole(*(getattr(self, f).clone() for f in Pole.__dataclass_fields__))

    @staticmethod
    def join(parts: Sequence[Pole]) -> Pole:
        """One pole of all rows, from chunks of them."""
        return Pole(*(torch.cat([getattr(p, f) for p in parts]) for f in Pole.__dataclass_fields__))


class Scratch:
    """The large buffer of a decode, kept from call to call: to touch 260 MB for the first time is not free."""

    def __init__(self) -> None:
        self._kept: Tensor | None = None

    def take(self, n: int, width: int, like: Tensor) -> Tensor:
        """An uninitialised [n, width] of like's dtype, on its device; what was taken before is overwritten."""
        kept = self._kept
        if kept is None or kept.numel() < n * width or kept.dtype != like.dtype or kept.device != like.device:
            self._kept = None  # before another is made
            self._kept = kept = like.new_empty(n * width)
        return kept[: n * width].view(n, width)
