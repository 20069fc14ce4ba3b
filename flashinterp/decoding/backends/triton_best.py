"""From block maxima to the best tokens: choose blocks, choose tokens within them, put those in order.

Each program takes one row of one pole. The row strides of what is searched are not specialised on purpose: if the
compiler knew them to be multiples of 16 it would give each thread four neighbouring keys, the scattered stores
would need another layout, and all keys would go through shared memory in between: 8 to 32 KB a program and 10 to
20 % more instructions, as compiled for sm_90. The tests of what is compiled hold that line.
"""

from __future__ import annotations

# mypy: allow-untyped-decorators
import triton
import triton.language as tl

from flashinterp.decoding.backends.triton_keys import LOWEST, NOTHING, cut, number, order_key, value_of
from flashinterp.decoding.backends.triton_stats import BLOCK, LOG2E

_NO_BLOCK = tl.constexpr(2**26 - 1)  # its ids are beyond any vocabulary, and still int32
_NO_TOKEN = tl.constexpr(-(2**63))  # below every packed key


@triton.jit
def _flat(x: tl.tensor) -> tl.tensor:
    """One dimension, which leaves the compiler one order for scattered stores: of two it takes the wrong one (3.6)."""
    return tl.reshape(x, (x.numel,))


@triton.jit(do_not_specialize=["width"])
def choose_blocks(
    peaks: tl.tensor,
    blocks: tl.tensor,
    floors: tl.tensor,
    capacity: tl.tensor,
    width: tl.tensor,
    n_blocks: tl.tensor,
    wanted: tl.tensor,
    ROOM: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:
    """Write up to ROOM blocks, among them the ``wanted`` with the largest maxima, equals by lower number.

    Those hold the exact top ``wanted`` tokens: a token elsewhere is beaten by one token in each of them, equal
    tokens included, because blocks are contiguous and so a lower block means a lower id.

    Args:
        peaks: [poles, capacity, width] float32, of which the first n_blocks count.
        blocks: [poles, capacity, ROOM] int32, _NO_BLOCK where there are fewer.
        floors: [poles, capacity] int32, a key that at least ``wanted`` tokens reach.
        ROWS, COLUMNS: the shape in which the maxima are searched, at least n_blocks in all; COLUMNS is the
            number of threads.
    """
    line = tl.program_id(1).to(tl.int64) * capacity + tl.program_id(0)
    out = blocks + line * ROOM
    slot = tl.arange(0, ROOM)
    if n_blocks > ROOM:
        row, column = tl.arange(0, ROWS)[:, None] * COLUMNS, tl.arange(0, COLUMNS)[None, :]
        block = row + column
        here = (peaks + line * width + column) + row  # in two steps: the second is then an immediate offset
        keys = order_key(tl.load(here, mask=block < n_blocks, other=0.0))
        keys = tl.where(block < n_blocks, keys, NOTHING)
        tops = tl.max(keys, 0)
        # Each column reaches the least of the columns' maxima, so at least COLUMNS keys do: where that is enough,
        # the search starts there instead of below all keys.
        known = (wanted <= COLUMNS) & (n_blocks >= COLUMNS)
        floor = tl.where(known, tl.min(tops, 0), LOWEST)
        floor, last = cut(keys, block, floor, tl.max(tops, 0), wanted, ROOM)
        taken = (keys > floor) | ((keys == floor) & (block <= last))
        place, count = number(taken)
        tl.store(_flat(out + place), _flat(block), mask=_flat(taken))
        tl.store(out + slot, tl.full((ROOM,), _NO_BLOCK, tl.int32), mask=slot >= count)
        tl.store(floors + line, floor)
    else:
        tl.store(out + slot, tl.where(slot < n_blocks, slot, _NO_BLOCK))
        tl.store(floors + line, LOWEST)


@triton.jit(do_not_specialize=["stride"])
def choose_tokens(
    z: tl.tensor,
    stride: tl.tensor,
    vocab: tl.tensor,
    blocks: tl.tensor,
    floors: tl.tensor,
    packed: tl.tensor,
    capacity: tl.tensor,
    wanted: tl.tensor,
    ROOM: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:
    """Gather the chosen blocks and write up to ROOM tokens, among them the exact top ``wanted``.

    The floor of the blocks is a floor of the tokens too, and few tokens reach it that are not the best of their
    block: on average 116 of the 4,096 gathered, for normal logits, so that 96 % of these searches end unstarted.

    Args:
        packed: [poles, capacity, ROOM] int64, key in the upper half, complement of the id in the lower half.
        ROWS, COLUMNS: the shape in which the ROOM * 32 gathered tokens are searched.
    """
    row, pole = tl.program_id(0).to(tl.int64), tl.program_id(1)
    line = pole * capacity + row
    slot = tl.arange(0, ROOM)
    block = tl.load(blocks + line * ROOM + slot)
    first = block[:, None] * BLOCK
    ids = first + tl.arange(0, BLOCK)[None, :]
    values = tl.load(z + row * stride + ids, mask=first < vocab, other=0.0)
    sign = 1.0 - 2.0 * pole.to(tl.float32)
    keys = tl.where(ids < vocab, order_key(values * sign), NOTHING)
    keys = tl.reshape(keys, (ROWS, COLUMNS))
    ids = tl.reshape(ids, (ROWS, COLUMNS))
    ceiling = tl.max(tl.max(keys, 0), 0)
    floor, last = cut(keys, ids, tl.load(floors + line), ceiling, wanted, ROOM)
    taken = (keys > floor) | ((keys == floor) & (ids <= last))
    place, count = number(taken)
    out = packed + line * ROOM
    low_id_first = (~ids).to(tl.uint32, bitcast=True).to(tl.int64)
    tl.store(_flat(out + place), _flat((keys.to(tl.int64) << 32) | low_id_first), mask=_flat(taken))
    tl.store(out + slot, tl.full((ROOM,), _NO_TOKEN, tl.int64), mask=slot >= count)


@triton.jit
def finish(
    packed: tl.tensor,
    high: tl.tensor,
    mass: tl.tensor,
    ids: tl.tensor,
    logits: tl.tensor,
    logsumexp: tl.tensor,
    log_mean_top: tl.tensor,
    capacity: tl.tensor,
    n_chunks: tl.tensor,
    keep: tl.tensor,
    n_top: tl.tensor,
    ROOM: tl.constexpr,
    CHUNKS: tl.constexpr,
) -> None:
    """Sort the chosen tokens of one row and pole, write the best ``keep``, and join the masses of its chunks.

    Args:
        packed: [poles, capacity, ROOM] int64; high, mass: [poles, capacity, n_chunks] float32.
        ids, logits: [poles, capacity, keep]; logsumexp, log_mean_top: [poles, capacity].
        n_top: how many of the best tokens are in the mean.
        CHUNKS: a power of two, at least n_chunks.
    """
    line = tl.program_id(1).to(tl.int64) * capacity + tl.program_id(0)
    slot = tl.arange(0, ROOM)
    best = tl.sort(tl.load(packed + line * ROOM + slot), descending=True)
    values = value_of((best >> 32).to(tl.int32))
    # The lower half alone: converting to int32 drops the key.
    tl.store(ids + line * keep + slot, (~best).to(tl.int32), mask=slot < keep)
    tl.store(logits + line * keep + slot, values, mask=slot < keep)
    values = tl.where(slot < n_top, values, float("-inf"))
    top = tl.max(values, 0)
    mean = tl.sum(tl.exp2((values - top) * LOG2E), 0) / n_top
    tl.store(log_mean_top + line, top + tl.log(mean))
    chunk = tl.arange(0, CHUNKS)
    tops = tl.load(high + line * n_chunks + chunk, mask=chunk < n_chunks, other=float("-inf"))
    masses = tl.load(mass + line * n_chunks + chunk, mask=chunk < n_chunks, other=0.0)
    top = tl.max(tops, 0)
    base = tl.where(top == float("-inf"), 0.0, top)
    tl.store(logsumexp + line, base + tl.log(tl.sum(masses * tl.exp2((tops - base) * LOG2E), 0)))
