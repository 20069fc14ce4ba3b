"""Which neuron names a word: every neuron's contrast for it, layer by layer, without decoding the model (METHOD 2)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flashinterp.decoding.contrast import Null, Sign, Sought, WordRows, contrast_of, on_pole, search_p
from flashinterp.decoding.head_statistics import head_statistics
from flashinterp.decoding.lens_rows import lens_rows
from flashinterp.decoding.plan import make_plan
from flashinterp.errors import NeuronError
from flashinterp.models.checkpoint import Checkpoint, open_checkpoint
from flashinterp.neurons import POLES, Lens, NeuronId, Pole
from flashinterp.stats import false_discovery
from flashinterp.tokens import Token

ALL = "all"
"""Stands for every lens that a model has."""

_WORDS = 10  # of a neuron, that are shown
_ROWS = 8192  # of the head at a time
_AT_ONCE = 64  # neurons whose words are looked up together


@dataclass(frozen=True)
class Match:
    """One answer: a neuron that names a word.

    Attributes:
        word: the token that is named, or ``mean of`` the tokens of a name of several.
        ids: of these tokens.
        neuron: which.
        lens: through which its vector meets the head.
        pole: "+" for w, "-" for -w.
        z: how many of its own standard deviations the word's logit is above the neuron's mean over the vocabulary, on
            this pole.
        contrast: z over its root mean square across the neurons of the layer.
        p: how often the best of ``searched`` neurons would have such a contrast, if none were special to the word.
        q: for the best neuron of each word, Benjamini-Hochberg's over all words that were asked for; None for others.
        rank: the word's place among the neuron's words on this pole, from 1; of several tokens, of their mean logit.
        words: the neuron's first words on this pole.
        searched: how many neurons were looked at.
    """

    word: str
    ids: tuple[int, ...]
    neuron: NeuronId
    lens: str
    pole: Pole
    z: float
    contrast: float
    p: float
    q: float | None
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
    null: Null | None = None,
    device: str = "auto",
    cache: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> list[Match]:
    """The n neurons of a model that name a word best, by their contrast, best first; see `find_each`.

    With ``lens="all"`` there are n for each lens, and the best of all lenses comes first.
    """
    (found,) = find_each(
        checkpoint, [token], lens=lens, n=n, pole=pole, null=null, device=device, cache=cache, progress=progress
    )
    return found


def find_each(
    checkpoint: Any,
    tokens: Sequence[str | int | Token],
    *,
    lens: str = "paper",
    n: int = 10,
    pole: Sign = "both",
    null: Null | None = None,
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
        tokens: the words. Of a name of several tokens the mean of their directions is looked for, then each of them.
        lens: the name of a lens, or ``all`` for every one that the model has.
        n: neurons for each word and lens.
        pole: which sign of the vectors.
        null: neurons drawn at random, against which p is counted; by default the contrasts of neurons that are not
            special to a word are taken for normal.
        device: ``auto`` takes a CUDA GPU where there is one.
        cache: whether the head's statistics are kept in the user's cache folder.
        progress: called with (layers done, layers in all), over all lenses.

    Raises:
        TokenError: a word is no token of this vocabulary, and has no pieces that are.
        CheckpointError, LayoutError, NeuronError: as `decode`.
    """
    if n < 1:
        raise NeuronError(f"n = {n} neurons cannot be found: ask for at least 1")
    source = open_checkpoint(checkpoint)
    parts = [Sought.of(source.vocabulary, token) for token in tokens]
    wanted = [part for several in parts for part in several]
    lenses = [one.name for one in source.layout.lenses] if lens == ALL else [lens]
    plans = [make_plan(source, lens=name, top_k=1, device=device) for name in lenses]
    on = plans[0].device
    if not wanted:
        return []
    statistics = head_statistics(source, device=on, cache=cache)
    head = WordRows.of(source, statistics, wanted, on)
    roster = source.layout.roster
    found: list[list[Match]] = [[] for _ in wanted]
    for at, plan in enumerate(plans):
        step = _steps(progress, at * len(roster.layers), len(plans) * len(roster.layers))
        best = _search(source, plan.lens, head, n, pole, step)
        drawn = null.draw(source, plan, head, pole) if null else None
        for mine, more in zip(found, _matches(source, plan.lens, wanted, head, best, drawn, pole), strict=True):
            mine += more
    each = iter(sorted(mine, key=lambda m: (m.p, -m.contrast)) for mine in found)
    return [[match for _ in several for match in next(each)] for several in parts]


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
    head: WordRows,
    n: int,
    pole: Sign,
    step: Callable[[int], None],
) -> list[list[_Candidate]]:
    """For each word the n neurons of the largest contrast on the pole."""
    roster = source.layout.roster
    best: list[list[_Candidate]] = [[] for _ in head.ids]
    turn: Callable[[float], float] = abs if pole == "both" else (lambda c: c) if pole == "+" else (lambda c: -c)
    for done, layer in enumerate(roster.layers, 1):
        mine = roster.of_layers([layer])
        blocks = [lens_rows(source, lens, block).to(head.factor.device) for block in mine.blocks]
        z = torch.cat([head.z(rows) for rows in blocks])
        contrast = contrast_of(z)
        top = on_pole(contrast, pole).topk(min(n, len(z)), dim=0).indices.cpu().numpy()  # [n, T]
        for t, chosen in enumerate(top.T):
            new = [
                _Candidate(mine.neuron(i), float(z[i, t]), float(contrast[i, t]), _row(blocks, i))
                for i in map(int, chosen)
            ]
            # Stable: of equal ones the lower neuron comes first.
            best[t] = sorted(best[t] + new, key=lambda c: -turn(c.contrast))[:n]
        step(done)
    return best


