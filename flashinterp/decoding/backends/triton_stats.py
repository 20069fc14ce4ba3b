"""The one pass over the logits: the best of each 32 tokens and the mass of exponentials, of z and of -z."""

from __future__ import annotations

# mypy: allow-untyped-decorators
import triton
import triton.language as tl

BLOCK = tl.constexpr(32)  # tokens per block: 32 float32 are one 128-byte line, so that gathering blocks wastes nothing
LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def _pole(
    z: tl.tensor, inside: tl.tensor, peaks: tl.tensor, high: tl.tensor, mass: tl.tensor, WHOLE: tl.constexpr
) -> None:
    """Write one pole's block maxima, its maximum, and its sum of exponentials about that maximum.

    Args:
        z: [blocks, 32] float32, already negated for the negative pole (a free operand modifier).
        inside: [blocks, 32] bool, which tokens exist; unused if WHOLE.
        peaks: pointers [blocks]; high, mass: one pointer each.
        WHOLE: every token exists.
    """
    if not WHOLE:
        z = tl.where(inside, z, float("-inf"))
    peak = tl.max(z, 1)
    tl.store(peaks, peak)
    top = tl.max(peak, 0)
    base = tl.where(top == float("-inf"), 0.0, top)  # a chunk of -inf has no mass, rather than NaN
    # One multiply-add and one MUFU per token. Rounding base * log2(e) shifts the logarithm of the sum by at most
    # 0.7 of half a unit in the last place of base.
    tl.store(mass, tl.sum(tl.exp2(tl.fma(z, LOG2E, -(base * LOG2E)))))
    tl.store(high, top)


@triton.jit
def stats(
    z: tl.tensor,
    stride: tl.tensor,
    vocab: tl.tensor,
    peaks: tl.tensor,
    high: tl.tensor,
    mass: tl.tensor,
    capacity: tl.tensor,
    n_chunks: tl.tensor,
    POLES: tl.constexpr,
    BLOCKS: tl.constexpr,
) -> None:
    """One program reads BLOCKS * 32 tokens of one row, once, and writes the statistics of one or both poles.

    Args:
        z: [rows, stride] float32; stride is a multiple of 32, so that each thread loads 16 bytes at a time.
        peaks: [POLES, capacity, n_chunks * BLOCKS] float32 block maxima; those beyond the vocabulary are -inf.
        high, mass: [POLES, capacity, n_chunks] float32.
    """
    row = (tl.program_id(0) // n_chunks).to(tl.int64)
    chunk = tl.program_id(0) % n_chunks
    block = chunk * BLOCKS + tl.arange(0, BLOCKS)
    ids = block[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    inside = ids < vocab
    here = z + row * stride + ids
    plus = row * n_chunks + chunk
    minus = (row + capacity) * n_chunks + chunk
    peaks_plus = peaks + row * n_chunks * BLOCKS + block
    peaks_minus = peaks + (row + capacity) * n_chunks * BLOCKS + block
    if (chunk + 1) * BLOCKS * BLOCK <= vocab:
        whole = tl.load(here)
        _pole(whole, inside, peaks_plus, high + plus, mass + plus, True)
        if POLES == 2:
            _pole(-whole, inside, peaks_minus, high + minus, mass + minus, True)
    else:
        # Masked by whole blocks: a mask that ends within four tokens would split the 16-byte loads.
        part = tl.load(here, mask=(block * BLOCK < vocab)[:, None], other=0.0)
        _pole(part, inside, peaks_plus, high + plus, mass + plus, False)
        if POLES == 2:
            _pole(-part, inside, peaks_minus, high + minus, mass + minus, False)
