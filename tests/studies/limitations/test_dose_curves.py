"""The same doses in two dtypes: the curves are those of sweeps of the two models."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from flashinterp.evaluation.claims import Claim
from flashinterp.evaluation.experiment import Experiment
from flashinterp.evaluation.natural_range import natural_text
from flashinterp.evaluation.profiles import PROFILES
from flashinterp.evaluation.prompts import shipped
from flashinterp.interventions.dose_response import sweep
from flashinterp.models.checkpoint import Checkpoint
from flashinterp.neurons import NeuronId
from flashinterp.studies.limitations.dose_curves import DOSES, in_two_dtypes
from flashinterp.studies.limitations.drive import PROMPTS


def test_each_part_of_the_range_in_each_dtype(planted_model: Any, planted: Checkpoint) -> None:
    bench = Experiment(planted_model, planted, shipped(), replace(PROFILES["smoke"], selection=2), 0)
    neuron = NeuronId(1, 17)
    claim = Claim("dog", " dog", neuron, "+", "paper", None, "fixture")
    (found,) = in_two_dtypes(bench, [claim])
    natural = natural_text(bench, [neuron.block], [bench.token(claim).id])[neuron.block]
    low, high = natural.doses(neuron.neuron, 2)
    small = planted.load_model(dtype=torch.bfloat16)
    for part, last in (("whole range", high), ("first fiftieth", low + (high - low) / 50)):
        doses = np.linspace(low, last, DOSES)
        for dtype, model in (("float32", planted_model), ("bfloat16", small)):
            texts = bench.prompts.heldout[:PROMPTS]
            wanted = sweep(model, bench.tokenizer, texts, [neuron], doses, [" dog"]).log_odds[0, :, :, 0].T
            assert np.allclose(found.curves[part][dtype], wanted, atol=1e-6)
