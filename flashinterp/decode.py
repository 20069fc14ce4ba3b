"""Rows times head to the best tokens of each row: the hot path (METHOD 2).

The whole matrix of logits would be 235 GB for Llama 3.1 8B and is never stored. Rows go through in chunks
and the vocabulary in tiles that stay in cache; per chunk only the maxima of blocks of tokens are looked
at, and the exact top k is then taken from the best k blocks, which must contain it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flashinterp.checkpoint import Checkpoint
from flashinterp.errors import CheckpointError, MapError, NeuronError
from flashinterp.neuron import Lens, get_lens
from flashinterp.probe import rms_norm

SCORE_TOKENS = 100
"""A score compares a token with the mean of this many highest probabilities (METHOD 2)."""

_BLOCK = 64  # tokens per block; notes: amax over 64 costs 0.5 % of the product
_TILE = 1024  # tokens per product: 98 % of a core's best rate at 512 rows, against 83 % for 16,384
_ROWS = 512  # rows per chunk: a chunk's logits at V = 128,256 are 263 MB in float32
_LOW_ID_FIRST = (1 << 32) - 1


@dataclass(frozen=True)
class Pole:
    """The best tokens of n rows, best first, ties to the lower id.

    Attributes:
        ids: [n, k] int32.
        logits: [n, k] float32; for the negative pole these are the logits of -w.
        logsumexp: [n] float32, over all V.
        log_mean_top: [n] float32, logmeanexp of the 100 highest logits (of all V where V < 100).
    """

    ids: Tensor
    logits: Tensor
    logsumexp: Tensor
    log_mean_top: Tensor


def decode_rows(rows: Tensor, head: Tensor, *, top_k: int = SCORE_TOKENS) -> tuple[Pole, Pole]:
    """Decode weight vectors with a head: the top tokens of w and of -w, from one product.

    Equivalent to::

        z = rows @ head.T                                  # [n, V]
        order = z.sort(dim=1, descending=True, stable=True)
        ids, logits = order.indices[:, :top_k], order.values[:, :top_k]
        logsumexp = z.logsumexp(1)
        log_mean_top = order.values[:, :100].logsumexp(1) - log(100)

    and the same for -z, without ever holding z for more than 512 rows.

    Args:
        rows: [n, d] float32 or float64.
        head: [V, d], same dtype and device.
        top_k: how many tokens to keep, at most V.

    Returns:
        The positive and the negative pole.
    """
    n, vocab = len(rows), len(head)
    if not 1 <= top_k <= vocab:
        raise MapError(f"top_k = {top_k} tokens cannot be kept: this head has {vocab}; choose 1 to {vocab}")
    if n == 0:
        raise MapError("there are no rows to decode: name at least one layer")
    keep = max(top_k, min(SCORE_TOKENS, vocab))
    buffer = rows.new_empty(min(n, _ROWS), math.ceil(vocab / _BLOCK) * _BLOCK)
    parts = [_decode_chunk(chunk, head, buffer, keep, top_k) for chunk in rows.split(_ROWS)]
    up, down = zip(*parts, strict=True)
    return _join(up), _join(down)


def _join(parts: Sequence[Pole]) -> Pole:
    return Pole(*(torch.cat([getattr(p, f) for p in parts]) for f in Pole.__dataclass_fields__))


def _decode_chunk(chunk: Tensor, head: Tensor, buffer: Tensor, keep: int, top_k: int) -> tuple[Pole, Pole]:
    """Both poles of at most 512 rows; buffer is [512, V up to a whole block] and is overwritten."""
    z = buffer[: len(chunk)]
    peaks, troughs, logsumexp, logsumexp_minus = _logits_and_blocks(chunk, head, z)
    poles = []
    for extremes, sign, lse in ((peaks, 1, logsumexp), (troughs, -1, logsumexp_minus)):
        ids, logits = _select(z, extremes, keep, sign, len(head))
        # In float32 even where they were computed in float64: that is what a map keeps.
        if not bool(torch.isfinite(logits.float()).all() & torch.isfinite(lse.float()).all()):
            raise CheckpointError("a logit is beyond float32: the weights are damaged or not scaled; fetch them again")
        count = min(SCORE_TOKENS, len(head))
        log_mean_top = logits[:, :count].logsumexp(1) - math.log(count)
        poles.append(Pole(ids[:, :top_k].int(), logits[:, :top_k].clone(), lse, log_mean_top))
    return poles[0], poles[1]


def _logits_and_blocks(chunk: Tensor, head: Tensor, z: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Fill z with the chunk's logits, tile by tile while each is hot in cache.

    Returns:
        The maximum and the minimum of each block of tokens, [n, blocks] each, and logsumexp of z and -z, [n].
    """
    n, vocab = len(chunk), len(head)
    blocks = z.shape[1] // _BLOCK
    peaks, troughs = z.new_empty(n, blocks), z.new_empty(n, blocks)
    scratch = z.new_empty(n, min(_TILE, vocab))
    high = z.new_full((n, 1), -math.inf)  # running maximum of z, and of -z
    low = z.new_full((n, 1), -math.inf)
    mass, mass_minus = z.new_zeros(n, 1), z.new_zeros(n, 1)
    z[:, vocab:] = -math.inf
    for start in range(0, vocab, _TILE):
        stop = min(start + _TILE, vocab)
        tile = z[:, start:stop]
        torch.mm(chunk, head[start:stop].T, out=tile)
        _block_extremes(z, start, stop, peaks, troughs)
        first, last = start // _BLOCK, math.ceil(stop / _BLOCK)
        high, mass = _add_mass(tile, peaks[:, first:last], high, mass, scratch, 1)
        low, mass_minus = _add_mass(tile, -troughs[:, first:last], low, mass_minus, scratch, -1)
    return peaks, troughs, (high + mass.log())[:, 0], (low + mass_minus.log())[:, 0]


