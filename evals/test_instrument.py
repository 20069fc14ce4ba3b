"""Is the instrument sound: does a clamp do what it says, and were the judged numbers measured as they claim to be?

Before a verdict can mean anything, the machinery behind it must be known to work on this model, in this dtype, on this
device. These evals look at the machinery from outside: they compute its results again by plain means, from the weights
and from single whole forward passes, and look at what was compared with what.
"""

from __future__ import annotations

from typing import Any

import pytest

from flashinterp.evaluation.claims import Claim
from flashinterp.evaluation.experiment import Experiment
from flashinterp.evaluation.judgement import Judged
from flashinterp.evaluation.matched_controls import DEAD_SCALE
from flashinterp.models.activations import encode
from flashinterp.models.forward_pass import input_device
from flashinterp.provenance.recorded import Recorded
from flashinterp.runs.eval_recorder import EvalRecorder
from flashinterp.studies.instrument_checks.clamp_check import check_clamp, check_curve, check_generated, check_noise
from flashinterp.studies.instrument_checks.clamp_tables import (
    controls_table,
    generated_table,
    mechanics_table,
    noise_table,
    shared_texts,
    single_passes_table,
    texts_table,
)

GENERATED = 3  # claims whose neurons are driven while text is generated
JUDGED = Recorded("judgements", "claims")


def test_clamp_is_what_it_says(
    model: Any, bench: Experiment, claims: tuple[Claim, ...], device: str, evidence: EvalRecorder
) -> None:
    """A clamp changes the MLP's output by exactly what the weights say, at each of its sites.

    Implementation: for each claimed neuron and each site, one forward pass is run clean and one clamped; the
    change of that MLP's output, recorded by a hook of this test, is compared with the same change computed in
    float64 from the checkpoint's rows: act(g)(c - u)·W_down[:, n] at `up`, (act(c) - act(g))·u·W_down[:, n] at
    `gate`, (c - u·act(g))·W_down[:, n] at `post`, or what the family's formula says instead; for an expert's neuron,
    times the weight that the router gives it. The error must be within the rounding of the model's dtype.
    """
    ids = encode(bench.tokenizer, bench.prompts.heldout[0], input_device(model))
    neurons, sites = dict.fromkeys(c.neuron for c in claims), bench.checkpoint.layout.sites
    assert None not in neurons
    checks = [check_clamp(bench, neuron, site, ids) for neuron in neurons for site in sites]
    evidence.derived(mechanics_table, "mechanics", "The clamp does what the weights say", checks)
    for c in checks:
        assert c.error <= c.allowed, f"{c.neuron} at {c.site}: off by {c.error:.2g} of the MLP's output"


def test_the_measure_is_finer_than_what_it_measures(
    model: Any, bench: Experiment, claims: tuple[Claim, ...], device: str, evidence: EvalRecorder
) -> None:
    """How far log-probabilities move when nothing is done: the instrument's own error bar on this model and device.

    Implementation: on one held-out prompt, clean and with the first claim's neuron clamped, the last position's
    log-probabilities of a whole pass are compared with the same pass again, with a batch of 64 copies, with the
    layers from the clamped one on called by themselves (as sweeps do), and with a pass in two parts that share a
    key-value cache (as generation does). All must agree within the rounding of the model's dtype; what a claim's curve
    must exceed is the noise floor in its own table.
    """
    ids = encode(bench.tokenizer, bench.heldout[0], input_device(model))
    neuron = next(c.neuron for c in claims if c.neuron)
    checks = check_noise(model, ids, neuron)
    evidence.derived(noise_table, "noise", "The instrument's own error", checks)
    for c in checks:
        for way, error in c.errors.items():
            told = f"{c.state}, {way}: log-probabilities move by {error:.2g}, allowed {c.allowed:.2g}"
            assert error <= c.allowed, told


