"""A run's family of claims: what is written for it, what is refused, what is locked, and which claims did not hold."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from flashinterp.decoding.lens_maps import DecodedMaps
from flashinterp.errors import ClaimError
from flashinterp.evaluation.claim_family import (
    check_family,
    complete_claims,
    discovered_claims,
    lock_family,
    not_held,
    planted_claims,
    same_words_elsewhere,
)
from flashinterp.evaluation.claims import Claim, lock
from flashinterp.evaluation.profiles import PROFILES
from flashinterp.evaluation.verdict import Rule, judge
from flashinterp.models.checkpoint import Checkpoint
from flashinterp.neuron_index import NeuronIndex
from flashinterp.neurons import Block, NeuronId
from tests.evidence_by_hand import CLAIM, STRONG


def test_planted_claims_are_complete_and_are_found_again_by_their_words(
    planted: Checkpoint, truth: dict[str, Any]
) -> None:
    maps = DecodedMaps(planted, "cpu")
    known = planted_claims(truth["plants"])
    assert complete_claims(known, maps, planted) == known
    dog = next(claim for claim in known if claim.id == "dog")
    assert (str(dog.neuron), dog.source, dog.expect) == ("L1N17", "fixture", "validated")
    (found,) = complete_claims(discovered_claims([" dog"]), maps, planted)
    assert (found.id, found.neuron, found.pole, found.source) == ("dog", dog.neuron, dog.pole, "discovered")
    (again,) = same_words_elsewhere([dog, replace(dog, id="dog, too")], maps, planted)
    assert again == replace(found, id="dog-paper")


def test_a_neuron_has_no_more_controls_than_its_mlp_has_others() -> None:
    wide, narrow = (NeuronIndex((Block(0), Block(1)), (1280, width)) for width in (1280, 3))
    check_family([CLAIM], wide, PROFILES["audit"], Rule())
    with pytest.raises(ClaimError, match="with 2 controls"):
        check_family([replace(CLAIM, neuron=NeuronId(1, 2))], narrow, PROFILES["audit"], Rule())


def test_the_lock_holds_the_family_and_the_design() -> None:
    rule, profile = Rule(), PROFILES["smoke"]
    given: dict[str, Any] = {"prompts": "abc", "seed": 7, "model": {"w": "d"}, "device": "cpu"}
    locked = lock_family([CLAIM], rule=rule, profile=profile, **given)
    assert locked == lock([CLAIM], rule=vars(rule), profile=vars(profile), **given)


def test_of_several_candidates_one_must_come_out_as_claimed() -> None:
    claims = [
        replace(CLAIM, id="dog/a"),
        replace(CLAIM, id="dog/b", neuron=None),
        replace(CLAIM, id="cat/a", neuron=None),
        replace(CLAIM, id="cat/b", expect="refuted"),
        Claim("sea", " sea", None, "+", "paper", None, "discovered"),
    ]
    found = ["not measured" if claim.neuron is None else STRONG for claim in claims]
    verdicts = judge(claims, found, rule=Rule(), seed=0)
    assert verdicts[0].verdict == "validated"
    assert [v.claim.id for v in not_held(verdicts)] == ["cat/a", "cat/b"]
