"""Which neuron names a word: every neuron's contrast for it, layer by layer, without decoding the model (METHOD 2)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import erfc, expm1, log1p, sqrt
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from flashinterp.decoding.head_statistics import HeadStatistics, head_statistics
from flashinterp.decoding.lens_rows import lens_rows
from flashinterp.decoding.plan import make_plan
from flashinterp.errors import NeuronError
from flashinterp.models.checkpoint import Checkpoint, open_checkpoint
from flashinterp.neuron_index import NeuronIndex
from flashinterp.neurons import POLES, Lens, NeuronId, Pole
from flashinterp.tokens import Token

ALL = "all"
"""Stands for every lens that a model has."""
Sign = Pole | Literal["both"]

_WORDS = 10  # of a neuron, that are shown
_ROWS = 8192  # of the head at a time


@dataclass(frozen=True)
class Match:
    """One answer: a neuron that names a word.

    Attributes:
        neuron: which.
        lens: through which its vector meets the head.
        pole: "+" for w, "-" for -w.
        z: how many of its own standard deviations the word's logit is above the neuron's mean over the vocabulary, on
            this pole.
        contrast: z over its root mean square across the neurons of the layer.
        p: how often the best of ``searched`` neurons would have such a contrast, if none were special to the word.
        rank: the word's place among the neuron's words on this pole, from 1.
        words: the neuron's first words on this pole.
        searched: how many neurons were looked at.
    """

    neuron: NeuronId
    lens: str
    pole: Pole
    z: float
    contrast: float
    p: float
    rank: int
    words: tuple[str, ...]
    searched: int


def find(
    checkpoint: Any,
    token: str | int | Token,
    *,
    lens: str = "paper",
    n: int = 10,
    pole: Sign = "both",
    device: str = "auto",
    cache: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> list[Match]:
    """The n neurons of a model that name a word best, by their contrast, best first; see `find_each`.

    With ``lens="all"`` there are n for each lens, and the best of all lenses comes first.
    """
    (found,) = find_each(checkpoint, [token], lens=lens, n=n, pole=pole, device=device, cache=cache, progress=progress)
    return found


def find_each(
    checkpoint: Any,
    tokens: Sequence[str | int | Token],
    *,
    lens: str = "paper",
    n: int = 10,
    pole: Sign = "both",
    device: str = "auto",
    cache: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> list[list[Match]]:
    """For several words, the neurons that name each best. The model is read once, layer by layer.

    z_n(t) = w_n · (U_t − μ) / √(w_nᵀ C w_n), with μ and C the mean and the covariance of the head's rows over the real
    tokens. It does not change when a row is rescaled. The contrast is z over its root mean square across the layer's
    neurons, since some tokens have longer rows than others. A model's soft-cap keeps the order of logits, and its
    bias is the same for all neurons: neither is in z.

    Args:
        checkpoint: a `Checkpoint`, or whatever `open_checkpoint` takes.
        tokens: the words, each one token.
        lens: the name of a lens, or ``all`` for every one that the model has.
        n: neurons for each word and lens.
        pole: which sign of the vectors.
        device: ``auto`` takes a CUDA GPU where there is one.
        cache: whether the head's statistics are kept in the user's cache folder.
        progress: called with (layers done, layers in all), over all lenses.

    Raises:
        TokenError: a word is not one token of this vocabulary.
        CheckpointError, LayoutError, NeuronError: as `decode`.
    """
    if n < 1:
        raise NeuronError(f"n = {n} neurons cannot be found: ask for at least 1")
    source = open_checkpoint(checkpoint)
    wanted = [source.vocabulary.resolve(token) for token in tokens]
    lenses = [one.name for one in source.layout.lenses] if lens == ALL else [lens]
    plans = [make_plan(source, lens=name, top_k=1, device=device) for name in lenses]
    on = plans[0].device
    if not wanted:
        return []
    statistics = head_statistics(source, device=on, cache=cache)
    head = _Head.of(source, statistics, wanted, on)
    roster = source.layout.roster
    found: list[list[Match]] = [[] for _ in wanted]
    for at, plan in enumerate(plans):
        step = _steps(progress, at * len(roster.layers), len(plans) * len(roster.layers))
        best = _search(source, plan.lens, head, n, pole, step)
        for mine, token_id, candidates in zip(found, head.ids, best, strict=True):
            mine += _matches(source, head, token_id, plan.lens, candidates, pole)
    return [sorted(mine, key=lambda m: (m.p, -m.contrast)) for mine in found]


def search_p(contrast: float, searched: int, poles: int = 2) -> float:
    """How often the largest contrast of so many neurons is at least this one, if each is drawn from a normal.

    Args:
        contrast: the contrast, on the pole where it is positive.
        searched: how many neurons.
        poles: 2 where either sign would have counted, else 1.
    """
    one = poles * 0.5 * erfc(contrast / sqrt(2))
    return 1.0 if one >= 1 else -expm1(searched * log1p(-one))


@dataclass(frozen=True)
class _Head:
    """What the search needs of the head, on the device.

    Attributes:
        directions: [T, d] U_t − μ of the wanted words.
        factor: [d, d] of the covariance.
        ids: of the wanted words.
        rows: [V, d] the head as it is stored.
    """

    directions: Tensor
    factor: Tensor
    ids: tuple[int, ...]
    rows: Tensor

    @classmethod
    def of(cls, source: Checkpoint, statistics: HeadStatistics, wanted: Sequence[Token], device: str) -> _Head:
        ids = tuple(token.id for token in wanted)
        rows = source.head()
        centred = rows[list(ids)].double() - torch.from_numpy(np.array(statistics.mean))
        factor = torch.from_numpy(np.array(statistics.factor))
        return cls(centred.to(device, torch.float32), factor.to(device, torch.float32), ids, rows)

    def z(self, rows: Tensor) -> Tensor:
        """[F, T] of vectors [F, d]; 0 for a vector whose logits are all the same."""
        spread = torch.linalg.vector_norm(rows @ self.factor, dim=1, keepdim=True)
        return torch.where(spread > 0, (rows @ self.directions.T) / spread, 0.0)


@dataclass(frozen=True)
class _Candidate:
    """A neuron that is among the best so far."""

    neuron: NeuronId
    z: float
    contrast: float
    vector: Tensor


def _search(
    source: Checkpoint,
    lens: Lens,
    head: _Head,
    n: int,
    pole: Sign,
    step: Callable[[int], None],
) -> list[list[_Candidate]]:
    """For each word the n neurons of the largest contrast on the pole."""
    roster = source.layout.roster
    best: list[list[_Candidate]] = [[] for _ in head.ids]
    for done, layer in enumerate(roster.layers, 1):
        mine = roster.of_layers([layer])
        blocks = [lens_rows(source, lens, block).to(head.factor.device) for block in mine.blocks]
        z = torch.cat([head.z(rows) for rows in blocks])
        # About zero, because the sign of a gated neuron is arbitrary: turning one round must change its own sign only.
        deviation = z.double().square().mean(dim=0).sqrt().float()
        contrast = torch.where(deviation > 0, z / deviation, 0.0)
        signed = contrast.abs() if pole == "both" else contrast if pole == "+" else -contrast
        top = signed.topk(min(n, len(z)), dim=0).indices.cpu().numpy()  # [n, T]
        rows = _Rows(blocks, mine)
        for t, chosen in enumerate(top.T):
            new = [_Candidate(mine.neuron(int(i)), float(z[i, t]), float(contrast[i, t]), rows[int(i)]) for i in chosen]
            # Stable: of equal ones the lower neuron comes first.
            best[t] = sorted(best[t] + new, key=lambda c: -_signed(c.contrast, pole))[:n]
        step(done)
    return best


@dataclass(frozen=True)
class _Rows:
    """The vectors of a layer, block by block."""

    blocks: Sequence[Tensor]
    roster: NeuronIndex

    def __getitem__(self, i: int) -> Tensor:
        for rows in self.blocks:
            if i < len(rows):
                return rows[i].clone()
            i -= len(rows)
        raise IndexError(i)


def _signed(contrast: float, pole: Sign) -> float:
    return abs(contrast) if pole == "both" else contrast if pole == "+" else -contrast


def _matches(
    source: Checkpoint, head: _Head, token: int, lens: Lens, candidates: Sequence[_Candidate], pole: Sign
) -> list[Match]:
    """The candidates for one word, each with its own words, and with the word's rank among these."""
    vocabulary, searched = source.vocabulary, len(source.layout.roster)
    real = torch.from_numpy(~vocabulary.excluded)
    found = []
    for one in candidates:
        side: Pole = pole if pole != "both" else "+" if one.contrast >= 0 else "-"
        sign = 1 if side == "+" else -1
        logits = (sign * _products(head.rows, one.vector)).masked_fill(~real, -torch.inf)
        first = logits.topk(min(_WORDS, int(real.sum()))).indices.tolist()
        found.append(
            Match(
                neuron=one.neuron,
                lens=lens.name,
                pole=side,
                z=sign * one.z,
                contrast=sign * one.contrast,
                p=search_p(sign * one.contrast, searched, len(POLES) if pole == "both" else 1),
                rank=1 + int((logits > logits[token]).sum()),
                words=tuple(vocabulary.surfaces[i] for i in first),
                searched=searched,
            )
        )
    return found


def _products(head: Tensor, vector: Tensor) -> Tensor:
    """[V] float32 logits of one vector, without a float32 copy of the whole head."""
    own = vector.to(head.device)
    return torch.cat([part.float() @ own for part in head.split(_ROWS)]).cpu()


def _steps(progress: Callable[[int, int], None] | None, before: int, total: int) -> Callable[[int], None]:
    return (lambda done: progress(before + done, total)) if progress else (lambda done: None)
