"""The time of a decode beside that of the bare matrix product, and of other ways to the same tokens."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from flashinterp.decoding.backends.choice import choose_way, decode_rows
from flashinterp.decoding.backends.top_tokens import Scratch
from flashinterp.decoding.lens_rows import lens_rows
from flashinterp.evaluation.evidence import Floats
from flashinterp.models.checkpoint import Checkpoint
from flashinterp.neurons import get_lens
from flashinterp.studies.instrument_checks.decode_tables import BARE

ROUNDS = 5
ROWS = 512
TILE = 1024
"""Tokens that the bare product takes at a time."""
KEPT_TOKENS = 100
HALVES = "bfloat16 weights, both poles"
"""The way of those that works on rounded weights."""


def timed_weights(checkpoint: Checkpoint, shape: tuple[int, int], device: str) -> dict[str, tuple[Tensor, Tensor]]:
    """Rows and heads to time, float32: of the model, and random ones on bfloat16's grid.

    Args:
        checkpoint: the model; its last block's first rows are taken.
        shape: d and V of the random ones.
        device: where.
    """
    rows = lens_rows(checkpoint, get_lens("paper"), checkpoint.layout.roster.blocks[-1])[:ROWS].to(device)
    generator = torch.Generator().manual_seed(0)
    d, vocab = shape
    random = [torch.randn(n, d, generator=generator).mul_(0.02).bfloat16().float().to(device) for n in (ROWS, vocab)]
    return {"the audited model": (rows, checkpoint.head().float().to(device)), "random": (random[0], random[1])}


def ways_to_decode(w: Tensor, u: Tensor, device: str) -> dict[str, Callable[[], object]]:
    """What is timed, the bare product first; a way that does not exist here, or is no faster, is left out.

    Args:
        w: [n, d] float32.
        u: [V, d] float32.
        device: where both are.
    """
    # Kept from round to round, as a decode keeps them from layer to layer.
    out, scratch, half_scratch = torch.empty(len(w), TILE, device=device), Scratch(), Scratch()
    k = min(KEPT_TOKENS, len(u))
    ways: dict[str, Callable[[], object]] = {
        BARE: lambda: [torch.mm(w, tile.T, out=out[:, : len(tile)]) for tile in u.split(TILE)],
        "both poles": lambda: decode_rows(w, u, top_k=k, scratch=scratch),
        "one pole": lambda: decode_rows(w, u, top_k=k, poles="+", scratch=scratch),
        "naive, one pole": lambda: naive_top_logits(w, u),
    }
    halves = w.bfloat16(), u.bfloat16()
    way = choose_way(device, torch.bfloat16, torch.float32, d=w.shape[1], vocab=len(u), top_k=k)
    if way.name != "plain":
        ways[HALVES] = lambda: decode_rows(*halves, top_k=k, way=way, scratch=half_scratch)
    if device == "cpu" and importlib.util.find_spec("faiss"):
        import faiss

        arrays = w.numpy(), u.numpy()
        ways["faiss.knn, one pole"] = lambda: faiss.knn(*arrays, k, metric=faiss.METRIC_INNER_PRODUCT)
    return ways


def time_interleaved(ways: Mapping[str, Callable[[], object]], device: str) -> dict[str, Floats]:
    """Seconds of each way, [rounds]: the ways take turns, because a machine's speed drifts."""
    times: dict[str, list[float]] = {way: [] for way in ways}
    for measured in range(ROUNDS + 1):
        for way, run in ways.items():
            _wait(device)
            start = time.perf_counter()
            run()
            _wait(device)
            if measured:  # the first round warms caches
                times[way].append(time.perf_counter() - start)
    return {way: np.array(seconds) for way, seconds in times.items()}


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def naive_top_logits(w: Tensor, u: Tensor) -> Tensor:
    """What one writes first: full logits, softmax, topk; returns the top logits [n, k]."""
    logits = w @ u.T
    logits.softmax(1)
    logits.logsumexp(1)
    return logits.topk(min(KEPT_TOKENS, len(u)), dim=1).values


def logits_found(w: Tensor, u: Tensor, ways: Mapping[str, object]) -> Iterator[tuple[Tensor, Tensor, float]]:
    """The top logits [n, k] that each of our ways finds, what the naive way finds, and how far they may be apart.

    Args:
        w, u: the weights, float32; where the rounded ones are timed, they are on bfloat16's grid or are rounded here.
        ways: those that exist here.
    """
    naive, k = naive_top_logits(w, u), min(KEPT_TOKENS, len(u))
    yield decode_rows(w, u, top_k=k)[0].logits, naive, 1e-5
    yield decode_rows(w, u, top_k=k, poles="+")[0].logits, naive, 1e-5
    if HALVES in ways:
        w, u = w.bfloat16(), u.bfloat16()
        yield decode_rows(w, u, top_k=k)[0].logits, naive_top_logits(w.float(), u.float()), 1.3e-6
