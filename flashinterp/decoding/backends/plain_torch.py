"""Rows times head to the best tokens of each row, by plain torch: the reference that every faster way must match.

The whole matrix of logits would be 235 GB for Llama 3.1 8B and is never stored. Rows go through in chunks
and the vocabulary in tiles that stay in cache; `topk` then finds each row's best tokens from block maxima.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from flashinterp.decoding.backends import topk
from flashinterp.decoding.backends.score import SCORE_TOKENS
from flashinterp.decoding.backends.top_tokens import Pole, Poles, Scratch
from flashinterp.models.norms import cap

TILE = 1024
"""Tokens per product: 98 % of a core's best rate at 512 rows, against 83 % for 16,384."""
SELECT_ROWS = 64
"""Rows selected from at a time: what is gathered and sorted for 512 would take 40 MB."""
_ROWS = 512  # rows per chunk at most; beyond it the product gains nothing
_CHUNK_BYTES = 264_000_000  # of logits: 512 rows at V = 128,256
_ROW_STEP = 64
_EXP_SAFE = 80.0  # exp of this and of its negative are normal float32 numbers, and a sum of 2**20 of them is finite


def chunk_rows(vocab: int, itemsize: int) -> int:
    """Rows whose logits fit the buffer, a multiple of 64, at most 512."""
    fitting = _CHUNK_BYTES // (topk.padded(vocab) * itemsize) // _ROW_STEP * _ROW_STEP
    return min(max(fitting, _ROW_STEP), _ROWS)


def multiply(
    rows: Tensor,
    head: Tensor,
    top_k: int,
    poles: Poles,
    softcap: float | None = None,
    scratch: Scratch | None = None,
) -> tuple[Pole, ...]:
    """The poles of rows [n, d] with a head [V, d], in the rows' dtype; a head of another dtype is converted by tiles.

    With a soft-cap c the logits are c · tanh(z / c), and ranked as such.

    Raises:
        CheckpointError: a logit is beyond float32.
    """
    vocab, sides = len(head), 2 if poles == "both" else 1
    # No short last chunk: it would be slow.
    pieces = rows.tensor_split(math.ceil(len(rows) / chunk_rows(vocab, rows.element_size())))
    buffer = (scratch or Scratch()).take(len(pieces[0]), topk.padded(vocab), rows)
    parts = []
    for chunk in pieces:
        z = buffer[: len(chunk)]
        maxima, masses = fill(chunk, head, z, sides, softcap)
        for first in range(0, len(chunk), SELECT_ROWS):
            some = slice(first, first + SELECT_ROWS)
            parts.append(_poles(z[some], [m[some] for m in maxima], [m[some] for m in masses], top_k, vocab))
    return tuple(Pole.join(side) for side in zip(*parts, strict=True))


def _poles(z: Tensor, maxima: Sequence[Tensor], masses: Sequence[Tensor], top_k: int, vocab: int) -> list[Pole]:
    """The poles of a few rows whose logits, block maxima and logsumexp are made."""
    keep, found = max(top_k, min(SCORE_TOKENS, vocab)), []
    for i, (blocks, logsumexp) in enumerate(zip(maxima, masses, strict=True)):
        ids, logits = topk.select(z, blocks, keep, vocab, negate=bool(i))
        found.append(Pole.of(ids, logits, logsumexp, top_k=top_k, vocab=vocab))
    return found


def fill(
    chunk: Tensor, head: Tensor, z: Tensor, sides: int, softcap: float | None = None
) -> tuple[list[Tensor], list[Tensor]]:
    """Make a chunk's logits, tile by tile; each is looked at while it is hot in cache, in float32 or float64.

    Args:
        chunk: [n, d].
        head: [V, d]; of another dtype than the chunk's, it is converted by tiles.
        z: [n, V up to a whole block], of the chunk's dtype, for the logits, which are rounded to it.
        sides: 1 for z alone, 2 for -z, too.
        softcap: c of c · tanh(z / c).

    Returns:
        For each side the block maxima [n, blocks], and logsumexp [n].
    """
    n, vocab, dtype = len(chunk), len(head), torch.promote_types(z.dtype, torch.float32)
    wide, scratch = (z.new_empty(n, min(TILE, vocab), dtype=dtype) for _ in range(2))
    maxima = [wide.new_empty(n, z.shape[1] // topk.BLOCK) for _ in range(sides)]
    masses = [wide.new_full((n,), -math.inf) for _ in range(sides)]
    for start in range(0, vocab, TILE):
        stop = min(start + TILE, vocab)
        tile = z[:, start:stop]
        torch.mm(chunk, head[start:stop].to(chunk.dtype).T, out=tile)
        cap(tile, softcap)
        if dtype != z.dtype:
            tile = wide[:, : stop - start].copy_(tile)
        first = start // topk.BLOCK
        extremes = [
            topk.block_maxima(tile, 0, stop - start, m[:, first:], negate=bool(i)) for i, m in enumerate(maxima)
        ]
        parts = _tile_masses(tile, scratch, extremes)
        masses = [torch.logaddexp(mass, part) for mass, part in zip(masses, parts, strict=True)]
    return maxima, masses


def _tile_masses(tile: Tensor, scratch: Tensor, extremes: Sequence[Tensor]) -> list[Tensor]:
    """logsumexp [n] of one tile, and of its negative where ``extremes`` holds the block maxima of both."""
    exps = scratch[:, : tile.shape[1]]
    if max(float(e.max()) for e in extremes) < _EXP_SAFE:
        masses = [torch.exp(tile, out=exps).sum(1).log()]
        if len(extremes) == 2:
            masses.append(exps.reciprocal_().sum(1).log())  # exp(-z) = 1 / exp(z): a tenth of the cost of another exp
        if float(masses[0].min()) > -_EXP_SAFE:  # else they may have underflowed
            return masses
    return [side.logsumexp(1) for side in (tile, -tile)[: len(extremes)]]
