"""Effective numbers against their formulas, masses against what they are made of, and the command."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from flashinterp.decoding.decode import decode, open_checkpoint
from flashinterp.errors import RunError
from flashinterp.evaluation.experiment import Experiment
from flashinterp.evaluation.profiles import PROFILES
from flashinterp.evaluation.prompts import shipped
from flashinterp.interventions.attribution import attribution
from flashinterp.models.activations import encode
from flashinterp.models.checkpoint import Checkpoint
from flashinterp.studies.lens_causality.measure import effects, natural_ranges, ranked_prompts
from flashinterp.studies.word_frequency.concentration import (
    Concentration,
    Spread,
    common_words,
    concentration,
    effect_mass,
    main,
    rows_of,
    score_mass,
    spread,
)
from tests.helpers import assert_one_line_with_next_step, paper_logits, small_checkpoint

TINY = replace(PROFILES["smoke"], selection=6, rank_prompts=2)

masses = arrays(np.float64, st.tuples(st.integers(1, 12), st.integers(1, 4)), elements=st.floats(1e-6, 1e6))


@pytest.fixture(scope="module")
def bench(planted: Checkpoint, planted_model: Any) -> Experiment:
    return Experiment(planted_model, planted, shipped(), TINY, 0)


# --- effective numbers ----------------------------------------------------------------------------------


@given(st.integers(1, 50), st.integers(0, 50), st.floats(1e-200, 1e200))
def test_equal_shares_over_m_neurons_give_m(m: int, idle: int, size: float) -> None:
    mass = np.concatenate([np.full(m, size), np.zeros(idle)])[:, None]
    found = spread(mass)
    assert found.participation[0] == pytest.approx(m)
    assert found.entropy[0] == pytest.approx(m)
    assert found.top[0] == pytest.approx(1 / m)


@given(masses)
def test_it_is_the_formula_in_float64(mass: np.ndarray) -> None:
    found = spread(mass)
    for t in range(mass.shape[1]):
        shares = mass[:, t] / mass[:, t].sum()
        assert found.participation[t] == pytest.approx(1 / sum(s**2 for s in shares))
        assert found.entropy[t] == pytest.approx(np.exp(-sum(s * np.log(s) for s in shares)))
        assert found.top[t] == pytest.approx(max(shares))


@given(masses, st.floats(1e-9, 1e9), st.randoms(use_true_random=False))
def test_neither_the_unit_nor_the_order_matters_and_the_numbers_are_in_order(
    mass: np.ndarray, unit: float, random: Any
) -> None:
    one = spread(mass)
    order = list(range(len(mass)))
    random.shuffle(order)
    other = spread(unit * mass[order])
    assert other.participation == pytest.approx(one.participation)
    assert other.entropy == pytest.approx(one.entropy)
    slack = 1 + 1e-9
    assert (one.participation >= 1 / slack).all()
    assert (one.participation <= one.entropy * slack).all()
    assert (one.entropy <= len(mass) * slack).all()
    assert (1 / one.top <= one.participation * slack).all()


def test_two_to_one_is_nine_fifths() -> None:
    assert spread(np.array([[2.0], [1.0]])).participation[0] == pytest.approx(9 / 5)


def test_a_word_without_mass_has_no_number() -> None:
    found = spread(np.array([[0.0, 1.0], [0.0, 1.0]]))
    assert np.isnan([found.participation[0], found.entropy[0], found.top[0]]).all()
    assert found.participation[1] == pytest.approx(2)


@pytest.mark.parametrize("wrong", [-1.0, np.nan, np.inf])
def test_what_is_no_mass_is_refused(wrong: float) -> None:
    with pytest.raises(RunError, match="1 of 2 masses") as error:
        spread(np.array([[1.0], [wrong]]))
    assert_one_line_with_next_step(error.value)


# --- masses ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lens", ["paper", "read", "write"])
def test_scores_are_those_of_the_map(lens: str) -> None:
    checkpoint = small_checkpoint(np.random.default_rng(3), vocab=130, hidden=6)
    words = [4, 17, 99]
    decoded = decode(checkpoint, lens=lens, top_k=130, device="cpu")
    both = [[decoded.scores(word, pole) for word in words] for pole in ("+", "-")]  # type: ignore[arg-type]
    assert score_mass(checkpoint, lens, words) == pytest.approx(np.max(both, axis=0).T, rel=1e-4)


def test_the_null_of_scores_has_the_same_norms_and_other_directions() -> None:
    """Of one neuron with the head an identity, the logits are the row itself."""
    checkpoint = small_checkpoint(np.random.default_rng(3), layers=1, neurons=5, hidden=6, vocab=6)
    checkpoint.model.lm_head.weight.copy_(torch.eye(6))
    z = paper_logits(checkpoint)
    real = score_mass(checkpoint, "paper", range(6))
    null = score_mass(checkpoint, "paper", range(6), rng=np.random.default_rng(1))
    again = score_mass(checkpoint, "paper", range(6), rng=np.random.default_rng(1))
    assert (null == again).all()
    assert not np.isclose(real, null).all(axis=1).any()
    noise = np.random.default_rng(1).standard_normal((5, 6))
    rows = noise * (np.linalg.norm(z, axis=1) / np.linalg.norm(noise, axis=1))[:, None]
    by_hand = np.exp(rows) / np.exp(rows).mean(axis=1, keepdims=True)
    other = np.exp(-rows) / np.exp(-rows).mean(axis=1, keepdims=True)
    assert null == pytest.approx(np.maximum(by_hand, other), rel=1e-4)


def test_effects_are_what_they_say(bench: Experiment) -> None:
    words = [bench.checkpoint.vocabulary.resolve(word) for word in (" dog", " king")]
    ids = [word.id for word in words]
    everyone = np.arange(len(bench.checkpoint.layout.roster))
    ranges = natural_ranges(bench, everyone)
    measured = effect_mass(bench, ids, how="measured")
    assert measured == pytest.approx(effects(bench, everyone, ranges, words) ** 2, rel=1e-5)
    texts = [encode(bench.tokenizer, prompt) for prompt in ranked_prompts(bench)]
    first_order = effect_mass(bench, ids)
    assert first_order == pytest.approx(attribution(bench.model, texts, ids, ranges) ** 2, rel=1e-5)
    # Where nothing is far from linear the two are nearly the same numbers.
    assert np.corrcoef(np.log(measured[:, 0] + 1e-9), np.log(first_order[:, 0] + 1e-9))[0, 1] > 0.9


def test_the_null_of_effects_puts_the_model_back(bench: Experiment) -> None:
    down = {n: p.detach().clone() for n, p in bench.model.named_parameters() if "down_proj" in n}
    dog = [bench.checkpoint.vocabulary.resolve(" dog").id]
    null = effect_mass(bench, dog, rng=np.random.default_rng(0))
    assert (null != effect_mass(bench, dog)).any()
    assert all(torch.equal(p, down[n]) for n, p in bench.model.named_parameters() if n in down)


def test_a_word_that_one_neuron_writes_loudly_is_held_by_few(bench: Experiment) -> None:
    """The planted neuron of the dog, eight times as loud; words that it has nothing to do with stay with many."""
    loud = copy.deepcopy(bench.model)
    loud.model.layers[1].mlp.down_proj.weight[:, 17] *= 8
    louder = replace(bench, model=loud, checkpoint=_named_as(loud, bench.checkpoint))
    dog = [bench.checkpoint.vocabulary.resolve(" dog").id]
    before, after = (concentration(b, dog, lenses=(), nulls=2)[0] for b in (bench, louder))
    others = concentration(bench, bench.draw_words("others", 12, set(dog)), lenses=(), nulls=2)[0]
    elsewhere = others.against_null(np.random.default_rng(0))
    assert after.here.participation[0] < 3 < before.here.participation[0] / 10
    assert after.here.participation[0] < 0.1 * after.null_participation()[0]
    assert elsewhere is not None
    assert 0.6 < elsewhere.estimate < 1.6


def _named_as(model: Any, checkpoint: Checkpoint) -> Checkpoint:
    """A live model with another one's words."""
    opened = open_checkpoint(model)
    opened.tokenizer, opened.vocabulary = checkpoint.tokenizer, checkpoint.vocabulary
    return opened


