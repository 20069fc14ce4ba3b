"""How much memory a decode needs, proved under a hard limit, and the arithmetic for models that fit no machine.

``python -m benchmarks.memory`` writes a random sharded Llama checkpoint of some GB to a temporary folder and decodes
some of its layers in a process that may not hold more than the head, two layers' rows and 300 MB of buffers: in
float32, which holds most, and as ``auto`` chooses. The same limit, in a control, stops that process when it loads the
whole checkpoint. ``--arithmetic`` prints only the table for Llama 3.1.

The limit is RLIMIT_DATA, on memory that is private and writable, whether touched or not. safetensors maps a shard that
way too, though its pages stay the page cache's as long as nobody writes to them. So the limit allows for one mapped
shard, and the anonymous memory that was really held is sampled beside it and may not pass the bound either.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from textwrap import shorten
from time import perf_counter
from typing import NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tabulate import tabulate

from fixtures import tokenizer
from flashinterp import decode, open_checkpoint
from flashinterp.decoding.neuron_map import NeuronMap
from flashinterp.errors import FlashinterpError
from flashinterp.models.checkpoint import Checkpoint

BUFFERS = 300_000_000  # a chunk's logits and maxima, its candidates, the layer's results, and what the product keeps
GPU_BUFFER = 2 << 30  # of logits on a GPU
MAP_BYTES = 2 * 8 * 100  # of a neuron: ids and logits of the 100 best, two poles
CHECKED = 8  # rows of each decoded layer whose words are compared with a product of their own
SAMPLE_SECONDS = 0.002
WAYS = ("float32", "auto")
MB, GB = 1e6, 1e9


@dataclass(frozen=True)
class Shape:
    """The sizes of a Llama: L, F, d, V, and the width of its keys and values (0: it is written without attention)."""

    layers: int
    neurons: int
    d: int
    vocab: int
    kv: int

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Names and shapes, in the order in which they are written; head not tied."""
        f, d = self.neurons, self.d
        yield "model.embed_tokens.weight", (self.vocab, d)
        for layer in range(self.layers):
            parts = {"q": (d, d), "k": (self.kv, d), "v": (self.kv, d), "o": (d, d)}
            for name, shape in parts.items() if self.kv else ():
                yield f"model.layers.{layer}.self_attn.{name}_proj.weight", shape
            for name, shape in {"gate": (f, d), "up": (f, d), "down": (d, f)}.items():
                yield f"model.layers.{layer}.mlp.{name}_proj.weight", shape
            for name in ("input", "post_attention"):
                yield f"model.layers.{layer}.{name}_layernorm.weight", (d,)
        yield "model.norm.weight", (d,)
        yield "lm_head.weight", (self.vocab, d)

    def parameters(self) -> int:
        """How many numbers the checkpoint holds."""
        return sum(math.prod(shape) for _, shape in self.tensors())

    @property
    def head(self) -> int:
        """Numbers in U."""
        return self.vocab * self.d

    @property
    def rows(self) -> int:
        """Numbers in one layer's W_up."""
        return self.neurons * self.d

    def bound(self) -> int:
        """Bytes that a decode in float32 on a CPU may hold: head, two layers' rows, and buffers."""
        return 4 * (self.head + 2 * self.rows) + BUFFERS


LLAMA = {
    "Llama 3.1 8B": Shape(32, 14336, 4096, 128256, 1024),
    "Llama 3.1 70B": Shape(80, 28672, 8192, 128256, 1024),
    "Llama 3.1 405B": Shape(126, 53248, 16384, 128256, 1024),
}


