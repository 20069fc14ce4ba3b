"""Second words and twins, by hand: what is carried, by quantiles; what is hidden, by differences."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from flashinterp.decoding.neuron_map import Word
from flashinterp.evaluation.claims import Claim
from flashinterp.neurons import NeuronId
from flashinterp.studies.limitations.driven_neuron import Driven
from flashinterp.studies.limitations.shared_neuron_tables import (
    Carrier,
    Paired,
    duplicates_table,
    two_concepts_table,
    two_word_effects,
    with_two_words,
)
from flashinterp.studies.limitations.twin_records import TwinEffects
from flashinterp.tokens import Token
from tests.runs.made_again import cells, made_again

HONEY, BEE, PIANO, HONEYS = (
    Token(i, text, "by id") for i, text in enumerate((" honey", " bee", " piano", " Honey"), start=5)
)
PAIRS = np.linspace(-1, 1, 9, dtype=np.float32)  # three in four are below 0.5

# --- two words ------------------------------------------------------------------------------------------


def _driven(*effects: float, tokens: tuple[int, ...] = ()) -> Driven:
    """Of two prompts, of which one is moved by a half more than the mean and one by a half less."""
    first = np.zeros((2, len(effects)))
    last = np.array([np.array(effects) + 0.5, np.array(effects) - 0.5])
    ids = tokens or (HONEY.id, PIANO.id, *range(100, 98 + len(effects)))
    return Driven((0.0, 2.0), ids, np.array([first, last], dtype=np.float32))


OTHERS = tuple(float(x) for x in (-1) ** np.arange(21) * np.linspace(0, 1, 21))  # 95 % are below 0.95, either way
CARRIER = Carrier(
    NeuronId(1, 3),
    "+",
    "paper",
    (HONEY,),
    (HONEY.id, HONEYS.id),
    tuple(Word(token, 3.0, 2.0, 0.1) for token in (HONEY, HONEYS, BEE, PIANO)),
    np.array([1.0, 0.25, 0.625, 0.375], dtype=np.float32),
    _driven(2.0, 0.9375, *OTHERS),
    (np.float32([3, 1, 8]), np.float32([2, 2]), np.float32([0, 1, 0, 0])),
)


def test_the_second_word_is_unlike_the_first() -> None:
    (one,) = with_two_words([CARRIER], PAIRS)
    assert one[1] == (HONEY, PIANO)  # Honey is its other form, bee is like it
    assert [words for _, words in with_two_words([CARRIER], PAIRS + 1)] == [(HONEY, BEE)]
    assert with_two_words([CARRIER], PAIRS - 1) == []


def test_two_claims_name_two_words_and_come_first() -> None:
    both = replace(CARRIER, neuron=NeuronId(0, 1), claimed=(HONEY, BEE))
    assert with_two_words([CARRIER, both], PAIRS) == [(both, (HONEY, BEE)), (CARRIER, (HONEY, PIANO))]


def test_what_is_carried_is_beyond_unrelated_words() -> None:
    made = made_again(two_concepts_table, [CARRIER], PAIRS)
    usual = float(np.quantile(np.abs(OTHERS), 0.95))
    assert usual == pytest.approx(0.95)
    row = made[1][0]
    assert row[:5] == ["L1N3", "+", "␣honey", "␣piano", "the paper lens"]
    assert row[5:8] == pytest.approx([2.0, 0.9375, usual])
    assert row[8:] == ["␣honey", 3.0, 2.0, 0.0]
    for changed, told in (((2.0, 1.0), "␣honey and ␣piano"), ((0.5, -2.0), "neither")):
        other = made_again(two_concepts_table, [replace(CARRIER, driven=_driven(*changed, *OTHERS))], PAIRS)
        assert cells(other, "carries") == [told]


def test_a_neuron_that_was_not_driven_has_no_row() -> None:
    assert two_word_effects([replace(CARRIER, driven=None)], PAIRS) == []
    made = made_again(two_concepts_table, [replace(CARRIER, driven=None, standing=())], PAIRS)
    assert cells(made, "neuron") == ["no claim names a neuron with a second word"]


def test_a_word_that_was_not_driven_is_no_second_word() -> None:
    """The likeness was changed, and the recorded drive is not of the word that it now gives."""
    with pytest.raises(ValueError, match="not in tuple"):
        two_concepts_table([replace(CARRIER, cosines=np.float32([1, 0.25, 0.125, 0.375]))], PAIRS)


def test_one_changed_value_makes_another_table() -> None:
    plain = two_concepts_table([CARRIER], PAIRS)
    for forged in (
        replace(CARRIER, driven=_driven(2.125, 0.9375, *OTHERS)),
        replace(CARRIER, driven=_driven(2.0, 0.9375, *OTHERS[:-2], 1.5, 1.5)),
        replace(CARRIER, standing=(np.float32([3, 1, 2]), *CARRIER.standing[1:])),
    ):
        assert made_again(two_concepts_table, [forged], PAIRS) != plain
    assert made_again(two_concepts_table, [CARRIER], PAIRS - 1) != plain


# --- twins ----------------------------------------------------------------------------------------------


def _paired(name: str, neuron: int, read: list[float], write: list[float]) -> Paired:
    claim = Claim(name, f" {name}", NeuronId(1, neuron), "+", "paper", None, "file")
    effects = TwinEffects(
        clean=np.array([1.0, 2.0]),
        fixed=np.array([[0.5, 1.0], [0.25, 1.75], [-1.0, 0.0]]),
        ends=np.array([[[0.0, 1.0], [2.0, 3.0]], [[0.0, 0.0], [1.0, 2.0]], [[0.0, 0.0], [4.0, 5.0]]]),
    )
    return Paired(claim, np.array([read, write], dtype=np.float32), effects)


LOOSE = _paired("cat", 2, [0.5, 0.25, 1.0], [0.125, 0.75, 1.0])
MIRRORED = _paired("king", 0, [1.0, -0.875, 0.25], [1.0, -0.75, 0.5])


def test_twins_with_what_each_and_both_do_the_most_alike_first() -> None:
    made = made_again(duplicates_table, [LOOSE, MIRRORED])
    # Silenced: changes of -0.5 and -1, of -0.75 and -0.25, of -2 and -2; driven: 2 and 2, and 4 and 5.
    effects = [-0.75, -0.5, -2.0, 0.375, 2.0, 4.5]
    assert made[1] == [["king", "L1N0", "L1N1", 0.75, *effects], ["cat", "L1N2", "L1N1", 0.25, *effects]]
    assert (MIRRORED.twin.mirrored, LOOSE.twin.mirrored) == (True, False)


def test_the_share_of_nothing_is_none() -> None:
    idle = replace(LOOSE, effects=replace(LOOSE.effects, fixed=np.tile(LOOSE.effects.clean, (3, 1))))
    assert cells(made_again(duplicates_table, [idle]), "one of both") == [None]
    assert cells(made_again(duplicates_table, []), "claim") == ["no claim names a neuron with others in its MLP"]


def test_one_changed_value_makes_another_table_of_twins() -> None:
    plain, e = duplicates_table([LOOSE]), LOOSE.effects
    for forged in (
        replace(LOOSE, cosines=LOOSE.cosines + np.float32([[0.5, 0, 0]] * 2)),
        replace(LOOSE, effects=replace(e, clean=e.clean + 0.5)),
        replace(LOOSE, effects=replace(e, ends=e.ends * 2)),
    ):
        assert made_again(duplicates_table, [forged]) != plain
