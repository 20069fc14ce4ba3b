"""The shipped texts: what selects and what tests never mix, and neither gives the concept away."""

from __future__ import annotations

import re

import pytest

from flashinterp.profiles import PROFILES, Profile
from flashinterp.prompts import PromptSet, shipped
from flashinterp.stats import smallest_family_p

TEXTS = ("selection", "heldout", "contexts_selection", "contexts_heldout", "questions", "concepts")
SENTENCES = TEXTS[:4]


def words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))


def test_the_shipped_set_is_read_once_and_cannot_be_changed() -> None:
    assert shipped() is shipped()
    assert isinstance(shipped(), PromptSet)
    assert all(isinstance(getattr(shipped(), field), tuple) for field in TEXTS)


@pytest.mark.parametrize("field", TEXTS)
def test_no_text_is_empty_or_given_twice(field: str) -> None:
    texts = getattr(shipped(), field)
    assert texts
    assert all(t.strip() for t in texts)
    assert len({t.strip().lower() for t in texts}) == len(texts)


@pytest.mark.parametrize("field", SENTENCES)
def test_a_text_ends_where_a_word_may_follow(field: str) -> None:
    for text in getattr(shipped(), field):
        assert text == text.rstrip(), "a trailing space would be a token of its own"
        assert not text.endswith((".", "!", "?", ","))


def test_selection_and_heldout_are_disjoint() -> None:
    prompts = shipped()
    selection = {t.lower() for t in (*prompts.selection, *prompts.contexts_selection)}
    heldout = {t.lower() for t in (*prompts.heldout, *prompts.contexts_heldout)}
    assert not selection & heldout
    # Nor is one the beginning of the other: its positions would be the same.
    assert not [(a, b) for a in selection for b in heldout if a.startswith(b) or b.startswith(a)]


@pytest.mark.parametrize("field", SENTENCES)
def test_no_text_names_a_default_concept(field: str) -> None:
    concepts = set().union(*map(words, shipped().concepts))
    concepts |= {c + "s" for c in concepts}
    assert [t for t in getattr(shipped(), field) if words(t) & concepts] == []


# --- profiles: how much of them is taken --------------------------------------------------------------


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_a_profile_asks_for_no_more_than_there_is(profile: Profile) -> None:
    assert profile.prompts <= len(shipped().heldout)
    assert profile.contexts <= len(shipped().contexts_heldout)


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_a_profile_can_give_every_verdict(profile: Profile) -> None:
    assert profile.prompts >= 3, "the bootstrap gives no interval for fewer"
    assert profile.contexts >= 3
    assert profile.doses >= 5, "an exact trend test of one curve needs five"
    assert profile.absent >= 2
    assert smallest_family_p(profile.controls, 9) <= 0.05


def test_profiles_grow() -> None:
    smoke, standard, audit = PROFILES["smoke"], PROFILES["standard"], PROFILES["audit"]
    for less, more in ((smoke, standard), (standard, audit)):
        sizes = [(v, vars(more)[k]) for k, v in vars(less).items() if k != "name"]
        assert all(a <= b for a, b in sizes)
        assert any(a < b for a, b in sizes)
