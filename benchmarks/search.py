"""What a search for a word costs, and how contrasts lie beside those of neurons drawn at random.

``python -m benchmarks.search MODEL`` prints two tables: seconds for one word; and over words of the vocabulary the
largest contrast of all neurons, in the model and in one draw of the null, lens by lens.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
import torch
from tabulate import tabulate

from flashinterp.decoding.contrast import Null, Sought, WordRows
from flashinterp.decoding.head_statistics import head_statistics
from flashinterp.decoding.plan import make_plan
from flashinterp.decoding.search import find, find_each
from flashinterp.models.checkpoint import Checkpoint, open_checkpoint

QUANTILES = (0.05, 0.5, 0.95, 0.99)


def costs(model: str, word: str) -> list[list[Any]]:
    """Seconds by the clock: the model opened, then one word, without and with the head's statistics at hand."""
    rows = []
    start = time.perf_counter()
    checkpoint = open_checkpoint(model)
    _ = checkpoint.vocabulary
    rows.append(["opened, with its vocabulary", time.perf_counter() - start])
    start = time.perf_counter()
    statistics = head_statistics(checkpoint, cache=False)
    rows.append([f"mean and covariance of {statistics.tokens:,} rows of the head", time.perf_counter() - start])
    for lens in ("paper", "all"):
        find(checkpoint, word, lens=lens, n=1)  # the statistics are in the cache now
        start = time.perf_counter()
        find(checkpoint, word, lens=lens)
        rows.append([f"{word!r}, lens {lens}, the statistics cached", time.perf_counter() - start])
    return rows


def contrasts(checkpoint: Checkpoint, lens: str, words: list[int], seed: int) -> list[Any]:
    """Quantiles over words of the largest contrast, in the model and in one draw; the share above the draw's 95 %."""
    real = np.array([found[0].contrast for found in find_each(checkpoint, words, lens=lens, n=1)])
    plan = make_plan(checkpoint, lens=lens, top_k=1)
    tokens = [part for i in words for part in Sought.of(checkpoint.vocabulary, i)]
    rows = WordRows.of(checkpoint, head_statistics(checkpoint), tokens, plan.device)
    (drawn,) = Null(draws=1, seed=seed).draw(checkpoint, plan, rows, "both")
    above = float((real > np.quantile(drawn, 0.95)).mean())
    quantiles = [" ".join(f"{q:.2f}" for q in np.quantile(values, QUANTILES)) for values in (real, drawn)]
    return [lens, *quantiles, f"{above:.3f}", f"{float((drawn > 4.87).mean()):.3f}"]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.search", description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--word", default=" dog")
    parser.add_argument("--words", type=int, default=1500, help="how many of the vocabulary's are drawn")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    checkpoint = open_checkpoint(given.model)
    every = checkpoint.vocabulary.words()
    words = np.random.default_rng(given.seed).choice(every, min(given.words, len(every)), replace=False)
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, {len(checkpoint.layout.roster):,} neurons")
    print(tabulate(costs(given.model, given.word), ["what", "s"], tablefmt="github", floatfmt=".2f"))
    lenses = [lens.name for lens in checkpoint.layout.lenses]
    table = [contrasts(checkpoint, lens, sorted(map(int, words)), given.seed) for lens in lenses]
    head = ["lens", "the model: 5 %, median, 95 %, 99 %", "one draw", "words above the draw's 95 %", "draw above 4.87"]
    print(tabulate(table, head, tablefmt="github"))


if __name__ == "__main__":
    main()