def _block_extremes(z: Tensor, start: int, stop: int, peaks: Tensor, troughs: Tensor) -> None:
    """Write the extremes of the blocks in [start, stop); the last block of all may be short."""
    whole = start + (stop - start) // _BLOCK * _BLOCK
    if whole > start:
        view = z[:, start:whole].unflatten(1, (-1, _BLOCK))
        torch.amax(view, -1, out=peaks[:, start // _BLOCK : whole // _BLOCK])
        torch.amin(view, -1, out=troughs[:, start // _BLOCK : whole // _BLOCK])
    if whole < stop:
        peaks[:, whole // _BLOCK] = z[:, whole:stop].amax(-1)
        troughs[:, whole // _BLOCK] = z[:, whole:stop].amin(-1)


def _add_mass(
    tile: Tensor, peaks: Tensor, high: Tensor, mass: Tensor, scratch: Tensor, sign: int
) -> tuple[Tensor, Tensor]:
    """Add sum(exp(sign * tile - high)) to a running sum, rescaled to the new maximum."""
    new_high = torch.maximum(high, peaks.amax(1, keepdim=True))
    work = scratch[:, : tile.shape[1]]
    if sign > 0:
        torch.sub(tile, new_high, out=work)
    else:
        torch.sub(-new_high, tile, out=work)
    return new_high, mass * (high - new_high).exp() + work.exp_().sum(1, keepdim=True)


def _select(z: Tensor, extremes: Tensor, keep: int, sign: int, vocab: int) -> tuple[Tensor, Tensor]:
    """The exact top ``keep`` of sign * z: [n, keep] ids and values.

    The ``keep`` blocks with the largest maxima contain it: each token outside them is no better than
    ``keep`` tokens inside, and among equals the lower block, hence the lower id, was preferred.
    """
    blocks = _top(extremes if sign > 0 else -extremes, min(keep, extremes.shape[1]))
    offsets = torch.arange(_BLOCK, device=z.device)
    ids = (blocks[:, :, None] * _BLOCK + offsets).flatten(1)  # [n, blocks * 64]
    values = z.gather(1, ids) * sign
    values.masked_fill_(ids >= vocab, -math.inf)
    best = _top(values, keep, ids)
    chosen = ids.gather(1, best)
    return chosen, values.gather(1, best)


def _top(values: Tensor, k: int, ids: Tensor | None = None) -> Tensor:
    """Positions [n, k] of the k largest per row, in order, equal values by lower id (or position)."""
    if ids is None:
        ids = torch.arange(values.shape[1], device=values.device).expand_as(values)
    if values.dtype != torch.float32:  # the float64 path: ties by a stable sort in id order
        by_id = ids.argsort(1)
        order = values.gather(1, by_id).argsort(dim=1, descending=True, stable=True)[:, :k]
        return by_id.gather(1, order)
    return (_ordered_bits(values) << 32).bitwise_or_(_LOW_ID_FIRST - ids).topk(k, dim=1, sorted=True).indices


def _ordered_bits(values: Tensor) -> Tensor:
    """int64 keys in the order of float32 values, -0 and +0 equal."""
    bits = (values + 0.0).view(torch.int32)
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).long()


# --- lenses -----------------------------------------------------------------------------------------


def lens_rows(
    checkpoint: Checkpoint,
    lens: str | Lens,
    layer: int,
    *,
    head_of: Checkpoint | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """The vectors of one layer as a lens hands them to the head: [F, d], computed in dtype.

    For ``paper`` and ``logit-lens`` they are the weights themselves; the residual lenses fold the norm
    weight in front of the MLP into the rows that read through it, then apply the final norm, whose weight
    comes from ``head_of`` (METHOD 2).
    """
    lens = get_lens(lens)
    rows = checkpoint.rows(lens.weight, layer).to(dtype)  # type: ignore[arg-type]  # "post" is no lens's weight
    if not bool(torch.isfinite(rows.square().sum(1)).all()):  # RMSNorm would silently make such a row zero
        raise CheckpointError(
            f"{checkpoint.name}: a vector of layer {layer} is so large that its norm is beyond {dtype}: the weights "
            "are damaged; fetch them again"
        )
    if not lens.residual:
        return rows
    if lens.weight != "down":
        rows = rows * checkpoint.pre_norm(layer).to(dtype)
    final = (head_of or checkpoint).final_norm().to(dtype)
    return rms_norm(rows, final, checkpoint.layout.norm_eps)


@dataclass(frozen=True)
class LayerDecode:
    """One layer's result: both poles, and the norms of the vectors that were decoded, [F] float32."""

    layer: int
    plus: Pole
    minus: Pole
    norms: Tensor


def decode_layers(
    checkpoint: Checkpoint,
    lens: Lens,
    layers: Sequence[int],
    *,
    top_k: int,
    device: str,
    dtype: torch.dtype,
    head_of: Checkpoint | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[LayerDecode]:
    """Decode layer after layer; progress is called with (layers done, layers in all)."""
    head = (head_of or checkpoint).head().to(device, dtype)
    for done, layer in enumerate(layers, 1):
        rows = lens_rows(checkpoint, lens, layer, head_of=head_of, dtype=dtype).to(device)
        plus, minus = decode_rows(rows, head, top_k=top_k)
        yield LayerDecode(layer, plus, minus, rows.norm(dim=1).float())
        if progress:
            progress(done, len(layers))


def token_logits(
    checkpoint: Checkpoint, lens: str | Lens, tokens: Sequence[int], *, layers: Sequence[int] | None = None
) -> Any:
    """The exact logits of a few tokens at every neuron: [N, tokens] float32 numpy, one product a layer."""
    lens = get_lens(lens)
    head = checkpoint.head()[list(tokens)].float()
    wanted = range(checkpoint.layout.n_layers) if layers is None else layers
    return torch.cat([lens_rows(checkpoint, lens, layer) @ head.T for layer in wanted]).numpy()


def check_layers(checkpoint: Checkpoint, layers: Sequence[int] | None) -> tuple[int, ...]:
    """All layers for None; else the given ones, ascending and in range.

    Raises:
        NeuronError: a layer is out of range, or none is given.
    """
    if layers is None:
        return tuple(range(checkpoint.layout.n_layers))
    chosen = tuple(sorted(set(layers)))
    out = [n for n in chosen if not 0 <= n < checkpoint.layout.n_layers]
    if out or not chosen:
        told = f"layer {out[0]} is out of range" if out else "no layer was named"
        raise NeuronError(f"{told}: this model has layers 0 to {checkpoint.layout.n_layers - 1}")
    return chosen
