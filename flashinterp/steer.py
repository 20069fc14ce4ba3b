"""Answers with and without a clamp, the judge of whether they are about the concept, and what it cost (METHOD 6)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flashinterp.capture import encode
from flashinterp.clamp import NeverRouted, Value, clamp
from flashinterp.errors import CheckpointError, RunError
from flashinterp.neuron import Block, NeuronId, Positions, Site
from flashinterp.passes import input_device
from flashinterp.stats import Interval, wilson

Judge = Callable[[str], bool]
"""Says whether an answer is about the concept."""

_REPEAT_SPAN = 3  # words; a text that loops repeats its three-word runs


@dataclass(frozen=True)
class Answers:
    """n answers of the same model to the same prompt from the same seeds, unclamped and clamped.

    Attributes:
        prompt: the text that the model was given, chat template applied.
        clean, clamped: the answers' texts.
        seeds: one per answer, the same for both.
        repetition_clean, repetition_clamped: share of an answer's three-word runs that it repeats.
        perplexity_clean, perplexity_clamped: of each answer under the unclamped model; None where empty or no number.
        settings: how the answers were sampled, and where the clamp was.
    """

    prompt: str
    clean: tuple[str, ...]
    clamped: tuple[str, ...]
    seeds: tuple[int, ...]
    repetition_clean: tuple[float, ...]
    repetition_clamped: tuple[float, ...]
    perplexity_clean: tuple[float | None, ...]
    perplexity_clamped: tuple[float | None, ...]
    settings: dict[str, Any]

    def rates(self, judge: Judge) -> tuple[Interval | None, Interval | None]:
        """The share of answers about the concept, without and with the clamp, with Wilson intervals."""
        n = len(self.clean)
        return wilson(sum(map(judge, self.clean)), n), wilson(sum(map(judge, self.clamped)), n)


def lexicon_judge(words: Sequence[str]) -> Judge:
    """A judge that looks for any of these words, as whole words, in any case."""
    if isinstance(words, str):
        raise RunError(f"a lexicon is a list of words, and {words!r} is a text: put it in a list")
    wanted = sorted({w.strip() for w in words if w.strip()})
    if not wanted:
        raise RunError("a lexicon needs at least one word: give the concept's written forms")
    pattern = re.compile(r"(?<!\w)(" + "|".join(map(re.escape, wanted)) + r")(?!\w)", re.IGNORECASE)
    return lambda answer: pattern.search(answer) is not None


@torch.no_grad()
def steer(
    model: Any,
    tokenizer: Any,
    prompt: str,
    clamps: Mapping[str, Value] | Mapping[NeuronId, Value],
    *,
    n: int,
    rng: np.random.Generator,
    site: Site = "up",
    positions: Positions = "all",
    chat: bool | None = None,
    **generate: Any,
) -> Answers:
    """Generate n answers with and without a clamp, from the same seeds.

    Args:
        model: a live transformers model of a known family.
        tokenizer: its tokenizer.
        prompt: what the user says.
        clamps, site, positions: as for `clamp`.
        n: answers on each side.
        rng: where the answers' seeds come from.
        chat: True wraps the prompt in the tokenizer's chat template, False does not; None does where
            there is one.
        **generate: passed to ``model.generate``; sampling with up to 40 new tokens by default.

    Raises:
        CheckpointError: a chat template was asked for and the tokenizer has none.
        ClampError, NeuronError: as for `clamp`.
    """
    text, ids = _prepare(tokenizer, prompt, chat, input_device(model))
    settings = {"do_sample": True, "max_new_tokens": 40, "pad_token_id": _pad(tokenizer), **generate}
    seeds = tuple(int(s) for s in rng.integers(0, 2**31, size=n))
    clean = [_answer(model, ids, seed, settings) for seed in seeds]
    # "generated" leaves the prompt's pass alone, hence an answer's first token too: one that ends there is the same.
    longer = [answer.shape[1] > 1 for answer in clean]
    untouched = [positions == "generated" and any(longer) and not more for more in longer]
    clamped, never = [], None
    for seed, answer, same in zip(seeds, clean, untouched, strict=True):
        if same:
            clamped.append(answer)
            continue
        try:
            with clamp(model, clamps, site=site, positions=positions):  # one context an answer: "generated" counts anew
                clamped.append(_answer(model, ids, seed, settings))
            missed: frozenset[Block] = frozenset()
        except NeverRouted as error:  # of one answer, which the clamp rightly left as it was
            missed = error.blocks
        never = missed if never is None else never & missed
    if never:
        raise NeverRouted(sorted(never))
    texts = [[tokenizer.decode(a[0], skip_special_tokens=True) for a in side] for side in (clean, clamped)]
    costs = [[_perplexity(model, ids, a) for a in side] for side in (clean, clamped)]
    return Answers(
        prompt=text,
        clean=tuple(texts[0]),
        clamped=tuple(texts[1]),
        seeds=seeds,
        repetition_clean=tuple(map(repetition, texts[0])),
        repetition_clamped=tuple(map(repetition, texts[1])),
        perplexity_clean=tuple(costs[0]),
        perplexity_clamped=tuple(costs[1]),
        settings={**settings, "site": site, "positions": positions, "chat": text != prompt},
    )


def repetition(text: str) -> float:
    """The share of three-word runs that occurred before in the text: 0 for none, near 1 for a loop."""
    words = text.split()
    runs = [tuple(words[i : i + _REPEAT_SPAN]) for i in range(len(words) - _REPEAT_SPAN + 1)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def _prepare(tokenizer: Any, prompt: str, chat: bool | None, device: Any) -> tuple[str, Tensor]:
    """The text that the model gets, and its ids [1, positions]."""
    has_template = bool(getattr(tokenizer, "chat_template", None))
    if chat and not has_template:
        raise CheckpointError(
            "the tokenizer has no chat template, and one was asked for: take the instruction-tuned model, or chat=False"
        )
    if chat is False or not has_template:
        return prompt, encode(tokenizer, prompt, device)
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
    )
    # The template writes the special tokens itself.
    ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"].to(device)
    return text, ids


def _pad(tokenizer: Any) -> int:
    return tokenizer.pad_token_id if tokenizer.pad_token_id is not None else (tokenizer.eos_token_id or 0)


def _answer(model: Any, ids: Tensor, seed: int, settings: dict[str, Any]) -> Tensor:
    """New token ids [1, new]; generate draws from torch's global generator, so that is forked and restored."""
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        out = model.generate(ids, attention_mask=torch.ones_like(ids), **settings)
    answer: Tensor = out[:, ids.shape[1] :]
    return answer


def _perplexity(model: Any, prompt: Tensor, answer: Tensor) -> float | None:
    """exp of the mean negative log-likelihood of an answer after its prompt; None where that is no number."""
    if answer.shape[1] == 0:
        return None
    ids = torch.cat([prompt, answer], dim=1)
    logits = model(ids, use_cache=False, logits_to_keep=answer.shape[1] + 1).logits[:, :-1]
    nll = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), answer.flatten())
    perplexity = float(nll.double().exp())  # float32 overflows at 88 nats, which a strong clamp reaches
    return perplexity if np.isfinite(perplexity) else None
