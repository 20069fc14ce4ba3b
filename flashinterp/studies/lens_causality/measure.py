"""From a live model to the worlds that `ranking` compares: what each lens names, and what driving it does (METHOD 4).

Nothing is measured twice: one capture of natural text gives all ranges, one sweep of a layer the effects on all words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from flashinterp.decoding.lens_rows import decode_layers, lens_rows
from flashinterp.decoding.plan import make_plan
from flashinterp.errors import FlashinterpError
from flashinterp.evaluation.experiment import Experiment
from flashinterp.evaluation.natural_range import HIGH, LEAST_ROUTED, LOW, leading_specials
from flashinterp.interventions.attribution import attribution
from flashinterp.interventions.dose_response import sweep
from flashinterp.models.activations import capture, encode
from flashinterp.models.checkpoint import Checkpoint, open_checkpoint
from flashinterp.models.forward_pass import input_device
from flashinterp.models.norms import cap
from flashinterp.neuron_index import NeuronIndex
from flashinterp.neurons import Block, Lens, get_lens
from flashinterp.studies.lens_causality.pairing_null import repaired
from flashinterp.studies.lens_causality.ranking import ATTRIBUTION, Kind, Pick, Study, World, null_of, regions_of
from flashinterp.tokens import Token

Positions = NDArray[np.int64]
Floats = NDArray[np.float32]
_CAPTURED = 1 << 28  # numbers captured at a time: 2 GB of u and g


class Means(Protocol):
    """The part of a `NeuronMap` that turns a logit into a score: [N] for each pole."""

    @property
    def log_mean_top(self) -> Floats: ...
    @property
    def bottom_log_mean_top(self) -> Floats: ...


def study(
    bench: Experiment,
    maps: Mapping[str, Means],
    asked: Sequence[Token] = (),
    *,
    lenses: Sequence[str] | None = None,
    progress: Callable[[str], None] | None = None,
) -> Study:
    """Measure how well lenses, and the attribution, find the neurons that move a word.

    Args:
        bench: the live model, its weights, its texts and its sizes.
        maps: the maps of the lenses; of them only the means are used.
        asked: words that are measured beside the drawn ones.
        lenses: all that the model has, by default.
        progress: called with the name of each world before it is measured.
    """
    plan = _Plan.of(bench, asked, lenses)
    tell = progress or (lambda _: None)
    tell("the model")
    real, missing = _real(plan, maps)
    nulls: dict[str, tuple[World, ...]] = {}
    for kind in dict.fromkeys(map(null_of, plan.lenses)):
        try:
            made = []
            for i in range(bench.profile.nulls):
                tell(f"{kind} null {i + 1} of {bench.profile.nulls}")
                made.append(_null(plan, kind, real, i))
            nulls[kind] = tuple(made)
        except FlashinterpError as error:  # quantised or offloaded weights: the rest stands
            missing[kind] = str(error)
    return Study(tuple(plan.ids), plan.n_drawn, plan.regions, real, nulls, missing)


@dataclass(frozen=True)
class _Plan:
    """What is drawn, once for all worlds."""

    bench: Experiment
    lenses: tuple[str, ...]
    words: tuple[Token, ...]
    n_drawn: int
    drawn: Positions
    regions: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, bench: Experiment, asked: Sequence[Token], lenses: Sequence[str] | None) -> _Plan:
        layout = bench.checkpoint.layout
        there = tuple(lens.name for lens in layout.lenses)
        words = draw_words(bench)
        beside = [token for token in asked if token.id not in {w.id for w in words}]
        return cls(
            bench,
            there if lenses is None else tuple(lens for lens in lenses if lens in there),
            (*words, *dict.fromkeys(beside)),
            len(words),
            draw_neurons(bench),
            regions_of(layout.roster.layers),
        )

    @property
    def roster(self) -> NeuronIndex:
        return self.bench.checkpoint.layout.roster

    @property
    def ids(self) -> list[int]:
        return [word.id for word in self.words]


def draw_words(bench: Experiment) -> tuple[Token, ...]:
    """Words to look for, drawn by name."""
    drawn = bench.draw_words("ranked words", bench.profile.rank_tokens, set())
    return tuple(bench.checkpoint.vocabulary.resolve(i) for i in sorted(drawn))


def ranked_prompts(bench: Experiment) -> tuple[str, ...]:
    """The held-out prompts on which effects are measured here."""
    return bench.prompts.heldout[: bench.profile.rank_prompts]


def draw_neurons(bench: Experiment) -> Positions:
    """Positions of up to ``rank_neurons`` neurons of each layer, of its MLPs in proportion to their widths.

    By layer, not by expert: a model of 128 experts in each of 48 layers has 6,144 of these.
    """
    roster, most = bench.checkpoint.layout.roster, bench.profile.rank_neurons
    chosen: list[Positions] = []
    for layer in roster.layers:
        rng = bench.rng(f"ranked neurons of layer {layer}")
        blocks = [block for block in roster.blocks if block.layer == layer]
        widths = np.array([roster.width(block) for block in blocks])
        total = int(widths.sum())
        quota = widths if total <= most else widths * most // total
        short = min(total, most) - int(quota.sum())  # less than one for each block
        quota = quota + np.isin(np.arange(len(blocks)), rng.choice(len(blocks), size=short, replace=False))
        for block, count in zip(blocks, quota.tolist(), strict=True):
            own = np.sort(rng.choice(roster.width(block), size=count, replace=False))
            chosen.append(own.astype(np.int64) + roster.span(block).start)
    return np.concatenate(chosen)


def natural_ranges(bench: Experiment, chosen: Positions) -> Floats:
    """[M, 2] the 1st and 99th percentile of these neurons' u on the selection texts, where their experts are reached.

    NaN for those of an expert that fewer than 8 tokens reach.
    """
    sequences = [encode(bench.tokenizer, text, input_device(bench.model)) for text in bench.selection]
    skip, roster = leading_specials(bench), bench.checkpoint.layout.roster
    found = np.full((len(chosen), 2), np.nan, dtype=np.float32)
    for blocks in _groups(roster, chosen, sum(ids.shape[1] for ids in sequences)):
        seen = capture(bench.model, sequences, blocks)
        for block in blocks:
            rows, columns = _within(roster, chosen, block)
            parts = [s[block] for s in seen]
            up = np.concatenate([p.up[skip:, columns][p.weight[skip:] > 0] for p in parts])
            if len(up) >= LEAST_ROUTED:
                found[rows] = np.quantile(up, [LOW, HIGH], axis=0).T
    return found


def _within(roster: NeuronIndex, chosen: Positions, block: Block) -> tuple[slice, Positions]:
    """Which of the chosen positions are a block's, and which of its neurons they are."""
    own = roster.span(block)
    first, last = np.searchsorted(chosen, [own.start, own.stop])
    return slice(int(first), int(last)), chosen[first:last] - own.start


