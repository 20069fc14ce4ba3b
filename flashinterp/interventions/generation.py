"""Answers to a prompt under clamps, many to a pass, each with random draws of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from flashinterp._util.progress import Tally
from flashinterp.errors import CheckpointError, RunError
from flashinterp.interventions.answers import Answers, repetition
from flashinterp.interventions.clamp import clamp
from flashinterp.interventions.clamp_values import NeverRouted, Value
from flashinterp.models.activations import encode
from flashinterp.neurons import Block, NeuronId, Positions, Site

Clamps = Mapping[str, Value] | Mapping[NeuronId, Value]
_ROWS = 96  # answers that share a pass: bounds the memory of keys and values
_SCORED_ROWS = 16  # the same for passes that keep the logits of every position
# Settings that act on each answer by itself. With any other one, answers are made one by one.
_ROWWISE = frozenset(
    """do_sample max_new_tokens min_new_tokens max_length min_length temperature top_k top_p min_p typical_p
    epsilon_cutoff eta_cutoff repetition_penalty no_repeat_ngram_size bad_words_ids suppress_tokens
    begin_suppress_tokens eos_token_id pad_token_id bos_token_id use_cache renormalize_logits""".split()
)


@dataclass(frozen=True)
class ScoredAnswers:
    """The answers of one side, and what is measured on each."""

    texts: tuple[str, ...]
    repetition: tuple[float, ...]
    perplexity: tuple[float | None, ...]

    @classmethod
    def of(cls, model: Any, tokenizer: Any, ids: Tensor, answers: Sequence[Tensor]) -> ScoredAnswers:
        texts = tuple(tokenizer.decode(a, skip_special_tokens=True) for a in answers)
        return cls(texts, tuple(map(repetition, texts)), _perplexities(model, ids, answers))

    def beside(self, other: ScoredAnswers, prompt: str, seeds: tuple[int, ...], settings: dict[str, Any]) -> Answers:
        """The two sides as one record, this one unclamped."""
        return Answers(
            prompt=prompt,
            clean=self.texts,
            clamped=other.texts,
            seeds=seeds,
            repetition_clean=self.repetition,
            repetition_clamped=other.repetition,
            perplexity_clean=self.perplexity,
            perplexity_clamped=other.perplexity,
            settings=settings,
        )


@dataclass(frozen=True)
class GenerationJob:
    """What is asked of a clamped model: the prompt [1, positions], the seeds, how to clamp and sample, the count."""

    model: Any
    ids: Tensor
    seeds: tuple[int, ...]
    settings: dict[str, Any]
    site: Site
    positions: Positions
    tally: Tally

    def together(self, clamps: Sequence[Clamps]) -> Iterator[list[Tensor]]:
        """For each clamp its answers; clamps of the same neurons share passes, each row with its own values."""
        for names, same in groupby(clamps, key=tuple):
            each: list[Mapping[Any, Value]] = list(same)
            rows = [(one, seed) for one in each for seed in self.seeds]
            made: list[Tensor] = []
            for part in (rows[i : i + _ROWS] for i in range(0, len(rows), _ROWS)):
                values: dict[Any, Value] = {
                    name: torch.tensor([[float(one[name])] for one, _ in part]) for name in names
                }
                with clamp(self.model, values, site=self.site, positions=self.positions):
                    made += self._answers([seed for _, seed in part], alone=False)
            n = len(self.seeds)
            yield from (made[i * n : (i + 1) * n] for i in range(len(each)))

    def one_by_one(self, clamps: Sequence[Clamps]) -> Iterator[list[Tensor]]:
        """The same, each answer in a context of its own; a clamp is refused where no answer reached its experts."""
        for one in clamps:
            made: list[Tensor] = []
            never: frozenset[Block] | None = None
            for seed in self.seeds:
                missed: frozenset[Block] = frozenset()
                try:
                    with clamp(self.model, one, site=self.site, positions=self.positions):
                        made += self._answers([seed], alone=True)
                except NeverRouted as error:  # of one answer, which the clamp rightly left as it was
                    missed = error.blocks
                never = missed if never is None else never & missed
            if never:
                raise NeverRouted(sorted(never))
            yield made

    def _answers(self, seeds: Sequence[int], alone: bool) -> Iterator[Tensor]:
        return generate_answers(self.model, self.ids, seeds, self.settings, alone, self.tally)


def needs_rows_apart(model: Any, clamps: Sequence[Clamps], settings: Mapping[str, Any]) -> bool:
    """Whether each answer needs a generation of its own.

    So where a setting may act on several rows at once, where values differ by position, and where an expert is
    clamped, of which it must be known whether each answer reached it.
    """
    own = model.generation_config
    several = any((getattr(own, name, None) or 1) > 1 for name in ("num_beams", "num_return_sequences"))
    pairs = [(NeuronId.parse(name), value) for one in clamps for name, value in one.items()]
    uneven = any(not isinstance(value, int | float) for _, value in pairs)
    return several or uneven or not set(settings) <= _ROWWISE or any(neuron.expert is not None for neuron, _ in pairs)


class _RowDraws(TorchFunctionMode):
    """While it is open, every row of a batch is sampled from a generator of its own.

    ``generate`` draws with torch.multinomial from torch's global generator, all rows from one stream. Drawn from its
    own, row i gets what it would get alone after ``torch.manual_seed(seeds[i])``.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        super().__init__()
        self.seeds = seeds
        self.generators: list[torch.Generator] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not torch.multinomial:
            return func(*args, **(kwargs or {}))
        rows: Tensor = args[0] if args else (kwargs or {})["input"]
        if not self.generators:
            self.generators = [torch.Generator(rows.device).manual_seed(seed) for seed in self.seeds]
        drawn = [torch.multinomial(row[None], 1, generator=own) for row, own in zip(rows, self.generators, strict=True)]
        return torch.cat(drawn)


