"""What a decode costs on a CPU beside the bare matrix product, at the shape of a large model's head.

Run it as ``python -m benchmarks.decode``, on an idle machine; the ways are run in turn, and the table gives the median
of the rounds' ratios with their range. ``faiss-cpu`` joins in where it is installed; it gives no logsumexp.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from collections.abc import Callable

import torch
from tabulate import tabulate

from flashinterp.decode import decode_rows

K = 100
TILE = 1024  # the bare product's best tile on the machines that were tried


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.decode", description=__doc__.splitlines()[0])
    for name, default in (("rows", 512), ("d", 4096), ("vocab", 128256), ("rounds", 7), ("threads", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    sizes = parser.parse_args()
    if sizes.threads:
        torch.set_num_threads(sizes.threads)
    generator = torch.Generator().manual_seed(0)
    rows, head = (torch.randn(n, sizes.d, generator=generator).mul_(0.02) for n in (sizes.rows, sizes.vocab))
    ways = _ways(rows, head)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    grown = {}
    for measured in range(sizes.rounds + 1):
        for name, run in ways.items():
            before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
            run()
            if measured:  # the first round warms caches
                seconds[name].append(time.perf_counter() - start)
            else:
                grown[name] = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    table = []
    for name, times in seconds.items():
        ratios = [t / bare for t, bare in zip(times, seconds["bare product"], strict=True)]
        shown = [statistics.median(times), statistics.median(ratios), min(ratios), max(ratios), grown[name]]
        table.append([name, *shown])
    shape = f"{sizes.rows} rows x {sizes.d} x {sizes.vocab:,} tokens, float32"
    print(f"{shape}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(tabulate(table, ["way", "seconds", "ratio", "lowest", "highest", "peak grew, MiB"], floatfmt=".3f"))


def _ways(rows: torch.Tensor, head: torch.Tensor) -> dict[str, Callable[[], object]]:
    """What is compared; the bare product first, then by memory, so that each one's growth of the peak shows."""
    tile = torch.empty(len(rows), TILE)

    def bare() -> None:
        for part in head.split(TILE):
            torch.mm(rows, part.T, out=tile[:, : len(part)])

    def naive() -> object:
        logits = rows @ head.T
        return logits.softmax(1), logits.logsumexp(1), logits.topk(K, dim=1)

    ways: dict[str, Callable[[], object]] = {
        "bare product": bare,
        "flashinterp, both poles": lambda: decode_rows(rows, head, top_k=K),
    }
    try:
        import faiss
    except ImportError:
        pass
    else:
        ways["faiss.knn, one pole"] = lambda: faiss.knn(
            rows.numpy(), head.numpy(), K, metric=faiss.METRIC_INNER_PRODUCT
        )
    return {**ways, "naive, one pole": naive}


if __name__ == "__main__":
    main()
