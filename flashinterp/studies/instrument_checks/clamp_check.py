"""The instrument looked at from outside: what a clamp changes, a curve, a range and a text, come by in plain ways."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flashinterp.evaluation.claims import Claim
from flashinterp.evaluation.evidence import Evidence, Floats
from flashinterp.evaluation.experiment import Experiment
from flashinterp.interventions.clamp import clamp
from flashinterp.interventions.clamp_values import NeverRouted
from flashinterp.interventions.steer import steer
from flashinterp.models.activations import capture, encode
from flashinterp.models.forward_pass import input_device
from flashinterp.models.replay import last_log_probs, prepare
from flashinterp.neurons import NeuronId, Site
from flashinterp.studies.instrument_checks.clamp_tables import (
    STEPS,
    ClampCheck,
    Continued,
    NoiseCheck,
    SinglePasses,
    far_dose,
)

CLAMPED_AT = 7.0
MOST_TOKENS = 8
"""Of a text that is continued in two ways."""

# --- what a clamp changes -------------------------------------------------------------------------------


def check_clamp(bench: Experiment, neuron: NeuronId, site: Site, ids: Tensor) -> ClampCheck:
    """What a clamp at 7 changes of an MLP's output, against the weights' own arithmetic.

    Args:
        bench: the model.
        neuron, site: what is clamped, and where.
        ids: [1, positions] the text.
    """
    model, layout, block = bench.model, bench.checkpoint.layout, neuron.block
    outputs: list[Tensor] = []
    # Of experts, the whole MLP: a hook of ours on the experts themselves would run before the clamp's.
    at = layout.mlp(block.layer) if block.expert is not None else layout.tap("post", block.layer).module

    def keep(module: Any, args: Any, out: Any) -> None:
        hidden = out[0] if isinstance(out, tuple) else out
        outputs.append(hidden.detach().double().cpu().reshape(-1, hidden.shape[-1]))

    handle = model.get_submodule(at).register_forward_hook(keep)
    try:
        with torch.no_grad():
            model(ids, use_cache=False)
            with clamp(model, {neuron: CLAMPED_AT}, site=site):
                model(ids, use_cache=False)
    finally:
        handle.remove()
    clean, clamped = outputs  # [positions, d]
    want = change_by_the_weights(bench, neuron, site, CLAMPED_AT, ids)
    parts = (clamped - clean) - want, want, torch.cat(outputs, dim=1)
    return ClampCheck(neuron, site, torch.finfo(model.dtype).eps, *(x.abs().amax(1).numpy() for x in parts))


def change_by_the_weights(bench: Experiment, neuron: NeuronId, site: Site, value: float, ids: Tensor) -> Tensor:
    """[positions, d] the change that a clamp must make to the MLP's output, in float64 from the checkpoint's rows."""
    formula, block = bench.checkpoint.layout.formula, neuron.block
    seen = capture(bench.model, [ids], [block])[0][block]
    u, g = (torch.from_numpy(x[:, neuron.neuron]).double() for x in (seen.up, seen.gate))
    fixed = torch.full_like(u, value)
    driven = {"up": (g, fixed), "gate": (fixed, u)}
    after = fixed if site == "post" else formula.output(*driven[site])
    change = (after - formula.output(g, u)) * torch.from_numpy(seen.weight).double()
    column = bench.checkpoint.rows("down", block)[neuron.neuron].double()
    return change[:, None] * column


# --- other ways to the same log-probabilities -----------------------------------------------------------


def check_noise(model: Any, ids: Tensor, neuron: NeuronId) -> list[NoiseCheck]:
    """How far the last position's log-probabilities move when nothing is done: clean, and with a neuron clamped at 7.

    Args:
        model: a live transformers model.
        ids: [1, positions] the text.
        neuron: the one.
    """
    checks = []
    states: dict[str, dict[NeuronId, float]] = {"clean": {}, f"{neuron} clamped at 7": {neuron: CLAMPED_AT}}
    for state, clamps in states.items():
        ways = {name: z.cpu().numpy() for name, z in _other_ways(model, ids, neuron, clamps).items()}
        with torch.no_grad(), clamp(model, clamps) if clamps else nullcontext():
            whole = last_log_probs(model, ids)[0].cpu().numpy()
        checks.append(NoiseCheck(state, torch.finfo(model.dtype).eps, whole, ways))
    return checks


def _other_ways(model: Any, ids: Tensor, neuron: NeuronId, clamps: Mapping[NeuronId, float]) -> dict[str, Tensor]:
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


def _in_two_parts(model: Any, ids: Tensor) -> Tensor:
    """log-probabilities [V] when the last token is given alone, after a pass that has left its keys and values."""
    before = model(ids[:, :-1], use_cache=True)
    logits: Tensor = model(ids[:, -1:], past_key_values=before.past_key_values, use_cache=True).logits[0, -1]
    return logits.float().log_softmax(-1)


# --- judged curves, by single passes --------------------------------------------------------------------


def check_curve(bench: Experiment, claim: Claim, dose: float, words: Sequence[int]) -> SinglePasses:
    """A claim's log-odds clean and at one dose by plain passes, and its neuron's natural values.

    Args:
        bench: the model and its texts.
        claim: with its neuron.
        dose: where it is clamped.
        words: the ids of the words of all claims that were measured with it.
    """
    clean, clamped = plain_log_odds(bench, claim, dose)
    return SinglePasses(torch.finfo(bench.model.dtype).eps, clean, clamped, natural_values(bench, claim, words))


def plain_log_odds(bench: Experiment, claim: Claim, dose: float) -> tuple[Floats, Floats]:
    """[P] log-odds of the word over the shipped held-out prompts, clean and clamped, by whole passes in float64.

    It shares no code with sweeps, and none with the library's log-odds: it is what they are held against.
    """
    model, token_id = bench.model, bench.token(claim).id
    assert claim.neuron is not None
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


def natural_values(bench: Experiment, claim: Claim, words: Sequence[int]) -> NDArray[np.float32]:
    """[n] u at each position of the selection texts and of the claimed words after the selection contexts.

    Written apart from `natural_text`, which it is held against.
    """
    assert claim.neuron is not None
    prompts, block = bench.prompts, claim.neuron.block
    texts = [*prompts.selection[: bench.profile.selection], *prompts.contexts_selection]
    inputs = [encode(bench.tokenizer, text) for text in texts]
    for text in prompts.contexts_selection:
        context = encode(bench.tokenizer, text)
        inputs += [torch.cat([context, torch.tensor([[word]])], dim=1) for word in dict.fromkeys(words)]
    special, values = set(bench.tokenizer.all_special_ids), list[NDArray[np.float32]]()
    for ids, seen in zip(inputs, capture(bench.model, inputs, [block]), strict=True):
        first = next((i for i, t in enumerate(ids[0].tolist()) if t not in special), 0)
        routed = seen[block].weight[first:] > 0
        values.append(seen[block].up[first:, claim.neuron.neuron][routed])
    return np.concatenate(values)


# --- text under a clamp ---------------------------------------------------------------------------------


def check_generated(bench: Experiment, measured: Sequence[tuple[Claim, Evidence]]) -> list[Continued]:
    """One held-out prompt continued under each claim's clamp, far out: by generation with a cache, and without one.

    Left out are experts that the prompt does not reach, and clamps under which rounding could swap the first token.
    """
    texts = []
    for at, (claim, found) in enumerate(measured):
        assert claim.neuron is not None
        clamps, prompt = {claim.neuron: far_dose(claim, found)}, bench.heldout[0]
        try:
            wanted = greedy_tokens(bench.model, encode(bench.tokenizer, prompt, input_device(bench.model)), clamps)
        except NeverRouted:
            continue
        if not wanted:
            continue
        answers = steer(
            bench.model, bench.tokenizer, prompt, clamps,
            n=1, rng=bench.rng("greedy"), chat=False, do_sample=False, max_new_tokens=len(wanted),
        )  # fmt: skip
        by_passes = bench.tokenizer.decode(wanted, skip_special_tokens=True)
        texts.append(Continued(at, tuple(wanted), by_passes, answers.clamped[0], answers.clean[0]))
    return texts


@torch.no_grad()
def greedy_tokens(model: Any, ids: Tensor, clamps: Mapping[NeuronId, float]) -> list[int]:
    """Up to eight greedy tokens by whole passes that keep nothing, as far as rounding cannot change them."""
    found: list[int] = []
    while len(found) < MOST_TOKENS:
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
