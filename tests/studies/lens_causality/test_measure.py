"""What is measured for the lenses' ranking: against `find`, single clamps and counted passes; and nothing is left."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np
import pytest
import torch

from fixtures.architectures import ARCHITECTURES, build, make
from flashinterp import Checkpoint, NeuronMap, RunError, clamp, decode, open_checkpoint
from flashinterp.evaluation.experiment import Experiment
from flashinterp.evaluation.natural_range import natural_range
from flashinterp.evaluation.profiles import PROFILES
from flashinterp.evaluation.prompts import shipped
from flashinterp.models.activations import encode
from flashinterp.neurons import LENSES
from flashinterp.studies.lens_causality.measure import (
    draw_neurons,
    draw_words,
    effects,
    natural_ranges,
    pick_by_lens,
    study,
)
from flashinterp.studies.lens_causality.pairing_null import repaired
from flashinterp.studies.lens_causality.ranking import ATTRIBUTION, Study, outcome, regions_of
from tests.helpers import n_hooks

pytestmark = pytest.mark.slow  # each test measures the neurons of a model

QUICK = replace(PROFILES["smoke"], selection=12, rank_tokens=5, rank_neurons=20, rank_prompts=2, nulls=2)
lens_study = import_module("flashinterp.studies.lens_causality.measure")


class Maps(dict[str, NeuronMap]):
    """A model's maps, made when they are first asked for."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__()
        self.checkpoint = checkpoint

    def __missing__(self, lens: str) -> NeuronMap:
        self[lens] = decode(self.checkpoint, lens=lens, device="cpu")
        return self[lens]


@pytest.fixture(scope="module")
def bench(planted: Checkpoint) -> Experiment:
    return Experiment(planted.load_model(), planted, shipped(), QUICK, seed=0)


@pytest.fixture(scope="module")
def maps(planted: Checkpoint) -> Maps:
    return Maps(planted)


@pytest.fixture(scope="module")
def found(bench: Experiment, maps: Maps) -> Study:
    dog, unlike = bench.checkpoint.vocabulary.resolve(" dog"), bench.checkpoint.vocabulary.resolve(" California")
    return study(bench, maps, [dog, unlike, dog])


@cache
def experts_bench(folder: Any, **sizes: int) -> Experiment:
    checkpoint = open_checkpoint(build("deepseek_v3", folder))
    return Experiment(checkpoint.load_model(), checkpoint, shipped(), replace(QUICK, **sizes), seed=0)


