"""Builds the inverted index of a map. Apart from `token_index`, which reads one, since sorting needs torch."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from flashinterp.decoding.backends.topk import ordered_bits
from flashinterp.decoding.token_index import BOUND_ROWS, DEPTH, PoleIndex

_CHUNK = 1 << 22  # places compared with the floors at a time: 50 MB of temporaries
_SETS = 127  # of neurons, for the floors: prime, so that no period in a model's shape puts the best into few of them


def build_index(ids: NDArray[np.int32], log_scores: NDArray[np.float32], vocab: int) -> PoleIndex:
    """Index token ids [N, k] by their log scores [N, k].

    Only the places that reach their token's floor are sorted: 5 of 46 million for the shapes of Llama 3.1 8B.
    """
    flat_ids, flat_scores = ids.reshape(-1), log_scores.reshape(-1)
    floors = _floors(ids, log_scores, vocab)
    best = np.empty(0, dtype=np.int64)  # places that may still be among a token's best
    for start in range(0, flat_ids.size, _CHUNK):
        chunk = slice(start, start + _CHUNK)
        reaching = np.flatnonzero(flat_scores[chunk] >= floors[flat_ids[chunk]])
        best = np.concatenate([best, reaching + start])
        if len(best) > DEPTH * vocab + _CHUNK:  # many equal scores, as dead neurons give: keep memory bounded
            best, ranks = _best_of_each(best, flat_ids, flat_scores)
            last = best[ranks == DEPTH - 1]
            # Of equal scores the earlier place wins: what comes must be higher than what fills the list.
            floors[flat_ids[last]] = np.nextafter(flat_scores[last], np.float32(np.inf))
    best, ranks = _best_of_each(best, flat_ids, flat_scores)
    index = np.full((vocab, DEPTH), -1, dtype=np.int32)
    index[flat_ids[best], ranks] = best
    return PoleIndex(index, np.argsort(-log_scores[:, -1], kind="stable")[:BOUND_ROWS].astype(np.int32))


def _floors(ids: NDArray[np.int32], log_scores: NDArray[np.float32], vocab: int) -> NDArray[np.float32]:
    """A score per token, [V], that at least its best `DEPTH` places reach; -inf where it has fewer, or may have.

    The neurons are dealt out into 127 sets. A token's maxima in 32 sets are 32 places, so that none of its best 32 is
    below the least of them; the 32 largest maxima give the highest such floor, and few other places reach it.
    """
    maxima = np.full((_SETS, vocab), -np.inf, dtype=np.float32)
    for first, row in enumerate(maxima):
        np.maximum.at(row, ids[first::_SETS].reshape(-1), log_scores[first::_SETS].reshape(-1))
    floors: NDArray[np.float32] = np.partition(maxima, _SETS - DEPTH, axis=0)[_SETS - DEPTH].copy()
    return floors


def _best_of_each(
    places: NDArray[np.int64], ids: NDArray[np.int32], scores: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The best `DEPTH` of some places for each token, by token, and the rank of each.

    Of equal scores, the earlier in ``places`` is the better.
    """
    # One int64 key: the token above, the score's order turned round below, so that higher scores come first.
    keys = (torch.from_numpy(ids[places]).long() << 32) - ordered_bits(torch.from_numpy(scores[places]))
    places = places[keys.sort(stable=True).indices.numpy()]
    tokens = ids[places]
    kept = np.ones(len(places), dtype=bool)
    kept[DEPTH:] = tokens[DEPTH:] != tokens[:-DEPTH]  # else 32 better ones of the same token stand before it
    places, tokens = places[kept], tokens[kept]
    return places, np.arange(len(places)) - np.searchsorted(tokens, tokens)