def generate_answers(
    model: Any, ids: Tensor, seeds: Sequence[int], settings: dict[str, Any], alone: bool, tally: Tally
) -> Iterator[Tensor]:
    """The new token ids [new] of one answer for each seed, its end token included.

    Raises:
        RunError: nothing was drawn although the answers are sampled, so that the seeds would mean nothing.
    """
    step = 1 if alone else _ROWS
    for part in (seeds[i : i + step] for i in range(0, len(seeds), step)):
        prompts = ids.expand(len(part), -1)
        # One by one, any sampler of generate's is served: the global generator is forked, seeded and restored.
        devices = [model.device] if model.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), nullcontext() if alone else _RowDraws(part) as draws:
            torch.manual_seed(part[0])
            out = model.generate(prompts, attention_mask=torch.ones_like(prompts), **settings)
        if draws is not None and settings["do_sample"] and not draws.generators:
            raise RunError(
                "this version of transformers does not sample with torch.multinomial, and the answers' seeds would "
                "have no effect: add num_beams=1, with which answers are made one by one"
            )
        tally.add(len(part))
        yield from (_ended(row, model, settings) for row in out[:, ids.shape[1] :])


def _ended(row: Tensor, model: Any, settings: Mapping[str, Any]) -> Tensor:
    """An answer [new] up to its end token: what is after it pads it to the length of the others."""
    ends = settings.get("eos_token_id", model.generation_config.eos_token_id)
    if ends is None:
        return row
    found = torch.isin(row, torch.as_tensor(ends, device=row.device)).nonzero()
    return row[: int(found[0]) + 1] if len(found) else row


def _perplexities(model: Any, prompt: Tensor, answers: Sequence[Tensor]) -> tuple[float | None, ...]:
    """exp of the mean negative log-likelihood of each answer [new] after the prompt [1, positions].

    None where the answer is empty or that is no finite number. Answers are padded behind their ends, which a causal
    model does not see.
    """
    found: list[float | None] = []
    for part in (answers[i : i + _SCORED_ROWS] for i in range(0, len(answers), _SCORED_ROWS)):
        padded = torch.nn.utils.rnn.pad_sequence(list(part), batch_first=True)
        if padded.shape[1] == 0:
            found += [None] * len(part)
            continue
        ids = torch.cat([prompt.expand(len(part), -1), padded.to(prompt.device)], dim=1)
        logits = model(ids, use_cache=False, logits_to_keep=padded.shape[1] + 1).logits[:, :-1]
        found += [_perplexity(logits[i, : len(answer)], answer) for i, answer in enumerate(part)]
    return tuple(found)


def _perplexity(logits: Tensor, answer: Tensor) -> float | None:
    """Of one answer [new] under logits [new, V]; None where it is empty or no finite number."""
    if len(answer) == 0:
        return None
    nll = torch.nn.functional.cross_entropy(logits.float(), answer.to(logits.device))
    perplexity = float(nll.double().exp())  # float32 overflows at 88 nats, which a strong clamp reaches
    return perplexity if np.isfinite(perplexity) else None


def prepare_prompt(tokenizer: Any, prompt: str, chat: bool | None, device: Any) -> tuple[str, Tensor]:
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


def pad_id(tokenizer: Any) -> int:
    """The id that pads answers: the tokenizer's own, else its end token."""
    return tokenizer.pad_token_id if tokenizer.pad_token_id is not None else (tokenizer.eos_token_id or 0)
