"""Neurons that do the same as another one: what silencing and driving one of them, and both, shows (METHOD 7)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flashinterp.interventions.clamp import clamp
from flashinterp.neurons import NeuronId
from flashinterp.studies.limitations.twin_records import Floats, TwinEffects

Ends = tuple[float, float]
"""Where a drive goes from and to."""


def twin_effects(
    model: Any,
    pair: tuple[NeuronId, NeuronId],
    token: int,
    *,
    means: tuple[float, float],
    ends: tuple[Ends, Ends],
    present: Sequence[Tensor],
    neutral: Sequence[Tensor],
) -> TwinEffects:
    """Silence and drive two neurons, each alone and both together.

    Args:
        model: a live transformers model.
        pair: the neurons.
        token: the word.
        means: each neuron's mean u on natural text: silenced is fixed there.
        ends: each neuron's natural range, from where the word is least to where it is most driven.
        present, neutral: token ids [1, positions] with the word, and without.
    """
    chosen = ((0,), (1,), (0, 1))
    fixed = [log_odds_under(model, present, token, {pair[i]: means[i] for i in who}) for who in chosen]
    driven = [
        [log_odds_under(model, neutral, token, {pair[i]: ends[i][end] for i in who}) for end in (0, 1)]
        for who in chosen
    ]
    return TwinEffects(log_odds_under(model, present, token, {}), np.array(fixed), np.array(driven))


@torch.no_grad()
def log_odds_under(model: Any, texts: Sequence[Tensor], token: int, clamps: Mapping[NeuronId, float]) -> Floats:
    """[texts] log(p / (1 - p)) of a token at the end of each, with these neurons fixed at these values."""
    with clamp(model, dict(clamps)) if clamps else nullcontext():
        logits = [model(ids, use_cache=False, logits_to_keep=1).logits[0, -1].double() for ids in texts]
    odds = []
    for z in logits:
        others = z.clone()
        others[token] = -torch.inf
        odds.append(float(z[token] - others.logsumexp(0)))
    return np.array(odds)
