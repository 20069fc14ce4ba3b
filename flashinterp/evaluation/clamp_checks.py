"""What each measurement of a claim checks of its own clamp: noise, identity, effects on unrelated words (METHOD 4)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import kl_div

from flashinterp.decoding.lens_rows import token_logits
from flashinterp.evaluation.experiment import Experiment
from flashinterp.interventions.clamp import clamp_rows
from flashinterp.interventions.clamp_values import RowClamp
from flashinterp.models.activations import capture, encode
from flashinterp.models.forward_pass import input_device
from flashinterp.models.replay import last_log_probs
from flashinterp.neurons import NeuronId
from flashinterp.tokens import Token

Floats = NDArray[np.float64]
_NOISE_ROWS = (2, 7, 64)  # batches for which matrix products take other shapes, up to a sweep's


def unrelated_tokens(bench: Experiment, token: Token) -> list[Token]:
    """Other words, drawn by name, that share no written form with the token."""
    vocabulary = bench.checkpoint.vocabulary
    own = {v.id for v in vocabulary.variants(token)} | {token.id}
    drawn = bench.draw_words(f"unrelated {token.id}", bench.profile.unrelated, own)
    return [vocabulary.resolve(i) for i in drawn]


@torch.no_grad()
def measure_kl(bench: Experiment, neuron: NeuronId, token: Token, ends: tuple[float, float]) -> Floats:
    """[2, texts] KL(clean || clamped) over the other tokens, mean over positions, on texts about something else.

    Without the token itself, whose rise is what is claimed and no damage.
    """
    texts = bench.prompts.about_something_else(token.text, bench.profile.unrelated_texts)
    result = np.empty((len(ends), len(texts)))
    rows = [RowClamp(neuron, value, (row,)) for row, value in enumerate(ends, 1)]  # row 0 stays clean
    for column, text in enumerate(texts):
        ids = encode(bench.tokenizer, text, input_device(bench.model)).expand(1 + len(ends), -1)
        with clamp_rows(bench.model, rows, unrouted=True):
            logits = bench.model(ids, use_cache=False).logits.float()  # [3, positions, V]
        others = torch.cat([logits[..., : token.id], logits[..., token.id + 1 :]], dim=-1).log_softmax(-1)
        clean = others[:1].expand(len(ends), -1, -1)
        each = kl_div(others[1:], clean, reduction="none", log_target=True)
        result[:, column] = each.sum(-1).mean(-1).clamp(min=0).double().cpu()  # rounding may take 0 below it
    return result


@torch.no_grad()
def measure_identity_error(bench: Experiment, neuron: NeuronId) -> float:
    """The largest change of any log-probability when the neuron is clamped to the values it has anyway."""
    worst = 0.0
    for prompt in bench.heldout[:2]:
        ids = encode(bench.tokenizer, prompt, input_device(bench.model))
        own = torch.from_numpy(capture(bench.model, [ids], [neuron.block])[0][neuron.block].up[:, neuron.neuron])
        clean = last_log_probs(bench.model, ids)
        # An expert that these prompts do not reach changes nothing, which is what is asked.
        with clamp_rows(bench.model, [RowClamp(neuron, own)], unrouted=True):
            same = last_log_probs(bench.model, ids)
        worst = max(worst, float((same - clean).abs().max()))
    return worst


@torch.no_grad()
def measure_noise_floor(bench: Experiment, prompt: str) -> float:
    """The largest difference of any log-probability between a prompt run alone and in batches of copies.

    At least one unit in the last place of the largest: that two batches agree to the bit is luck.
    """
    ids = encode(bench.tokenizer, prompt, input_device(bench.model))
    alone = last_log_probs(bench.model, ids)
    floor = torch.finfo(bench.model.dtype).eps * float(alone.abs().max())
    for rows in _NOISE_ROWS:
        floor = max(floor, float((last_log_probs(bench.model, ids.expand(rows, -1)) - alone).abs().max()))
    return floor


def decoded_logits(bench: Experiment, lens: str, neuron: NeuronId, tokens: Sequence[Token]) -> Floats:
    """[tokens] the neuron's logits by a lens."""
    logits = token_logits(bench.checkpoint, lens, [token.id for token in tokens], blocks=[neuron.block])
    return np.asarray(logits[neuron.neuron], dtype=np.float64)
