"""From a model and a family of claims to evidence: the forward passes behind every verdict (METHOD 3, 4)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np

from flashinterp.errors import FlashinterpError, RunError
from flashinterp.evaluation.claims import Claim
from flashinterp.evaluation.clamp_checks import (
    Floats,
    decoded_logits,
    measure_identity_error,
    measure_kl,
    measure_noise_floor,
    unrelated_tokens,
)
from flashinterp.evaluation.evidence import Evidence
from flashinterp.evaluation.experiment import Experiment
from flashinterp.evaluation.judgement import Judged
from flashinterp.evaluation.matched_controls import Controls, duplicates_of, matched_controls
from flashinterp.evaluation.natural_range import Natural, append, check_routed, natural_text
from flashinterp.evaluation.prompts import check_split
from flashinterp.evaluation.verdict import Rule, judge
from flashinterp.interventions.dose_response import Curves, sweep
from flashinterp.models.activations import capture, encode
from flashinterp.neurons import Block, NeuronId
from flashinterp.stats import log_odds, separation
from flashinterp.tokens import Token

_STRESS = 500.0  # the paper's figure 2
_STRESS_PROMPTS = 4


@dataclass(frozen=True)
class _Target:
    """A claim that can be measured: what is clamped, what is looked at, and what it is compared with."""

    claim: Claim
    neuron: NeuronId
    token: Token
    natural: Natural
    controls: Controls


def measure(
    bench: Experiment, claims: Sequence[Claim], progress: Callable[[int, int], None] | None = None
) -> list[Evidence | str]:
    """Measure every claim; one that cannot be measured gives the reason instead.

    Doses, scales and controls come from the selection texts (with each claim's token put after the selection contexts,
    so that its natural range includes the concept), effects from the held-out ones. All claims share their passes.

    Raises:
        RunError: a held-out text is a selection text.
    """
    check_split(bench.prompts)
    targets = _targets(bench, claims)
    together = _Together.of(bench, [target for target in targets if isinstance(target, _Target)])
    evidence = []
    for done, target in enumerate(targets, 1):
        evidence.append(_evidence(bench, target, together))
        if progress:
            progress(done, len(claims))
    return evidence


def judge_on(bench: Experiment, claims: tuple[Claim, ...], rule: Rule) -> Judged:
    """Measure and judge a family of claims on one model."""
    evidence = measure(bench, claims)
    return Judged(claims, tuple(evidence), tuple(judge(claims, evidence, rule=rule, seed=bench.seed)))


def _targets(bench: Experiment, claims: Sequence[Claim]) -> list[_Target | str]:
    """Each claim with its layer on natural text and its controls, or why it cannot be measured."""
    absences = [_absence(bench, claim) for claim in claims]
    there = [claim for claim, absence in zip(claims, absences, strict=True) if absence is None]
    blocks = list(dict.fromkeys(cast(NeuronId, claim.neuron).block for claim in there))
    natural = natural_text(bench, blocks, [bench.token(claim).id for claim in there]) if there else {}
    return [absence or _target(bench, claim, natural) for claim, absence in zip(claims, absences, strict=True)]


def _absence(bench: Experiment, claim: Claim) -> str | None:
    """What a claim names that this model does not have; None where it has both neuron and token."""
    if claim.neuron is None:
        return f"claim {claim.id} names no neuron: resolve it with the weights first"
    try:
        bench.token(claim)
        bench.checkpoint.layout.roster.check(claim.neuron)
    except FlashinterpError as error:
        return str(error)
    return None


def _target(bench: Experiment, claim: Claim, natural: dict[Block, Natural]) -> _Target | str:
    neuron = cast(NeuronId, claim.neuron)
    block = natural[neuron.block]
    try:
        check_routed(neuron, len(block.up))
    except FlashinterpError as error:
        return str(error)
    if not (np.isfinite(block.up).all() and np.isfinite(block.scale.activation).all()):
        return f"neurons of {neuron.block} have values that are not finite numbers: run the model in a wider dtype"
    duplicates = duplicates_of(neuron.neuron, block.reading, block.writing)
    controls = matched_controls(block.scale, neuron.neuron, bench.profile.controls, duplicates)
    return _Target(claim, neuron, bench.token(claim), block, controls)


def _evidence(bench: Experiment, target: _Target | str, together: _Together | None) -> Evidence | str:
    if isinstance(target, str) or together is None:
        return str(target)
    try:
        return _measure_one(bench, target, together)
    except FlashinterpError as error:
        return str(error)


def _measure_one(bench: Experiment, target: _Target, together: _Together) -> Evidence:
    neuron, token, scale = target.neuron, target.token, target.natural.scale
    unrelated = together.unrelated[token.id]
    curves, own = together.curves, together.row[target.neuron, target.token.id]
    places = [together.column[t.id] for t in (token, *unrelated)]
    odds = curves.log_odds[own][..., places].astype(np.float64)  # [doses, prompts, tokens]
    doses = curves.values[own].astype(np.float64)
    present, missing, separations = together.readings[neuron.block].of_target(target)
    theme, other_themes = _theme(bench, target)
    written = decoded_logits(bench, "write", neuron, [token, *unrelated])
    controls, stress = target.controls, together.stress
    return Evidence(
        doses=doses,
        log_odds=odds[:, :, 0].T,
        clean_log_odds=log_odds(curves.clean[:, places[0]]).astype(np.float64),
        control_effects=together.control_effects(target),
        written=target.natural.written(neuron.neuron),
        control_written=np.array([target.natural.written(n) for n in controls.neurons]),
        control_scales=np.array([scale.relative(n) for n in controls.neurons]),
        unrelated_effects=(odds[-1] - odds[0])[:, 1:].mean(axis=0),
        kl=measure_kl(bench, neuron, token, (float(doses[0]), float(doses[-1]))),
        identity_error=measure_identity_error(bench, neuron),
        noise_floor=together.noise_floor,
        present=present,
        absent=missing,
        control_separations=separations,
        theme=theme,
        other_themes=other_themes,
        activation_scale=float(scale.activation[neuron.neuron]),
        relative_scale=scale.relative(neuron.neuron),
        gate=curves.gate[own].astype(np.float64),
        act_gate=curves.act_gate[own].astype(np.float64),
        z_read=float(decoded_logits(bench, "paper", neuron, [token])[0]),
        z_write=float(written[0]),
        z_write_unrelated=written[1:],
        own=curves.own[own].astype(np.float64),
        stress_doses=stress.values[own].astype(np.float64),
        stress_log_odds=stress.log_odds[own][..., places[0]].T.astype(np.float64),
        control_scale_ratio=controls.scale_ratio,
        control_norm_ratio=controls.norm_ratio,
    )


@dataclass(frozen=True)
class _Together:
    """What all claims share: sweeps of the held-out prompts, and one reading of the contexts per block.

    Attributes:
        unrelated: of each claim's token, the other tokens that are looked at.
        column: token id to its place among the swept tokens.
        row: neuron and token id of a claim to its place in the sweeps.
        curves: over each neuron's natural range; stress: over the paper's -500…500.
        effects: of each block, what its claims' controls do to all claims' tokens, or why that cannot be measured.
        readings: of each block.
        noise_floor: nats.
    """

    unrelated: dict[int, list[Token]]
    column: dict[int, int]
    row: dict[tuple[NeuronId, int], int]
    curves: Curves
    stress: Curves
    effects: dict[Block, _Effects | str]
    readings: dict[Block, _Readings]
    noise_floor: float

    @classmethod
    def of(cls, bench: Experiment, targets: Sequence[_Target]) -> _Together | None:
        """Measure it; None for no targets."""
        if not targets:
            return None
        row = {(t.neuron, t.token.id): i for i, t in enumerate(targets)}
        unrelated = {t.token.id: unrelated_tokens(bench, t.token) for t in targets}
        tokens = {t.id: t for target in targets for t in (target.token, *unrelated[target.token.id])}
        neurons = [target.neuron for target in targets]
        doses = np.stack([t.natural.doses(t.neuron.neuron, bench.profile.doses) for t in targets])
        stress = np.linspace(-_STRESS, _STRESS, bench.profile.stress_doses)

        def swept(prompts: Sequence[str], values: Floats) -> Curves:
            return sweep(bench.model, bench.tokenizer, prompts, neurons, values, list(tokens.values()))

        blocks = dict.fromkeys(t.neuron.block for t in targets)
        return cls(
            unrelated=unrelated,
            column={i: place for place, i in enumerate(tokens)},
            row=row,
            curves=swept(bench.heldout, doses),
            stress=swept(bench.heldout[:_STRESS_PROMPTS], stress),
            effects={block: _effects(bench, block, targets) for block in blocks},
            readings={block: _Readings.of(bench, block, targets) for block in blocks},
            noise_floor=measure_noise_floor(bench, bench.heldout[0]),
        )

    def control_effects(self, target: _Target) -> Floats:
        """[N] what each of a claim's controls does to its token.

        Raises:
            RunError: its block's controls could not be swept.
        """
        found = self.effects[target.neuron.block]
        if isinstance(found, str):
            raise RunError(found)
        rows = [found.neurons[n] for n in target.controls.neurons]
        result: Floats = found.table[rows, found.tokens[target.token.id]]
        return result


@dataclass(frozen=True)
class _Effects:
    """What the controls of one block's claims do to these claims' tokens.

    Attributes:
        neurons, tokens: number in the block, and token id, to the place in the table.
        table: [neurons, tokens] the mean change of log-odds between the ends of each neuron's own natural range.
    """

    neurons: dict[int, int]
    tokens: dict[int, int]
    table: Floats


def _effects(bench: Experiment, block: Block, targets: Sequence[_Target]) -> _Effects | str:
    """The effects of a block's controls, each measured once for all its claims; or why there are none."""
    own = [target for target in targets if target.neuron.block == block]
    chosen = sorted({n for target in own for n in target.controls.neurons})
    tokens = list({target.token.id: target.token for target in own}.values())
    table = np.empty((0, len(tokens)))
    if chosen:
        names = [NeuronId(block.layer, n, block.expert) for n in chosen]
        ends = own[0].natural.doses(chosen, 2).T  # [neurons, 2]
        try:
            curves = sweep(bench.model, bench.tokenizer, bench.heldout, names, ends, tokens)
        except FlashinterpError as error:
            return f"its controls cannot be swept: {error}"
        odds = curves.log_odds.astype(np.float64)  # [neurons, 2, prompts, tokens]
        table = (odds[:, 1] - odds[:, 0]).mean(axis=1)
    return _Effects({n: i for i, n in enumerate(chosen)}, {t.id: i for i, t in enumerate(tokens)}, table)


