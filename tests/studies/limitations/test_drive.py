"""A neuron over its natural range, towards a pole, on the planted fixture."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from flashinterp.evaluation.experiment import Experiment
from flashinterp.evaluation.natural_range import natural_range, natural_text
from flashinterp.evaluation.profiles import PROFILES
from flashinterp.evaluation.prompts import shipped
from flashinterp.interventions.dose_response import sweep
from flashinterp.models.checkpoint import Checkpoint
from flashinterp.neurons import NeuronId
from flashinterp.studies.limitations.dead_neuron_words import best_words, output_scales
from flashinterp.studies.limitations.drive import PROMPTS, drive, natural_ranges
from tests.helpers import map_by_hand

DOG = NeuronId(1, 17)


@pytest.fixture(scope="module")
def bench(planted_model: Any, planted: Checkpoint) -> Experiment:
    return Experiment(planted_model, planted, shipped(), replace(PROFILES["smoke"], selection=2), 0)


def test_it_is_driven_from_the_end_that_is_away_from_the_pole(bench: Experiment) -> None:
    ranges = natural_ranges(bench, [DOG, DOG, NeuronId(0, 3)])
    assert list(ranges) == [DOG, NeuronId(0, 3)]
    low, high = ranges[DOG]
    assert (low, high) == pytest.approx(natural_range(bench, DOG))
    up, down = (drive(bench, DOG, pole, ranges, [5, 6]) for pole in ("+", "-"))
    assert (up.doses, down.doses) == ((low, high), (high, low))
    assert np.allclose(up.log_odds, down.log_odds[::-1], atol=1e-5)
    texts = bench.prompts.heldout[:PROMPTS]
    wanted = sweep(bench.model, bench.tokenizer, texts, [DOG], [low, high], [5, 6]).log_odds[0]
    assert np.array_equal(up.log_odds, wanted)


def test_of_no_neurons_there_are_no_ranges(bench: Experiment) -> None:
    assert natural_ranges(bench, []) == {}


def test_every_neurons_scale_stands_at_its_place(bench: Experiment) -> None:
    scales, roster = output_scales(bench), bench.checkpoint.layout.roster
    for block in roster.blocks:
        own = natural_text(bench, [block])[block].scale.output
        assert np.allclose(scales[roster.span(block)], own, rtol=1e-6)


def test_the_best_words_of_some_neurons() -> None:
    paper = map_by_hand([[1, 2], [3, 4], [1, 5]])
    ids, scores, shown = best_words(paper, np.array([False, True, True]))
    assert ids.tolist() == [3, 1]
    assert scores.tolist() == [paper.words(paper.neuron(i), 1)[0].score for i in (1, 2)]
    assert shown == {3: "␣w3", 1: "␣w1"}
    assert [len(x) for x in best_words(paper, np.zeros(3, dtype=bool))] == [0, 0, 0]
