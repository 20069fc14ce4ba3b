"""Dose-response: neurons × values × prompts in as few forward passes as can be (METHOD 3).

Rows of one batch carry different neurons of one layer at different values over the same prompt, so nothing is padded.
What lies before that layer is computed once for a prompt, and only the last position's logits are made.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from flashinterp._util.progress import Progress, Tally
from flashinterp.errors import ClampError, TokenError
from flashinterp.interventions.clamp import clamp_rows
from flashinterp.interventions.clamp_values import RowClamp
from flashinterp.models.activations import Activations, capture, encode
from flashinterp.models.experts import ExpertRows
from flashinterp.models.forward_pass import input_device
from flashinterp.models.layout import Layout
from flashinterp.models.layout_reader import layout_of
from flashinterp.models.replay import prepare
from flashinterp.neurons import Block, NeuronId, Site
from flashinterp.stats import log_odds
from flashinterp.tokens import Token, Vocabulary

DEFAULT_ROWS = {"cpu": 64, "cuda": 256}
"""Rows per forward pass: bounds memory at rows × positions × F; more take no less time each (BENCHMARKS)."""
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
        whole: why the passes were whole ones; None where each began at the clamped layer.
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
    whole: str | None = None

    @property
    def log_odds(self) -> FloatArray:
        """[neurons, values, prompts, tokens] log(p / (1 - p)), which does not flatten near 0 or 1."""
        return log_odds(self.log_probs)


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
    batch_size: int | None = None,
    progress: Progress | None = None,
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
        batch_size: rows per forward pass, which bounds the memory; by default 64, on a GPU 256.
        progress: called with (points done, points in all), a point being one neuron at one value over one prompt.

    Raises:
        NeuronError, TokenError, LayoutError, ClampError: a name, token, site or value that does not exist here.
    """
    layout = layout_of(model)
    if any(isinstance(given, str) for given in (prompts, neurons, tokens)):
        raise ClampError("prompts, neurons and tokens are lists, and one of them is a text: put it in a list")
    batch_size = DEFAULT_ROWS.get(model.device.type, DEFAULT_ROWS["cpu"]) if batch_size is None else batch_size
    if batch_size < 1:
        raise ClampError(f"batch_size is {batch_size}: give at least 1 row per forward pass")
    parsed = tuple(layout.roster.check(n) for n in neurons)
    if not (prompts and parsed and len(tokens)):
        raise ClampError(
            f"nothing to sweep: {len(prompts)} prompts, {len(parsed)} neurons, {len(tokens)} tokens; give one of each"
        )
    doses = _doses(values, len(parsed))
    chosen = _tokens(tokens, tokenizer, layout)
    token_ids = [t.id for t in chosen]
    sequences = [encode(tokenizer, prompt, input_device(model)) for prompt in prompts]
    tally = Tally(progress, doses.size * len(sequences))
    log_probs, clean, whole = _run(model, sequences, parsed, doses, token_ids, site, batch_size, tally)
    natural = capture(model, sequences, list(dict.fromkeys(n.block for n in parsed)))
    last = {what: _last(natural, parsed, what) for what in ("up", "gate", "act", "post")}
    return Curves(
        neurons=parsed,
        values=doses,
        prompts=tuple(prompts),
        tokens=chosen,
        site=site,
        log_probs=log_probs,
        clean=clean,
        own=last[site],
        gate=last["gate"],
        act_gate=last["act"],
        routed=np.array([[seen[n.block].weight[-1] for seen in natural] for n in parsed], dtype=np.float32),
        whole=whole,
    )


def _run(
    model: Any,
    sequences: Sequence[Tensor],
    neurons: Sequence[NeuronId],
    doses: FloatArray,
    token_ids: list[int],
    site: Site,
    batch_size: int,
    tally: Tally,
) -> tuple[FloatArray, FloatArray, str | None]:
    """Log-probabilities [neurons, values, prompts, tokens], unclamped [prompts, tokens], and `Curves.whole`."""
    experts = ExpertRows(model)
    experts.read([neuron for neuron in neurons if neuron.expert is not None])
    at_layer: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for n, neuron in enumerate(neurons):
        at_layer[neuron.layer] += [(n, v) for v in range(doses.shape[1])]
    batches = [(layer, at[i : i + batch_size]) for layer, at in at_layer.items() for i in range(0, len(at), batch_size)]
    log_probs = np.empty((*doses.shape, len(sequences), len(token_ids)), dtype=np.float32)
    clean, whole = [], None
    for column, ids in enumerate(sequences):
        prompt = prepare(model, ids, list(at_layer))
        clean.append(prompt.clean[token_ids].cpu().numpy())
        whole = whole or prompt.whole
        for layer, batch in batches:
            rows = [RowClamp(neurons[n], float(doses[n, v]), (row,)) for row, (n, v) in enumerate(batch)]
            with clamp_rows(model, rows, site=site, unrouted=True, experts=experts):
                result = prompt.forward(layer, len(rows))[:, token_ids]
            of, at = zip(*batch, strict=True)
            log_probs[of, at, column] = result.cpu().numpy()
            tally.add(len(rows))
    return log_probs, np.stack(clean), whole


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