def main() -> None:
    """Prove the bound and print it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__.splitlines()[0])
    for name, default in (("layers", 8), ("neurons", 14336), ("d", 4096), ("vocab", 16000), ("shard-mb", 200)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--decoded", type=int, default=3, help="how many of the layers are decoded; 0: all")
    parser.add_argument("--arithmetic", action="store_true", help="print only the table for Llama 3.1")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        print(json.dumps(_child(**json.loads(given.child))))
        return
    if not given.arithmetic:
        shape = Shape(given.layers, given.neurons, given.d, given.vocab, given.d // 4)
        prove(shape, int(given.shard_mb * MB), min(given.decoded or given.layers, given.layers), given.threads)
    arithmetic()


def arithmetic() -> None:
    """Print what the decode of each Llama 3.1 reads, holds and computes."""
    table = []
    for name, shape in LLAMA.items():
        read = 2 * (shape.layers * shape.rows + shape.head)
        on_gpu = 2 * (shape.head + 2 * shape.rows) + GPU_BUFFER
        sizes = [2 * shape.parameters(), read, on_gpu, shape.bound(), shape.layers * shape.neurons * MAP_BYTES]
        flop = 2 * shape.layers * shape.rows * shape.vocab
        table.append([name, *(f"{size / GB:.1f}" for size in sizes), f"{flop:.2e}"])
    print("\nIn GB. Decoded: up rows and head. Held: head, two layers' rows, buffers. The map is joined after that.")
    heads = [
        "bfloat16 checkpoint",
        "whole",
        "decoded",
        "held on a GPU, bfloat16",
        "held on a CPU, float32",
        "map",
        "FLOP",
    ]
    print(tabulate(table, heads, disable_numparse=True, colalign=("left", *["right"] * 6)))


def prove(shape: Shape, shard_bytes: int, decoded: int, threads: int) -> None:
    """Decode a random checkpoint within the bound, fail to load it whole, compare some words, and print all."""
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work) / "model"
        on_disk = make(folder, shape, shard_bytes)
        jobs = in_a_process(folder, shape.bound() + shard_bytes, decoded, WAYS, threads)
        compared = {way: compare(folder, NeuronMap.load(map_of(folder, way))) for way in WAYS if not jobs[way].failed}
    sizes = {
        "checkpoint": on_disk,
        f"of it, head and up rows of {decoded} layers": 2 * (decoded * shape.rows + shape.head),
        "head, float32": 4 * shape.head,
        "two layers' rows, float32": 8 * shape.rows,
        "buffers": BUFFERS,
        "bound: these three": shape.bound(),
    }
    print(tabulate([[name, size / MB] for name, size in sizes.items()], ["", "MB"], floatfmt=",.0f"), end="\n\n")
    table = [[name, f"{job.peak / MB:,.0f}", f"{job.seconds:.0f}", job.failed or "done"] for name, job in jobs.items()]
    heads = ["under the limit", "peak, MB", "seconds", "outcome"]
    print(tabulate(table, heads, disable_numparse=True, colalign=("left", "right", "right", "left")), end="\n\n")
    for way, (same, difference) in compared.items():
        print(f"{way}: {same:.2%} of the ids of {CHECKED} rows a layer as by float64, logits within {difference:.1e}")
    if not jobs["whole"].failed or any(jobs[way].failed or jobs[way].peak > shape.bound() for way in WAYS):
        raise SystemExit("the bound is not proved")


def make(folder: Path, shape: Shape, shard_bytes: int) -> int:
    """Write a random bfloat16 Llama with a tokenizer, shard by shard; returns its bytes on disk."""
    folder.mkdir()
    tokenizer.build(folder, chat=False)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": shape.d,
        "intermediate_size": shape.neurons,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.d // shape.kv if shape.kv else 1,
        "num_key_value_heads": 1,
        "vocab_size": shape.vocab,
        "tie_word_embeddings": False,
        "dtype": "bfloat16",
    }
    (folder / "config.json").write_text(json.dumps(config))
    generator = torch.Generator().manual_seed(0)
    shard_of: dict[str, str] = {}
    shard: dict[str, torch.Tensor] = {}

    def flush() -> None:
        name = f"model-{len(set(shard_of.values())) + 1:05}.safetensors"
        save_file(shard, folder / name, metadata={"format": "pt"})
        shard_of.update(dict.fromkeys(shard, name))
        shard.clear()

    for name, size in shape.tensors():
        if shard and sum(t.nbytes for t in shard.values()) + 2 * math.prod(size) > shard_bytes:
            flush()
        shard[name] = torch.empty(size, dtype=torch.bfloat16).uniform_(-0.1, 0.1, generator=generator)
    flush()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": shard_of}))
    return sum(file.stat().st_size for file in folder.iterdir())


def compare(folder: Path, found: NeuronMap) -> tuple[float, float]:
    """Some rows of each layer against a float64 product: share of equal ids, largest difference of the logits."""
    checkpoint = open_checkpoint(folder)
    head = checkpoint.head().double()
    same, largest, width = [], 0.0, found.top_ids.shape[1]
    for layer in found.layers:
        z = checkpoint.rows("up", layer)[:CHECKED].double() @ head.T
        best = z.sort(dim=1, descending=True, stable=True)
        start = found.index(f"L{layer}N0")
        ids = torch.from_numpy(found.top_ids[start : start + CHECKED])
        logits = torch.from_numpy(found.top_logits[start : start + CHECKED])
        same.append((ids == best.indices[:, :width]).double().mean().item())
        largest = max(largest, (logits - best.values[:, :width]).abs().max().item())
    return sum(same) / len(same), largest


# --- the limited process ----------------------------------------------------------------------------


class Job(NamedTuple):
    """What became of one job: the peak of anonymous memory above the process's own, in bytes, and the error if any."""

    peak: int
    seconds: float
    failed: str