def _row(blocks: Sequence[Tensor], i: int) -> Tensor:
    """The i-th vector of a layer's blocks [F, d], one after the other."""
    for rows in blocks:
        if i < len(rows):
            return rows[i].clone()  # the layer itself is let go
        i -= len(rows)
    raise IndexError(i)


def _p(contrast: float, searched: int, pole: Sign, drawn: NDArray[np.float32] | None) -> float:
    """The family-wise p of one neuron's contrast, from a normal or from what was drawn [draws]."""
    own = abs(contrast) if pole == "both" else contrast if pole == "+" else -contrast
    if drawn is None:
        return search_p(own, searched, len(POLES) if pole == "both" else 1)
    return float((1 + np.count_nonzero(drawn >= own)) / (1 + len(drawn)))


def _matches(
    source: Checkpoint,
    lens: Lens,
    wanted: Sequence[Sought],
    head: WordRows,
    best: Sequence[Sequence[_Candidate]],
    drawn: NDArray[np.float32] | None,
    pole: Sign,
) -> list[list[Match]]:
    """For each word its candidates, with their p and with what else they say."""
    searched = len(source.layout.roster)
    p = [
        [_p(c.contrast, searched, pole, None if drawn is None else drawn[:, t]) for c in candidates]
        for t, candidates in enumerate(best)
    ]
    q = false_discovery([own[0] for own in p])
    spoken = _spoken(source, head, best)
    found: list[list[Match]] = [[] for _ in best]
    for t, candidates in enumerate(best):
        for place, one in enumerate(candidates):
            side: Pole = pole if pole != "both" else "+" if one.contrast >= 0 else "-"
            sign, (rank, words) = 1 if side == "+" else -1, spoken[t][place][side]
            value, contrast, first = sign * one.z, sign * one.contrast, q[t] if place == 0 else None
            found[t].append(
                Match(
                    *wanted[t], one.neuron, lens.name, side, value, contrast, p[t][place], first, rank, words, searched
                )
            )
    return found


Spoken = dict[Pole, tuple[int, tuple[str, ...]]]
"""By pole: a word's rank among a neuron's words, and the first of these."""


def _spoken(source: Checkpoint, head: WordRows, best: Sequence[Sequence[_Candidate]]) -> list[list[Spoken]]:
    """What each candidate says, for each word. A neuron that several words have in common is decoded once."""
    vocabulary = source.vocabulary
    excluded = torch.from_numpy(vocabulary.excluded)
    n_words = min(_WORDS, int((~excluded).sum()))
    users: dict[NeuronId, list[tuple[int, int]]] = defaultdict(list)
    for t, candidates in enumerate(best):
        for place, one in enumerate(candidates):
            users[one.neuron].append((t, place))
    found: list[list[Spoken]] = [[{} for _ in candidates] for candidates in best]
    every = list(users.items())
    for first in range(0, len(every), _AT_ONCE):
        some = every[first : first + _AT_ONCE]
        vectors = torch.stack([best[t][place].vector for _, ((t, place), *_) in some])
        for (_, own), z in zip(some, _logits(head.rows, vectors), strict=True):
            for pole in POLES:
                signed = (z if pole == "+" else -z).masked_fill(excluded, -torch.inf)
                words = tuple(vocabulary.surfaces[i] for i in signed.topk(n_words).indices.tolist())
                for t, place in own:
                    found[t][place][pole] = 1 + int((signed > signed[list(head.ids[t])].mean()).sum()), words
    return found


def _logits(head: Tensor, vectors: Tensor) -> Tensor:
    """[m, V] float32 of some vectors [m, d], without a float32 copy of the whole head."""
    own = vectors.to(head.device)
    return torch.cat([own @ part.float().T for part in head.split(_ROWS)], dim=1).cpu()


def _steps(progress: Callable[[int, int], None] | None, before: int, total: int) -> Callable[[int], None]:
    return (lambda done: progress(before + done, total)) if progress else (lambda done: None)
