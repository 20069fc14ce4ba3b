"""From a model and a family of claims to evidence: the forward passes behind every verdict (METHOD 3, 4)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast
from zlib import crc32

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flashinterp.capture import capture, encode
from flashinterp.checkpoint import Checkpoint
from flashinterp.claims import Claim
from flashinterp.clamp import RowClamp, clamp_rows
from flashinterp.controls import Controls, LayerScale, duplicates_of, matched_controls
from flashinterp.decode import token_logits
from flashinterp.errors import FlashinterpError, RunError
from flashinterp.neuron import Block, NeuronId
from flashinterp.passes import input_device
from flashinterp.profiles import Profile
from flashinterp.prompts import PromptSet
from flashinterp.stats import separation
from flashinterp.sweep import Curves, last_log_probs, log_odds, sweep
from flashinterp.tokens import Token
from flashinterp.verdict import Evidence

Floats = NDArray[np.float64]

# The natural range of a neuron, from its own quantiles on natural text: its tails, but not its single extremes.
_LOW, _HIGH = 0.01, 0.99
_STRESS = 500.0  # the paper's figure 2
_STRESS_PROMPTS = 4
_LEAST_ROUTED = 8  # tokens of natural text that reach an expert; the 1st percentile of fewer is its least value
_NOISE_ROWS = 64  # a batch large enough that matrix products take the shape they have in a sweep


@dataclass(frozen=True)
class Bench:
    """What the claims of one run are measured on.

    Attributes:
        model, checkpoint: the same weights, live and as files.
        prompts: the texts, selection and held-out apart.
        profile: how much.
        seed: root of every random stream, each derived by name.
    """

    model: Any
    checkpoint: Checkpoint
    prompts: PromptSet
    profile: Profile
    seed: int

    @property
    def tokenizer(self) -> Any:
        return self.checkpoint.tokenizer

    def rng(self, name: str) -> np.random.Generator:
        """The random stream of a name."""
        return np.random.default_rng([self.seed, crc32(name.encode())])

    def token(self, claim: Claim) -> Token:
        return self.checkpoint.vocabulary.resolve(claim.token)


@dataclass(frozen=True)
class _Natural:
    """One block on natural text: u [positions, F] for the doses, where it is routed to, and each neuron's scale."""

    up: Floats
    scale: LayerScale
    reading: Floats  # [F, d]
    writing: Floats  # [F, d]


def measure(
    bench: Bench, claims: Sequence[Claim], progress: Callable[[int, int], None] | None = None
) -> list[Evidence | str]:
    """Measure every claim; one that cannot be measured gives the reason instead.

    Doses and scales come from the selection texts (with each claim's token put after the selection contexts,
    so that its natural range includes the concept), effects from the held-out ones.
    """
    absences = [_absence(bench, claim) for claim in claims]
    there = [claim for claim, absence in zip(claims, absences, strict=True) if absence is None]
    natural = _natural_text(bench, there)
    absent = _absent_words(bench, there)
    evidence: list[Evidence | str] = []
    for done, (claim, absence) in enumerate(zip(claims, absences, strict=True), 1):
        try:
            evidence.append(absence or _measure_one(bench, claim, natural[cast(NeuronId, claim.neuron).block], absent))
        except FlashinterpError as error:
            evidence.append(str(error))
        if progress:
            progress(done, len(claims))
    return evidence


def _absence(bench: Bench, claim: Claim) -> str | None:
    """What a claim names that this model does not have; None where it has both neuron and token."""
    if claim.neuron is None:
        return f"claim {claim.id} names no neuron: resolve it with the weights first"
    try:
        bench.token(claim)
        bench.checkpoint.layout.roster.check(claim.neuron)
    except FlashinterpError as error:
        return str(error)
    return None