# --- what it comes to -----------------------------------------------------------------------------------


def _spread(*numbers: float) -> Spread:
    x = np.array(numbers)
    return Spread(x, x, 1 / x)


def test_the_numbers_of_a_table_are_means_over_words() -> None:
    one = Concentration("score", 8, (" a", " b"), _spread(2.0, 8.0), (_spread(8.0, 8.0), _spread(2.0, 8.0)))
    ((model, neurons, mass, here, low, high, null, against, *_, entropy, top),) = rows_of(
        "m", [one], np.random.default_rng(0)
    )
    assert (model, neurons, mass, low, high) == ("m", 8, "score", None, None)
    assert here == pytest.approx(4)
    assert null == pytest.approx(np.sqrt(4 * 8))  # 4 is the geometric mean of 8 and 2
    assert against == pytest.approx(4 / np.sqrt(32))
    assert (entropy, top) == pytest.approx((4, (1 / 2 + 1 / 8) / 2))


def test_a_word_without_mass_is_left_out_and_no_words_at_all_give_nothing() -> None:
    rng = np.random.default_rng(0)
    one = Concentration("score", 8, (" a", " b"), _spread(np.nan, 8.0), ())
    assert one.effective(rng).estimate == pytest.approx(8)  # type: ignore[union-attr]
    assert one.null(rng) is None
    assert one.against_null(rng) is None
    none = Concentration("score", 8, (" a",), _spread(np.nan), (_spread(2.0),))
    assert rows_of("m", [none], rng)[0][3:] == [None, None, None, pytest.approx(2), None, None, None, None, None]


