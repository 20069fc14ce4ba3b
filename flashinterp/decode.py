"""Rows times head to the best tokens of each row: the hot path (METHOD 2).

The whole matrix of logits would be 235 GB for Llama 3.1 8B and is never stored. Rows go through in chunks
and the vocabulary in tiles that stay in cache; `topk` then finds each row's best tokens from block maxima.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flashinterp import gpu, topk
from flashinterp.checkpoint import Checkpoint
from flashinterp.errors import CheckpointError, MapError, NeuronError
from flashinterp.neuron import Lens, get_lens
from flashinterp.probe import rms_norm

SCORE_TOKENS = 100
"""A score compares a token with the mean of this many highest probabilities (METHOD 2)."""

_TILE = 1024  # tokens per product: 98 % of a core's best rate at 512 rows, against 83 % for 16,384
_ROWS = 512  # rows per chunk: a chunk's logits at V = 128,256 are 263 MB in float32
_EXP_SAFE = 80.0  # exp of this and of its negative are normal float32 numbers, and a sum of 2**20 of them is finite


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

    On a CUDA GPU that the Triton kernels have been proved on, half-precision weights are multiplied as they are, with
    float32 accumulation and float32 logits; elsewhere they are made float32 first. The logits are never rounded.

    Args:
        rows: [n, d] float32 or float64, float16 or bfloat16.
        head: [V, d], same dtype and device.
        top_k: how many tokens to keep, at most V.

    Returns:
        The positive and the negative pole.

    Raises:
        MapError: top_k or rows out of range.
        CheckpointError: a logit overflows the dtype.
    """
    n, vocab = len(rows), len(head)
    if not 1 <= top_k <= vocab:
        raise MapError(f"top_k = {top_k} tokens cannot be kept: this head has {vocab}; choose 1 to {vocab}")
    if n == 0:
        raise MapError("there are no rows to decode: name at least one layer")
    if rows.dtype != torch.float64 and top_k <= gpu.MOST and gpu.selection(str(rows.device)).triton:
        return _decode_on_gpu(rows, head, top_k)
    if rows.dtype not in (torch.float32, torch.float64):
        rows, head = rows.float(), head.float()
    work = _Work.of(rows, vocab)
    parts = [_decode_chunk(chunk, head, work, top_k) for chunk in rows.split(_ROWS)]
    plus, minus = zip(*parts, strict=True)
    return _join(plus), _join(minus)


def _decode_on_gpu(rows: Tensor, head: Tensor, top_k: int) -> tuple[Pole, Pole]:
    """Both poles, by the kernels."""
    sides: tuple[list[Pole], list[Pole]] = ([], [])
    for _, z in gpu.logit_chunks(rows, head):
        for side, found in zip(sides, gpu.select(z, len(head), top_k), strict=True):
            pole = Pole(*(getattr(found, f).clone() for f in Pole.__dataclass_fields__))
            _check_finite(pole.logits, pole.logsumexp)
            side.append(pole)
    return _join(sides[0]), _join(sides[1])


def _check_finite(logits: Tensor, logsumexp: Tensor) -> None:
    # In float32 even where they were computed in float64: that is what a map keeps.
    if not bool(torch.isfinite(logits.float()).all() & torch.isfinite(logsumexp.float()).all()):
        raise CheckpointError("a logit is beyond float32: the weights are damaged or not scaled; fetch them again")


@dataclass(frozen=True)
class _Work:
    """Buffers for one chunk of n rows, made once for all chunks.

    Attributes:
        z: [n, V up to a whole block] the logits.
        maxima, minima: [n, blocks] of z and of -z, both as maxima.
        tile: [n, 1024] for exponentials.
    """

    z: Tensor
    maxima: Tensor
    minima: Tensor
    tile: Tensor

    @classmethod
    def of(cls, rows: Tensor, vocab: int) -> _Work:
        n, width = min(len(rows), _ROWS), topk.padded(vocab)
        blocks = width // topk.BLOCK
        return cls(*(rows.new_empty(n, columns) for columns in (width, blocks, blocks, min(_TILE, vocab))))

    def first(self, n: int) -> _Work:
        """The part for a last chunk of fewer rows."""
        return self if n == len(self.z) else _Work(self.z[:n], self.maxima[:n], self.minima[:n], self.tile[:n])


