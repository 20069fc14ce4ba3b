"""From effects to figures: against loops and scipy, and on worlds where nothing is to be found."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from flashinterp.studies.lens_causality.ranking import (
    ATTRIBUTION,
    MEASURES,
    Excess,
    Pick,
    RankStatistic,
    Study,
    World,
    WorldOutcome,
    excess,
    figure,
    null_of,
    outcome,
    regions_of,
)

WORDS, PER_LAYER, LAYERS = 6, 40, 3


def stream(name: str) -> np.random.Generator:
    return np.random.default_rng(len(name))


def world(seed: int = 0, *, ties: bool = False, sampled: bool = True) -> World:
    """Three layers of 40 neurons with random effects; of the last layer every second neuron is drawn."""
    rng = np.random.default_rng(seed)
    n = PER_LAYER * LAYERS
    effects = rng.normal(size=(n, WORDS)).astype(np.float32)
    if ties:
        effects = np.round(effects)
    layers = np.repeat(np.arange(LAYERS), PER_LAYER)
    drawn = (not sampled) | (layers < 2) | (np.arange(n) % 2 == 0)
    measured = rng.random(n) < 0.9
    effects[~measured] = 0
    return World(np.arange(n), layers, drawn, measured, effects)


def pick(one: World, seed: int = 1) -> Pick:
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(int(one.drawn.sum()), WORDS)).astype(np.float32)
    found = rng.integers(0, PER_LAYER * LAYERS, (1, WORDS))
    return Pick(scores, found, rng.choice([-1, 1], (1, WORDS)).astype(np.int8))


def perfect(one: World) -> Pick:
    """Scores that are the |effects|, and in each word the strongest neuron of all, with its sign."""
    size = np.abs(one.effects)
    found = size.argmax(axis=0)
    signs = np.sign(one.effects[found, np.arange(WORDS)]).astype(np.int8)
    return Pick(size[one.drawn], found[None], signs[None])


def whole(one: World, own: Pick) -> WorldOutcome:
    return outcome(one, own, 0, range(LAYERS))


# --- one value per word -----------------------------------------------------------------------------


@given(seed=st.integers(0, 10_000), ties=st.booleans())
def test_percentile_and_direction_by_loops(seed: int, ties: bool) -> None:
    one = world(seed, ties=ties)
    own = pick(one, seed + 1)
    got = whole(one, own)
    for word, found in enumerate(own.found[0].tolist()):
        others = [
            abs(one.effects[n, word])
            for n in range(len(one.neurons))
            if n != found and one.drawn[n] and one.measured[n] and one.layers[n] == one.layers[found]
        ]
        effect = one.effects[found, word]
        if not one.measured[found]:
            assert np.isnan([got.percentile[word], got.direction[word], got.effect[word]]).all()
            continue
        less, equal = sum(o < abs(effect) for o in others), sum(o == abs(effect) for o in others)
        assert got.percentile[word] == pytest.approx((less + equal / 2) / len(others))
        assert (got.pool[word], got.effect[word]) == (len(others), effect)
        if effect == 0:
            assert np.isnan(got.direction[word])
        else:
            assert got.direction[word] == (np.sign(effect) == own.signs[0, word])


@given(seed=st.integers(0, 10_000), ties=st.booleans())
def test_rank_correlation_by_scipy(seed: int, ties: bool) -> None:
    one = world(seed, ties=ties)
    own = pick(one, seed)
    rows = np.flatnonzero(one.drawn)
    for word in range(WORDS):
        each = []
        for layer in range(LAYERS):
            within = (one.layers == layer)[rows] & one.measured[rows]
            a, b = own.scores[within, word], np.abs(one.effects[rows][within, word])
            each.append(stats.spearmanr(a, b).statistic)
        assert whole(one, own).rank_correlation[word] == pytest.approx(np.mean(each), abs=1e-12)


def test_a_layer_whose_effects_are_all_the_same_has_no_correlation() -> None:
    one = world()
    one.effects[one.layers == 1] = 0.5
    got = whole(one, pick(one)).rank_correlation
    others = outcome(one, pick(one), 0, [0, 2]).rank_correlation
    np.testing.assert_array_equal(got, others)
    one.effects[:] = 0
    assert np.isnan(whole(one, pick(one)).rank_correlation).all()


def test_a_perfect_lens_is_perfect() -> None:
    one = world()
    got = whole(one, perfect(one))
    for measure in ("percentile", "direction", "rank correlation", "top 5 %"):
        np.testing.assert_allclose(got.of(measure), 1)  # type: ignore[arg-type]


@given(seed=st.integers(0, 1000), flipped=st.integers(0, PER_LAYER * LAYERS - 1))
def test_turning_a_neuron_around_changes_nothing(seed: int, flipped: int) -> None:
    """(w_up, w_down) -> -(both): the effect and the pole change their signs (METHOD 2)."""
    one, effects = world(seed), world(seed).effects.copy()
    own = pick(one, seed)
    effects[flipped] *= -1
    signs = np.where(own.found == flipped, -own.signs, own.signs)
    before, after = whole(one, own), whole(replace(one, effects=effects), replace(own, signs=signs))
    for measure in MEASURES:
        np.testing.assert_array_equal(before.of(measure), after.of(measure))


def test_found_neurons_outside_the_sample_are_ranked_among_the_sample() -> None:
    one = world()
    row = 81  # in the last layer, not drawn
    assert not one.drawn[row]
    one.measured[row] = True
    one.effects[row] = 100.0
    got = whole(one, replace(pick(one), found=np.full((1, WORDS), row)))
    assert (got.percentile == 1).all()
    assert (got.pool == (one.drawn & one.measured & (one.layers == 2)).sum()).all()


def test_a_neuron_that_was_not_found_or_not_measured_is_undefined() -> None:
    one = world()
    one.measured[3] = False
    some = np.isin(np.arange(120), np.arange(100))
    less = replace(one, **{k: getattr(one, k)[some] for k in ("neurons", "layers", "drawn", "measured", "effects")})
    own = pick(less)
    own = replace(own, found=np.array([[-1, 3, 110, 0, 1, 2]]))
    less.measured[:3] = True
    got = whole(less, own)
    assert np.isnan(got.percentile).tolist() == [True, True, True, False, False, False]
    assert np.isnan(got.of("top 5 %")).tolist() == [True, True, True, False, False, False]


@pytest.mark.parametrize(("n", "five", "one"), [(18, None, None), (19, 0.05, None), (98, True, None), (99, True, True)])
def test_a_small_layer_has_no_top_share(n: int, five: Any, one: Any) -> None:
    percentile = np.array([1.0, 0.2])
    got = WorldOutcome(percentile, np.array([n, n]), percentile, percentile, np.array([0, 1]), percentile)
    assert np.isnan(got.of("top 5 %")).all() == (five is None)
    assert np.isnan(got.of("top 1 %")).all() == (one is None)
    assert (got.chance("top 1 %") is None) == (one is None)
    if five:
        assert got.of("top 5 %").tolist() == [1.0, 0.0]


@given(n=st.integers(19, 300))
def test_chance_is_what_a_random_neuron_reaches(n: int) -> None:
    every = np.arange(n + 1) / n  # each rank among n others once
    got = WorldOutcome(every, np.full(n + 1, n), every, every, np.arange(n + 1), every)
    assert got.chance("top 5 %") == pytest.approx(np.mean(got.of("top 5 %")))
    assert 0 < np.mean(got.of("top 5 %")) < 0.1
    assert got.chance("percentile") == pytest.approx(every.mean())


# --- figures ----------------------------------------------------------------------------------------


def test_a_share_has_a_wilson_interval_and_what_is_undefined_does_not_count() -> None:
    got = figure(np.array([1.0, 0.0, 1.0, np.nan]), "top 5 %", stream("x"))
    ci = stats.binomtest(2, 3).proportion_ci(method="wilson")
    assert got.cells == pytest.approx((2 / 3, ci.low, ci.high))
    assert got.words == 3


def test_a_mean_has_a_bootstrap_interval_over_words() -> None:
    values = np.random.default_rng(0).random(50)
    estimate, low, high = figure(values, "percentile", stream("x")).cells
    assert estimate == pytest.approx(values.mean())
    assert low is not None
    assert high is not None
    se = values.std() / np.sqrt(50)
    assert low == pytest.approx(estimate - 1.96 * se, abs=se / 2)
    assert high == pytest.approx(estimate + 1.96 * se, abs=se / 2)


@pytest.mark.parametrize(
    ("values", "measure", "reason"),
    [
        ([np.nan, np.nan], "top 1 %", "fewer than 100 measured neurons"),
        ([], "percentile", "no found neuron has an effect"),
        ([0.2, 0.3], "percentile", "fewer than 3 words"),
        ([0.5] * 9, "rank correlation", "the same for every word"),
    ],
)
def test_what_has_no_figure_or_no_interval_says_why(values: Any, measure: Any, reason: str) -> None:
    got = figure(np.array(values), measure, stream("x"))
    assert got.cells[1:] == (None, None)
    assert reason in got.reason


# --- beyond a null ----------------------------------------------------------------------------------


def test_the_excess_is_the_mean_difference_word_by_word() -> None:
    real, nulls = (
        np.array([1.0, 0.5, np.nan, 0.25]),
        [np.array([0.5, 0.0, 1, np.nan]), np.array([0.1, np.nan, 0, 0.05])],
    )
    got = excess(real, nulls, "percentile", stream("x"))
    assert got.excess.value is not None
    assert got.excess.value.estimate == pytest.approx(np.mean([1 - 0.3, 0.5 - 0.0, 0.25 - 0.05]))
    assert got.excess.words == 3
    assert got.means == pytest.approx((0.25, 0.075))
    assert got.null == pytest.approx(np.mean([0.25, 0.075]))
    assert got.as_high == 0


@given(seed=st.integers(0, 1000), k=st.integers(2, 8))
def test_the_interval_holds_both_intervals(seed: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    real, nulls = rng.random(30), [rng.random(30) + rng.normal() / 10 for _ in range(k)]
    got = excess(real, nulls, "rank correlation", stream("x"))
    estimate, low, high = got.excess.cells
    assert low is not None
    assert high is not None
    words = figure(real - np.mean(nulls, axis=0), "percentile", stream("x")).cells
    half = stats.t.ppf(0.975, k - 1) * np.std([n.mean() for n in nulls], ddof=1) * np.sqrt(1 + 1 / k)
    assert low == pytest.approx(max(min(words[1], estimate - half), -2))  # type: ignore[type-var, operator]
    assert high == pytest.approx(min(max(words[2], estimate + half), 2))  # type: ignore[type-var, operator]


def test_answers() -> None:
    rng = np.random.default_rng(0)
    low = [rng.random(40) * 0.1 + 0.001 * i for i in range(5)]
    high = rng.random(40) * 0.1 + 0.5
    assert excess(high, low, "percentile", stream("x")).answer == "more"
    assert excess(low[0], [high + 0.001 * i for i in range(5)], "percentile", stream("x")).answer == "less"
    assert excess(low[0], low[1:], "percentile", stream("x")).answer == "no more"


@pytest.mark.parametrize(
    ("real", "nulls", "reason"),
    [
        ([0.1, 0.2, 0.4], [], "no repetition"),
        ([np.nan] * 3, [[0.1, 0.2, 0.3]], "undefined in the model"),
        ([0.1, 0.2, 0.4], [[np.nan] * 3], "undefined in the model"),
        ([0.1, 0.2, 0.4], [[0.0, 0.3, 0.1]], "one repetition"),
        ([1.0, 1.0, 1.0], [[0.0] * 3, [0.0] * 3], "the same for every word"),
    ],
)
def test_without_an_interval_there_is_no_answer_but_a_reason(real: Any, nulls: Any, reason: str) -> None:
    got = excess(np.array(real), [np.array(n) for n in nulls], "top 5 %", stream("x"))
    assert got.answer is None
    assert reason in got.excess.reason


def test_words_that_share_their_neurons_are_not_taken_for_many() -> None:
    """Each repetition moves all words together: however many words, that is one draw, and no excess."""
    rng = np.random.default_rng(0)
    said: list[str | None] = []
    for _ in range(200):
        real, *nulls = (rng.normal() * 0.1 + rng.normal(size=64) * 0.05 for _ in range(6))
        said.append(excess(real, nulls, "rank correlation", rng).answer)
    # 2.5 % are meant to be; over words alone it would be 40 %. 200 times: 1.1 % is one standard deviation.
    assert said.count("more") <= 0.065 * 200
    assert said.count("no more") >= 0.85 * 200


# --- a whole study ----------------------------------------------------------------------------------


def a_study(seed: int = 0, repetitions: int = 3) -> Study:
    """Two lenses and the attribution; the paper lens is perfect in the model, the write lens also in its nulls."""
    rng = np.random.default_rng(seed)

    def scene(**picks: Pick) -> World:
        return replace(world(int(rng.integers(1 << 30)), sampled=False), picks=picks)

    def in_all_regions(own: Pick, one: World) -> Pick:
        size = np.where(one.measured[:, None], np.abs(one.effects), -1)
        parts = [size, *(np.where((one.layers == layer)[:, None], size, -2) for layer in range(LAYERS))]
        found = np.stack([part.argmax(axis=0) for part in parts])
        return Pick(own.scores, found, np.sign(one.effects[found, np.arange(WORDS)]).astype(np.int8))

    real = scene()
    best = in_all_regions(perfect(real), real)
    real = replace(real, picks={"paper": best, "write": best, ATTRIBUTION: best})
    random = []
    for _ in range(repetitions):
        one = scene()
        random.append(replace(one, picks={"write": in_all_regions(perfect(one), one)}))
    nulls = {"permuted": tuple(scene() for _ in range(repetitions)), "random": tuple(random)}
    return Study(tuple(range(100, 100 + WORDS)), WORDS - 1, regions_of(range(LAYERS)), real, nulls)


def test_nulls_are_what_leaves_a_lens_its_mechanics() -> None:
    assert {lens: null_of(lens) for lens in ("paper", "read", "gate", "write", "logit-lens")} == {
        "paper": "permuted",
        "read": "permuted",
        "gate": "permuted",
        "write": "random",
        "logit-lens": "random",
    }


@pytest.mark.parametrize(
    ("layers", "parts"),
    [
        ([4], []),
        ([0, 1], [(0,), (1,)]),
        ([0, 1, 2, 3, 4], [(0, 1), (2, 3), (4,)]),
        (range(6), [(0, 1), (2, 3), (4, 5)]),
    ],
)
def test_regions(layers: Any, parts: Any) -> None:
    assert regions_of(layers) == (tuple(layers), *parts)


def test_a_permuted_null_keeps_what_was_found_and_a_random_one_finds_anew() -> None:
    study = a_study()
    results = {(r.lens, r.measure): r for r in study.results(stream) if r.region == 0}
    for lens in ("paper", "write"):
        assert results[lens, "percentile"].here.cells[0] == 1
    permuted, random = results["paper", "percentile"].beyond, results["write", "percentile"].beyond
    assert permuted.null is not None
    assert permuted.null < 0.8
    assert random.null == 1
    assert (permuted.as_high, random.as_high) == (0, 3)
    expected = [
        np.nanmean(outcome(w, study.real.picks["paper"], 0, range(3)).percentile[: WORDS - 1])
        for w in study.nulls["permuted"]
    ]
    assert permuted.means == pytest.approx(expected)


def test_every_lens_region_and_measure_has_a_result_over_the_drawn_words() -> None:
    study = a_study()
    results = study.results(stream)
    assert len(results) == 3 * 4 * len(MEASURES) == len({(r.lens, r.region, r.measure) for r in results})
    assert {r.here.words for r in results if r.measure == "percentile"} == {WORDS - 1}
    assert {r.beyond.excess.reason for r in results if r.lens == ATTRIBUTION} == {"the attribution has no null"}
    for r in results:
        assert r.here.value is not None or r.here.reason
        assert r.beyond.answer is not None or r.beyond.excess.reason
        assert 1 <= r.neurons <= WORDS - 1


def test_a_null_that_could_not_be_made_says_why() -> None:
    study = replace(a_study(), nulls={"random": ()}, missing={"permuted": "it is offloaded", "random": "memory"})
    reasons = {r.lens: r.beyond.excess.reason for r in study.results(stream)}
    assert reasons == {"paper": "it is offloaded", "write": "memory", ATTRIBUTION: "the attribution has no null"}


@pytest.mark.parametrize("layers", [range(LAYERS), [0]])
def test_a_study_is_made_again_from_its_arrays(layers: Any) -> None:
    study = a_study(repetitions=11)  # "permuted-10" comes after "permuted-9"
    if len(layers) == 1:
        study = replace(study, regions=regions_of(layers))
    arrays = study.arrays()
    assert all(np.isfinite(a).all() for each in arrays.values() for a in each.values())
    again = Study.from_arrays(dict(reversed(arrays.items())))
    assert (again.words, again.n_drawn, again.regions) == (study.words, study.n_drawn, study.regions)
    assert again.results(stream) == study.results(stream)


def test_excess_without_anything() -> None:
    assert Excess.undefined("why").excess == RankStatistic(None, 0, "why")
    assert Excess.undefined("why").answer is None
