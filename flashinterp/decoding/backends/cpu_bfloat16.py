"""The exact best tokens from a product in bfloat16, on processors that multiply it natively (BENCHMARKS, decode).

Such a product takes a quarter of the time of one in float32, and its results are rounded to eight bits. Rounding is
monotone and the error of a sum is bounded, so whatever can be among a row's best stands above a floor in the
rounded logits. These candidates, some 120 for the best 100, are multiplied again in float32; a row with too many of
them is multiplied whole. Ids and logits are those of the float32 product, bit for bit; only logsumexp is approximate.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from flashinterp.decoding.backends import topk
from flashinterp.decoding.backends.plain_torch import SELECT_ROWS, TILE, chunk_rows, fill, multiply
from flashinterp.decoding.backends.score import SCORE_TOKENS
from flashinterp.decoding.backends.top_tokens import Pole, Poles, Proof, Scratch

# Relative error of rounding to bfloat16's 8 bits, measured on the exact or on the rounded value.
_ROUNDING = 2**-9 * (1 + 2**-8)
_SUBNORMAL = 1e-30  # bfloat16 instructions take subnormal weights as zero
_SAME_BITS_ROWS = 8  # a float32 product of this many rows gives the bits that it gives among 512; one of fewer does not
_LSE_ROUNDING = 0.01  # nats by which a rounded logit may be off, where only logsumexp depends on it
_MOST_CANDIDATES = 4  # per gathered block: beyond, multiplying the row whole is no slower
_LEAST_PRODUCT = 300_000  # d V per token kept: below, the float32 path is as fast (BENCHMARKS)
_BLOCKS_PER_TOKEN = 5  # in the vocabulary, per token that is kept: below, ranking the candidates costs what is won
_PROBE_ROWS, _PROBE_D, _PROBE_VOCAB = 64, 512, _BLOCKS_PER_TOKEN * SCORE_TOKENS * topk.BLOCK


@functools.cache
def bfloat16() -> Proof:
    """Ask the processor; where it has the instructions, both ways must agree bit for bit on random rows."""
    if not (_has("avx512_bf16") or _has("amx_bf16")):
        return Proof(False, "this processor has no bfloat16 product")
    generator = torch.Generator().manual_seed(0)
    # Logits about 1: larger ones would be multiplied whole, and prove nothing.
    rows, head = (
        torch.randn(n, _PROBE_D, generator=generator).mul_(0.2).bfloat16() for n in (_PROBE_ROWS, _PROBE_VOCAB)
    )
    for got, want in zip(
        multiply_bfloat16(rows, head, SCORE_TOKENS, "both"),
        multiply(rows.float(), head.float(), SCORE_TOKENS, "both"),
        strict=True,
    ):
        if not (torch.equal(got.ids, want.ids) and torch.equal(got.logits, want.logits)):
            return Proof(False, "bfloat16 candidates do not agree with the float32 product here")
    return Proof(True, "bfloat16 candidates agree with the float32 product here, bit for bit")


def _has(flag: str) -> bool:
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(capabilities.get(flag, False))


def choose(d: int, vocab: int, top_k: int) -> tuple[Literal["bfloat16", "plain"], str]:
    """Whether this processor decodes bfloat16 weights of this shape faster by candidates, and why."""
    keep = max(top_k, SCORE_TOKENS)
    if d * vocab < _LEAST_PRODUCT * keep or vocab < _BLOCKS_PER_TOKEN * keep * topk.BLOCK:
        return "plain", f"to find {keep} candidates costs as much as this product ({d} x {vocab})"
    return ("bfloat16" if bfloat16().holds else "plain"), bfloat16().reason


def multiply_bfloat16(
    rows: Tensor, head: Tensor, top_k: int, poles: Poles, scratch: Scratch | None = None
) -> tuple[Pole, ...]:
    """The poles of bfloat16 rows [n, d] with a bfloat16 head [V, d], as `product.multiply` gives them in float32.

    logsumexp is made of rounded logits but for the candidates; a row whose rounded logits may be off by more than
    0.01 is multiplied whole. On random rows it is off by less than 1e-5.

    Raises:
        CheckpointError: a logit is beyond float32.
    """
    done, failed = _first_pass(rows, head, top_k, 2 if poles == "both" else 1, scratch or Scratch())
    return _repaired(done, rows, head, failed, top_k, poles)


def _first_pass(
    rows: Tensor, head: Tensor, top_k: int, sides: int, scratch: Scratch
) -> tuple[tuple[Pole, ...], Tensor]:
    """The poles, and which rows [n] are not proved."""
    vocab = len(head)
    pieces = rows.tensor_split(math.ceil(len(rows) / chunk_rows(vocab, 2)))
    buffer = scratch.take(len(pieces[0]), topk.padded(vocab), rows)
    largest = max(float(part.float().square_().sum(1).max()) for part in head.split(TILE)) ** 0.5
    keep = max(top_k, min(SCORE_TOKENS, vocab))
    parts, failed = [], []
    for chunk in pieces:
        z = buffer[: len(chunk)]
        maxima, masses = fill(chunk, head, z, sides)
        slack = _slack(chunk, largest)
        for first in range(0, len(chunk), SELECT_ROWS):
            some = slice(first, first + SELECT_ROWS)
            found = [
                _exact(chunk[some], head, z[some], m[some], mass[some], slack[some], keep, bool(i))
                for i, (m, mass) in enumerate(zip(maxima, masses, strict=True))
            ]
            failed.append(functools.reduce(torch.logical_or, [side.failed for side in found]))
            parts.append([Pole.of(s.ids, s.logits, s.logsumexp, top_k=top_k, vocab=vocab) for s in found])
    return tuple(Pole.join(side) for side in zip(*parts, strict=True)), torch.cat(failed)


def _repaired(
    done: tuple[Pole, ...], rows: Tensor, head: Tensor, failed: Tensor, top_k: int, poles: Poles
) -> tuple[Pole, ...]:
    """Put whole float32 products in the place of the rows [n] that failed."""
    at = failed.nonzero()[:, 0]
    if len(at) == 0:
        return done
    padding = at.new_full((max(0, _SAME_BITS_ROWS - len(at)),), int(at[0]))
    whole = multiply(rows[torch.cat([at, padding])].float(), head, top_k, poles)
    for pole, right in zip(done, whole, strict=True):
        for name in Pole.__dataclass_fields__:
            getattr(pole, name)[at] = getattr(right, name)[: len(at)]
    return done


def _slack(chunk: Tensor, largest: float) -> Tensor:
    """[n, 1] by how much a row's two products may differ before rounding, where no head row is longer than largest.

    A sum of d products in float32, in any order, is off by at most gamma |w| |u|, with gamma = d eps / (1 - d eps).
    """
    d_eps = (chunk.shape[1] + 64) * 2**-24  # 64: partial sums that are added up
    lengths = torch.linalg.vector_norm(chunk, dim=1, keepdim=True, dtype=torch.float32)
    slack: Tensor = 2 * d_eps / (1 - d_eps) * largest * lengths + _SUBNORMAL
    return slack


@dataclass(frozen=True)
class _Side:
    """The best of one pole, in float32: ids, logits [n, keep], logsumexp [n]; failed [n] where they are not proved."""

    ids: Tensor
    logits: Tensor
    logsumexp: Tensor
    failed: Tensor


def _exact(
    chunk: Tensor, head: Tensor, z: Tensor, maxima: Tensor, mass: Tensor, slack: Tensor, keep: int, negate: bool
) -> _Side:
    """From rounded logits to the best of the float32 product."""
    n, vocab = len(chunk), len(head)
    gathered = keep + keep // 2 + 32
    ordered = maxima.topk(gathered + 1, dim=1, sorted=True)
    least = ordered.values[:, keep - 1 : keep]  # at least keep rounded logits reach it
    # The keep-th best of the float32 product is at least least - rounding - slack; a token that reaches that has
    # a rounded logit of at least this:
    floor = least - _ROUNDING * least.abs() - 2 * slack
    floor -= _ROUNDING * floor.abs()
    proved = (ordered.values[:, -1:] < floor) & (_ROUNDING * floor.abs() <= _LSE_ROUNDING)  # NaN proves nothing
    failed = ~proved[:, 0]
    chosen = ordered.indices[:, :gathered].sort(1).values
    rounded = topk.gather(z, chosen, vocab, negate=negate).float()
    reach = rounded >= floor
    failed |= reach.sum(1) > _MOST_CANDIDATES * gathered
    side = _Side(chosen.new_zeros(n, keep), mass.new_zeros(n, keep), mass.clone(), failed)
    rounded = rounded.where(reach, -math.inf)
    proven = (~failed).nonzero()[:, 0]
    for first in range(0, len(proven), _SAME_BITS_ROWS):
        _rescore(side, proven[first : first + _SAME_BITS_ROWS], chunk, head, mass, chosen, rounded, negate)
    side.logsumexp[failed] = 0.0
    return side


def _rescore(
    side: _Side, rows: Tensor, chunk: Tensor, head: Tensor, mass: Tensor, chosen: Tensor, rounded: Tensor, negate: bool
) -> None:
    """Rank the candidates of a few rows by float32 logits, with the bits that the whole float32 product has.

    Args:
        side: where to write.
        rows: [m] which rows of the chunk, at most 8.
        mass: [n] logsumexp of the rounded logits.
        chosen: [n, blocks] what was gathered.
        rounded: [n, blocks * 64] the rounded logits there, -inf where no candidate is.
    """
    at, places = rounded[rows].isfinite().nonzero(as_tuple=True)  # row by row, ids ascending
    tokens = topk.ids_of(chosen[rows[at]], places[:, None])[:, 0]
    # All of these tokens for all of these rows: as much work as 8 copies of each row for its own, in fewer calls.
    several = chunk[rows[torch.arange(_SAME_BITS_ROWS).clamp(max=len(rows) - 1)]].float()
    every = torch.mm(several, head.index_select(0, tokens).float().T)[at, torch.arange(len(at))]
    if negate:
        every = -every
    counts = torch.bincount(at, minlength=len(rows))
    column = torch.arange(len(at)) - (counts.cumsum(0) - counts)[at]
    logits = every.new_full((len(rows), int(counts.max())), -math.inf)
    ids, before = tokens.new_zeros(logits.shape), logits.clone()
    logits[at, column], ids[at, column], before[at, column] = every, tokens, rounded[rows[at], places]
    best = topk.best(logits, side.ids.shape[1])
    side.ids[rows], side.logits[rows] = ids.gather(1, best), logits.gather(1, best)
    change = (logits - mass[rows, None]).exp().sum(1) - (before - mass[rows, None]).exp().sum(1)
    side.logsumexp[rows] += change.log1p()