@pytest.mark.usefixtures("model")  # which sees that no hook is left
def test_curves_are_those_of_single_passes(judged: Judged, bench: Experiment, evidence: EvalRecorder) -> None:
    """The numbers behind each verdict, measured again one at a time by plain passes on the held-out prompts.

    Implementation: for each claim, the word's log-odds are computed in float64 from whole forward passes, one clean and
    one with the neuron clamped at the highest dose, on the held-out prompts as they are shipped, and compared with the
    arrays that were judged. So the curve is of this word, on these prompts, at these doses, and not of others. The
    doses must be the quantiles of the neuron's own values on the selection texts, captured again here.
    """
    words = [bench.token(claim).id for claim, _ in judged.measured]
    checks = [check_curve(bench, claim, float(e.doses[-1]), words) for claim, e in judged.measured]
    evidence.derived(
        single_passes_table, "single-passes", "The curves, measured again by single passes", checks, JUDGED
    )
    for c, (claim, e) in zip(checks, judged.measured, strict=True):
        worst, off = max(c.errors(e)), c.error_of_doses(e)
        assert worst <= c.allowed, f"{claim.id}: the judged curve is off by {worst:.2g} from single passes"
        assert off <= 1e-3, f"{claim.id}: its doses are not its natural range on the selection texts, off by {off:.2g}"


@pytest.mark.usefixtures("model")
def test_generated_text_is_that_of_clamped_passes(judged: Judged, bench: Experiment, evidence: EvalRecorder) -> None:
    """Text that is generated under a clamp, with its cache of keys and values, is what clamped passes without one give.

    Implementation: for the first claims, the neuron is clamped far out and the most likely token is taken step by step
    from whole forward passes that keep nothing. The same number of tokens is generated greedily as the steering eval
    does it. Both texts must be the same. The walk stops where the two likeliest tokens are so close that rounding could
    swap them.
    """
    texts = check_generated(bench, judged.measured[:GENERATED])
    evidence.derived(generated_table, "generated", "Generated under a clamp, and by clamped passes", texts, JUDGED)
    for t in texts:
        told = f"{judged.measured[t.claim][0].id}: generated {t.generated!r}, by passes {t.by_passes!r}"
        assert t.generated == t.by_passes, told


@pytest.mark.control
def test_selection_and_test_are_apart(bench: Experiment, evidence: EvalRecorder) -> None:
    """No text on which something was tested has had a part in choosing anything.

    Implementation: the texts that set doses, scales and controls, and the texts on which effects are measured, are
    compared as they are given to the model, token by token: none is another one, nor its beginning. Claims are chosen
    by weights alone, before any text is read.
    """
    texts = [*bench.heldout, *bench.prompts.contexts_heldout[: bench.profile.contexts]]
    selection, tested = ([encode(bench.tokenizer, t)[0].tolist() for t in part] for part in (bench.selection, texts))
    evidence.derived(texts_table, "texts", "The texts", bench.prompts.groups, selection, tested)
    shared = shared_texts(selection, tested)
    assert not shared, f"texts that select are also tested on, first {texts[shared[0]]!r}"


@pytest.mark.control
def test_controls_are_fit(judged: Judged, bench: Experiment, evidence: EvalRecorder) -> None:
    """What a neuron is compared with is alive, as loud as it is, and enough of it.

    Implementation: the controls' loudness on natural text, over their layer's median, as it was recorded for each
    claim. A dead control is beaten by anything. Whether they are of the target's kind is a condition of the verdict,
    because a layer may have no such neurons; that none of them is dead is a condition of the suite.
    """
    evidence.derived(controls_table, "controls", "What each neuron is compared with", JUDGED)
    for claim, e in judged.measured:
        assert len(e.control_scales) == len(e.control_effects) == len(e.control_separations)
        dead = int((e.control_scales < DEAD_SCALE).sum())
        assert not dead, f"{claim.id}: {dead} of its {len(e.control_scales)} controls are dead neurons"
