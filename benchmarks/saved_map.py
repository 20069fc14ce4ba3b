"""What a saved map of a large model costs: to write, to open, and to ask, with its index and without.

Run it as ``python -m benchmarks.saved_map``: a map of the shapes of Llama 3.1 8B with random content is written to a
temporary folder (0.8 GB; 3 GB of memory while it is made) and asked in fresh processes, first with none of the file in
the page cache, where the system drops it on request, then with all of it.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from tabulate import tabulate

from flashinterp.decoding.index_builder import build_index
from flashinterp.decoding.neuron_map import NeuronMap
from flashinterp.decoding.token_index import PoleIndex
from flashinterp.neuron_index import NeuronIndex
from flashinterp.neurons import POLES
from flashinterp.tokens import Vocabulary

QUESTIONS = 200  # warm finds, each of another token
SCANS = 5

T = TypeVar("T")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.saved_map", description=__doc__.splitlines()[0])
    for name, default in (("layers", 32), ("neurons", 14336), ("vocab", 128256), ("top-k", 100)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--ask", type=Path, help=argparse.SUPPRESS)  # what the fresh processes are given
    sizes = parser.parse_args()
    if sizes.ask:
        print(json.dumps(_ask(sizes.ask)))
        return

    fresh = random_map(np.random.default_rng(0), sizes.layers, sizes.neurons, sizes.vocab, sizes.top_k)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "map"
        indexes, indexing = _timed(_indexes, fresh)
        _, writing = _timed(dataclasses.replace(fresh, indexes=indexes).save, path)
        cold, warm = (_in_a_process(path, cold=cold) for cold in (True, False))
        size, of_index = path.stat().st_size, sum(i.places.nbytes + i.bound_rows.nbytes for i in indexes)
    shape = f"{len(fresh):,} neurons, top {sizes.top_k} of {sizes.vocab:,} tokens, both poles"
    print(f"{shape}: {size / 1e6:,.0f} MB, of which {of_index / 1e6:.0f} MB are the index")
    made = [["index both poles", indexing], ["write the file", writing]]
    print(tabulate(made, ["made", "seconds"], floatfmt=".2f"), end="\n\n")
    asked = [[step, 1e3 * cold[step], 1e3 * warm[step]] for step in cold]
    print(tabulate(asked, ["asked in a fresh process, ms", "file not in memory", "in memory"], floatfmt=".1f"))


def random_map(rng: np.random.Generator, layers: int, neurons: int, vocab: int, top_k: int) -> NeuronMap:
    """A map with random tokens, no token twice in a list, and logits that fall along it."""
    n = layers * neurons
    poles: dict[str, Any] = {}
    for ids_name, prefix, sign in (("top_ids", "", 1), ("bottom_ids", "bottom_", -1)):
        first = rng.integers(0, vocab, (n, 1), dtype=np.int32)
        step = rng.integers(1, vocab // top_k + 1, (n, 1), dtype=np.int32)  # k steps stay within one round
        poles[ids_name] = (first + step * np.arange(top_k, dtype=np.int32)) % np.int32(vocab)
        logits = -0.03 * rng.standard_exponential((n, top_k), dtype=np.float32).cumsum(axis=1)
        logits += rng.normal(8, 1, (n, 1)).astype(np.float32)
        poles[ids_name.replace("ids", "logits")] = np.float32(sign) * logits
        poles[f"{prefix}log_mean_top"] = np.log(np.exp(logits).mean(axis=1))
        poles[f"{prefix}logsumexp"] = poles[f"{prefix}log_mean_top"] + np.float32(np.log(top_k) + 5)
    words = Vocabulary([f" word{i}" for i in range(vocab)], [], prefix_space=False)
    norms: NDArray[np.float32] = rng.random(n, dtype=np.float32)
    meta = {"model": "random", "lens": "paper", "top_k": top_k, "weights": {}, "head_of": None}
    roster = NeuronIndex.from_rows([[layer, -1, neurons] for layer in range(layers)])
    return NeuronMap(**poles, norms=norms, roster=roster, vocabulary=words, meta=meta)


def _indexes(fresh: NeuronMap) -> tuple[PoleIndex, ...]:
    """What `NeuronMap.save` would make."""
    return tuple(
        build_index(ids, logits - mean[:, None], len(fresh.vocabulary))
        for ids, logits, _, mean in map(fresh.pole_arrays, POLES)
    )


def _timed(run: Callable[..., T], *args: Any) -> tuple[T, float]:
    start = time.perf_counter()
    return run(*args), time.perf_counter() - start


def _in_a_process(path: Path, *, cold: bool) -> dict[str, float]:
    """Seconds of each step in a process that has seen nothing of the map."""
    if cold:
        with path.open("rb") as file:
            os.fsync(file.fileno())  # only written pages can be dropped
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    command = [sys.executable, "-m", "benchmarks.saved_map", "--ask", str(path)]
    answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    seconds: dict[str, float] = json.loads(answer)
    return seconds


def _ask(path: Path) -> dict[str, float]:
    """Open a map and ask it, in this process."""
    saved, opened = _timed(NeuronMap.load, path)
    tokens = np.random.default_rng(1).integers(0, len(saved.vocabulary), QUESTIONS + 1).tolist()
    found, first = _timed(saved.find, tokens[0])
    others = [_timed(saved.find, token)[1] for token in tokens[1:]]
    again = [_timed(saved.find, token)[1] for token in tokens]
    without = dataclasses.replace(saved, indexes=None)
    scans = [_timed(without.find, token) for token in tokens[:SCANS]]
    if [answer[:4] for answer in scans[0][0]] != [answer[:4] for answer in found]:
        raise SystemExit("the index does not answer as the scan does")
    return {
        "open": opened,
        "first find": first,
        f"find, median of {QUESTIONS} other tokens": median(others),
        f"find, slowest of {QUESTIONS} other tokens": max(others),
        "find, the same tokens again, median": median(again),
        "find without the index, first": scans[0][1],
        "find without the index, median of the next": median(seconds for _, seconds in scans[1:]),
    }


if __name__ == "__main__":
    main()
