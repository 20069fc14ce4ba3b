"""Which backend decodes, chosen once from device and dtype, and the decode of prepared rows by it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from flashinterp.decoding.backends import cpu_bfloat16, cuda
from flashinterp.decoding.backends.plain_torch import multiply
from flashinterp.decoding.backends.score import SCORE_TOKENS
from flashinterp.decoding.backends.top_tokens import Pole, Poles, Scratch
from flashinterp.errors import MapError


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
    device: str,
    weights: torch.dtype,
    rank_in: torch.dtype,
    *,
    d: int,
    vocab: int,
    top_k: int,
    softcap: float | None = None,
    exact_mass: bool = False,
) -> Way:
    """The fastest way that gives the exact ids and logits.

    Args:
        device: where.
        weights: the dtype of the rows and the head as they come to the product.
        rank_in: float32 or float64.
        d, vocab, top_k: the shape.
        softcap: c of the model's logits, or None.
        exact_mass: whether logsumexp, too, must be free of rounded logits.
    """
    if rank_in == torch.float64:
        return Way("plain", "logits are ranked in float64")
    on_gpu = cuda.selection(device)
    if on_gpu.holds and top_k <= cuda.MOST:
        return Way("triton", on_gpu.reason)
    if device != "cpu" or weights != torch.bfloat16:
        return Way("plain", f"the kernels keep at most {cuda.MOST} tokens" if on_gpu.holds else on_gpu.reason)
    if exact_mass:
        return Way("plain", "float32 was asked for")
    if softcap is not None:
        return Way("plain", "a soft-cap is not bounded for candidates")
    return Way(*cpu_bfloat16.choose(d, vocab, top_k))


PIECE = 256  # rows that are prepared at a time


def decode_rows(
    rows: Tensor,
    head: Tensor,
    *,
    top_k: int = SCORE_TOKENS,
    poles: Poles = "both",
    softcap: float | None = None,
    way: Way | None = None,
    scratch: Scratch | None = None,
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
    (`cpu_bfloat16`). No rounded logit is ever ranked or returned.

    Args:
        rows: [n, d] float32 or float64, float16 or bfloat16.
        head: [V, d], same dtype and device.
        top_k: how many tokens to keep, at most V.
        poles: ``both``, or ``+`` for w alone.
        softcap: c, where the model's logits are c · tanh(z / c).
        way: how; by default the fastest that is exact here.
        scratch: a buffer to use again, for several calls.

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
    way = way or choose_way(
        str(rows.device), rows.dtype, rank_in, d=head.shape[1], vocab=vocab, top_k=top_k, softcap=softcap
    )
    if way.name == "triton":
        return cuda.multiply(rows, head, top_k, poles, softcap)
    if way.name == "bfloat16":
        return cpu_bfloat16.multiply_bfloat16(rows, head, top_k, poles, scratch)
    if rows.dtype not in (torch.float32, torch.float64):
        rows, head = rows.float(), head.float()
    return multiply(rows, head, top_k, poles, softcap, scratch)