@dataclass(frozen=True)
class _Readings:
    """One block's outputs at the last position of the held-out contexts.

    Attributes:
        present: token id to [C, F], with that token there.
        absent: [C, K, F] with other words there, the same for all claims and a form of none of them.
    """

    present: dict[int, Floats]
    absent: Floats

    @classmethod
    def of(cls, bench: Experiment, block: Block, targets: Sequence[_Target]) -> _Readings:
        vocabulary = bench.checkpoint.vocabulary
        own = {v.id for target in targets for v in (*vocabulary.variants(target.token), target.token)}
        others = bench.draw_words("absent words", bench.profile.absent, own)
        tokens = list(dict.fromkeys(t.token.id for t in targets if t.neuron.block == block))
        contexts = [encode(bench.tokenizer, c) for c in bench.prompts.contexts_heldout[: bench.profile.contexts]]
        seen = capture(bench.model, [append(context, i) for context in contexts for i in (*tokens, *others)], [block])
        last = np.stack([s[block].written[-1] for s in seen]).astype(np.float64)
        last = last.reshape(len(contexts), len(tokens) + len(others), -1)  # [C, tokens, F]
        return cls({i: last[:, place] for place, i in enumerate(tokens)}, last[:, len(tokens) :])

    def of_target(self, target: _Target) -> tuple[Floats, Floats, Floats]:
        """Of the neuron: [C] with its token, [C, K] with others; and the controls' separations [N]."""
        present, neuron = self.present[target.token.id], target.neuron.neuron
        every = separation(present, self.absent.reshape(-1, present.shape[-1]), target.natural.scale.activation)
        return present[:, neuron], self.absent[:, :, neuron], every[list(target.controls.neurons)]


def _theme(bench: Experiment, target: _Target) -> tuple[Floats, Floats]:
    """The output at the end of held-out texts of the token's concept group, and of as many of other groups."""
    group = bench.prompts.group_of(target.token.text)
    if group is None:
        return np.empty(0), np.empty(0)
    others = bench.prompts.about_something_else(target.token.text, len(group.heldout))
    block = target.neuron.block
    seen = capture(bench.model, [encode(bench.tokenizer, text) for text in (*group.heldout, *others)], [block])
    last = np.array([s[block].written[-1, target.neuron.neuron] for s in seen], dtype=np.float64)
    return last[: len(group.heldout)], last[len(group.heldout) :]
