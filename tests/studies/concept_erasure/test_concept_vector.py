"""A concept's vector is what the texts say, and refining it brings its token and nothing else about it."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flashinterp.errors import RunError
from flashinterp.evaluation.experiment import Experiment
from flashinterp.evaluation.profiles import PROFILES
from flashinterp.evaluation.prompts import shipped
from flashinterp.models.checkpoint import Checkpoint
from flashinterp.studies.concept_erasure.concept_vector import (
    ENOUGH,
    Readout,
    by_length,
    concept_texts,
    concept_vector,
    last_states,
    refine,
)
from tests.architecture_cases import DISTINCT, Case, by_kind
from tests.examples import examples
from tests.helpers import assert_one_line_with_next_step, n_hooks

module = importlib.import_module("flashinterp.studies.concept_erasure.concept_vector")


@pytest.fixture(scope="module")
def bench(planted: Checkpoint, planted_model: Any) -> Experiment:
    return Experiment(planted_model, planted, shipped(), PROFILES["smoke"], 0)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("name", by_kind(DISTINCT))
def test_states_and_readout_are_the_model_s_logits(case: Callable[[str], Case], name: str) -> None:
    """What is read at the end of the last layer gives, through the readout, the logits of the whole model."""
    this = case(name)
    sequences = [torch.tensor([ids]) for ids in ([3, 141, 59], [26, 53], [58, 97, 93], [23])]
    states = last_states(this.model, sequences)
    assert states.shape == (4, this.checkpoint.layout.d_model)
    head = Readout.of(this.checkpoint)
    for state, ids in zip(states, sequences, strict=True):
        wanted = this.model(ids).logits[0, -1].detach().double().log_softmax(-1)
        for token in (0, 17, 800):
            assert float(head.log_prob(state[None], token)[0]) == pytest.approx(float(wanted[token]), abs=1e-4)
    assert n_hooks(this.model) == 0


def test_the_vector_is_the_difference_of_means(bench: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_STEPS", 0)
    token = bench.checkpoint.vocabulary.resolve(" dog")
    own, others = (last_states(bench.model, texts).double().numpy() for texts in concept_texts(bench, token))

    def mean(x: Any) -> Any:
        return (x / np.linalg.norm(x, axis=1, keepdims=True)).mean(0)

    for centred in (True, False):
        found = concept_vector(bench, token, rng=rng(), centred=centred)
        wanted = mean(own) - (mean(others) if centred else 0)
        wanted *= np.linalg.norm(own, axis=1).mean() / np.linalg.norm(wanted)
        assert np.allclose(found.approximate.double().numpy(), wanted, atol=1e-5)
        assert torch.equal(found.approximate, found.refined)
        assert found.kept == pytest.approx(1)
        assert found.texts == len(own)


def test_only_selection_texts_make_it(bench: Experiment) -> None:
    own, others = concept_texts(bench, bench.checkpoint.vocabulary.resolve(" dog"))
    told = {bench.tokenizer.decode(ids[0]) for ids in own + others}
    heldout = (*bench.prompts.heldout, *bench.prompts.contexts_heldout)
    assert not any(text.startswith(one) for text in told for one in heldout)
    said = [text for text in told if text.endswith(" dog")]
    assert len(said) == len(bench.prompts.contexts_selection)
    assert len(own) == len(said) + len(bench.prompts.group_of(" dog").selection)  # type: ignore[union-attr]


def test_refining_brings_the_token(bench: Experiment) -> None:
    token = bench.checkpoint.vocabulary.resolve(" king")
    found = concept_vector(bench, token, rng=rng())
    assert found.p_approximate < 0.1
    assert found.p_refined > 0.5
    head = Readout.of(bench.checkpoint)
    assert float(head.log_prob(found.refined[None], token.id)[0].exp()) == pytest.approx(found.p_refined, rel=1e-4)
    assert float(found.refined.norm()) == pytest.approx(float(found.approximate.norm()), rel=1e-4)
    again = concept_vector(bench, token, rng=rng())
    assert torch.equal(again.refined, found.refined)
    assert not torch.equal(concept_vector(bench, token, rng=rng(1)).refined, found.refined)


@examples(20)
@given(seed=st.integers(0, 1000), d=st.integers(2, 12))
def test_the_search_never_gets_worse_keeps_the_norm_and_stops(seed: int, d: int) -> None:
    draw = rng(seed)
    wanted, start = torch.as_tensor(draw.standard_normal(d)), torch.as_tensor(draw.standard_normal(d))
    seen: list[float] = []

    def log_prob(rows: torch.Tensor) -> torch.Tensor:
        return torch.cosine_similarity(rows, wanted[None], dim=1) - 1

    best, steps = refine(start, log_prob, draw)
    seen.append(float(log_prob(best[None])[0]))
    assert seen[0] >= float(log_prob(start[None])[0])
    assert float(best.norm()) == pytest.approx(float(start.norm()))
    assert steps == 200 or seen[0] >= np.log(ENOUGH)
    assert seen[0] > -0.2  # in so few dimensions it arrives


def test_a_concept_that_is_named_already_is_not_refined() -> None:
    start = torch.ones(4)
    best, steps = refine(start, lambda rows: torch.zeros(len(rows)), rng())
    assert best is start
    assert steps == 0


def test_texts_that_say_nothing_are_told(bench: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "last_states", lambda model, sequences: torch.ones(len(sequences), 64))
    with pytest.raises(RunError, match="leave no vector") as caught:
        concept_vector(bench, bench.checkpoint.vocabulary.resolve(" dog"), rng=rng(), centred=True)
    assert_one_line_with_next_step(caught.value)


@given(st.lists(st.integers(1, 4), min_size=1, max_size=100))
def test_texts_of_one_length_go_together_and_none_is_lost(lengths: list[int]) -> None:
    sequences = [torch.full((1, length), place) for place, length in enumerate(lengths)]
    seen: dict[int, torch.Tensor] = {}
    for places, ids in by_length(sequences):
        assert len(places) == len(ids) <= 32
        seen.update(zip(places, ids, strict=True))
    assert {place: (row[0].item(), len(row)) for place, row in seen.items()} == {
        place: (place, length) for place, length in enumerate(lengths)
    }
