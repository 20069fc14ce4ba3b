"""A sweep beside what it replaces: one hooked forward pass per value, and the bare cost of the layers it must compute.

``python -m benchmarks.sweep [--model FOLDER]`` sweeps 101 values for 64 neurons over 8 prompts on a random 16-layer
Llama (hidden 512) and, where one is named, on a small real model. All ways are timed in turn in one process, round by
round, on the same prompts; a way that would take minutes is timed on a part of its passes, and the whole is reckoned
from it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import torch
from tabulate import tabulate
from torch import Tensor

from flashinterp import NeuronId, Token, clamp, open_checkpoint, sweep
from flashinterp.interventions.dose_response import DEFAULT_ROWS
from flashinterp.models.activations import encode
from flashinterp.models.forward_pass import input_device
from flashinterp.models.replay import last_log_probs, prepare

NEURONS, VALUES, PROMPTS, POSITIONS = 64, 101, 8, 16
TOKEN = Token(5, "?", "by id")
HIDDEN, LAYERS, WIDTH, VOCABULARY = 512, 16, 1408, 4096


class Numbers:
    """A tokenizer for a model that has none: each text is the seed of its token ids."""

    def __call__(self, text: str, **_: Any) -> dict[str, Tensor]:
        rng = np.random.default_rng(int(text))
        return {"input_ids": torch.from_numpy(rng.integers(0, VOCABULARY, (1, POSITIONS)))}

    def decode(self, ids: Any, **_: Any) -> str:
        return " ".join(str(int(i)) for i in ids)


def random_model(device: str) -> Any:
    """A 16-layer Llama with random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=HIDDEN,
        intermediate_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=8,
        num_key_value_heads=4,
        vocab_size=VOCABULARY,
    )
    return LlamaForCausalLM(config).eval().to(device)


def neurons_of(model: Any, first: int, count: int) -> list[NeuronId]:
    """Neurons spread evenly over the layers from one on."""
    config = model.config
    rng = np.random.default_rng(0)
    layers = [first + i % (config.num_hidden_layers - first) for i in range(count)]
    return [NeuronId(layer, int(rng.integers(config.intermediate_size))) for layer in sorted(layers)]


@torch.no_grad()
def one_pass_each(model: Any, sequences: list[Tensor], neurons: list[NeuronId], values: Any, share: int) -> float:
    """Seconds for one hooked forward per value, reckoned from every ``share``-th of them."""
    passes = [(n, v) for n in neurons for v in values][::share]
    start = time.perf_counter()
    for ids in sequences:
        for neuron, value in passes:
            with clamp(model, {neuron: float(value)}):
                last_log_probs(model, ids)
    return (time.perf_counter() - start) * len(neurons) * len(values) / len(passes)


@torch.no_grad()
def bare_layers(model: Any, sequences: list[Tensor], neurons: list[NeuronId], values: Any, batch: int | None) -> float:
    """Seconds for the same rows through the same layers, without a hook and without looking at the result."""
    batch = batch or DEFAULT_ROWS[model.device.type]
    layers = [n.layer for n in neurons]
    prompts = [prepare(model, ids, layers) for ids in sequences]
    start = time.perf_counter()
    for prompt in prompts:
        for layer in sorted(set(layers)):
            rows = layers.count(layer) * len(values)
            for begin in range(0, rows, batch):
                prompt.forward(layer, min(batch, rows - begin))
    return time.perf_counter() - start


def measure(title: str, model: Any, tokenizer: Any, texts: list[str], first: int, args: argparse.Namespace) -> None:
    """Print one table: each way's seconds and its ratio to the sweep, medians over the rounds."""
    device = input_device(model)
    sequences = [encode(tokenizer, t, device) for t in texts]
    neurons, values = neurons_of(model, first, NEURONS), np.linspace(-500, 500, VALUES)
    for ids in sequences:  # the first of each shape is slow
        last_log_probs(model, ids)
    ways: dict[str, Callable[[], float]] = {
        "one hooked forward per value": lambda: one_pass_each(model, sequences, neurons, values, args.share),
        "bare cost of the layers": lambda: bare_layers(model, sequences, neurons, values, args.batch),
        "sweep": lambda: _timed(
            lambda: sweep(model, tokenizer, texts, neurons, values, [TOKEN], batch_size=args.batch)
        ),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(args.rounds):
        order = list(ways)[turn % len(ways) :] + list(ways)[: turn % len(ways)]
        for name in order:
            seconds[name].append(ways[name]())
    rows = []
    for name, taken in seconds.items():
        ratios = [t / s for t, s in zip(taken, seconds["sweep"], strict=True)]
        rows.append([name, median(taken), median(ratios), min(ratios), max(ratios)])
    print(f"\n{title}")
    print(tabulate(rows, ["way", "seconds", "ratio to the sweep", "lowest", "highest"], floatfmt=".3g"))


def _timed(what: Callable[[], Any]) -> float:
    start = time.perf_counter()
    what()
    return time.perf_counter() - start


def main() -> None:
    """Measure the random model, and the named one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="a small real model, as a folder")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--share", type=int, default=64, help="time every n-th of the single passes")
    parser.add_argument("--prompts", type=int, default=PROMPTS, help="on the random model")
    parser.add_argument("--batch", type=int, default=None, help="rows per pass")
    args = parser.parse_args()
    print(f"torch {torch.__version__}, {args.device}, {torch.get_num_threads()} threads")
    if args.model:
        from flashinterp.evaluation.prompts import shipped

        checkpoint = open_checkpoint(args.model)
        model = checkpoint.load_model(device=args.device)
        measure(checkpoint.name, model, checkpoint.tokenizer, list(shipped().heldout[:PROMPTS]), 0, args)
    model = random_model(args.device)
    texts = [str(i) for i in range(args.prompts)]
    measure("random, 16 layers, neurons in the last quarter", model, Numbers(), texts, 3 * LAYERS // 4, args)
    measure("random, 16 layers, neurons in all", model, Numbers(), texts, 0, args)


if __name__ == "__main__":
    main()
