"""What a decode costs beside the bare matrix product. A benchmark table, with no timed pass or fail.

The bare product is the floor: whoever wants logits must compute it. The ratios are measured side by side in
one run, interleaved, because a machine's speed drifts.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from flashinterp import Checkpoint
from flashinterp.decode import decode_rows, lens_rows
from flashinterp.neuron import get_lens
from flashinterp.pytest_plugin import Evidence

ROUNDS = 5
ROWS = 512
TILE = 1024
# Big enough to be bound by arithmetic and not by calls, small enough for a laptop: 512 x 512 x 32,768.
LARGE = (512, 512, 32768)
K = 100


def test_ratio_to_the_bare_product(base: Checkpoint, device: str, evidence: Evidence) -> None:
    """Time of a decode over the time of the bare product, on the model's own weights and on a larger random head.

    Implementation: bare product in tiles of 1,024 tokens; ours, both poles with the top 100, logsumexp and the mean of
    the top 100; the naive way, full logits with softmax, topk and logsumexp for one pole. Each is run in turn,
    several times; the table gives the median of the per-round ratios. The results are also compared: the
    two ways must find the same logits.
    """
    rows = lens_rows(base, get_lens("paper"), base.layout.n_layers - 1)[:ROWS].to(device)
    generator = torch.Generator().manual_seed(0)
    n, d, vocab = LARGE
    random = [torch.randn(size, d, generator=generator).to(device) for size in (n, vocab)]
    table = []
    for name, w, u in (("the audited model", rows, base.head().float().to(device)), ("random", *random)):
        times = _interleaved(w, u, device)
        table.append(
            [name, len(w), w.shape[1], len(u), float(np.median(times["bare"]) * 1e3)]
            + [float(np.median(times[way] / times["bare"])) for way in ("ours", "naive")]
        )
        ours, naive = decode_rows(w, u, top_k=min(K, len(u)))[0], _naive(w, u)
        torch.testing.assert_close(ours.logits, naive, rtol=1e-5, atol=1e-5)
    evidence.table(
        "ratios",
        "Decode against the bare matrix product",
        ["weights", "rows", "d", "V", "bare product, ms", "ours, both poles", "naive, one pole"],
        table,
        f"Ratios to the bare product, medians of {ROUNDS} interleaved rounds on {device}.",
    )


def _interleaved(w: Tensor, u: Tensor, device: str) -> dict[str, np.ndarray]:
    """Seconds of each way, [rounds]."""
    out = torch.empty(len(w), TILE, device=device)
    ways: dict[str, Callable[[], object]] = {
        "bare": lambda: [torch.mm(w, tile.T, out=out[:, : len(tile)]) for tile in u.split(TILE)],
        "ours": lambda: decode_rows(w, u, top_k=min(K, len(u))),
        "naive": lambda: _naive(w, u),
    }
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


def _naive(w: Tensor, u: Tensor) -> Tensor:
    """What one writes first: full logits, softmax, topk; returns the top logits."""
    logits = w @ u.T
    logits.softmax(1)
    logits.logsumexp(1)
    return logits.topk(min(K, len(u)), dim=1).values