def _groups(roster: NeuronIndex, chosen: Positions, positions: int) -> Iterator[list[Block]]:
    """The blocks of the chosen neurons, as many at a time as may be captured together."""
    group: list[Block] = []
    size = 0
    for block in roster.blocks:
        if not len(_within(roster, chosen, block)[1]):
            continue
        numbers = roster.width(block) * positions
        if group and size + numbers > _CAPTURED:
            yield group
            group, size = [], 0
        group.append(block)
        size += numbers
    if group:
        yield group


def effects(bench: Experiment, chosen: Positions, ranges: Floats, words: Sequence[Token]) -> Floats:
    """[M, T] each neuron's mean change, over the prompts, of each word's log-odds from low to high; 0 without range."""
    roster, prompts = bench.checkpoint.layout.roster, ranked_prompts(bench)
    result = np.zeros((len(chosen), len(words)), dtype=np.float32)
    known = np.isfinite(ranges).all(axis=1)
    layers = roster.layer_of()[chosen]
    for layer in np.unique(layers[known]):
        rows = np.flatnonzero(known & (layers == layer))
        names = [roster.neuron(int(chosen[row])) for row in rows]
        odds = sweep(bench.model, bench.tokenizer, prompts, names, ranges[rows], words).log_odds
        result[rows] = (odds[:, 1] - odds[:, 0]).mean(axis=1)
    return result


@dataclass
class _Best:
    """The best neuron of each word in each region so far: lower positions win ties, as blocks come in order."""

    regions: Sequence[Sequence[int]]
    n_words: int

    def __post_init__(self) -> None:
        shape = len(self.regions), self.n_words
        self.score = np.full(shape, -np.inf)
        self.found = np.full(shape, -1, dtype=np.int64)
        self.signs = np.zeros(shape, dtype=np.int8)

    def take(self, start: int, layer: int, score: Any, sign: Any) -> None:
        """Enter scores and signs [F, T] of neurons from a position on; NaN is never best."""
        comparable = np.where(np.isnan(score), -np.inf, score)
        at, words = comparable.argmax(axis=0), np.arange(self.n_words)
        best = comparable[at, words]
        for region, layers in enumerate(self.regions):
            if layer in layers:
                better = best > self.score[region]
                self.score[region, better] = best[better]
                self.found[region, better] = (at + start)[better]
                self.signs[region, better] = sign[at, words][better]