@pytest.fixture
def experts(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    return experts_bench(tmp_path_factory.getbasetemp() / "deepseek_v3")


# --- what is drawn ----------------------------------------------------------------------------------


def test_each_layer_gives_its_share_and_each_of_its_blocks_its_own(experts: Experiment) -> None:
    roster = experts.checkpoint.layout.roster
    drawn = draw_neurons(experts)
    assert (np.diff(drawn) > 0).all()
    assert Counter(roster.layer_of()[drawn].tolist()) == dict.fromkeys(roster.layers, 20)
    # 20 of a layer of a shared MLP and four experts: each within one of its share.
    widths = {block: roster.width(block) for block in roster.blocks if block.layer == 1}
    for block, width in widths.items():
        span = roster.span(block)
        n = int(((drawn >= span.start) & (drawn < span.stop)).sum())
        assert abs(n - 20 * width / sum(widths.values())) <= 1, block


def test_a_layer_that_is_small_enough_is_taken_whole(experts: Experiment) -> None:
    bench = replace(experts, profile=replace(QUICK, rank_neurons=10_000))
    np.testing.assert_array_equal(draw_neurons(bench), np.arange(len(bench.checkpoint.layout.roster)))


def test_a_seed_decides_what_is_drawn(bench: Experiment) -> None:
    other = replace(bench, seed=1)
    assert draw_words(bench) == draw_words(bench) != draw_words(other)
    assert draw_neurons(bench).tolist() == draw_neurons(bench).tolist() != draw_neurons(other).tolist()
    assert len({word.id for word in draw_words(bench)}) == QUICK.rank_tokens


# --- what is measured -------------------------------------------------------------------------------


@pytest.mark.parametrize("budget", [1, 1 << 28])
def test_ranges_are_the_natural_ranges(bench: Experiment, experts: Experiment, budget: int, monkeypatch: Any) -> None:
    monkeypatch.setattr(lens_study, "_CAPTURED", budget)  # by single blocks, or all together
    for one in (bench, experts):
        roster = one.checkpoint.layout.roster
        chosen = np.sort(np.random.default_rng(0).choice(len(roster), 6, replace=False))
        for i, ends in zip(chosen.tolist(), natural_ranges(one, chosen), strict=True):
            assert ends == pytest.approx(natural_range(one, roster.neuron(i)), rel=1e-4, abs=1e-6)


def test_an_expert_that_text_hardly_reaches_has_no_range(experts: Experiment) -> None:
    silent = make(ARCHITECTURES["deepseek_v3"]).requires_grad_(False)
    silent.model.layers[1].mlp.gate.e_score_correction_bias[2] = -100.0  # expert 2 is never chosen
    bench = replace(experts, model=silent)
    roster = bench.checkpoint.layout.roster
    chosen = np.array([roster.index("L1E1N3"), roster.index("L1E2N3"), roster.index("L1N3")])
    got = natural_ranges(bench, np.sort(chosen))
    names = [str(roster.neuron(int(i))) for i in np.sort(chosen)]
    assert [n for n, ends in zip(names, got, strict=True) if not np.isfinite(ends).all()] == ["L1E2N3"]
    swept = effects(bench, np.sort(chosen), got, draw_words(bench))
    assert (swept[names.index("L1E2N3")] == 0).all()
    assert (swept[names.index("L1N3")] != 0).all()


def test_effects_are_those_of_single_clamps(bench: Experiment) -> None:
    roster, words = bench.checkpoint.layout.roster, draw_words(bench)
    chosen = np.array([roster.index(n) for n in ("L0N3", "L1N17", "L3N31")])
    ends = np.array([[-2.0, 3.0], [0.0, 10.0], [-20.0, 5.0]], dtype=np.float32)
    got = effects(bench, chosen, ends, words)
    for row, i in enumerate(chosen.tolist()):
        changes = []
        for prompt in bench.prompts.heldout[: QUICK.rank_prompts]:
            odds = []
            for value in ends[row].tolist():
                with torch.no_grad(), clamp(bench.model, {roster.neuron(i): value}):
                    z = bench.model(encode(bench.tokenizer, prompt)).logits[0, -1].double()
                p = z.softmax(-1)[[w.id for w in words]]
                odds.append(p.log() - (1 - p).log())
            changes.append(odds[1] - odds[0])
        np.testing.assert_allclose(got[row], torch.stack(changes).mean(0).numpy(), atol=2e-5, rtol=1e-4)


# --- what is found ----------------------------------------------------------------------------------


@pytest.mark.parametrize("lens", [lens for lens in LENSES if lens != "logit-lens"])
def test_the_found_neuron_is_the_one_that_find_gives(lens: str, bench: Experiment, maps: Maps) -> None:
    base = bench.checkpoint
    roster, words = base.layout.roster, draw_words(bench)
    parts = regions_of(roster.layers)
    drawn = draw_neurons(bench)
    got = pick_by_lens(base, lens, maps[lens], [w.id for w in words], drawn, parts)
    for at, word in enumerate(words):
        ranked = maps[lens].find(word, 2 * len(roster), checkpoint=base)
        for region, layers in enumerate(parts):
            best = next(f for f in ranked if f.neuron.layer in layers)
            assert roster.neuron(int(got.found[region, at])) == best.neuron
            assert got.signs[region, at] == (1 if best.pole == "+" else -1)
        scores = {roster.index(f.neuron): np.log(f.score) for f in reversed(ranked)}  # the higher pole stays
        np.testing.assert_allclose(got.scores[:, at], [scores[int(i)] for i in drawn], atol=1e-4)


def test_the_logit_lens_finds_by_the_absolute_logit(bench: Experiment) -> None:
    base, words = bench.checkpoint, draw_words(bench)
    ids = [w.id for w in words]
    drawn = draw_neurons(bench)
    got = pick_by_lens(base, "logit-lens", None, ids, drawn, regions_of(base.layout.roster.layers))
    columns = torch.cat([base.rows("down", block) for block in base.layout.roster.blocks]).double()
    z = (columns @ base.head()[ids].double().T).numpy()
    np.testing.assert_array_equal(got.found[0], np.abs(z).argmax(axis=0))
    np.testing.assert_array_equal(got.signs[0], np.sign(z[got.found[0], np.arange(len(ids))]))
    np.testing.assert_allclose(got.scores, np.abs(z)[drawn], rtol=1e-4, atol=1e-7)


# --- the whole study --------------------------------------------------------------------------------


def test_a_study_has_all_lenses_the_attribution_and_both_nulls(found: Study, bench: Experiment) -> None:
    assert list(found.real.picks) == [*LENSES, ATTRIBUTION]
    assert {kind: len(worlds) for kind, worlds in found.nulls.items()} == {"permuted": 2, "random": 2}
    assert not found.missing
    assert found.n_drawn == QUICK.rank_tokens
    asked = [bench.checkpoint.vocabulary.resolve(w).id for w in (" dog", " California")]
    assert set(asked) <= set(found.words)
    assert len(set(found.words)) == len(found.words)
    for world in (found.real, *found.nulls["permuted"], *found.nulls["random"]):
        np.testing.assert_array_equal(world.neurons[world.drawn], draw_neurons(bench))
        assert world.measured.all()


def test_every_found_neuron_was_measured(found: Study) -> None:
    for lens in found.real.picks:
        for region in range(len(found.regions)):
            assert np.isfinite(found.outcome(lens, region).percentile).all()
            for world in (
                () if lens == ATTRIBUTION else found.nulls["random" if "w" in lens or "-" in lens else "permuted"]
            ):
                assert np.isfinite(found.outcome(lens, region, world).percentile).all()


def test_planted_neurons_are_found_and_cause_their_words(found: Study, bench: Experiment) -> None:
    roster, paper = bench.checkpoint.layout.roster, found.outcome("paper", 0)
    for word, neuron in ((" dog", "L1N17"), (" California", "L3N31")):
        at = found.words.index(bench.checkpoint.vocabulary.resolve(word).id)
        assert str(roster.neuron(int(paper.found[at]))) == neuron
        assert (paper.percentile[at], paper.direction[at]) == (1, 1)


def test_the_attribution_ranks_neurons_by_their_effects(found: Study) -> None:
    """Hardly anything comes after the first order here, but for one plant, which takes back what it brings."""
    assert found.outcome(ATTRIBUTION, 0).rank_correlation.min() > 0.9
    assert np.median(found.outcome(ATTRIBUTION, 0).percentile) > 0.9


def test_permuted_effects_belong_to_other_neurons(found: Study) -> None:
    """The planted neurons still are found, and no longer do anything for their words."""
    pick = found.real.picks["paper"]
    for world in found.nulls["permuted"]:
        theirs = outcome(world, pick, 0, found.regions[0])
        dog = found.words.index(found.words[-1])
        assert abs(theirs.effect[dog]) < abs(found.outcome("paper", 0).effect[dog]) / 3


def test_the_random_null_finds_by_the_scores_of_the_model_as_it_is_then(found: Study, bench: Experiment) -> None:
    with repaired(bench.model, "random", bench.rng("random null 0")):
        live = open_checkpoint(bench.model)
        live.tokenizer = bench.tokenizer
        there = decode(live, lens="write", device="cpu")
        best = [there.find(word, 1, checkpoint=live)[0] for word in found.words]
    pick = found.nulls["random"][0].picks["write"]
    assert [str(bench.checkpoint.layout.roster.neuron(int(i))) for i in pick.found[0]] == [str(f.neuron) for f in best]
    assert [s > 0 for s in pick.signs[0]] == [f.pole == "+" for f in best]


def test_the_random_null_looks_at_the_model_as_it_is_then(found: Study, bench: Experiment) -> None:
    drawn, parts = draw_neurons(bench), found.regions
    with repaired(bench.model, "random", bench.rng("random null 1")):
        live = open_checkpoint(bench.model)
        again = pick_by_lens(live, "logit-lens", None, found.words, drawn, parts)
    np.testing.assert_array_equal(found.nulls["random"][1].picks["logit-lens"].found, again.found)
    assert not (again.found == found.real.picks["logit-lens"].found).all()


def test_the_model_is_left_as_it_was(bench: Experiment, maps: Maps) -> None:
    before = {name: (p.data_ptr(), p.clone()) for name, p in bench.model.named_parameters()}
    quick = replace(bench, profile=replace(QUICK, nulls=1, rank_tokens=2))
    study(quick, maps, lenses=("paper", "write"))
    for name, parameter in bench.model.named_parameters():
        assert parameter.data_ptr() == before[name][0]
        assert torch.equal(parameter, before[name][1])
        assert parameter.grad is None
    assert n_hooks(bench.model) == 0


def test_nothing_is_measured_twice(bench: Experiment, maps: Maps, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: Counter[str] = Counter()

    def counted(name: str) -> None:
        own = getattr(lens_study, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            calls[name] += 1
            return own(*args, **kwargs)

        monkeypatch.setattr(lens_study, name, call)

    for name in ("sweep", "capture", "attribution"):
        counted(name)
    quick = replace(bench, profile=replace(QUICK, nulls=1, rank_tokens=2))
    told: list[str] = []
    study(quick, maps, lenses=("paper", "write"), progress=told.append)
    worlds = 3
    assert calls == {"sweep": 4 * worlds, "capture": worlds, "attribution": 1}  # 4 layers
    assert told == ["the model", "permuted null 1 of 1", "random null 1 of 1"]


def test_what_cannot_be_made_is_told_and_the_rest_stands(
    bench: Experiment, maps: Maps, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise RunError("offloaded; load it whole")

    monkeypatch.setattr(lens_study, "attribution", refuse)
    monkeypatch.setattr(lens_study, "repaired", refuse)
    got = study(replace(bench, profile=replace(QUICK, rank_tokens=3)), maps, lenses=("paper", "write"))
    assert got.missing == dict.fromkeys((ATTRIBUTION, "permuted", "random"), "offloaded; load it whole")
    assert list(got.real.picks) == ["paper", "write"]
    assert not got.nulls
    assert all(r.here.value is not None for r in got.results(bench.rng) if r.measure == "percentile")


def test_a_model_with_experts_goes_through(experts: Experiment) -> None:
    got = study(experts, Maps(experts.checkpoint))
    assert list(got.real.picks) == [*LENSES, ATTRIBUTION]
    assert not got.missing
    for result in got.results(experts.rng):
        assert result.here.value is not None or result.here.reason
    arrays = got.arrays()
    assert all(np.isfinite(a).all() for each in arrays.values() for a in each.values())
    assert Study.from_arrays(arrays).results(experts.rng) == got.results(experts.rng)
