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

from flashinterp.decoding.decode import decode
from flashinterp.errors import RunError
from flashinterp.evaluation.experiment import Experiment
from flashinterp.evaluation.profiles import PROFILES
from flashinterp.evaluation.prompts import shipped
from flashinterp.interventions.attribution import attribution
from flashinterp.models.activations import encode
from flashinterp.models.checkpoint import Checkpoint, open_checkpoint
from flashinterp.studies.lens_causality.measure import effects, natural_ranges, ranked_prompts
from flashinterp.studies.word_frequency.concentration import (
    common_words,
    concentration,
    effect_mass,
    main,
    score_mass,
)
from tests.helpers import assert_one_line_with_next_step, paper_logits, small_checkpoint

TINY = replace(PROFILES["smoke"], selection=6, rank_prompts=2)


@pytest.fixture(scope="module")
def bench(planted: Checkpoint, planted_model: Any) -> Experiment:
    return Experiment(planted_model, planted, shipped(), TINY, 0)


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


# --- the pass and the command -----------------------------------------------------------------------


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
