"""The decode on a CUDA GPU: one product per chunk of rows, one pass of Triton kernels over it (BENCHMARKS, decode).

The kernels are trusted on a device only after they have given, there, what plain torch gives; without Triton, or
where they do not, the plain path is taken, and the map says so.
"""

from __future__ import annotations

import functools
import importlib.util
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from flashinterp.decoding.backends import topk
from flashinterp.decoding.backends.top_tokens import Pole, Poles, Proof
from flashinterp.models.norms import cap

MOST = 256
"""Tokens kept by the kernels at most: with more, their registers spill, and plain torch is taken."""
_PROBE_ROWS, _PROBE_VOCAB, _PROBE_KEEP = 64, 5000, 100
_BUFFER_BYTES = 2 << 30  # of logits: 3,584 rows at V = 128,256, which is 28 whole tiles of 128 rows
_ROW_TILE = 128
_KERNEL_BLOCK = 32


@functools.cache
def selection(device: str) -> Proof:
    """Whether the kernels are to be used on a device; they are proved there at the first call."""
    if not device.startswith("cuda"):
        return Proof(False, "not a CUDA device")
    if importlib.util.find_spec("triton") is None:
        return Proof(False, "triton is not installed")
    return prove(device)


def prove(device: str) -> Proof:
    """Run the kernels on random logits with ties, which must give plain torch's ids and values."""
    try:
        z = _probe_logits().to(device)
        both = select(z, _PROBE_VOCAB, _PROBE_KEEP)
    except Exception as error:  # a compiler or driver that does not suit: plain torch still works
        return Proof(False, f"the kernels do not run here ({type(error).__name__})")
    for negate, got in zip((False, True), both, strict=True):
        maxima = z.new_empty(len(z), z.shape[1] // topk.BLOCK)
        topk.block_maxima(z, 0, _PROBE_VOCAB, maxima, negate=negate)
        ids, values = topk.select(z, maxima, _PROBE_KEEP, _PROBE_VOCAB, negate=negate)
        if not (torch.equal(ids.int(), got.ids) and torch.equal(values + 0.0, got.logits)):
            return Proof(False, "the kernels do not agree with plain torch here")
    return Proof(True, "the kernels agree with plain torch here")


def multiply(rows: Tensor, head: Tensor, top_k: int, poles: Poles, softcap: float | None = None) -> tuple[Pole, ...]:
    """The poles of rows [n, d] with a head [V, d] on a CUDA device, by the kernels; top_k is at most `MOST`.

    Raises:
        CheckpointError: a logit is beyond float32.
    """
    workspace, parts = None, []
    for _, z in logit_chunks(rows, head):
        workspace = workspace or _workspace(len(z), len(head), top_k, poles, rows.device)
        cap(z[:, : len(head)], softcap)
        parts.append([found.clone() for found in select(z, len(head), top_k, poles=poles, workspace=workspace)])
    return tuple(Pole.join(side) for side in zip(*parts, strict=True))


def select(z: Tensor, vocab: int, keep: int, *, poles: Poles = "both", workspace: Any = None) -> list[Pole]:
    """The kernels' `select`; with a workspace its results are overwritten by the next call."""
    from flashinterp.decoding.backends import triton_select as kernels  # imports triton

    pair = kernels.select(z, vocab, keep, poles=poles, workspace=workspace)
    return [pole.checked() for pole in pair if pole is not None]


def _workspace(rows: int, vocab: int, keep: int, poles: Poles, device: torch.device) -> Any:
    from flashinterp.decoding.backends import triton_select as kernels

    return kernels.Workspace.allocate(rows, kernels.Plan(vocab, keep, 2 if poles == "both" else 1), device)


def _probe_logits() -> Tensor:
    """[64, 5000 up to a whole block]: half a continuum, half small integers, which tie."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(_PROBE_ROWS, topk.padded(_PROBE_VOCAB), generator=generator) * 3
    z[::2] = z[::2].round()
    return z


def logit_chunks(rows: Tensor, head: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Chunks of rows with their float32 logits [n, V up to a whole block of 32], in one buffer that is used again.

    Half-precision weights are multiplied as they are, with float32 accumulation and float32 results.
    """
    vocab = len(head)
    width = math.ceil(vocab / _KERNEL_BLOCK) * _KERNEL_BLOCK
    fitting = _BUFFER_BYTES // (4 * width) // _ROW_TILE * _ROW_TILE
    size = min(max(fitting, 1), len(rows))
    buffer = torch.empty(size, width, dtype=torch.float32, device=rows.device)
    with _full_precision():
        for chunk in rows.split(size):
            z = buffer[: len(chunk)]
            if width == vocab:
                _product(chunk, head, z)
            else:  # the product wants a contiguous place
                z[:, :vocab] = _product(chunk, head, torch.empty(len(chunk), vocab, device=rows.device))
            yield chunk, z


def _product(chunk: Tensor, head: Tensor, out: Tensor) -> Tensor:
    if chunk.dtype == torch.float32:
        return torch.mm(chunk, head.T, out=out)
    return torch.mm(chunk, head.T, out_dtype=torch.float32, out=out)


@contextmanager
def _full_precision() -> Iterator[None]:
    """No TF32 and no half-precision partial sums, whatever the process has set; restored afterwards."""
    matmul = torch.backends.cuda.matmul
    names = ("allow_tf32", "allow_bf16_reduced_precision_reduction", "allow_fp16_reduced_precision_reduction")
    before = {name: getattr(matmul, name) for name in names}
    try:
        for name in names:
            setattr(matmul, name, False)
        yield
    finally:
        for name, value in before.items():
            setattr(matmul, name, value)