def _measure_one(bench: Bench, claim: Claim, block: _Natural, absent: Sequence[int]) -> Evidence:
    neuron, token = cast(NeuronId, claim.neuron), bench.token(claim)
    _check_routed(neuron, len(block.up))
    duplicates = duplicates_of(neuron.neuron, block.reading, block.writing)
    controls = matched_controls(block.scale, neuron.neuron, bench.profile.controls, duplicates)
    doses = np.quantile(block.up[:, neuron.neuron], np.linspace(_LOW, _HIGH, bench.profile.doses))
    prompts = bench.prompts.heldout[: bench.profile.prompts]
    unrelated = _unrelated(bench, token)

    curves = sweep(bench.model, bench.tokenizer, prompts, [neuron], doses, [token, *unrelated])
    odds = curves.log_odds[0].astype(np.float64)  # [doses, prompts, tokens]
    stress = _stress(bench, neuron, token)
    present, missing, separations = _reading(bench, neuron, token, absent, controls)
    return Evidence(
        doses=curves.values[0].astype(np.float64),
        log_odds=odds[:, :, 0].T,
        clean_log_odds=_clean_log_odds(curves),
        control_effects=_control_effects(bench, neuron.block, controls, block, prompts, token),
        unrelated_effects=(odds[-1] - odds[0])[:, 1:].mean(axis=0),
        identity_error=_identity_error(bench, neuron, prompts),
        noise_floor=_noise_floor(bench, prompts[0]),
        present=present,
        absent=missing,
        control_separations=separations,
        relative_scale=block.scale.relative(neuron.neuron),
        gate=curves.gate[0].astype(np.float64),
        act_gate=curves.act_gate[0].astype(np.float64),
        z_read=_logit(bench, "paper", neuron, token),
        z_write=_logit(bench, "write", neuron, token),
        own=curves.own[0].astype(np.float64),
        stress_doses=stress.values[0].astype(np.float64),
        stress_log_odds=stress.log_odds[0, :, :, 0].T.astype(np.float64),
        control_scale_ratio=controls.scale_ratio,
        control_norm_ratio=controls.norm_ratio,
    )


def natural_range(bench: Bench, neuron: NeuronId) -> tuple[float, float]:
    """The 1st and 99th percentile of a neuron's u on the selection prompts, where its expert is routed to."""
    texts = [encode(bench.tokenizer, t) for t in (*bench.prompts.selection, *bench.prompts.contexts_selection)]
    skip = _leading_specials(bench)
    seen = capture(bench.model, texts, [neuron.block])
    parts = [s[neuron.block] for s in seen]
    values = np.concatenate([p.up[skip:, neuron.neuron][p.weight[skip:] > 0] for p in parts])
    _check_routed(neuron, len(values))
    low, high = np.quantile(values, [_LOW, _HIGH])
    return float(low), float(high)


# --- natural text -----------------------------------------------------------------------------------


def _natural_text(bench: Bench, claims: Sequence[Claim]) -> dict[Block, _Natural]:
    """u and the scales of each claimed block on the selection texts."""
    blocks = sorted({cast(NeuronId, c.neuron).block for c in claims}, key=str)
    texts = [encode(bench.tokenizer, t) for t in (*bench.prompts.selection, *bench.prompts.contexts_selection)]
    ids = dict.fromkeys(bench.token(c).id for c in claims)
    texts += [_append(encode(bench.tokenizer, t), i) for t in bench.prompts.contexts_selection for i in ids]
    skip = _leading_specials(bench)
    seen = capture(bench.model, texts, blocks)
    natural = {}
    for block in blocks:
        parts = [s[block] for s in seen]
        up = np.concatenate([p.up[skip:][p.weight[skip:] > 0] for p in parts]).astype(np.float64)
        written = np.concatenate([p.written[skip:] for p in parts]).astype(np.float64)
        writing = bench.checkpoint.rows("down", block).double().numpy()
        scale = LayerScale(written.std(axis=0), np.linalg.norm(writing, axis=1))
        natural[block] = _Natural(up, scale, bench.checkpoint.rows("up", block).double().numpy(), writing)
    return natural


def _leading_specials(bench: Bench) -> int:
    """How many special tokens the tokenizer puts in front; models behave oddly on them, so they set no range."""
    special = set(bench.tokenizer.all_special_ids)
    ids = encode(bench.tokenizer, "a")[0].tolist()
    return next((i for i, token in enumerate(ids) if token not in special), 0)


def _check_routed(neuron: NeuronId, positions: int) -> None:
    if positions < _LEAST_ROUTED:
        raise RunError(
            f"{neuron} cannot be measured: of the selection texts only {positions} tokens are routed to its expert, "
            f"and {_LEAST_ROUTED} are needed; add prompts that reach it"
        )


def _append(ids: Tensor, token_id: int) -> Tensor:
    return torch.cat([ids, torch.tensor([[token_id]], device=ids.device)], dim=1)


# --- the writing side -------------------------------------------------------------------------------


def _control_effects(
    bench: Bench, block: Block, controls: Controls, natural: _Natural, prompts: Sequence[str], token: Token
) -> Floats:
    """[N] each control's mean change of the token's log-odds between the ends of its own natural range."""
    if not controls.neurons:
        return np.empty(0)
    chosen = list(controls.neurons)
    ends = np.quantile(natural.up[:, chosen], [_LOW, _HIGH], axis=0).T  # [N, 2]
    names = [NeuronId(block.layer, n, block.expert) for n in chosen]
    curves = sweep(bench.model, bench.tokenizer, prompts, names, ends, [token])
    odds = curves.log_odds[..., 0].astype(np.float64)  # [N, 2, prompts]
    result: Floats = (odds[:, 1] - odds[:, 0]).mean(axis=1)
    return result


