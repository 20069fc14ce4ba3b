"""Llamas that train in half a minute on one core, for `benchmarks.frequency`: the same seed gives the same bytes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from benchmarks.small_world import WORDS, counts_of, levels_of, rows_of_text, shares_of
from fixtures.build import stream

ROWS, LENGTH = 64, 24  # texts of a step, and tokens of a text
RATE, WARM_UP, LEAST_RATE = 3e-3, 50, 0.05  # of the optimiser; the last as a share of the first
HEADS = 4


@dataclass(frozen=True)
class Shape:
    """One size of model: hidden size d, layers L, MLP width F, and whether the embedding is the head."""

    hidden: int = 48
    layers: int = 2
    width: int = 128
    tied: bool = False

    @property
    def neurons(self) -> int:
        return self.layers * self.width


@dataclass(frozen=True)
class Trained:
    """A model after its training.

    Attributes:
        model: in eval mode, without gradients.
        levels, counts: each name's frequency level, and how often the training text has it.
        losses: of each step, nats a token.
    """

    model: Any
    levels: dict[str, int]
    counts: dict[str, int]
    losses: tuple[float, ...]


def untrained(shape: Shape, seed: int) -> Any:
    """The random model that a training of this seed begins with."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=shape.hidden,
        intermediate_size=shape.width,
        num_hidden_layers=shape.layers,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        max_position_embeddings=64,
        tie_word_embeddings=shape.tied,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):  # transformers draws from torch's global stream, which is put back
        torch.manual_seed(int(stream("weights", seed=(seed,)).integers(2**31)))
        model = LlamaForCausalLM(config)
    return model.eval().requires_grad_(False)


def train(shape: Shape, seed: int, steps: int, *, until: int | None = None) -> Trained:
    """Train from scratch on text in which the seed decides who is frequent.

    Args:
        shape: of the model.
        seed: of the levels, the text and the first weights. The text does not depend on the shape.
        steps: of the whole training, which the learning rate is planned for.
        until: stop after this many of them.
    """
    levels = levels_of(stream("levels", seed=(seed,)))
    text = rows_of_text(shares_of(levels), steps * ROWS, LENGTH, stream("text", seed=(seed,)))
    model = untrained(shape, seed).train().requires_grad_(True)
    optimiser = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.98), weight_decay=0.01)
    losses = []
    with one_thread(), torch.enable_grad():
        for step in range(steps if until is None else until):
            for group in optimiser.param_groups:
                group["lr"] = RATE * _schedule(step, steps)
            ids = torch.from_numpy(text[step * ROWS : (step + 1) * ROWS])
            logits = model(ids, use_cache=False).logits[:, :-1]
            loss = cross_entropy(logits.reshape(-1, len(WORDS)), ids[:, 1:].reshape(-1))
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            losses.append(float(loss.detach()))
    return Trained(model.eval().requires_grad_(False), levels, counts_of(text), tuple(losses))


def _schedule(step: int, steps: int) -> float:
    """Up in a straight line, then down along a cosine."""
    rest = max(0.0, (step - WARM_UP) / max(1, steps - WARM_UP))
    return min(1.0, (step + 1) / WARM_UP) * (LEAST_RATE + (1 - LEAST_RATE) * 0.5 * (1 + math.cos(math.pi * rest)))


@contextmanager
def one_thread() -> Iterator[None]:
    """How many threads may change the last digit, and hundreds of steps make more of it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@torch.no_grad()
def name_losses(model: Any, texts: np.ndarray[Any, Any], ids: list[int]) -> np.ndarray[Any, Any]:
    """[names] the mean of -log p where each of these tokens comes next in rows of text [rows, positions], nats."""
    log_p = model(torch.from_numpy(texts), use_cache=False).logits[:, :-1].log_softmax(-1)
    comes = torch.from_numpy(texts[:, 1:])
    own = -log_p.gather(-1, comes[..., None])[..., 0]
    result: np.ndarray[Any, Any] = np.array([float(own[comes == i].mean()) for i in ids])
    return result
