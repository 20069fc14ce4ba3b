"""Is the instrument sound: does a clamp do what it says, and were the judged numbers measured as they claim to be?

Before a verdict can mean anything, the machinery behind it must be known to work on this model, in this dtype, on this
device. These evals look at the machinery from outside: they compute its results again by plain means, from the weights
and from single whole forward passes, and look at what was compared with what.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch

from flashinterp import NeuronId, clamp, steer
from flashinterp.evaluation.claims import Claim
from flashinterp.evaluation.experiment import Experiment
from flashinterp.evaluation.judgement import Judged
from flashinterp.evaluation.matched_controls import DEAD_SCALE
from flashinterp.interventions.clamp_values import NeverRouted
from flashinterp.models.activations import capture, encode
from flashinterp.models.forward_pass import input_device
from flashinterp.models.replay import last_log_probs, prepare
from flashinterp.neurons import Site
from flashinterp.provenance.recorded import Recorded
from flashinterp.runs.eval_recorder import EvalRecorder
from flashinterp.studies.instrument_checks.clamp_tables import (
    STEPS,
    ClampCheck,
    Continued,
    NoiseCheck,
    SinglePasses,
    controls_table,
    far_dose,
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
    checks = [_clamp_check(model, bench, neuron, site, ids) for neuron in neurons for site in sites]
    evidence.derived(mechanics_table, "mechanics", "The clamp does what the weights say", checks)
    for c in checks:
        assert c.error <= c.allowed, f"{c.neuron} at {c.site}: off by {c.error:.2g} of the MLP's output"


def _clamp_check(model: Any, bench: Experiment, neuron: NeuronId, site: Site, ids: torch.Tensor) -> ClampCheck:
    """What a clamp at 7 changes, against the weights' own arithmetic."""
    value, layout, block = 7.0, bench.checkpoint.layout, neuron.block
    outputs: list[torch.Tensor] = []
    # Of experts, the whole MLP: a hook of ours on the experts themselves would run before the clamp's.
    at = layout.mlp(block.layer) if block.expert is not None else layout.tap("post", block.layer).module

    def keep(module: Any, args: Any, out: Any) -> None:
        hidden = out[0] if isinstance(out, tuple) else out
        outputs.append(hidden.detach().double().cpu().reshape(-1, hidden.shape[-1]))

    handle = model.get_submodule(at).register_forward_hook(keep)
    try:
        with torch.no_grad():
            model(ids, use_cache=False)
            with clamp(model, {neuron: value}, site=site):
                model(ids, use_cache=False)
    finally:
        handle.remove()
    clean, clamped = outputs  # [positions, d]
    want = _by_the_weights(model, bench, neuron, site, value, ids)
    parts = (clamped - clean) - want, want, torch.cat(outputs, dim=1)
    return ClampCheck(neuron, site, torch.finfo(model.dtype).eps, *(x.abs().amax(1).numpy() for x in parts))


def _by_the_weights(
    model: Any, bench: Experiment, neuron: NeuronId, site: Site, value: float, ids: torch.Tensor
) -> torch.Tensor:
    """[positions, d] the change that a clamp must make to the MLP's output, in float64 from the checkpoint's rows."""
    formula, block = bench.checkpoint.layout.formula, neuron.block
    seen = capture(model, [ids], [block])[0][block]
    u, g = (torch.from_numpy(x[:, neuron.neuron]).double() for x in (seen.up, seen.gate))
    fixed = torch.full_like(u, value)
    driven = {"up": (g, fixed), "gate": (fixed, u)}
    after = fixed if site == "post" else formula.output(*driven[site])
    change = (after - formula.output(g, u)) * torch.from_numpy(seen.weight).double()
    column = bench.checkpoint.rows("down", block)[neuron.neuron].double()
    return change[:, None] * column


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
    checks = []
    for state, clamps in (("clean", {}), (f"{neuron} clamped at 7", {neuron: 7.0})):
        ways = {name: z.cpu().numpy() for name, z in _other_ways(model, ids, neuron, clamps).items()}
        with torch.no_grad(), clamp(model, clamps) if clamps else nullcontext():
            whole = last_log_probs(model, ids)[0].cpu().numpy()
        checks.append(NoiseCheck(state, torch.finfo(model.dtype).eps, whole, ways))
    evidence.derived(noise_table, "noise", "The instrument's own error", checks)
    for c in checks:
        for way, error in c.errors.items():
            told = f"{c.state}, {way}: log-probabilities move by {error:.2g}, allowed {c.allowed:.2g}"
            assert error <= c.allowed, told


