"""The cosine of two float32 vectors, rounded as torch rounds it, on every processor alike.

Earlier releases recorded `torch.cosine_similarity`, whose sums are made in float32 on eight lanes (AVX2). The order of
a sum decides its last bits, and a recorded number must be reached again: so the order is written out here.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Singles = NDArray[np.float32]
_LANES = 8
_VECTORS = 4  # that are summed beside each other
_BLOCK = 16  # steps after which a sum goes into that of a higher level
_LEVELS = 4


def cosine(one: Singles, other: Singles) -> float:
    """The cosine of two vectors [d]."""
    return float(_sum(one / _norm(one) * (other / _norm(other))))


def _norm(values: Singles) -> np.float32:
    lanes, rest = _split(values * values)
    return np.float32(np.sqrt(_in_turn(np.concatenate([_in_turn(lanes), rest]))))


def _sum(values: Singles) -> np.float32:
    lanes, rest = _split(values)
    steps = len(lanes) // _VECTORS
    vectors = _in_blocks(lanes[: steps * _VECTORS].reshape(steps, _VECTORS, _LANES))
    vectors[0] = _in_turn(np.stack([vectors[0], *lanes[steps * _VECTORS :]]))
    return np.float32(_in_turn(np.concatenate([rest, _in_turn(vectors)])))


def _in_blocks(steps: Singles) -> Singles:
    """[4, 8] the sum of [steps, 4, 8]: a full block goes up a level, and so does a block of full blocks."""
    levels = []
    for _ in range(_LEVELS - 1):
        full = len(steps) // _BLOCK * _BLOCK
        levels.append(_in_turn(steps[full:]))
        blocks = steps[:full].reshape(-1, _BLOCK, _VECTORS, _LANES)
        steps = np.add.accumulate(blocks, axis=1)[:, -1]
    result: Singles = _in_turn(np.stack([*levels, _in_turn(steps)]))
    return result


def _split(values: Singles) -> tuple[Singles, Singles]:
    """[n, 8] and what is left."""
    full = len(values) // _LANES * _LANES
    return values[:full].reshape(-1, _LANES), values[full:]


def _in_turn(values: Singles) -> Singles:
    """The sum over the first axis, from first to last; 0 of nothing."""
    start = np.zeros((1, *values.shape[1:]), dtype=values.dtype)
    result: Singles = np.add.accumulate(np.concatenate([start, values]), axis=0)[-1]
    return result