def pick_by_lens(
    checkpoint: Checkpoint, lens: str, means: Means | None, ids: Sequence[int], drawn: Positions, parts: Any
) -> Pick:
    """Score every neuron for some tokens, on both poles, as `NeuronMap.find` does; keep the best and the drawn.

    log score on the positive pole is z - log_mean_top, on the negative one -z - bottom_log_mean_top. ``logit-lens``
    ranks by |z| (METHOD 2), and needs no means.

    Args:
        checkpoint: whose weights are looked at; a live model's, inside of a null.
        lens: its name.
        means: of its map.
        ids: T tokens.
        drawn: positions [D].
        parts: the regions.
    """
    roster, head = checkpoint.layout.roster, checkpoint.head()[list(ids)].float()
    best, scores = _Best(parts, len(ids)), np.empty((len(drawn), len(ids)), dtype=np.float32)
    for block in roster.blocks:
        rows = lens_rows(checkpoint, lens, block)
        z = cap(rows @ head.T.to(rows), checkpoint.layout.softcap).cpu().numpy().astype(np.float64)
        own = roster.span(block)
        plus, minus = z, -z
        if means is not None and lens != "logit-lens":
            plus, minus = plus - means.log_mean_top[own, None], minus - means.bottom_log_mean_top[own, None]
        score = np.maximum(plus, minus)
        best.take(own.start, block.layer, score, np.where(plus >= minus, 1, -1).astype(np.int8))
        kept, columns = _within(roster, drawn, block)
        scores[kept] = score[columns]
    return Pick(scores, best.found, best.signs)


def pick_by_attribution(roster: NeuronIndex, values: Floats, drawn: Positions, parts: Any) -> Pick:
    """The same for attributions [N, T]: ranked by absolute value, the sign is the direction."""
    best = _Best(parts, values.shape[1])
    for block in roster.blocks:
        own = values[roster.span(block)]
        best.take(roster.span(block).start, block.layer, np.abs(own), np.where(own < 0, -1, 1).astype(np.int8))
    return Pick(np.nan_to_num(np.abs(values[drawn])), best.found, best.signs)  # NaN is not measured either


@dataclass(frozen=True)
class _LiveMeans:
    """The means of a live model's neurons: what of a map a score needs."""

    log_mean_top: Floats
    bottom_log_mean_top: Floats

    @classmethod
    def of(cls, checkpoint: Checkpoint, lens: Lens) -> _LiveMeans:
        plan = make_plan(checkpoint, lens=lens, top_k=1, device=str(checkpoint.model.device), dtype="float32")
        decoded = decode_layers(plan, plan.layers)
        means = [(layer.plus.log_mean_top, layer.minus.log_mean_top) for layer in decoded]
        plus, minus = (torch.cat(side).cpu().numpy() for side in zip(*means, strict=True))
        return cls(plus, minus)


def _real(plan: _Plan, maps: Mapping[str, Means]) -> tuple[World, dict[str, str]]:
    """The model as it is, and what could not be made of it."""
    bench, missing = plan.bench, dict[str, str]()
    picks = {
        lens: pick_by_lens(bench.checkpoint, lens, maps[lens], plan.ids, plan.drawn, plan.regions)
        for lens in plan.lenses
    }
    ranges = natural_ranges(bench, np.arange(len(plan.roster)))  # of all, which the attribution needs
    try:
        sequences = [encode(bench.tokenizer, prompt, input_device(bench.model)) for prompt in ranked_prompts(bench)]
        values = attribution(bench.model, sequences, plan.ids, ranges)
        picks[ATTRIBUTION] = pick_by_attribution(plan.roster, values, plan.drawn, plan.regions)
    except FlashinterpError as error:
        missing[ATTRIBUTION] = str(error)
    return _world(plan, picks, ranges), missing


def _null(plan: _Plan, kind: Kind, real: World, i: int) -> World:
    """One repetition, on the live model while its pairs are others."""
    bench, lenses = plan.bench, [lens for lens in plan.lenses if null_of(lens) == kind]
    with repaired(bench.model, kind, bench.rng(f"{kind} null {i}")):
        if kind == "permuted":
            # What these lenses look at has not changed: the same picks, of which none is kept a second time.
            return replace(_world(plan, {lens: real.picks[lens] for lens in lenses}), picks={})
        live = open_checkpoint(bench.model)
        picks = {}
        for lens in lenses:
            means = None if lens == "logit-lens" else _LiveMeans.of(live, get_lens(lens))
            picks[lens] = pick_by_lens(live, lens, means, plan.ids, plan.drawn, plan.regions)
        return _world(plan, picks)


def _world(plan: _Plan, picks: Mapping[str, Pick], ranges: Floats | None = None) -> World:
    """Measure the drawn neurons and those that were found; ranges [N, 2] where they are known."""
    found = np.concatenate([pick.found.ravel() for pick in picks.values()]) if picks else plan.drawn[:0]
    neurons = np.union1d(plan.drawn, found[found >= 0])
    own = natural_ranges(plan.bench, neurons) if ranges is None else ranges[neurons]
    return World(
        neurons,
        plan.roster.layer_of()[neurons],
        np.isin(neurons, plan.drawn),
        np.asarray(np.isfinite(own).all(axis=1)),
        effects(plan.bench, neurons, own, plan.words),
        picks,
    )