def _other_ways(model: Any, ids: torch.Tensor, neuron: NeuronId, clamps: dict[NeuronId, float]) -> dict[str, Any]:
    """The last position's log-probabilities [V], come by in other ways than by one whole pass."""
    with torch.no_grad():
        prompt = prepare(model, ids, [neuron.layer])  # before the clamp: sweeps record clean calls
        with clamp(model, clamps) if clamps else nullcontext():
            ways = {
                "the same pass again": last_log_probs(model, ids)[0],
                "in a batch of 64": last_log_probs(model, ids.expand(64, -1))[-1],
                "in two parts, with a cache": _in_two_parts(model, ids),
            }
            name = "from the clamped layer on" if prompt.whole is None else f"whole, because {prompt.whole}"
            ways[name] = prompt.forward(neuron.layer, 2)[-1]
    return ways


def _in_two_parts(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """log-probabilities [V] when the last token is given alone, after a pass that has left its keys and values."""
    before = model(ids[:, :-1], use_cache=True)
    logits = model(ids[:, -1:], past_key_values=before.past_key_values, use_cache=True).logits[0, -1]
    return logits.float().log_softmax(-1)


def test_curves_are_those_of_single_passes(
    judged: Judged, model: Any, bench: Experiment, evidence: EvalRecorder
) -> None:
    """The numbers behind each verdict, measured again one at a time by plain passes on the held-out prompts.

    Implementation: for each claim, the word's log-odds are computed in float64 from whole forward passes, one clean and
    one with the neuron clamped at the highest dose, on the held-out prompts as they are shipped, and compared with the
    arrays that were judged. So the curve is of this word, on these prompts, at these doses, and not of others. The
    doses must be the quantiles of the neuron's own values on the selection texts, captured again here.
    """
    step = torch.finfo(model.dtype).eps
    checks = []
    for claim, e in judged.measured:
        clean, high = _plain_log_odds(model, bench, claim, float(e.doses[-1]), bench.token(claim).id)
        checks.append(SinglePasses(step, clean, high, _natural_values(model, bench, claim, judged)))
    evidence.derived(
        single_passes_table, "single-passes", "The curves, measured again by single passes", checks, JUDGED
    )
    for c, (claim, e) in zip(checks, judged.measured, strict=True):
        worst, off = max(c.errors(e)), c.error_of_doses(e)
        assert worst <= c.allowed, f"{claim.id}: the judged curve is off by {worst:.2g} from single passes"
        assert off <= 1e-3, f"{claim.id}: its doses are not its natural range on the selection texts, off by {off:.2g}"


def _plain_log_odds(
    model: Any, bench: Experiment, claim: Claim, dose: float, token_id: int
) -> tuple[np.ndarray, np.ndarray]:
    """[P] log-odds of a token over the shipped held-out prompts, clean and clamped, by whole passes in float64."""
    found: list[list[float]] = [[], []]
    for text in bench.prompts.heldout[: bench.profile.prompts]:
        ids = encode(bench.tokenizer, text, input_device(model))
        with torch.no_grad():
            logits = [model(ids).logits[0, -1].double().cpu()]
            try:
                with clamp(model, {claim.neuron: dose}):
                    logits.append(model(ids).logits[0, -1].double().cpu())
            except NeverRouted:
                logits = logits[:1] * 2  # an expert that is not used here changes nothing
        for where, z in zip(found, logits, strict=True):
            others = torch.cat([z[:token_id], z[token_id + 1 :]])
            where.append(float(z[token_id] - others.logsumexp(0)))
    return np.array(found[0]), np.array(found[1])


def _natural_values(model: Any, bench: Experiment, claim: Claim, judged: Judged) -> np.ndarray:
    """[n] u at each position of the selection texts and of the claimed words after the selection contexts."""
    prompts, block = bench.prompts, claim.neuron.block
    texts = [*prompts.selection[: bench.profile.selection], *prompts.contexts_selection]
    inputs = [encode(bench.tokenizer, text) for text in texts]
    words = dict.fromkeys(bench.token(c).id for c, _ in judged.measured)
    for text in prompts.contexts_selection:
        context = encode(bench.tokenizer, text)
        inputs += [torch.cat([context, torch.tensor([[word]])], dim=1) for word in words]
    special, values = set(bench.tokenizer.all_special_ids), list[np.ndarray]()
    for ids, seen in zip(inputs, capture(model, inputs, [block]), strict=True):
        first = next((i for i, t in enumerate(ids[0].tolist()) if t not in special), 0)
        routed = seen[block].weight[first:] > 0
        values.append(seen[block].up[first:, claim.neuron.neuron][routed])
    return np.concatenate(values)


def test_generated_text_is_that_of_clamped_passes(
    judged: Judged, model: Any, bench: Experiment, evidence: EvalRecorder
) -> None:
    """Text that is generated under a clamp, with its cache of keys and values, is what clamped passes without one give.

    Implementation: for the first claims, the neuron is clamped far out and the most likely token is taken step by step
    from whole forward passes that keep nothing. The same number of tokens is generated greedily as the steering eval
    does it. Both texts must be the same. The walk stops where the two likeliest tokens are so close that rounding could
    swap them.
    """
    texts = []
    for at, (claim, e) in enumerate(judged.measured[:GENERATED]):
        clamps, prompt = {claim.neuron: far_dose(claim, e)}, bench.heldout[0]
        try:
            wanted = _walk(model, encode(bench.tokenizer, prompt, input_device(model)), clamps)
        except NeverRouted:
            continue  # an expert that this prompt does not reach
        if not wanted:
            continue
        answers = steer(
            model, bench.tokenizer, prompt, clamps,
            n=1, rng=bench.rng("greedy"), chat=False, do_sample=False, max_new_tokens=len(wanted),
        )  # fmt: skip
        by_passes = bench.tokenizer.decode(wanted, skip_special_tokens=True)
        texts.append(Continued(at, tuple(wanted), by_passes, answers.clamped[0], answers.clean[0]))
    evidence.derived(generated_table, "generated", "Generated under a clamp, and by clamped passes", texts, JUDGED)
    for t in texts:
        told = f"{judged.measured[t.claim][0].id}: generated {t.generated!r}, by passes {t.by_passes!r}"
        assert t.generated == t.by_passes, told


@torch.no_grad()
def _walk(model: Any, ids: torch.Tensor, clamps: dict[NeuronId, float]) -> list[int]:
    """Up to eight greedy tokens by whole passes, as far as rounding cannot change them."""
    found: list[int] = []
    while len(found) < 8:
        with clamp(model, clamps):
            z = model(ids, use_cache=False).logits[0, -1].float()
        first, second = z.topk(2).values.tolist()
        if first - second <= STEPS * torch.finfo(model.dtype).eps * float(z.abs().max()):
            break
        found.append(int(z.argmax()))
        ids = torch.cat([ids, z.argmax().reshape(1, 1).to(ids.device)], dim=1)
        if found[-1] in np.atleast_1d(model.generation_config.eos_token_id):
            break
    return found


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