def test_no_words_are_refused(bench: Experiment) -> None:
    with pytest.raises(RunError, match="no words") as error:
        concentration(bench, [])
    assert_one_line_with_next_step(error.value)


def test_common_words_are_tokens_of_all(planted: Checkpoint, tuned: Checkpoint) -> None:
    words = common_words([planted, tuned], 5, 1)
    assert len(set(words)) == 5
    assert all(c.vocabulary.resolve(word).text == word for word in words for c in (planted, tuned))
    assert words == common_words([planted, tuned], 5, 1) != common_words([planted, tuned], 5, 2)


def test_the_command_prints_json_for_each_model(fixture_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models = [str(fixture_folder / name) for name in ("planted", "unplanted")]
    main([*models, "--tokens", " dog, king", "--nulls", "1", "--lens", "paper", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert told["words"] == [" dog", " king"]
    assert [(row["model"], row["mass"]) for row in told["found"]] == [
        (model, mass) for model in models for mass in ("score, paper", "effect, attribution")
    ]
    planted, unplanted = (row["effective"] for row in told["found"] if row["mass"].startswith("effect"))
    assert planted < unplanted


def test_the_command_prints_a_table_with_its_words(fixture_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(fixture_folder / "planted"), "--words", "3", "--nulls", "0"])
    out = capsys.readouterr().out
    assert "| score, write" in out
    assert "Over 3 words: ␣" in out


@pytest.mark.parametrize("wrong", [["--tokens", " notaword"], ["--words", "0"], ["--seed", "-1"]])
def test_what_a_user_gets_wrong_is_one_line(
    wrong: list[str], fixture_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main([str(fixture_folder / "planted"), *wrong])
    assert stop.value.code == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