def _join(parts: Sequence[Pole]) -> Pole:
    return Pole(*(torch.cat([getattr(p, f) for p in parts]) for f in Pole.__dataclass_fields__))


def _decode_chunk(chunk: Tensor, head: Tensor, work: _Work, top_k: int) -> tuple[Pole, Pole]:
    """Both poles of at most 512 rows."""
    vocab, count = len(head), min(SCORE_TOKENS, len(head))
    work = work.first(len(chunk))
    masses = _fill(chunk, head, work)
    poles = []
    for negate, maxima, logsumexp in ((False, work.maxima, masses[0]), (True, work.minima, masses[1])):
        ids, logits = topk.select(work.z, maxima, max(top_k, count), vocab, negate=negate)
        _check_finite(logits, logsumexp)
        log_mean_top = logits[:, :count].logsumexp(1) - math.log(count)
        poles.append(Pole(ids[:, :top_k].int(), logits[:, :top_k].clone(), logsumexp, log_mean_top))
    return poles[0], poles[1]


def _fill(chunk: Tensor, head: Tensor, work: _Work) -> tuple[Tensor, Tensor]:
    """Make a chunk's logits and block maxima, tile by tile while each is hot in cache.

    Returns:
        logsumexp [n] of z and of -z.
    """
    vocab = len(head)
    plus = chunk.new_full((len(chunk),), -math.inf)
    minus = plus.clone()
    for start in range(0, vocab, _TILE):
        stop = min(start + _TILE, vocab)
        tile = work.z[:, start:stop]
        torch.mm(chunk, head[start:stop].T, out=tile)
        highest = topk.block_maxima(work.z, start, stop, work.maxima)
        lowest = topk.block_maxima(work.z, start, stop, work.minima, negate=True)
        part, part_minus = _tile_logsumexp(tile, work.tile, float(torch.maximum(highest, lowest).max()))
        plus, minus = torch.logaddexp(plus, part), torch.logaddexp(minus, part_minus)
    return plus, minus


def _tile_logsumexp(tile: Tensor, scratch: Tensor, largest: float) -> tuple[Tensor, Tensor]:
    """Both logsumexps [n] of one tile; ``largest`` is its largest absolute value."""
    if not largest < _EXP_SAFE:
        return tile.logsumexp(1), (-tile).logsumexp(1)
    exps = scratch[:, : tile.shape[1]]
    plus = torch.exp(tile, out=exps).sum(1).log()
    return plus, exps.reciprocal_().sum(1).log()  # exp(-z) = 1 / exp(z): a tenth of the cost of another exp


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
    rows = stored_rows(checkpoint, lens, layer).to(dtype)
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


def stored_rows(checkpoint: Checkpoint, lens: Lens, layer: int) -> Tensor:
    """The weights that a lens looks at, [F, d], as they are stored."""
    return checkpoint.rows(lens.weight, layer)  # type: ignore[arg-type]  # "post" is no lens's weight


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
    """Decode layer after layer, reading the next one meanwhile; progress is called with (layers done, in all).

    Two layers' rows and the head are in memory at a time, whatever the size of the model.
    """
    if not layers:
        return
    head = (head_of or checkpoint).head()
    halves = (torch.float16, torch.bfloat16)
    # Weights as they are, where the GPU multiplies them exactly and twice as fast.
    as_stored = not lens.residual and dtype == torch.float32 and head.dtype in halves and gpu.selection(device).triton
    head = head.to(device) if as_stored else head.to(device, dtype)

    def read(layer: int) -> Tensor:
        if as_stored and (rows := stored_rows(checkpoint, lens, layer)).dtype == head.dtype:
            return rows
        return lens_rows(checkpoint, lens, layer, head_of=head_of, dtype=dtype)

    with ThreadPoolExecutor(1, thread_name_prefix="read-ahead") as pool:
        coming = pool.submit(read, layers[0])
        for done, layer in enumerate(layers, 1):
            rows = coming.result().to(device)
            if done < len(layers):
                coming = pool.submit(read, layers[done])
            plus, minus = decode_rows(rows, head.to(rows.dtype), top_k=top_k)
            yield LayerDecode(layer, plus, minus, rows.float().norm(dim=1) if as_stored else rows.norm(dim=1).float())
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
