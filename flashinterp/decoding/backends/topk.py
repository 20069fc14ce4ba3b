"""The exact top k of many long rows, from the maxima of blocks (METHOD 2; BENCHMARKS, decode).

A row's ``keep`` largest block maxima name ``keep`` blocks that contain its top ``keep``: each token outside
them is no better than the ``keep`` maxima inside. Equal maxima go to the lower block, hence the lower id, so ties
come out as a stable full sort would give them. Only the few tokens that reach the smallest of those
maxima are ever sorted.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

BLOCK = 64
"""Tokens per block: reducing a tile to block maxima then costs 0.2 % of the product at d = 4,096."""
_LOW_FIRST = (1 << 32) - 1


def padded(vocab: int) -> int:
    """V rounded up to whole blocks."""
    return math.ceil(vocab / BLOCK) * BLOCK


def block_maxima(z: Tensor, start: int, stop: int, out: Tensor, *, negate: bool = False) -> Tensor:
    """Write the maxima of z (or of -z) over the blocks in columns [start, stop), the last of which may be short.

    Args:
        z: [n, V up to a whole block].
        start, stop: columns; start is a multiple of `BLOCK`.
        out: [n, blocks of z], of which the blocks of [start, stop) are written.
        negate: take the maxima of -z.

    Returns:
        The part of ``out`` that was written.
    """
    first, last = start // BLOCK, math.ceil(stop / BLOCK)
    whole = start + (stop - start) // BLOCK * BLOCK
    part = out[:, first : whole // BLOCK]
    if whole > start:
        blocks = z[:, start:whole].unflatten(1, (-1, BLOCK))
        if negate:
            torch.amin(blocks, -1, out=part).neg_()
        else:
            torch.amax(blocks, -1, out=part)
    if whole < stop:
        tail = z[:, whole:stop]
        out[:, last - 1] = -tail.amin(1) if negate else tail.amax(1)
    return out[:, first:last]


def select(z: Tensor, maxima: Tensor, keep: int, vocab: int, *, negate: bool = False) -> tuple[Tensor, Tensor]:
    """The exact top ``keep`` of z (or of -z), best first, equal values by lower id.

    Args:
        z: [n, V up to a whole block] float32 or float64; what stands beyond ``vocab`` is ignored.
        maxima: [n, blocks], from `block_maxima` with the same ``negate``.
        keep: how many, at most ``vocab``.
        vocab: V.
        negate: select from -z.

    Returns:
        ids [n, keep] int64 and values [n, keep], those of -z where ``negate``.
    """
    blocks = maxima.shape[1]
    chosen = best(maxima, min(keep, blocks)).sort(1).values  # in id order, so that places are in id order too
    values = gather(z, chosen, vocab, negate=negate)
    places = None
    if blocks >= keep:  # else fewer than keep maxima vouch for the floor
        values, places = _reaching(values, maxima.gather(1, chosen).amin(1, keepdim=True), keep)
    first = best(values, keep)
    at = first if places is None else places.gather(1, first)
    return ids_of(chosen, at), values.gather(1, first)


def gather(z: Tensor, chosen: Tensor, vocab: int, *, negate: bool = False) -> Tensor:
    """The values of whole blocks: [n, chosen * 64] of z (or of -z), -inf beyond ``vocab``.

    Args:
        z: [n, V up to a whole block].
        chosen: [n, chosen] blocks, ascending.
    """
    n, blocks = len(z), z.shape[1] // BLOCK
    lines = (chosen + torch.arange(n, device=z.device)[:, None] * blocks).flatten()
    values = z.view(n * blocks, BLOCK).index_select(0, lines).view(n, -1)
    if negate:
        values.neg_()
    if vocab < z.shape[1]:  # padding, at the end of those rows whose last block was chosen
        values[chosen[:, -1] == blocks - 1, vocab - z.shape[1] :] = -math.inf
    return values


def ids_of(chosen: Tensor, places: Tensor) -> Tensor:
    """Token ids [n, m] of places [n, m] in what `gather` gave for the blocks chosen [n, chosen]."""
    return chosen.gather(1, places // BLOCK) * BLOCK + places % BLOCK


def _reaching(values: Tensor, floor: Tensor, keep: int) -> tuple[Tensor, Tensor | None]:
    """Keep the values that reach a floor [n, 1], as at least ``keep`` of each row do, and their places, in order.

    On random rows about 105 of 6,400 are left at keep = 100. With heavy ties all may be; then nothing is gained, and
    they are given back as they are, without places.
    """
    reach = values >= floor
    width = max(int(reach.sum(1).max()), keep)
    if width * 2 > values.shape[1]:
        return values, None
    rows, columns = reach.nonzero(as_tuple=True)  # row by row, columns ascending
    first = torch.searchsorted(rows, torch.arange(len(values), device=values.device))
    at = torch.arange(len(rows), device=values.device) - first[rows]
    packed = values.new_full((len(values), width), -math.inf)
    places = columns.new_zeros((len(values), width))
    packed[rows, at], places[rows, at] = values[rows, columns], columns
    return packed, places


def best(values: Tensor, k: int) -> Tensor:
    """Positions [n, k] of the k largest per row, best first, equal values by lower position."""
    if values.dtype != torch.float32:
        return values.argsort(dim=1, descending=True, stable=True)[:, :k]
    # One int64 key each: the value's order above, the position's below, so that no two are equal.
    low_first = torch.arange(_LOW_FIRST, _LOW_FIRST - values.shape[1], -1, device=values.device)
    return (ordered_bits(values) << 32).bitwise_or_(low_first).topk(k, dim=1, sorted=True).indices


def ordered_bits(values: Tensor) -> Tensor:
    """int64 keys in the order of float32 values, -0 and +0 equal."""
    bits = (values + 0.0).view(torch.int32)
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).long()
