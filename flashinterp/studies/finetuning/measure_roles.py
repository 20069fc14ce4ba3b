"""From two models and the claims validated on the first to what `judge_roles` judges (METHOD 5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from flashinterp.decoding.lens_rows import token_logits
from flashinterp.decoding.neuron_map import LensMaps, NeuronMap
from flashinterp.errors import FlashinterpError, NotComparable
from flashinterp.evaluation.claims import Claim
from flashinterp.evaluation.evidence import Evidence
from flashinterp.evaluation.experiment import Experiment
from flashinterp.evaluation.natural_range import append, check_routed, natural_text
from flashinterp.evaluation.verdict import Verdict
from flashinterp.interventions.dose_response import sweep
from flashinterp.models.activations import capture, encode
from flashinterp.models.checkpoint import Checkpoint
from flashinterp.neurons import NeuronId, Pole
from flashinterp.studies.finetuning.compare import check_comparable
from flashinterp.studies.finetuning.roles import Heir, RoleEvidence
from flashinterp.tokens import Token

Floats = NDArray[np.float64]
PROMPTS, LEAST = 4, 48
"""Times as many held-out prompts as a verdict takes, and at least so many: alike needs more of them than not 0.

With 48, half the interval of a paired difference is 4 % of the effect on the bundled decoys, and 9 to 19 % on the
trained storybook after chat tuning, against a margin of 25 %.
"""


@dataclass(frozen=True)
class Side:
    """One of the two models: live with its texts, and its maps by lens."""

    bench: Experiment
    maps: LensMaps


@dataclass(frozen=True)
class _Target:
    claim: Claim
    neuron: NeuronId
    pole: Pole
    token: Token
    evidence: Evidence


@dataclass(frozen=True)
class _Successor:
    """The neuron that names a claim's word best in the fine-tune, and its scores for it in both models."""

    neuron: NeuronId
    named_before: bool
    score_before: float
    score_after: float


def measure_roles(
    base: Side, tuned: Side, verdicts: Sequence[Verdict], evidence: Sequence[Evidence | str]
) -> list[RoleEvidence | str]:
    """Measure each claim that was validated on the base on the fine-tune, at the base's own doses.

    Both models are given the same token ids, so that prompts pair. Whoever names the word best in the fine-tune is
    measured over its own natural range there, in both models.

    Args:
        base, tuned: the two models; texts, profile and seed are the base's.
        verdicts, evidence: of the claims on the base.

    Returns:
        One per verdict: what was measured, or why there is nothing (claims that were not validated among them).
    """
    targets = [_target(base.bench, v, found) for v, found in zip(verdicts, evidence, strict=True)]
    reasons = [t if isinstance(t, str) else _not_comparable(base, tuned, t.claim) for t in targets]
    chosen = [t for t, reason in zip(targets, reasons, strict=True) if isinstance(t, _Target) and reason is None]
    try:
        measured = iter(_measure(base, tuned, chosen) if chosen else [])
    except FlashinterpError as error:
        return [reason or str(error) for reason in reasons]
    return [reason or next(measured) for reason in reasons]


def _target(bench: Experiment, verdict: Verdict, found: Evidence | str) -> _Target | str:
    if verdict.verdict != "validated" or isinstance(found, str):
        return f"{verdict.verdict} in the base"
    claim = verdict.claim
    return _Target(claim, cast(NeuronId, claim.neuron), claim.pole or "+", bench.token(claim), found)


def _not_comparable(base: Side, tuned: Side, claim: Claim) -> str | None:
    try:
        check_comparable(base.maps[claim.lens], tuned.maps[claim.lens])
    except NotComparable as error:
        return str(error)
    return None


def _measure(base: Side, tuned: Side, targets: Sequence[_Target]) -> list[RoleEvidence]:
    before, after = (_curves(base.bench, side.bench, targets) for side in (base, tuned))
    readings = [_readings(base.bench, side.bench, targets) for side in (base, tuned)]
    successors = [_successor(base, tuned, target) for target in targets]
    heirs = _heirs(base.bench, tuned.bench, targets, successors)
    found = []
    for at, target in enumerate(targets):
        labels = [_label(side.maps[target.claim.lens], target) for side in (base, tuned)]
        (present_before, absent_before), (present_after, absent_after) = (of[at] for of in readings)
        found.append(
            RoleEvidence(
                doses=target.evidence.doses,
                before=before[at],
                after=after[at],
                noise_floor=2 * target.evidence.noise_floor,  # each model's passes have one; measured in the base
                present_before=present_before,
                absent_before=absent_before,
                present_after=present_after,
                absent_after=absent_after,
                label_before=labels[0],
                label_after=labels[1],
                heir=heirs[at],
            )
        )
    return found


def _label(m: NeuronMap, target: _Target) -> int:
    words = m.words(target.neuron, 1, target.pole)
    return words[0].token.id if words else -1


