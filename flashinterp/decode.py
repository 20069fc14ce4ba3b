"""Layer by layer: a lens's rows read from a checkpoint, and decoded on the fastest exact way there is (METHOD 2)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from flashinterp import candidates, gpu
from flashinterp.checkpoint import Checkpoint
from flashinterp.errors import CheckpointError, MapError, NeuronError
from flashinterp.neuron import Lens, get_lens
from flashinterp.probe import rms_norm
from flashinterp.product import SCORE_TOKENS, Pole, Poles, multiply


@dataclass(frozen=True)
class Way:
    """How rows are multiplied with the head and their best tokens found, and why so.

    Attributes:
        name: ``triton`` (a GPU's product and kernels), ``bfloat16`` (candidates by a bfloat16 product, ranked in
            float32), or ``plain`` (torch alone, in the dtype that logits are ranked in).
        reason: what decided.
    """

    name: Literal["triton", "bfloat16", "plain"]
    reason: str


def choose_way(
    device: str, weights: torch.dtype, rank_in: torch.dtype, *, d: int, vocab: int, top_k: int, exact_mass: bool = False
) -> Way:
    """The fastest way that gives the exact ids and logits.

    Args:
        device: where.
        weights: the dtype of the rows and the head as they come to the product.
        rank_in: float32 or float64.
        d, vocab, top_k: the shape.
        exact_mass: whether logsumexp, too, must be free of rounded logits.
    """
    if rank_in == torch.float64:
        return Way("plain", "logits are ranked in float64")
    on_gpu = gpu.selection(device)
    if on_gpu.triton and top_k <= gpu.MOST:
        return Way("triton", on_gpu.reason)
    if device != "cpu" or weights != torch.bfloat16:
        return Way("plain", f"the kernels keep at most {gpu.MOST} tokens" if on_gpu.triton else on_gpu.reason)
    if exact_mass:
        return Way("plain", "float32 was asked for")
    return Way(*candidates.choose(d, vocab, top_k))


def decode_rows(
    rows: Tensor, head: Tensor, *, top_k: int = SCORE_TOKENS, poles: Poles = "both", way: Way | None = None
) -> tuple[Pole, ...]:
    """Decode weight vectors with a head: the top tokens of w and of -w, from one product.

    Equivalent to::

        z = rows @ head.T                                  # [n, V]
        order = z.sort(dim=1, descending=True, stable=True)
        ids, logits = order.indices[:, :top_k], order.values[:, :top_k]
        logsumexp = z.logsumexp(1)
        log_mean_top = order.values[:, :100].logsumexp(1) - log(100)

    and the same for -z, without ever holding z for more than 512 rows.

    Half-precision weights are made float32 first, but for two cases in which they are multiplied as they are: on a CUDA
    GPU that the Triton kernels have been proved on, with float32 accumulation and float32 logits; and bfloat16 on a
    processor that multiplies it, where candidates are found by rounded logits and ranked by float32 ones
    (`candidates`). No rounded logit is ever ranked or returned.

    Args:
        rows: [n, d] float32 or float64, float16 or bfloat16.
        head: [V, d], same dtype and device.
        top_k: how many tokens to keep, at most V.
        poles: ``both``, or ``+`` for w alone.
        way: how; by default the fastest that is exact here.

    Returns:
        The positive and the negative pole, or the positive one alone.

    Raises:
        MapError: top_k or rows out of range.
        CheckpointError: a logit overflows the dtype.
    """
    n, vocab = len(rows), len(head)
    if not 1 <= top_k <= vocab:
        raise MapError(f"top_k = {top_k} tokens cannot be kept: this head has {vocab}; choose 1 to {vocab}")
    if n == 0:
        raise MapError("there are no rows to decode: name at least one layer")
    rank_in = torch.float64 if rows.dtype == torch.float64 else torch.float32
    way = way or choose_way(str(rows.device), rows.dtype, rank_in, d=head.shape[1], vocab=vocab, top_k=top_k)
    if way.name == "triton":
        return gpu.multiply(rows, head, top_k, poles)
    if way.name == "bfloat16":
        return candidates.multiply_bfloat16(rows, head, top_k, poles)
    if rows.dtype not in (torch.float32, torch.float64):
        rows, head = rows.float(), head.float()
    return multiply(rows, head, top_k, poles)


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
    way: Way,
    head_of: Checkpoint | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[LayerDecode]:
    """Decode layer after layer, reading the next one meanwhile; progress is called with (layers done, in all).

    Two layers' rows and the head are in memory at a time, whatever the size of the model.
    """
    if not layers:
        return
    head = (head_of or checkpoint).head()
    # Weights as they are, where they are multiplied exactly and much faster than in float32.
    as_stored = not lens.residual and way.name != "plain" and head.dtype in (torch.float16, torch.bfloat16)
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
            same = rows.dtype == head.dtype  # else a layer that is stored otherwise than the head
            plus, minus = decode_rows(rows, head.to(rows.dtype), top_k=top_k, way=way if same else None)
            yield LayerDecode(layer, plus, minus, _norms(rows))
            if progress:
                progress(done, len(layers))


def _norms(rows: Tensor) -> Tensor:
    """[F] float32, without a float32 copy of half-precision rows."""
    accumulate = torch.float64 if rows.dtype == torch.float64 else torch.float32
    norms: Tensor = torch.linalg.vector_norm(rows, dim=1, dtype=accumulate)
    return norms.float()


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
