"""Where names lead, by hand: readings from lists of words, effects from log-odds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from flashinterp.decoding.neuron_map import Found, Word
from flashinterp.neurons import NeuronId
from flashinterp.studies.limitations.driven_neuron import Driven
from flashinterp.studies.limitations.name_tables import (
    NOT_REACHED,
    Lead,
    names_found,
    names_table,
    several_tokens_table,
)
from flashinterp.tokens import Token
from tests.runs.made_again import cells, made_again

WIZARD, DUMB, BLE, SHERLOCK, LOWER, SEA = (
    Token(i, text, "by id")
    for i, text in enumerate((" wizard", " Dumble", "dore", " Sherlock", "sherlock", " sea"), start=10)
)


def _words(*tokens: Token) -> tuple[Word, ...]:
    return tuple(Word(token, 3.0 - i, 2.0, 0.1) for i, token in enumerate(tokens))


def _driven(name: Token, best: Token, first: list[list[float]], last: list[list[float]]) -> Driven:
    """Log-odds [prompts, 2 tokens] at both ends."""
    return Driven((-1.0, 4.0), (name.id, best.id), np.array([first, last], dtype=np.float32))


def _found(neuron: int, score: float = 5.5) -> Found:
    return Found(NeuronId(1, neuron), "-", score, 0.25, True)


# At the end the wizard is at -1 on average, the name at -4: both rise, the wizard by 4 and the name by 1.
BY_FIRST = Lead(
    " Dumbledore", "first", (DUMB, BLE), (), _found(7), _words(WIZARD, SEA, DUMB),
    _driven(DUMB, WIZARD, [[-5, -6], [-5, -4]], [[-4, -2], [-4, 0]]),
    np.array([[-9.0, -7.0], [-8.5, -6.5]]),
)  # fmt: skip
BY_MEAN = replace(BY_FIRST, by="mean", found=_found(8), words=_words(BLE, SEA), driven=None, whole=None)
OWN = Lead(
    " Sherlock", "token", (SHERLOCK,), (SHERLOCK.id, LOWER.id), _found(9), _words(LOWER, SEA),
    _driven(SHERLOCK, LOWER, [[-1, -1]], [[-3, -2]]),
)  # fmt: skip


def test_readings_follow_the_neurons_words() -> None:
    assert [lead.reading for lead in (BY_FIRST, BY_MEAN, OWN)] == ["broader", "piece", "own"]
    assert replace(BY_FIRST, words=_words(WIZARD, SEA)).reading == "noise"
    assert replace(OWN, words=_words(SEA, LOWER)).reading == "noise"  # a form of it is near; the name itself is not
    assert replace(OWN, words=_words(SEA, SHERLOCK)).reading == "broader"


def test_what_names_lead_to_and_what_that_brings() -> None:
    made = made_again(names_table, [BY_FIRST, BY_MEAN, OWN])
    assert made[1] == [
        ["Dumbledore", "first of 2: ␣Dumble", "L1N7", "-", 5.5, "␣wizard", "broader", 1.0, 4.0, "␣wizard"],
        ["Dumbledore", "mean of 2", "L1N8", "-", 5.5, "dore", "piece", None, None, NOT_REACHED],
        ["Sherlock", "token ␣Sherlock", "L1N9", "-", 5.5, "sherlock", "own", -2.0, -1.0, "neither"],
    ]


@pytest.mark.parametrize(
    ("last", "brings"),
    [
        ([[-0.5, -2], [-0.5, -1]], 0),  # both rise, the name is likelier
        ([[-6, -2], [-6, -1]], 1),  # only the other rises
        ([[-4, -9], [-4, -9]], 0),  # only the name rises
        ([[-5, -5], [-5, -5]], None),  # nothing rises
    ],
)
def test_it_brings_the_word_that_rises_and_is_likelier(last: list[list[float]], brings: int | None) -> None:
    assert replace(BY_FIRST, driven=_driven(DUMB, WIZARD, [[-5, -6], [-5, -4]], last)).brings == brings


def test_the_finding_tells_of_the_first_look_up_of_the_papers_two_names() -> None:
    leads = [BY_FIRST, BY_MEAN, OWN, replace(OWN, name=" Paris")]
    told = made_again(names_found, leads, True)
    assert told == ("Sherlock has its own, Dumbledore leads to wizard", "the same")
    assert names_found([BY_MEAN], False) == ("Dumbledore leads to its piece dore", None)


def test_the_whole_name_and_whether_both_ways_lead_to_one_neuron() -> None:
    made = made_again(several_tokens_table, [BY_FIRST, BY_MEAN])
    assert cells(made, "same by both") == ["no", "no"]
    assert cells(made, "effect, whole name") == [(-8.5 - 6.5) / 2 - (-9 - 7) / 2, None]
    assert cells(made, "effect, first token") == [1.0, None]
    assert cells(made, "effect, best word") == [4.0, None]
    one = made_again(several_tokens_table, [BY_FIRST, replace(BY_MEAN, found=_found(7))])
    assert cells(one, "same by both") == ["yes", "yes"]
    assert cells(made_again(several_tokens_table, []), "name") == ["none: each is one token here"]


def test_one_changed_value_makes_another_table() -> None:
    plain = names_table([BY_FIRST])
    log_odds = BY_FIRST.driven.log_odds.copy()  # type: ignore[union-attr]
    log_odds[1, 0, 1] -= 0.125
    for forged in (
        replace(BY_FIRST, driven=replace(BY_FIRST.driven, log_odds=log_odds)),  # type: ignore[type-var]
        replace(BY_FIRST, words=_words(DUMB, WIZARD)),
        replace(BY_FIRST, found=_found(7, 5.25)),
    ):
        assert made_again(names_table, [forged]) != plain
    whole = replace(BY_FIRST, whole=np.array([[-9.0, -7.0], [-8.5, -6.25]]))
    assert made_again(several_tokens_table, [whole]) != several_tokens_table([BY_FIRST])
    assert made_again(names_found, [replace(BY_FIRST, words=_words(SEA, DUMB))], True) != names_found([BY_FIRST], True)
