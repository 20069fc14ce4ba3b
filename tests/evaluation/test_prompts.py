"""The shipped texts: what selects and what tests never mix, and neither gives a concept away."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, replace
from itertools import combinations, product
from pathlib import Path
from typing import Any

import pytest

from flashinterp.errors import RunError
from flashinterp.evaluation.profiles import PROFILES, Profile
from flashinterp.evaluation.prompts import Group, PromptSet, check_split, read_prompts, shipped
from flashinterp.stats import smallest_family_p

TEXTS = ("selection", "heldout", "contexts_selection", "contexts_heldout", "questions", "concepts")
SENTENCES = TEXTS[:4]
GROUPS = pytest.mark.parametrize("group", shipped().groups, ids=lambda g: g.name)
PARTS = pytest.mark.parametrize("part", ["selection", "heldout"])

# Two groups, of which one is longer.
TINY = PromptSet(
    groups=(
        Group("any", (), ("We saw the", "They like", "Tell me"), ("He took a", "She has Dogs and", "One hot dog is a")),
        Group("pets", (" dog", " cat"), ("It barked like a",), ("The vet saw my", "He fed the")),
    ),
    contexts_selection=("I know of",),
    contexts_heldout=("A word is",),
    questions=("What?",),
    concepts=(" dog",),
)


def words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))


def overlap(a: str, b: str) -> float:
    """Jaccard: the share of the words of two texts that both have."""
    return len(words(a) & words(b)) / len(words(a) | words(b))


# --- what is shipped ----------------------------------------------------------------------------------


def test_the_shipped_set_is_read_once_and_cannot_be_changed() -> None:
    assert shipped() is shipped()
    assert isinstance(shipped(), PromptSet)
    assert all(isinstance(getattr(shipped(), field), tuple) for field in TEXTS)
    assert all(isinstance(part, tuple) for g in shipped().groups for part in (g.words, g.selection, g.heldout))
    hash(shipped())


def test_there_are_some_hundreds_of_prompts_in_many_themes() -> None:
    everyday, *themes = shipped().groups
    assert (everyday.name, everyday.words) == ("everyday", ())
    assert len(everyday.selection) == len(everyday.heldout) == 24
    assert len(themes) == 15
    assert len({g.name for g in shipped().groups}) == 16
    assert {(len(g.selection), len(g.heldout)) for g in themes} == {(12, 12)}
    assert len(shipped().selection) == len(shipped().heldout) == 204


def test_the_words_of_the_texts_are_plain() -> None:
    prompts = shipped()
    texts = (*(t for field in SENTENCES for t in getattr(prompts, field)), *prompts.questions)
    assert len(set().union(*map(words, texts))) <= 1100, "each is a token of the fixtures"


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


@GROUPS
@PARTS
def test_a_prompt_is_the_plain_beginning_of_a_sentence(group: Group, part: str) -> None:
    for text in getattr(group, part):
        assert re.fullmatch(r"[A-Z][A-Za-z]*(,? [A-Za-z]+)*", text), text
        assert 6 <= len(text.split()) <= 16, text


# --- the split ----------------------------------------------------------------------------------------


def test_the_shipped_split_holds() -> None:
    check_split(shipped())


def test_no_text_is_the_beginning_of_another_on_either_side() -> None:
    texts = [t.lower() for field in SENTENCES for t in getattr(shipped(), field)]
    assert not [(a, b) for a, b in combinations(texts, 2) if a.startswith(b) or b.startswith(a)]


def test_nothing_that_tests_is_nearly_what_selects() -> None:
    prompts = shipped()
    selection = (*prompts.selection, *prompts.contexts_selection)
    heldout = (*prompts.heldout, *prompts.contexts_heldout)
    assert [(a, b) for a, b in product(selection, heldout) if overlap(a, b) >= 0.5] == []


@pytest.mark.parametrize(
    "text",
    ["We saw the", "we  SAW the ", "We saw the old", "We", "I know of", "I know of a"],
    ids=["equal", "equal but for case and space", "longer", "shorter", "a context", "longer than a context"],
)
@pytest.mark.parametrize("where", ["prompt", "context"])
def test_a_text_on_both_sides_is_refused_by_name(text: str, where: str) -> None:
    any_, pets = TINY.groups
    if where == "prompt":
        mixed = replace(TINY, groups=(any_, replace(pets, heldout=(*pets.heldout, text))))
    else:
        mixed = replace(TINY, contexts_heldout=(*TINY.contexts_heldout, text))
    with pytest.raises(RunError) as caught:
        check_split(mixed)
    assert repr(text) in str(caught.value)
    assert re.search("'(We saw the|I know of)'", str(caught.value)), "the selection text is named, too"
    assert "\n" not in str(caught.value)


def test_texts_of_one_side_may_begin_alike() -> None:
    any_, pets = TINY.groups
    check_split(TINY)
    check_split(replace(TINY, groups=(any_, replace(pets, heldout=("The vet", "The vet saw my", "The vet saw")))))


# --- concepts -----------------------------------------------------------------------------------------


def concepts() -> set[str]:
    prompts = shipped()
    single = set().union(*map(words, (*prompts.concepts, *(w for g in prompts.groups for w in g.words))))
    return single | {c + "s" for c in single}


@pytest.mark.parametrize("field", SENTENCES)
def test_no_text_names_a_concept(field: str) -> None:
    assert [(t, words(t) & concepts()) for t in getattr(shipped(), field) if words(t) & concepts()] == []


def test_a_concept_is_one_word_with_its_space_in_one_group() -> None:
    themes = shipped().groups[1:]
    assert all(15 <= len(g.words) <= 30 for g in themes)
    every = [w for g in themes for w in g.words]
    assert all(re.fullmatch(r" [A-Za-z]+", w) for w in every)
    assert len({w.lower() for w in every}) == len(every)
    # What has no theme of its own: a colour, a size, a mood, a toy, a time.
    assert {c for c in shipped().concepts if c not in every} == {" red", " big", " happy", " ball", " day"}


@pytest.mark.parametrize(
    ("word", "name"),
    [(" dog", "pets"), ("dog", "pets"), (" DOG", "pets"), ("Cat", "pets"), (" dogs", None), (" do", None), ("", None)],
)
def test_a_word_is_of_the_group_that_lists_it(word: str, name: str | None) -> None:
    group = TINY.group_of(word)
    assert (group.name if group else None) == name


def test_the_shipped_concepts_are_of_the_theme_that_one_expects() -> None:
    expected = {
        " dog": "animals", " California": "places", " bread": "food and drink", " river": "water and sea",
        " king": "royalty and power", " wizard": "magic and fantasy", " Sherlock": "crime and detectives",
        " music": "music", " war": "war and conflict", " money": "money and trade", " doctor": "body and health",
        " car": "machines and computers", " moon": "weather and sky", " mom": "family and home",
        " school": "school and science",
    }  # fmt: skip
    assert {word: group.name for word in expected if (group := shipped().group_of(word))} == expected


# --- orders -------------------------------------------------------------------------------------------


def test_the_order_goes_round_the_groups() -> None:
    assert TINY.selection == ("We saw the", "It barked like a", "They like", "Tell me")
    assert TINY.heldout == ("He took a", "The vet saw my", "She has Dogs and", "He fed the", "One hot dog is a")
    assert replace(TINY, groups=()).selection == ()


@PARTS
def test_the_first_texts_are_of_all_themes(part: str) -> None:
    groups = shipped().groups
    first = getattr(shipped(), part)[: 2 * len(groups)]
    assert [sum(t in getattr(g, part) for t in first) for g in groups] == [2] * len(groups)
    assert sorted(getattr(shipped(), part)) == sorted(t for g in groups for t in getattr(g, part))


def test_about_something_else_leaves_out_the_theme_and_the_word() -> None:
    assert TINY.about_something_else(" dog", 9) == ("He took a", "She has Dogs and")
    assert TINY.about_something_else("dog", 1) == ("He took a",)
    assert TINY.about_something_else(" dogs", 9) == ("He took a", "The vet saw my", "He fed the", "One hot dog is a")
    assert TINY.about_something_else(" DOG", 9) == TINY.about_something_else("dog", 9)
    assert TINY.about_something_else(" cat", 9) == ("He took a", "She has Dogs and", "One hot dog is a")
    assert TINY.about_something_else(" king", 9) == TINY.heldout, "a word of no group is of no theme"
    assert TINY.about_something_else(" dog", 0) == ()


@GROUPS
def test_there_are_always_enough_texts_about_something_else(group: Group) -> None:
    for word in group.words:
        texts = shipped().about_something_else(word, len(shipped().heldout))
        assert texts == tuple(t for t in shipped().heldout if t not in group.heldout)


# --- the record ---------------------------------------------------------------------------------------


def test_the_digest_is_of_every_text_and_of_its_place() -> None:
    any_, pets = TINY.groups
    changed = [
        TINY,
        replace(TINY, groups=(pets, any_)),
        replace(TINY, groups=(any_, replace(pets, name="animals"))),
        replace(TINY, groups=(any_, replace(pets, words=(" dog",)))),
        replace(TINY, groups=(any_, replace(pets, selection=pets.heldout, heldout=pets.selection))),
        replace(TINY, contexts_selection=TINY.contexts_heldout, contexts_heldout=TINY.contexts_selection),
        replace(TINY, questions=("Why?",)),
        replace(TINY, concepts=()),
    ]
    digests = [p.digest for p in changed]
    assert all(re.fullmatch("[0-9a-f]{64}", d) for d in digests)
    assert len(set(digests)) == len(digests)
    assert replace(TINY).digest == TINY.digest


# --- profiles: how much of them is taken --------------------------------------------------------------


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_a_profile_asks_for_no_more_than_there_is(profile: Profile) -> None:
    assert profile.selection <= len(shipped().selection)
    assert profile.prompts <= len(shipped().heldout)
    assert profile.unrelated_texts <= len(shipped().heldout) - 12, "those of the word's own theme are left out"
    assert profile.contexts <= len(shipped().contexts_heldout)


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_a_profile_can_give_every_verdict(profile: Profile) -> None:
    assert profile.prompts >= 3, "the bootstrap gives no interval for fewer"
    assert profile.contexts >= 3
    assert profile.doses >= 5, "an exact trend test of one curve needs five"
    assert profile.absent >= 2
    assert smallest_family_p(1 / (profile.controls + 1), 9) <= 0.05


def test_profiles_grow() -> None:
    smoke, standard, audit = PROFILES["smoke"], PROFILES["standard"], PROFILES["audit"]
    for less, more in ((smoke, standard), (standard, audit)):
        sizes = [(v, vars(more)[k]) for k, v in vars(less).items() if k != "name"]
        assert all(a <= b for a, b in sizes)
        assert any(a < b for a, b in sizes)


# --- prompts of one's own -----------------------------------------------------------------------------


def written(prompts: PromptSet) -> dict[str, Any]:
    """A prompt set as its file has it."""
    return {
        "groups": [asdict(group) for group in prompts.groups],
        "contexts": {"selection": prompts.contexts_selection, "heldout": prompts.contexts_heldout},
        "questions": prompts.questions,
        "concepts": prompts.concepts,
    }


def test_a_file_of_prompts_is_read_as_it_was_written(tmp_path: Path) -> None:
    file = tmp_path / "prompts.json"
    for prompts in (TINY, shipped()):
        file.write_text(json.dumps(written(prompts)), encoding="utf-8")
        assert read_prompts(file) == prompts
        assert read_prompts(file).digest == prompts.digest


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"groups": []}, "no texts in selection"),
        ({"groups": [{"name": "x", "words": [], "selection": ["A"]}]}, "heldout"),
        ({"contexts": {"selection": ["A"], "heldout": []}}, "no texts in contexts_heldout"),
        ({"questions": "What?"}, "a list of texts is wanted, not 'What[?]'"),
        ({"concepts": [" dog", 7]}, "a list of texts is wanted"),
        ({"concepts": [" "]}, "a list of texts is wanted"),
    ],
)
def test_a_file_that_lacks_something_is_refused(tmp_path: Path, change: dict[str, Any], told: str) -> None:
    file = tmp_path / "mine.json"
    file.write_text(json.dumps({**written(TINY), **change}), encoding="utf-8")
    with pytest.raises(RunError, match=f"mine.json is no prompt file .*{told}.*give it the fields"):
        read_prompts(file)


@pytest.mark.parametrize("content", ["", "[1]", "{", "7"])
def test_a_file_of_something_else_is_refused(tmp_path: Path, content: str) -> None:
    file = tmp_path / "mine.json"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(RunError, match=r"mine.json is no prompt file"):
        read_prompts(file)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"none.json cannot be read \(No such file.*name one that is there"):
        read_prompts(tmp_path / "none.json")