def _clean_log_odds(curves: Curves) -> Floats:
    return log_odds(curves.clean[:, 0]).astype(np.float64)


def _stress(bench: Bench, neuron: NeuronId, token: Token) -> Curves:
    """The paper's figure 2: clamp values from -500 to 500."""
    doses = np.linspace(-_STRESS, _STRESS, bench.profile.stress_doses)
    prompts = bench.prompts.heldout[: min(_STRESS_PROMPTS, bench.profile.prompts)]
    return sweep(bench.model, bench.tokenizer, prompts, [neuron], doses, [token])


def _unrelated(bench: Bench, token: Token) -> list[Token]:
    """Other words, drawn by name, that share no written form with the token."""
    vocabulary = bench.checkpoint.vocabulary
    own = {v.id for v in vocabulary.variants(token)} | {token.id}
    pool = [i for i in _words(bench) if i not in own]
    drawn = bench.rng(f"unrelated {token.id}").choice(pool, size=min(bench.profile.unrelated, len(pool)), replace=False)
    return [vocabulary.resolve(int(i)) for i in drawn]


def _words(bench: Bench) -> list[int]:
    """Ids that look like words; all that are not excluded where a vocabulary has hardly any."""
    vocabulary = bench.checkpoint.vocabulary
    words = vocabulary.words()
    return words if len(words) >= 100 else np.flatnonzero(~vocabulary.excluded).tolist()


@torch.no_grad()
def _identity_error(bench: Bench, neuron: NeuronId, prompts: Sequence[str]) -> float:
    """The largest change of any log-probability when the neuron is clamped to the values it has anyway."""
    worst = 0.0
    for prompt in prompts[:2]:
        ids = encode(bench.tokenizer, prompt, input_device(bench.model))
        own = torch.from_numpy(capture(bench.model, [ids], [neuron.block])[0][neuron.block].up[:, neuron.neuron])
        clean = last_log_probs(bench.model, ids)
        # An expert that these prompts do not reach changes nothing, which is what is asked.
        with clamp_rows(bench.model, [RowClamp(neuron, own)], unrouted=True):
            same = last_log_probs(bench.model, ids)
        worst = max(worst, float((same - clean).abs().max()))
    return worst


@torch.no_grad()
def _noise_floor(bench: Bench, prompt: str) -> float:
    """The largest difference of any log-probability between a prompt run alone and in a batch of copies."""
    ids = encode(bench.tokenizer, prompt, input_device(bench.model))
    alone, batched = last_log_probs(bench.model, ids), last_log_probs(bench.model, ids.expand(_NOISE_ROWS, -1))
    return float((batched - alone).abs().max())


def _logit(bench: Bench, lens: str, neuron: NeuronId, token: Token) -> float:
    return float(token_logits(bench.checkpoint, lens, [token.id], blocks=[neuron.block])[neuron.neuron, 0])


# --- the reading side -------------------------------------------------------------------------------


def _absent_words(bench: Bench, claims: Sequence[Claim]) -> list[int]:
    """Words to stand where the concept's token stood, the same for all claims and a form of none of them."""
    vocabulary = bench.checkpoint.vocabulary
    own = {v.id for c in claims for v in (*vocabulary.variants(bench.token(c)), bench.token(c))}
    pool = [i for i in _words(bench) if i not in own]
    drawn = bench.rng("absent words").choice(pool, size=min(bench.profile.absent, len(pool)), replace=False)
    return [int(i) for i in drawn]


def _reading(
    bench: Bench, neuron: NeuronId, token: Token, absent: Sequence[int], controls: Controls
) -> tuple[Floats, Floats, Floats]:
    """Outputs at the last position: [C] with the token there, [C, K] with others; the controls' separations [N]."""
    contexts = [encode(bench.tokenizer, c) for c in bench.prompts.contexts_heldout[: bench.profile.contexts]]
    texts = [_append(context, i) for context in contexts for i in (token.id, *absent)]
    seen = capture(bench.model, texts, [neuron.block])
    last = np.stack([s[neuron.block].written[-1] for s in seen]).astype(np.float64)  # [C * (1 + K), F]
    last = last.reshape(len(contexts), 1 + len(absent), -1)
    present, missing = last[:, 0], last[:, 1:]
    gaps = separation(present, missing.reshape(-1, missing.shape[-1]))
    chosen = list(controls.neurons)
    return present[:, neuron.neuron], missing[:, :, neuron.neuron], gaps[chosen]