def in_a_process(folder: Path, allowed: int, layers: int, ways: Sequence[str], threads: int = 0) -> dict[str, Job]:
    """Decode the first layers in each way, then load all tensors in float32, in a process limited to ``allowed`` bytes.

    The maps are left at `map_of`. Each thread costs some MB more; 0 leaves their number to torch.
    """
    job = {"folder": str(folder), "allowed": allowed, "layers": layers, "ways": ways, "threads": threads}
    command = [sys.executable, "-m", "benchmarks.memory", "--child", json.dumps(job)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1])
    return {name: Job(*result) for name, result in json.loads(done.stdout).items()}


def map_of(folder: Path, way: str) -> Path:
    """Where the limited process leaves a map."""
    return folder.with_name(f"{folder.name}-{way}.map")


def _child(folder: str, allowed: int, layers: int, ways: list[str], threads: int) -> dict[str, Job]:
    """What the limited process does; what any decode needs once is loaded before memory is counted."""
    if threads:
        torch.set_num_threads(threads)
    checkpoint = open_checkpoint(folder)
    checkpoint.vocabulary, checkpoint.digests  # imports transformers' tokenizers; starts threads  # noqa: B018
    torch.ones(512, 512) @ torch.ones(512, 512)  # the product's threads, with their stacks
    base = _status("RssAnon")
    limit = _status("VmData") + allowed
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))

    def run(job: Callable[[], object]) -> Job:
        failed, start = "", perf_counter()
        with _peak() as peak:
            try:
                job()
            except (MemoryError, RuntimeError, FlashinterpError) as error:  # torch says RuntimeError
                said = str(error).split("err == 0. ")[-1]  # what follows torch's note of its own source line
                failed = shorten(f"{type(error).__name__}: {said}", 80, placeholder="")
        return Job(peak[0] - base, perf_counter() - start, failed)

    def in_one_way(way: str) -> object:
        target = map_of(Path(folder), way)
        return decode(checkpoint, layers=range(layers), device="cpu", dtype=way, save_to=target)

    jobs = {way: run(partial(in_one_way, way)) for way in ways}
    return {**jobs, "whole": run(partial(_load_whole, checkpoint))}


def _load_whole(checkpoint: Checkpoint) -> list[torch.Tensor]:
    tensors = []
    for shard in sorted(Path(checkpoint.name).glob("*.safetensors")):
        with safe_open(shard, framework="pt") as file:
            tensors += [file.get_tensor(name).float() for name in file.keys()]  # noqa: SIM118
    return tensors


@contextmanager
def _peak() -> Iterator[list[int]]:
    """Sample the anonymous memory of this process meanwhile."""
    samples, stop = [_status("RssAnon")], threading.Event()

    def sample() -> None:
        while not stop.wait(SAMPLE_SECONDS):
            samples[0] = max(samples[0], _status("RssAnon"))

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield samples
    finally:
        stop.set()
        thread.join()


def _status(field: str) -> int:
    """Bytes, from /proc/self/status."""
    with open("/proc/self/status") as lines:
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith(field + ":"))


if __name__ == "__main__":
    main()
