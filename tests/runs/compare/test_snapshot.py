"""What a run leaves for a later one: gathered from maps and evidence, written and read back."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from flashinterp.errors import RunError
from flashinterp.evaluation.claims import Claim
from flashinterp.neurons import NeuronId
from flashinterp.runs.compare.snapshot import WORDS, Reference, best_words, make_reference
from flashinterp.studies.finetuning.compare import NEAR_TIE, compare
from tests.evidence_by_hand import PROMPTS, RISING
from tests.evidence_by_hand import evidence as evidence_by_hand
from tests.helpers import assert_one_line_with_next_step, map_by_hand
from tests.runs_by_hand import entry, reference

IDS = [[3, 1, 2], [0, 4, 5], [6, 7, 8]]
EVERYWHERE = np.arange(3)


def claim(name: str = "dog", token: int = 4, neuron: int = 1, pole: Any = "+", direction: Any = None) -> Claim:
    return Claim(name, token, NeuronId(0, neuron), pole, "paper", direction, "file")


# --- words ------------------------------------------------------------------------------------------------


def test_words_are_a_maps_best_that_are_words() -> None:
    found = best_words(map_by_hand(IDS, excluded=[0, 6, 7]), "+", EVERYWHERE)
    assert found.ids[:, :3].tolist() == [[3, 1, 2], [4, 5, -1], [8, -1, -1]]
    assert (found.ids[:, 3:] == -1).all()
    assert found.ids.shape == (3, WORDS)
    assert found.lead.tolist() == [1, 1, 0]
    assert found.near_tie.tolist() == [False, False, True]  # the last has no second


def test_words_agree_with_the_comparison_of_maps() -> None:
    m = map_by_hand(IDS, [[5.0, 4.99, 1.0], [5.0, 5.0 - 5 * NEAR_TIE, 1.0], [-1.0, -2.0, -3.0]], excluded=[7])
    found, other = best_words(m, "+", EVERYWHERE), compare(m, m)
    assert found.ids[:, 0].tolist() == other.top_a.tolist()
    assert found.lead.tolist() == other.margin_a.tolist()
    assert found.near_tie.tolist() == other.near_tie.tolist() == [True, True, False]


def test_the_negative_pole_has_its_own_words() -> None:
    m = map_by_hand(IDS)
    m = replace(m, bottom_ids=m.top_ids[:, ::-1].copy(), bottom_logits=np.array([[-3, -2, -1]] * 3, dtype=np.float32))
    assert best_words(m, "-", np.array([1])).ids[0, :3].tolist() == [5, 4, 0]
    assert best_words(m, "-", np.array([1])).lead.tolist() == [1]


# --- gathering --------------------------------------------------------------------------------------------


def test_a_reference_holds_each_claims_words_and_effects() -> None:
    maps = {"paper": map_by_hand(IDS)}
    claims = [claim(), claim("none", 9, 2), claim("down", 7, 2, direction="-")]
    made = make_reference(maps, claims, [evidence_by_hand(), "no such word", evidence_by_hand()], PROMPTS)
    assert made.claims == ("dog", "none", "down")
    assert made.claim_words.ids[:, 0].tolist() == [0, 6, 6]
    assert made.best.tolist() == [1, -1, 2]  # id 9 is nobody's
    assert made.measured.tolist() == [True, False, True]
    rise = RISING[:, -1] - RISING[:, 0]
    np.testing.assert_allclose(made.effects, [rise, np.zeros(PROMPTS), -rise])
    assert made.place("down") == 2
    assert made.place("moon") is None
    assert made.said(made.words) == ("␣w3", "␣w1", "␣w2")


def test_evidence_that_cannot_be_judged_is_not_measured() -> None:
    broken = evidence_by_hand(log_odds=np.full_like(RISING, np.nan))
    made = make_reference({"paper": map_by_hand(IDS)}, [claim()], [broken], PROMPTS)
    assert made.measured.tolist() == [False]
    assert np.isfinite(made.effects).all()


def test_a_claim_without_a_neuron_is_refused() -> None:
    with pytest.raises(RunError, match="names no neuron") as caught:
        make_reference({"paper": map_by_hand(IDS)}, [replace(claim(), neuron=None)], ["why"], PROMPTS)
    assert_one_line_with_next_step(caught.value)


# --- on disk ----------------------------------------------------------------------------------------------


def test_a_reference_is_read_as_it_was_written() -> None:
    made = replace(reference([entry()]), surfaces=(*"abcdefgh", "\ud800", "\n\u202e"))
    read = Reference.from_arrays(made.arrays())
    assert (read.surfaces, read.roster, read.claims) == (made.surfaces, made.roster, made.claims)
    for name, array in made.arrays().items():
        np.testing.assert_array_equal(read.arrays()[name], array)
        assert not array.dtype.hasobject


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda a: a.pop("surfaces"), id="missing"),
        pytest.param(lambda a: a.update(surfaces=np.frombuffer(b"{", dtype=np.uint8)), id="no JSON"),
        pytest.param(lambda a: a.update(surfaces=np.frombuffer(b"[1]", dtype=np.uint8)), id="no texts"),
        pytest.param(lambda a: a.update(claims=np.frombuffer(b'{"a": 1}', dtype=np.uint8)), id="no list"),
        pytest.param(lambda a: a.update(blocks=a["blocks"][:1]), id="fewer neurons"),
        pytest.param(lambda a: a.update(best=a["best"] + 100), id="a neuron that is none"),
        pytest.param(lambda a: a.update(best=a["best"][:0]), id="fewer claims"),
        pytest.param(lambda a: a["words.ids"].__setitem__((0, 0), 99), id="a token that is none"),
        pytest.param(lambda a: a.update({"words.ids": a["words.ids"][:, :2]}), id="fewer words"),
        pytest.param(lambda a: a.update(effects=a["effects"][0]), id="flat effects"),
    ],
)
def test_arrays_that_do_not_fit_are_refused_in_one_line(change: Any) -> None:
    arrays = {name: array.copy() for name, array in reference([entry()]).arrays().items()}
    change(arrays)
    with pytest.raises(RunError) as caught:
        Reference.from_arrays(arrays)
    assert_one_line_with_next_step(caught.value)
