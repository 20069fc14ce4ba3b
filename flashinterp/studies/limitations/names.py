"""Where names lead that are looked up with the paper lens, and what driving the found neurons brings (METHOD 7)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from flashinterp.decoding.neuron_map import NeuronMap
from flashinterp.errors import FlashinterpError
from flashinterp.evaluation.experiment import Experiment
from flashinterp.interventions.clamp import clamp
from flashinterp.models.activations import encode
from flashinterp.models.checkpoint import Checkpoint
from flashinterp.models.forward_pass import input_device
from flashinterp.studies.limitations.drive import PROMPTS, drive, natural_ranges
from flashinterp.studies.limitations.name_tables import By, Lead
from flashinterp.tokens import Token

NEAR = 10
"""A concept among so many of a neuron's first words is a part of what it names."""


def name_leads(bench: Experiment, paper: NeuronMap, names: Iterable[str]) -> list[Lead]:
    """Where each name leads, with what its neurons do where natural text reaches them.

    Args:
        bench: the model and its texts.
        paper: the map of the paper lens.
        names: as a person writes them.
    """
    return _driven(bench, [lead for name in names for lead in look_up(name, bench.checkpoint, paper)])


def whole_name_leads(bench: Experiment, paper: NeuronMap, names: Iterable[str], most: int) -> list[Lead]:
    """The same of the first names that are no single token here, with the effects on the whole names."""
    several = [name for name in dict.fromkeys(names) if len(name_tokens(bench.checkpoint, name)) > 1][:most]
    return [replace(lead, whole=_whole(bench, lead)) for lead in name_leads(bench, paper, several)]


def look_up(name: str, checkpoint: Checkpoint, paper: NeuronMap) -> list[Lead]:
    """One lead for a single token; two, by the first token and by the mean, for a name of several."""
    vocabulary, tokens = checkpoint.vocabulary, name_tokens(checkpoint, name)
    ids = tuple(token.id for token in tokens)
    forms = {ids[0], *(v.id for v in vocabulary.variants(vocabulary.resolve(ids[0])))} if len(ids) == 1 else ()
    leads = []
    ways: tuple[By, ...] = ("token",) if len(ids) == 1 else ("first", "mean")
    for by in ways:
        found = paper.find_mean(ids if by == "mean" else ids[:1], 1, checkpoint=checkpoint)[0]
        words = tuple(paper.words(found.neuron, NEAR, found.pole))
        leads.append(Lead(name, by, tokens, tuple(sorted(forms)), found, words))
    return leads


def name_tokens(checkpoint: Checkpoint, name: str) -> tuple[Token, ...]:
    """The tokens of a name in the middle of a text; one where it is a single token in any form."""
    vocabulary = checkpoint.vocabulary
    try:
        return (vocabulary.resolve(name),)
    except FlashinterpError:
        text = name.strip() if vocabulary.prefix_space else f" {name.strip()}"
        return tuple(vocabulary.resolve(i) for i in checkpoint.tokenizer.encode(text, add_special_tokens=False))


def _driven(bench: Experiment, leads: Sequence[Lead]) -> list[Lead]:
    ranges = natural_ranges(bench, [lead.found.neuron for lead in leads])
    done = []
    for lead in leads:
        neuron, pole = lead.found.neuron, lead.found.pole
        words = (lead.tokens[0].id, lead.best.id)
        reached = neuron in ranges
        done.append(replace(lead, driven=drive(bench, neuron, pole, ranges, words)) if reached else lead)
    return done


@torch.no_grad()
def _whole(bench: Experiment, lead: Lead) -> NDArray[np.float64] | None:
    """[2 ends, prompts] the log-probability of all of a name's tokens, one after the other."""
    if lead.driven is None:
        return None
    ids = [token.id for token in lead.tokens]
    ends: list[list[float]] = []
    for dose in lead.driven.doses:
        ends.append([])
        with clamp(bench.model, {lead.found.neuron: dose}):
            for prompt in bench.prompts.heldout[:PROMPTS]:
                text = encode(bench.tokenizer, prompt, input_device(bench.model))
                whole = torch.cat([text, torch.tensor([ids], device=text.device)], dim=1)
                log_p = bench.model(whole, use_cache=False).logits[0, text.shape[1] - 1 : -1].double().log_softmax(-1)
                ends[-1].append(float(log_p[range(len(ids)), ids].sum()))
    return np.array(ends)
