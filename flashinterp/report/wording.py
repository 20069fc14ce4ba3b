"""The fixed words of the report: verdicts, banners, headings, limits."""

from __future__ import annotations

VERDICTS = {
    "validated": "reads the concept and writes it: a feature neuron of it",
    "lever": "moves the token, does not stand for it",
    "detector": "stands for the concept, moves nothing",
    "refuted": "both tests had the power, and neither found more than the controls show",
    "inconclusive": "underpowered or unstable: no answer either way",
    "not_measured": "no test was run; the reason is given",
    "not_comparable": "the two models cannot be compared neuron by neuron",
}
SELF_TEST = "SELF-TEST on bundled models: not an audit of a real model"
PARTIAL = "PARTIAL RUN: some of the planned tests did not run, so this is not an audit"
HOW_TO_CHECK = (
    "This file is one of a folder. manifest.json lists the sha256 of every other file in it and "
    "was written last; its own sha256 was printed at the end of the run.",
    "`flashinterp verify DIR` recomputes every digest and derives every verdict again from "
    "raw/, without a GPU and without the model, and names the first thing that differs.",
    "Every plotted point is in raw/, in the file of its figure's name; every table is in tables/ and in results.json, "
    "with all digits.",
    "That shows whether anything was changed after the run. It does not show that the run was "
    "honest: for that, run it again with the settings listed above.",
)
WORDS = (
    (
        "neuron",
        "one of the hidden units of a layer's MLP. L25N1442 is neuron 1442 of layer 25; both count from 0. L12E3N40 is "
        "one of expert 3.",
    ),
    (
        "lens",
        "a way to read words off a neuron's weights: multiply them with the model's output head and see which "
        "tokens come out highest. The paper lens takes the row of up_proj.",
    ),
    (
        "score",
        "the probability that a lens gives a word over the mean of the neuron's 100 highest: 1 is nothing special.",
    ),
    ("pole", "which sign of a neuron's value stands for a word: + or -."),
    ("clamp", "to hold a neuron at one value while the model runs."),
    (
        "natural range",
        "from the 1st to the 99th percentile of a neuron's own values on ordinary text; a clamp outside it "
        "shows what the model could be made to do, not what it does.",
    ),
    (
        "log-odds, nats",
        "the natural logarithm of p / (1 - p) of a token. A change of 0.7 nats doubles the odds; 2.3 make them "
        "tenfold.",
    ),
    ("gate", "the factor act(g) that a gated neuron's value is multiplied with; near 0, the neuron writes nothing."),
    (
        "controls",
        "neurons of the same layer that are as loud as the one that is tested: what they do is what any neuron does.",
    ),
    (
        "AUC",
        "the chance that a neuron's output is higher where the word stands than where another word does; 0.5 is none.",
    ),
    ("q", "the share of false discoveries that one accepts by calling this and all stronger results of the run real."),
    ("[low, high]", "a 95 % interval."),
)
# Evals whose names are too short to be a heading.
_HEADINGS = {
    "finetune_preservation": "Preservation through fine-tuning",
    "limitations": "Limits: names, twins, shared neurons",
    "limitations_doses": "Limits: doses too high and too low",
    "limitations_trained": "Limits: frequency, capacity, size",
    "regression": "Regression against a baseline",
}


READING_ORDER = (
    "decode_correctness",
    "specialised_neurons",
    "clamp_causality",
    "instrument",
    "lens_predicts_causality",
    "finetune_preservation",
    "regression",
    "concept_steering",
    "concept_removal",
    "limitations",
    "limitations_doses",
    "limitations_trained",
    "vocabulary_alignment",
    "decode_speed",
)
"""How a reader meets the evals, whatever order they ran in."""


def heading(name: str) -> str:
    """An eval's name as a heading: ``test_dose_response`` is "Dose response"."""
    if name in _HEADINGS:
        return _HEADINGS[name]
    words = name.removeprefix("test_").replace("_", " ").strip() or "other results"
    return words[0].upper() + words[1:]


LIMITS = (
    "A verdict is about this model, these prompts and this dtype; it says nothing of other texts or retrained models.",
    "A neuron that is refuted as the carrier of a token may carry something else; a token without a neuron may be "
    "carried by several together.",
    "The reading side is tested where the token itself stands. A neuron that fires only before the token, because it "
    "is about to come, is not seen by it.",
    "Intervals come from resampling the prompts; they do not cover the choice of the prompt set, of the dtype or of "
    "the device.",
    "The gate decides whether a clamp can act: where act(g) is near 0, a clamp at up changes nothing, whatever the "
    "neuron writes.",
    "Digests show that the folder has not changed since the run; they do not show that the run was honest.",
)
