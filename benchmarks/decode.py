"""What a decode costs on a CPU beside the bare matrix product, at the shape of a large model's head.

Run it as ``python -m benchmarks.decode``, on an idle machine; the ways are run in turn, and the table gives the median
of the rounds' ratios with their range. Then each way runs alone in a fresh process, which tells how far it lifts the
peak of memory above the weights. ``faiss-cpu`` joins in where it is installed; it gives no logsumexp.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from tabulate import tabulate
from torch import Tensor

from flashinterp.decoding.backends.choice import Way, decode_rows
from flashinterp.decoding.backends.cpu_bfloat16 import bfloat16
from flashinterp.decoding.backends.plain_torch import TILE
from flashinterp.decoding.backends.top_tokens import Scratch

K = 100
BARE = "bare product, float32"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.decode", description=__doc__.splitlines()[0])
    for name, default in (("rows", 512), ("d", 4096), ("vocab", 128256), ("rounds", 7), ("threads", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--peak-of", help=argparse.SUPPRESS)
    sizes = parser.parse_args()
    if sizes.threads:
        torch.set_num_threads(sizes.threads)
    generator = torch.Generator().manual_seed(0)
    # On the grid of bfloat16, so that all ways multiply the same weights.
    rows, head = (
        torch.randn(n, sizes.d, generator=generator).mul_(0.02).bfloat16().float() for n in (sizes.rows, sizes.vocab)
    )
    ways = _ways(rows, head)
    if sizes.peak_of:
        print(_growth(ways[sizes.peak_of]))
        return
    seconds = _interleaved(ways, sizes.rounds)
    table = []
    for name, times in seconds.items():
        ratios = [t / bare for t, bare in zip(times, seconds[BARE], strict=True)]
        figures = [statistics.median(times), statistics.median(ratios), min(ratios), max(ratios)]
        table.append([name, *figures, _growth_alone(name)])
    shape = f"{sizes.rows} rows x {sizes.d} x {sizes.vocab:,} tokens, top {K}"
    print(f"{shape}, {torch.get_num_threads()} threads, torch {torch.__version__}; {bfloat16().reason}")
    print(tabulate(table, ["way", "seconds", "ratio", "lowest", "highest", "MB above the weights"], floatfmt=".3f"))
    _compare(rows, head)


def _ways(rows: Tensor, head: Tensor) -> dict[str, Callable[[], object]]:
    """What is compared; the bare product first."""
    tile, scratch, half_scratch = torch.empty(len(rows), TILE), Scratch(), Scratch()  # all kept from round to round
    halves = [t.bfloat16() for t in (rows, head)]

    def bare() -> None:
        for part in head.split(TILE):
            torch.mm(rows, part.T, out=tile[:, : len(part)])

    def bare_bfloat16() -> None:
        for part in halves[1].split(TILE):
            torch.mm(halves[0], part.T)

    def naive() -> object:
        logits = rows @ head.T
        return logits.softmax(1), logits.logsumexp(1), logits.topk(K, dim=1)

    candidates = Way("bfloat16", "named")
    ways: dict[str, Callable[[], object]] = {
        BARE: bare,
        "flashinterp, both poles": lambda: decode_rows(rows, head, top_k=K, scratch=scratch),
        "flashinterp, one pole": lambda: decode_rows(rows, head, top_k=K, poles="+", scratch=scratch),
        "bare product, bfloat16": bare_bfloat16,
        "flashinterp, bfloat16 weights, both poles": lambda: decode_rows(
            *halves, top_k=K, way=candidates, scratch=half_scratch
        ),
        "flashinterp, bfloat16 weights, one pole": lambda: decode_rows(
            *halves, top_k=K, way=candidates, poles="+", scratch=half_scratch
        ),
    }
    try:
        import faiss
    except ImportError:
        pass
    else:
        ways["faiss.knn, one pole, no logsumexp"] = lambda: faiss.knn(
            rows.numpy(), head.numpy(), K, metric=faiss.METRIC_INNER_PRODUCT
        )
    return {**ways, "naive softmax and topk, one pole": naive}


def _interleaved(ways: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each way in each round; the first round warms caches and does not count.

    Each round begins with another way, so that none always follows the same one and its caches.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for measured in range(rounds + 1):
        names = list(ways)[measured % len(ways) :] + list(ways)[: measured % len(ways)]
        for name, run in ((name, ways[name]) for name in names):
            start = time.perf_counter()
            run()
            if measured:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def _growth(run: Callable[[], object]) -> float:
    """Megabytes by which the memory of this process rises above what it holds now (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    before = _peak_kilobytes()
    run()
    return (_peak_kilobytes() - before) * 1024 / 1e6


def _peak_kilobytes() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0])


def _growth_alone(name: str) -> float:
    command = [sys.executable, "-m", "benchmarks.decode", *sys.argv[1:], "--peak-of", name]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def _compare(rows: Tensor, head: Tensor) -> None:
    """Whether bfloat16 weights gave what float32 gave."""
    halves = decode_rows(rows.bfloat16(), head.bfloat16(), top_k=K, way=Way("bfloat16", "named"))
    for sign, ours, exact in zip("+-", halves, decode_rows(rows, head, top_k=K), strict=True):
        same = "are" if torch.equal(ours.ids, exact.ids) and torch.equal(ours.logits, exact.logits) else "ARE NOT"
        off = float((ours.logsumexp - exact.logsumexp).abs().max())
        print(f"bfloat16, pole {sign}: ids and logits {same} float32's; logsumexp off by {off:.1g}")


if __name__ == "__main__":
    main()
