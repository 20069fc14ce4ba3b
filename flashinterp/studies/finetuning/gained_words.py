"""Which words found a neuron through fine-tuning, and which lost theirs (METHOD 5): by the weights alone."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from flashinterp.decoding.neuron_map import NeuronMap
from flashinterp.neurons import POLES, NeuronId, Pole
from flashinterp.studies.finetuning.compare import check_comparable
from flashinterp.tokens import Token

GAIN = 1.5
"""A word is gained where its best score is more than this many times the best in the base.

Measured: noise of 20 % of each weight matrix's deviation, which changes 40 % of the labels of a 260K-parameter Llama,
raises no word by more than 1.32; a planted neuron raises its word by 3.8; where a quarter of all rows is drawn anew,
some 1 % of the words gain 1.43 and more.
"""
_NAMED_AMONG = 10  # a neuron names the words that it ranks so high


class Gained(NamedTuple):
    """A word that the fine-tune names far better than the base: by which neuron, and how well.

    Attributes:
        score: of that neuron in the fine-tune.
        before: the best score of any neuron in the base, or the bound below which the map does not list it.
        own_before: that neuron's top word in the base, on that pole.
    """

    token: Token
    neuron: NeuronId
    pole: Pole
    score: float
    before: float
    own_before: Token | None

    @property
    def factor(self) -> float:
        """How many times better than any neuron of the base."""
        return self.score / self.before if self.before > 0 else float("inf")


def gained(map_a: NeuronMap, map_b: NeuronMap, *, factor: float = GAIN) -> list[Gained]:
    """The words that have a neuron in the second model and had none nearly as good in the first, clearest first.

    A word is gained where some neuron has it among its 10 best, on either pole, with a score more than ``factor`` times
    the best of any neuron in the first model. ``gained(map_b, map_a)`` are the words that lost theirs; what a
    fine-tune reshuffles by chance shows in both. That a neuron also brings the word is for a clamp to show.

    Raises:
        NotComparable: as `flashinterp.compare`.
    """
    check_comparable(map_a, map_b)
    listed, _ = _best_scores(map_a, map_a.top_ids.shape[1])
    before = np.maximum(listed, _unlisted_bound(map_a))
    after, places = _best_scores(map_b, _NAMED_AMONG)
    excluded = map_a.vocabulary.excluded | map_b.vocabulary.excluded
    found = []
    for token_id in np.flatnonzero((after > np.log(factor) + before) & ~excluded):
        at, pole = int(places[token_id]) // len(POLES), POLES[int(places[token_id]) % len(POLES)]
        own = map_a.words(map_a.neuron(at), 1, pole)
        found.append(
            Gained(
                token=map_b.vocabulary.resolve(int(token_id)),
                neuron=map_b.neuron(at),
                pole=pole,
                score=float(np.exp(after[token_id])),
                before=float(np.exp(before[token_id])),
                own_before=own[0].token if own else None,
            )
        )
    return sorted(found, key=lambda g: (-g.factor, g.token.id))


def _best_scores(m: NeuronMap, among: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """[V] each token's best log score at any neuron that ranks it so high, and where, as row · 2 + pole.

    -inf where none does; of equals the lower neuron, then the positive pole.
    """
    best, where = np.full(len(m.vocabulary), -np.inf), np.full(len(m.vocabulary), -1)
    sides = []
    for pole in POLES:
        ids, logits, _, mean = m.pole_arrays(pole)
        logs = logits[:, :among].astype(np.float64) - mean[:, None]
        np.maximum.at(best, ids[:, :among], logs)
        sides.append((ids[:, :among], logs))
    for side, (ids, logs) in reversed(list(enumerate(sides))):
        rows, places = np.nonzero(logs == best[ids])
        chosen = ids[rows, places]
        earlier = np.full(len(where), np.iinfo(np.int64).max)
        np.minimum.at(earlier, chosen, rows * len(POLES) + side)
        where = np.where(earlier < np.where(where < 0, np.iinfo(np.int64).max, where), earlier, where)
    return best, where


def _unlisted_bound(m: NeuronMap) -> float:
    """The best log score that a token can have at a neuron that does not list it; -inf where all are listed."""
    if m.top_ids.shape[1] == len(m.vocabulary):
        return -np.inf
    ends = [(logits[:, -1].astype(np.float64) - mean).max() for _, logits, _, mean in map(m.pole_arrays, POLES)]
    return float(max(ends))
