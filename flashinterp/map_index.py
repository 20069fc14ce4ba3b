"""The inverted index of a map: from a token to the neurons that score it highest, without a scan.

A map lists each neuron's tokens; the question is mostly the other way round. Per pole and token the index
keeps the places of the best neurons, best first, which answers every `find` that asks for no more of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from flashinterp.topk import ordered_bits

DEPTH = 32
"""Neurons kept per pole and token: 33 MB for a vocabulary of 128,256, and more than a person reads."""

BOUND_ROWS = 256
"""Neurons kept by the size of their bound: the first that does not list a token bounds all that do not."""

_CHUNK = 1 << 24  # places sorted at a time while building: 0.5 GB of keys and their order


@dataclass(frozen=True)
class PoleIndex:
    """One pole's index.

    Attributes:
        places: [V, 32] int32, flat positions in ids [N, k], best score first, ties to the lower neuron; -1
            beyond the last.
        bound_rows: [256] int32, the neurons with the highest score of their k-th token, highest first.
    """

    places: NDArray[np.int32]
    bound_rows: NDArray[np.int32]

    @classmethod
    def build(cls, ids: NDArray[np.int32], log_scores: NDArray[np.float32], vocab: int) -> PoleIndex:
        """Index token ids [N, k] by their log scores [N, k]."""
        flat_ids, flat_scores = ids.reshape(-1), log_scores.reshape(-1)
        best = np.empty(0, dtype=np.int64)  # places that may still be among a token's best
        ranks = best
        for start in range(0, flat_ids.size, _CHUNK):
            places = np.concatenate([best, np.arange(start, min(start + _CHUNK, flat_ids.size))])
            best, ranks = _best_of_each(places, flat_ids[places], flat_scores[places])
        index = np.full((vocab, DEPTH), -1, dtype=np.int32)
        index[flat_ids[best], ranks] = best
        return cls(index, np.argsort(-log_scores[:, -1], kind="stable")[:BOUND_ROWS].astype(np.int32))


def _best_of_each(
    places: NDArray[np.int64], tokens: NDArray[np.int32], scores: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The best `DEPTH` places of each token, and the rank of each; of equal scores, the earlier in ``places``."""
    # One int64 key: the token above, the score's order turned round below, so that higher scores come first.
    keys = (torch.from_numpy(tokens).long() << 32) - ordered_bits(torch.from_numpy(scores))
    sort = keys.sort(stable=True).indices.numpy()
    in_order = tokens[sort]
    ranks = np.arange(len(sort)) - np.searchsorted(in_order, in_order, side="left")
    kept = ranks < DEPTH
    return places[sort[kept]], ranks[kept]
