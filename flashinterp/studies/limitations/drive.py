"""Neurons driven over their natural ranges, one after the other, as the studies of the limits need it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from flashinterp.evaluation.experiment import Experiment
from flashinterp.evaluation.natural_range import LEAST_ROUTED, Natural, natural_text
from flashinterp.interventions.dose_response import sweep
from flashinterp.neurons import NeuronId, Pole
from flashinterp.studies.limitations.driven_neuron import Driven

PROMPTS = 6
"""Held-out prompts that each limit is measured on."""

Ranges = Mapping[NeuronId, tuple[float, float]]
"""The natural range of each neuron that natural text reaches."""


def natural_ranges(bench: Experiment, neurons: Iterable[NeuronId]) -> Ranges:
    """From one capture; without those whose expert natural text does not reach."""
    wanted = list(dict.fromkeys(neurons))
    natural = natural_text(bench, list(dict.fromkeys(neuron.block for neuron in wanted))) if wanted else {}
    reached = [neuron for neuron in wanted if len(natural[neuron.block].up) >= LEAST_ROUTED]
    return {neuron: range_towards(natural[neuron.block], neuron, up=True) for neuron in reached}


def range_towards(natural: Natural, neuron: NeuronId, *, up: bool) -> tuple[float, float]:
    """The ends of a neuron's natural range, the higher one last, or first."""
    low, high = map(float, natural.doses(neuron.neuron, 2))
    return (low, high) if up else (high, low)


def drive(bench: Experiment, neuron: NeuronId, pole: Pole, ranges: Ranges, tokens: Sequence[int]) -> Driven:
    """Some tokens' log-odds with a neuron at either end of its natural range, towards the pole."""
    low, high = ranges[neuron]
    doses = (low, high) if pole == "+" else (high, low)
    curves = sweep(bench.model, bench.tokenizer, bench.prompts.heldout[:PROMPTS], [neuron], doses, list(tokens))
    return Driven(doses, tuple(tokens), curves.log_odds[0])
