"""Answers with and without a clamp, and what the clamp cost (METHOD 6).

Every answer has a seed, and its own random generator from it: an answer does not depend on how many others are
made beside it, but for what a larger matrix product rounds differently, and the unclamped and the clamped answer of
one seed are a pair.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from flashinterp._util.progress import Progress, Tally
from flashinterp.interventions.answers import Answers
from flashinterp.interventions.generation import (
    Clamps,
    GenerationJob,
    ScoredAnswers,
    generate_answers,
    needs_rows_apart,
    pad_id,
    prepare_prompt,
)
from flashinterp.models.forward_pass import input_device
from flashinterp.neurons import Positions, Site


def steer(
    model: Any,
    tokenizer: Any,
    prompt: str,
    clamps: Clamps,
    *,
    n: int,
    rng: np.random.Generator,
    site: Site = "up",
    positions: Positions = "all",
    chat: bool | None = None,
    progress: Progress | None = None,
    **generate: Any,
) -> Answers:
    """Generate n answers with and without a clamp, from the same seeds.

    Args:
        model: a live transformers model of a known family.
        tokenizer: its tokenizer.
        prompt: what the user says.
        clamps: neuron to value, one neuron or several at once, of any layers; as for `clamp`.
        site, positions: as for `clamp`.
        n: answers on each side.
        rng: where the answers' seeds come from.
        chat: True wraps the prompt in the tokenizer's chat template, False does not; None does where
            there is one.
        progress: called with (answers made, answers in all), those of both sides; answers are made many at a time.
        **generate: passed to ``model.generate``; sampling with up to 40 new tokens by default.

    Raises:
        CheckpointError: a chat template was asked for and the tokenizer has none.
        ClampError, NeuronError: as for `clamp`.
    """
    (answers,) = steer_each(
        model,
        tokenizer,
        prompt,
        [clamps],
        n=n,
        rng=rng,
        site=site,
        positions=positions,
        chat=chat,
        progress=progress,
        **generate,
    )
    return answers


@torch.no_grad()
def steer_each(
    model: Any,
    tokenizer: Any,
    prompt: str,
    clamps: Sequence[Clamps],
    *,
    n: int,
    rng: np.random.Generator,
    site: Site = "up",
    positions: Positions = "all",
    chat: bool | None = None,
    progress: Progress | None = None,
    **generate: Any,
) -> tuple[Answers, ...]:
    """`steer` at several clamps, all from the same seeds: the unclamped answers are made once.

    Clamps of the same neurons, as at several doses, share their passes.
    """
    text, ids = prepare_prompt(tokenizer, prompt, chat, input_device(model))
    settings = {"do_sample": True, "max_new_tokens": 40, "pad_token_id": pad_id(tokenizer), **generate}
    seeds = tuple(int(s) for s in rng.integers(0, 2**31, size=n))
    by_itself = needs_rows_apart(model, clamps, settings)
    tally = Tally(progress, n * (1 + len(clamps)))
    clean = list(generate_answers(model, ids, seeds, settings, by_itself, tally))
    # "generated" leaves the prompt's pass alone, hence an answer's first token too: one that ends there is the same.
    longer = [len(answer) > 1 for answer in clean]
    touched = [i for i in range(n) if positions != "generated" or longer[i] or not any(longer)]
    tally.add((n - len(touched)) * len(clamps))
    job = GenerationJob(model, ids, tuple(seeds[i] for i in touched), settings, site, positions, tally)
    sides = [clean]
    for changed in job.one_by_one(clamps) if by_itself else job.together(clamps):
        answer = dict(zip(touched, changed, strict=True))
        sides.append([answer.get(i, same) for i, same in enumerate(clean)])
    told = {**settings, "site": site, "positions": positions, "chat": text != prompt}
    before, *after = (ScoredAnswers.of(model, tokenizer, ids, side) for side in sides)
    return tuple(before.beside(side, text, seeds, told) for side in after)
