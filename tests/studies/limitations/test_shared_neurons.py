"""Second words and twins of claimed neurons on the planted fixture, beside explicit values."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from flashinterp.decoding.lens_maps import DecodedMaps
from flashinterp.evaluation.claim_family import planted_claims
from flashinterp.evaluation.claims import Claim
from flashinterp.evaluation.experiment import Experiment
from flashinterp.evaluation.profiles import PROFILES
from flashinterp.evaluation.prompts import shipped
from flashinterp.models.activations import capture, encode
from flashinterp.models.checkpoint import Checkpoint
from flashinterp.neurons import NeuronId
from flashinterp.studies.limitations.second_word import Likeness
from flashinterp.studies.limitations.shared_neurons import (
    UNRELATED_WORDS,
    twin_pairs,
    two_word_carriers,
    values_at_word,
)


@pytest.fixture(scope="module")
def bench(planted_model: Any, planted: Checkpoint) -> Experiment:
    return Experiment(planted_model, planted, shipped(), replace(PROFILES["smoke"], selection=2), 0)


@pytest.fixture(scope="module")
def claims(truth: dict[str, Any]) -> tuple[Claim, ...]:
    return planted_claims(truth["plants"])


def test_each_claimed_neuron_once_and_only_so_many_are_driven(bench: Experiment, claims: tuple[Claim, ...]) -> None:
    likeness = Likeness.of(bench.checkpoint, bench.words(), bench.rng("rows"))
    maps = DecodedMaps(bench.checkpoint, "cpu")
    other = replace(claims[0], id="another word", token=claims[1].token)
    found = two_word_carriers(bench, maps, (other, *claims), likeness, 1)
    assert [(one.neuron, one.pole) for one in found] == list(dict.fromkeys((c.neuron, c.pole) for c in claims))
    (driven,) = (one for one in found if one.driven is not None)
    assert driven.neuron == claims[0].neuron  # the one that two claims name comes first
    assert [word.id for word in driven.claimed] == [bench.token(c).id for c in (other, claims[0])]
    assert driven.driven is not None
    assert len(set(driven.driven.tokens)) == 2 + UNRELATED_WORDS
    assert len(driven.standing) == 3


def test_the_value_where_a_word_stands(bench: Experiment) -> None:
    neuron, word = NeuronId(1, 17), bench.checkpoint.vocabulary.resolve(" dog")
    found = values_at_word(bench, neuron, word.id)
    contexts = bench.prompts.contexts_heldout
    assert len(found) == len(contexts)
    ids = encode(bench.tokenizer, contexts[0]).tolist()[0]
    x = capture(bench.model, [encode(bench.tokenizer, contexts[0]).new_tensor([[*ids, word.id]])], [neuron.block])
    assert found[0] == pytest.approx(x[0][neuron.block].up[-1, neuron.neuron], rel=1e-5)
    assert len(values_at_word(bench, neuron, None)) == len(contexts) * (UNRELATED_WORDS // 4)


def test_the_planted_twins_are_found(bench: Experiment, claims: tuple[Claim, ...], truth: dict[str, Any]) -> None:
    pair = truth["duplicates"][0]
    mine = [claim for claim in claims if str(claim.neuron) in pair][:1] or claims[:1]
    found = twin_pairs(bench, [*mine, *mine], 4)
    assert [{str(one.claim.neuron), str(one.other)} for one in found] == [set(pair)]
    assert found[0].twin.likeness > 0.99
    assert twin_pairs(bench, claims, 1)[0].claim == claims[0]
