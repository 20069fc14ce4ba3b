"""What a decode costs beside the bare matrix product. A benchmark table, with no timed pass or fail.

The bare product is the floor: whoever wants logits must compute it. The ratios are measured side by side in
one run, interleaved, because a machine's speed drifts.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from flashinterp import Checkpoint
from flashinterp.decoding.backends.choice import choose_way, decode_rows
from flashinterp.decoding.backends.top_tokens import Scratch
from flashinterp.decoding.lens_rows import lens_rows
from flashinterp.evaluation.profiles import Profile
from flashinterp.neurons import get_lens
from flashinterp.runs.eval_recorder import EvalRecorder
from flashinterp.studies.instrument_checks.decode_tables import BARE, Timed, speed_table

ROUNDS = 5
ROWS = 512
TILE = 1024
K = 100


def test_ratio_to_the_bare_product(base: Checkpoint, profile: Profile, device: str, evidence: EvalRecorder) -> None:
    """Time of a decode over the time of the bare product, on the model's own weights and on a larger random head.

    Implementation: the bare product in tiles of 1,024 tokens; ours, for both poles and for one, with the top 100,
    logsumexp and the mean of the top 100; ours on the same weights in bfloat16, where this processor has a faster
    exact way for them; the naive way, full logits with softmax, topk and logsumexp; faiss.knn on a CPU where it is
    installed, which gives no logsumexp. All work on float32 weights but for the bfloat16 column, and are run in turn
    several times; the table gives the median of the per-round ratios, and none where a way does not exist here.
    The results are also compared: all of ours must find the logits that the naive way finds.
    """
    rows = lens_rows(base, get_lens("paper"), base.layout.roster.blocks[-1])[:ROWS].to(device)
    generator = torch.Generator().manual_seed(0)
    d, vocab = profile.speed_shape
    random = [torch.randn(n, d, generator=generator).mul_(0.02).bfloat16().float().to(device) for n in (ROWS, vocab)]
    timed = []
    for name, w, u in (("the audited model", rows, base.head().float().to(device)), ("random", *random)):
        ways = _ways(w, u, device)
        timed.append(Timed(name, len(w), w.shape[1], len(u), _interleaved(ways, device)))
        naive = _naive(w, u)
        for found in (decode_rows(w, u, top_k=min(K, len(u))), decode_rows(w, u, top_k=min(K, len(u)), poles="+")):
            torch.testing.assert_close(found[0].logits, naive, rtol=1e-5, atol=1e-5)
        if (
            "bfloat16 weights, both poles" in ways
        ):  # exact if the weights are on bfloat16's grid, as the random ones are
            halves = decode_rows(w.bfloat16(), u.bfloat16(), top_k=K)
            torch.testing.assert_close(halves[0].logits, _naive(w.bfloat16().float(), u.bfloat16().float()))
    title = "Decode against the bare matrix product"
    evidence.derived(speed_table, "ratios", title, timed, device, torch.get_num_threads())


def _ways(w: Tensor, u: Tensor, device: str) -> dict[str, Callable[[], object]]:
    """What is timed, the bare product first."""
    # Kept from round to round, as a decode keeps them from layer to layer.
    out, scratch, half_scratch = torch.empty(len(w), TILE, device=device), Scratch(), Scratch()
    k = min(K, len(u))
    ways: dict[str, Callable[[], object]] = {
        BARE: lambda: [torch.mm(w, tile.T, out=out[:, : len(tile)]) for tile in u.split(TILE)],
        "both poles": lambda: decode_rows(w, u, top_k=k, scratch=scratch),
        "one pole": lambda: decode_rows(w, u, top_k=k, poles="+", scratch=scratch),
        "naive, one pole": lambda: _naive(w, u),
    }
    halves = w.bfloat16(), u.bfloat16()
    way = choose_way(device, torch.bfloat16, torch.float32, d=w.shape[1], vocab=len(u), top_k=k)
    if way.name != "plain":
        ways["bfloat16 weights, both poles"] = lambda: decode_rows(*halves, top_k=k, way=way, scratch=half_scratch)
    if device == "cpu" and importlib.util.find_spec("faiss"):
        import faiss

        arrays = w.numpy(), u.numpy()
        ways["faiss.knn, one pole"] = lambda: faiss.knn(*arrays, k, metric=faiss.METRIC_INNER_PRODUCT)
    return ways


def _interleaved(ways: dict[str, Callable[[], object]], device: str) -> dict[str, np.ndarray]:
    """Seconds of each way, [rounds]."""
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
