"""Where names lead on the planted fixture, whose truth is known, and what comes of the whole name."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from flashinterp.decoding.decode import decode
from flashinterp.decoding.neuron_map import NeuronMap
from flashinterp.evaluation.experiment import Experiment
from flashinterp.evaluation.profiles import PROFILES
from flashinterp.evaluation.prompts import shipped
from flashinterp.interventions.clamp import clamp
from flashinterp.models.activations import encode
from flashinterp.models.checkpoint import Checkpoint
from flashinterp.studies.limitations.names import NEAR, look_up, name_leads, name_tokens, whole_name_leads


@pytest.fixture(scope="module")
def bench(planted_model: Any, planted: Checkpoint) -> Experiment:
    return Experiment(planted_model, planted, shipped(), replace(PROFILES["smoke"], selection=2), 0)


@pytest.fixture(scope="module")
def paper(planted: Checkpoint) -> NeuronMap:
    return decode(planted, device="cpu")


def test_a_name_of_one_token_and_one_of_several(bench: Experiment, paper: NeuronMap) -> None:
    (sherlock,) = look_up(" Sherlock", bench.checkpoint, paper)
    assert (sherlock.by, sherlock.reading, len(sherlock.words)) == ("token", "own", NEAR)
    assert sherlock.tokens[0].id in sherlock.forms
    first, mean = look_up("Dumbledore", bench.checkpoint, paper)
    assert (first.by, mean.by, first.forms, mean.forms) == ("first", "mean", (), ())
    assert first.tokens == mean.tokens == name_tokens(bench.checkpoint, " Dumbledore")
    assert "".join(token.text for token in first.tokens) == " Dumbledore"
    ids = [token.id for token in mean.tokens]
    assert mean.found == paper.find_mean(ids, 1, checkpoint=bench.checkpoint)[0]


def test_they_are_driven_towards_the_pole(bench: Experiment, paper: NeuronMap) -> None:
    (lead,) = name_leads(bench, paper, [" Sherlock"])
    assert lead.driven is not None
    assert lead.driven.tokens == (lead.tokens[0].id, lead.best.id)
    low, high = lead.driven.doses
    assert (low < high) == (lead.found.pole == "+")
    assert lead.whole is None


def test_the_whole_names_log_probability(bench: Experiment, paper: NeuronMap) -> None:
    leads = whole_name_leads(bench, paper, [" Sherlock", " Dumbledore", " Dumbledore", " Hermione Sherlock"], 1)
    assert {lead.name for lead in leads} == {" Dumbledore"}
    lead = leads[0]
    assert lead.whole is not None
    assert lead.driven is not None
    ids = encode(bench.tokenizer, bench.prompts.heldout[0])
    with clamp(bench.model, {lead.found.neuron: lead.driven.doses[1]}):
        total = 0.0
        for token in lead.tokens:
            total += float(bench.model(ids).logits[0, -1].double().log_softmax(-1)[token.id])
            ids = torch.cat([ids, torch.tensor([[token.id]])], dim=1)
    assert lead.whole[1, 0] == pytest.approx(total, abs=1e-4)