def _prompts(bench: Experiment) -> tuple[str, ...]:
    return bench.prompts.heldout[: max(PROMPTS * bench.profile.prompts, LEAST)]


def _curves(base: Experiment, side: Experiment, targets: Sequence[_Target]) -> list[Floats]:
    """[P, D] of each target: its word's log-odds in one model, clamped at the base's doses."""
    tokens = list({t.token.id: t.token for t in targets}.values())
    doses = np.stack([t.evidence.doses for t in targets])
    neurons = [t.neuron for t in targets]
    odds = sweep(side.model, base.tokenizer, _prompts(base), neurons, doses, tokens).log_odds.astype(np.float64)
    place = {token.id: i for i, token in enumerate(tokens)}
    return [odds[at, :, :, place[t.token.id]].T for at, t in enumerate(targets)]


def _readings(base: Experiment, side: Experiment, targets: Sequence[_Target]) -> list[tuple[Floats, Floats]]:
    """Of each target its output at the end of held-out contexts: [C] with its word there, [C, K] with others."""
    vocabulary = base.checkpoint.vocabulary
    own = {v.id for t in targets for v in (*vocabulary.variants(t.token), t.token)}
    others = base.draw_words("words beside the roles", base.profile.absent, own)
    tokens = list(dict.fromkeys(t.token.id for t in targets))
    contexts = [encode(base.tokenizer, c) for c in base.prompts.contexts_heldout[: base.profile.contexts]]
    blocks = list(dict.fromkeys(t.neuron.block for t in targets))
    seen = capture(side.model, [append(context, i) for context in contexts for i in (*tokens, *others)], blocks)
    last = {
        block: np.stack([s[block].written[-1] for s in seen])
        .astype(np.float64)
        .reshape(len(contexts), len(tokens) + len(others), -1)
        for block in blocks
    }  # [C, words, F]
    return [
        (mine[:, tokens.index(t.token.id)], mine[:, len(tokens) :])
        for t in targets
        for mine in [last[t.neuron.block][..., t.neuron.neuron]]
    ]


def _successor(base: Side, tuned: Side, target: _Target) -> _Successor | None:
    """Who names the word best in the fine-tune, by the claim's lens and pole; None where it is the claim's neuron."""
    lens, pole, token = target.claim.lens, target.pole, target.token
    old, new = base.maps[lens], tuned.maps[lens]
    neuron, score = _best(new, token, pole, tuned.bench.checkpoint)
    if neuron == target.neuron:
        return None
    own = old.words(neuron, 1, pole)
    named = bool(own and own[0].token.id == token.id) or _best(old, token, pole, base.bench.checkpoint)[0] == neuron
    logit = float(token_logits(base.bench.checkpoint, lens, [token.id], blocks=[neuron.block])[neuron.neuron, 0])
    mean = old.pole_arrays(pole)[3][old.index(neuron)]
    before = float(np.exp((logit if pole == "+" else -logit) - float(mean)))
    return _Successor(neuron, named, before, score)


def _best(m: NeuronMap, token: Token, pole: Pole, checkpoint: Checkpoint) -> tuple[NeuronId, float]:
    found = m.find(token, 1, pole)
    if not found or not found[0].certain:
        found = m.find(token, 1, pole, checkpoint=checkpoint)
    return found[0].neuron, found[0].score


def _heirs(
    base: Experiment, tuned: Experiment, targets: Sequence[_Target], successors: Sequence[_Successor | None]
) -> list[Heir | None]:
    """Each successor with its effect over its own natural range in the fine-tune, in both models."""
    some = [(t, s) for t, s in zip(targets, successors, strict=True) if s is not None]
    if not some:
        return [None] * len(targets)
    blocks = list(dict.fromkeys(s.neuron.block for _, s in some))
    natural = natural_text(tuned, blocks, [t.token.id for t, _ in some])
    for _, s in some:
        check_routed(s.neuron, len(natural[s.neuron.block].up))
    ends = np.stack([natural[s.neuron.block].doses(s.neuron.neuron, 2) for _, s in some])  # [m, 2]
    neurons, tokens = [s.neuron for _, s in some], [t.token for t, _ in some]
    effects = []
    for side in (base, tuned):
        unique = list({t.id: t for t in tokens}.values())
        odds = sweep(side.model, base.tokenizer, _prompts(base), neurons, ends, unique).log_odds.astype(np.float64)
        place = {t.id: i for i, t in enumerate(unique)}
        effects.append([(odds[i, 1] - odds[i, 0])[:, place[t.id]] for i, t in enumerate(tokens)])
    made = iter(
        Heir(s.neuron, s.named_before, s.score_before, s.score_after, ends[i], effects[0][i], effects[1][i])
        for i, (_, s) in enumerate(some)
    )
    return [None if s is None else next(made) for s in successors]
