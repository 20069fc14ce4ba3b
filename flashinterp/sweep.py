"""Dose-response: neurons × values × prompts in as few forward passes as can be (METHOD 3).

Rows of one batch carry different neurons at different values over the same prompt, so nothing is padded,
and only the last position's logits are made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from flashinterp.capture import Activations, capture, encode
from flashinterp.clamp import RowClamp, clamp_rows
from flashinterp.errors import ClampError, TokenError
from flashinterp.experts import ExpertRows
from flashinterp.layout import Layout
from flashinterp.neuron import Block, NeuronId, Site
from flashinterp.passes import input_device
from flashinterp.tokens import Token, Vocabulary

_BATCH = 256  # rows per forward pass: bounds memory at batch × positions × F, and is where a CPU is saturated

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class Curves:
    """The result of a sweep.

    Attributes:
        neurons: the clamped neurons, one at a time.
        values: [neurons, values] what each was clamped at.
        prompts: the texts.
        tokens: the measured tokens.
        site: where the clamp was.
        log_probs: [neurons, values, prompts, tokens] float32, natural log, at the last position.
        clean: [prompts, tokens] the same without a clamp.
        own: [neurons, prompts] the neuron's own value at the site, last position, unclamped; of an expert's neuron
            on what the experts read there, whether the expert is used or not.
        gate: [neurons, prompts] g, the gate before its activation, last position, unclamped; u again in an MLP
            without a gate.
        act_gate: [neurons, prompts] what multiplies u, act(g): where it is near 0 a clamp at ``up`` can do nothing;
            where it is negative the clamp acts in reverse. act(u) / u in an MLP without a gate.
        routed: [neurons, prompts] what the neuron's block is multiplied by at the last position: the routing weight
            of its expert, 0 where the token is not routed to it; 1 in a dense MLP.
    """

    neurons: tuple[NeuronId, ...]
    values: FloatArray
    prompts: tuple[str, ...]
    tokens: tuple[Token, ...]
    site: Site
    log_probs: FloatArray
    clean: FloatArray
    own: FloatArray
    gate: FloatArray
    act_gate: FloatArray
    routed: FloatArray

    @property
    def log_odds(self) -> FloatArray:
        """[neurons, values, prompts, tokens] log(p / (1 - p)), which does not flatten near 0 or 1."""
        return log_odds(self.log_probs)


def log_odds(log_probs: FloatArray) -> FloatArray:
    """log(p / (1 - p)) from log p, finite also where p rounds to 1."""
    # 1 - p is at least one float32 step below 1; smaller differences are rounding, not odds.
    other = np.log(np.maximum(-np.expm1(log_probs.astype(np.float64)), np.finfo(np.float32).eps / 2))
    result: FloatArray = (log_probs - other).astype(np.float32)
    return result


@torch.no_grad()
def sweep(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    neurons: Sequence[str | NeuronId],
    values: ArrayLike,
    tokens: Sequence[str | int | Token],
    *,
    site: Site = "up",
    batch_size: int = _BATCH,
) -> Curves:
    """Clamp each neuron at each value over each prompt, and measure the tokens' log-probabilities.

    Equivalent to one ``with clamp(model, {neuron: value}, site=site)`` per neuron, value and prompt, and
    ``log_softmax`` of the last position's logits inside it. An expert that no token of a prompt is routed to has a flat
    curve there, which is what it does.

    Args:
        model: a live transformers model of a known family, in eval mode.
        tokenizer: its tokenizer.
        prompts: texts, each swept by itself.
        neurons: names like ``L25N1442``, or ``L12E3N40`` in an expert.
        values: [values] for all neurons, or [neurons, values] for each its own.
        tokens: texts or ids, each one token.
        site: ``up``, ``gate`` or ``post``.
        batch_size: rows per forward pass.

    Raises:
        NeuronError, TokenError, LayoutError, ClampError: a name, token, site or value that does not exist here.
    """
    layout = Layout.of(model)
    if any(isinstance(given, str) for given in (prompts, neurons, tokens)):
        raise ClampError("prompts, neurons and tokens are lists, and one of them is a text: put it in a list")
    if batch_size < 1:
        raise ClampError(f"batch_size is {batch_size}: give at least 1 row per forward pass")
    parsed = tuple(layout.roster.check(n) for n in neurons)
    if not (prompts and parsed and len(tokens)):
        raise ClampError(
            f"nothing to sweep: {len(prompts)} prompts, {len(parsed)} neurons, {len(tokens)} tokens; give one of each"
        )
    doses = _doses(values, len(parsed))
    chosen = _tokens(tokens, tokenizer, layout)
    ids = [t.id for t in chosen]
    sequences = [encode(tokenizer, prompt, input_device(model)) for prompt in prompts]
    experts = ExpertRows(model)
    experts.read([neuron for neuron in parsed if neuron.expert is not None])

    clamps = [(neuron, float(dose)) for neuron, row in zip(parsed, doses, strict=True) for dose in row]
    log_probs = np.stack([_one_prompt(model, s, clamps, ids, site, batch_size, experts) for s in sequences], axis=1)
    natural = capture(model, sequences, list(dict.fromkeys(n.block for n in parsed)))
    last = {what: _last(natural, parsed, what) for what in ("up", "gate", "act", "post")}
    return Curves(
        neurons=parsed,
        values=doses,
        prompts=tuple(prompts),
        tokens=chosen,
        site=site,
        log_probs=log_probs.reshape(len(parsed), doses.shape[1], len(prompts), len(chosen)),
        clean=np.stack([last_log_probs(model, s)[0, ids].cpu().numpy() for s in sequences]),
        own=last[site],
        gate=last["gate"],
        act_gate=last["act"],
        routed=np.array([[seen[n.block].weight[-1] for seen in natural] for n in parsed], dtype=np.float32),
    )


def last_log_probs(model: Any, ids: Tensor) -> Tensor:
    """log softmax [batch, V] in float32 at the last position of sequences [batch, positions]."""
    logits: Tensor = model(ids, use_cache=False, logits_to_keep=1).logits[:, -1]
    return logits.float().log_softmax(-1)


def _one_prompt(
    model: Any,
    ids: Tensor,
    clamps: Sequence[tuple[NeuronId, float]],
    tokens: list[int],
    site: Site,
    batch_size: int,
    experts: ExpertRows,
) -> FloatArray:
    """Log-probabilities [clamps, tokens] over one prompt [1, positions]."""
    parts = []
    for start in range(0, len(clamps), batch_size):
        batch = clamps[start : start + batch_size]
        rows = [RowClamp(neuron, value, (row,)) for row, (neuron, value) in enumerate(batch)]
        with clamp_rows(model, rows, site=site, unrouted=True, experts=experts):
            parts.append(last_log_probs(model, ids.expand(len(batch), -1))[:, tokens].cpu().numpy())
    result: FloatArray = np.concatenate(parts)
    return result


def _last(natural: Sequence[dict[Block, Activations]], neurons: Sequence[NeuronId], what: str) -> FloatArray:
    """[neurons, prompts] of one quantity at the last position."""
    return np.array(
        [[getattr(seen[n.block], what)[-1, n.neuron] for seen in natural] for n in neurons], dtype=np.float32
    )


def _doses(values: ArrayLike, n_neurons: int) -> FloatArray:
    """[neurons, values], from values for all neurons or for each its own."""
    try:
        with np.errstate(over="ignore"):  # beyond float32 is infinite, which the clamp refuses
            given = np.atleast_1d(np.asarray(values, dtype=np.float32))
        doses = np.broadcast_to(given, (n_neurons, given.shape[-1]))
    except (TypeError, ValueError) as error:
        raise ClampError(
            f"the values, of shape {np.shape(values)}, are not numbers [values] for all or [neurons, values] for "
            f"{n_neurons} neurons: give one of these"
        ) from error
    if not doses.size:
        raise ClampError("there are no values to clamp at: give at least one")
    return np.ascontiguousarray(doses)


def _tokens(tokens: Sequence[str | int | Token], tokenizer: Any, layout: Layout) -> tuple[Token, ...]:
    """Resolve texts and ids; `Token`s need no tokenizer."""
    if all(isinstance(t, Token) for t in tokens):
        chosen = tuple(t for t in tokens if isinstance(t, Token))
    elif tokenizer is None:
        raise TokenError("texts need a tokenizer: pass one, or give Token values")
    else:
        vocabulary = Vocabulary.from_tokenizer(tokenizer, layout.vocab_size)
        chosen = tuple(vocabulary.resolve(t) for t in tokens)
    for token in chosen:
        if not 0 <= token.id < layout.vocab_size:
            raise TokenError(
                f"token id {token.id} is out of range: this head has ids 0 to {layout.vocab_size - 1}; take a token "
                "of this model's vocabulary"
            )
    return chosen
