"""Judges: whole words only, and a blind check that a bad judge does not pass."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashinterp.errors import RunError
from flashinterp.interventions.answer_judges import lexicon_judge, rate, says
from flashinterp.interventions.judge_check import (
    ELSEWHERE,
    INFLECTED,
    NAMED,
    NEAR,
    OTHER,
    PART,
    SYNONYM,
    THEME,
    Labelled,
    check_judge,
    known_texts,
)
from flashinterp.stats import wilson
from tests.helpers import assert_one_line_with_next_step

CONTEXTS = ("I like the", "She asked about the", "We saw a")
LEXICON = ["dog", "dogs"]


def rng(seed: int = 7) -> np.random.Generator:
    return np.random.default_rng(seed)


def texts(**changes: Any) -> tuple[Labelled, ...]:
    given: dict[str, Any] = {
        "near": [" cat", " dog", " puppy", " wolf"],
        "others": [" bread", " King"],
        "theme": ["With four legs came a"],
        "elsewhere": ["The bread was on the", "He paid for the"],
        "synonyms": [" puppy", " dog"],
        "rng": rng(),
        **changes,
    }
    return known_texts(" dog", CONTEXTS, **given)


def kinds(found: tuple[Labelled, ...]) -> dict[str, set[str]]:
    return {kind: {t.text for t in found if t.kind == kind} for kind in {t.kind for t in found}}


# --- texts whose content is known -------------------------------------------------------------------


def test_texts_are_labelled_by_how_they_are_made() -> None:
    found = kinds(texts())
    assert {t.kind for t in texts() if t.about} == {NAMED, INFLECTED, SYNONYM}
    assert {t.kind for t in texts() if not t.about} == {NEAR, OTHER, PART, THEME, ELSEWHERE}
    assert "I like the dog." in found[NAMED]
    assert {"I like the dogs.", "We saw a DOG.", "We saw a dog's."} <= found[INFLECTED]
    assert "We saw a puppy, and about nothing else." in found[SYNONYM]
    assert {"We saw a dogma.", "We saw a hotdogs."} <= found[PART]
    assert found[THEME] == {"With four legs came a"}
    assert found[ELSEWHERE] == {"The bread was on the", "He paid for the"}


def test_a_near_word_is_never_the_concept_or_a_synonym_of_it() -> None:
    near = " ".join(kinds(texts(near=[" Dog", " dogs", " PUPPY", " cat"]))[NEAR]).casefold()
    assert "cat" in near
    assert "dog" not in near
    assert "puppy" not in near


def test_without_a_theme_the_other_kinds_are_there() -> None:
    assert set(kinds(texts(near=(), theme=(), synonyms=()))) == {NAMED, INFLECTED, OTHER, PART, ELSEWHERE}


def test_no_kind_is_more_than_a_share_of_all_and_none_comes_twice() -> None:
    many = texts(others=[f" w{i}" for i in range(500)], elsewhere=["same"] * 50)
    assert sum(t.kind == OTHER for t in many) == 40
    assert sum(t.kind == ELSEWHERE for t in many) == 1
    assert len({t.text for t in many}) == len(many)


def test_the_same_stream_makes_the_same_texts_and_another_others() -> None:
    words = [f" w{i}" for i in range(500)]
    assert texts(others=words) == texts(others=words)
    assert texts(others=words) != texts(others=words, rng=rng(8))


# --- the blind check --------------------------------------------------------------------------------


def test_a_judge_of_whole_words_passes() -> None:
    found = check_judge(lexicon_judge([*LEXICON, "puppy"]), texts(), rng())
    assert found.wrong == ()
    n = sum(t.about for t in texts())
    assert found.sensitivity == wilson(n, n)
    assert found.specificity == wilson(len(texts()) - n, len(texts()) - n)


@pytest.mark.parametrize(
    ("judge", "wrong"),
    [
        (lambda text: "dog" in text.lower() or "puppy" in text.lower(), {PART}),  # finds dogma
        (lexicon_judge(LEXICON), {SYNONYM}),
        (lexicon_judge([*LEXICON, "puppy", "cat"]), {NEAR}),
        (lexicon_judge(["puppy"]), {NAMED, INFLECTED}),
        (lexicon_judge([*LEXICON, "puppy", "the"]), {NEAR, OTHER, PART, ELSEWHERE}),
        (lambda text: True, {NEAR, OTHER, PART, THEME, ELSEWHERE}),
        (lambda text: False, {NAMED, INFLECTED, SYNONYM}),
    ],
    ids=["parts", "no synonyms", "a near word", "synonyms only", "a function word", "always", "never"],
)
def test_what_a_bad_judge_gets_wrong_is_found_and_listed(judge: Any, wrong: set[str]) -> None:
    found = check_judge(judge, texts(), rng())
    assert {t.kind for t in found.wrong} == wrong
    misses = sum(t.about for t in found.wrong)
    about = sum(t.about for t in texts())
    assert found.sensitivity == wilson(about - misses, about)
    assert found.specificity == wilson(len(texts()) - about - (len(found.wrong) - misses), len(texts()) - about)
    for kind, (is_about, right, n) in found.by_kind().items():
        assert n - right == sum(t.kind == kind for t in found.wrong)
        assert {t.about for t in found.texts if t.kind == kind} == {is_about}


def test_the_judge_sees_only_the_text_once_and_in_shuffled_order() -> None:
    asked: list[Any] = []

    def judge(*args: Any, **kwargs: Any) -> bool:
        asked.append((args, kwargs))
        return True

    made = texts()
    found = check_judge(judge, made, rng())
    assert asked == [((t.text,), {}) for t in found.texts]
    assert sorted(t.text for t in found.texts) == sorted(t.text for t in made)
    assert found.texts != made
    assert [t.about for t in found.texts] != sorted(t.about for t in found.texts)
    assert check_judge(judge, made, rng()).texts == found.texts
    assert check_judge(judge, made, rng(8)).texts != found.texts


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40))
def test_sensitivity_and_specificity_by_counting(labels: list[tuple[bool, bool]]) -> None:
    said = {f"text {i}": answer for i, (_, answer) in enumerate(labels)}
    made = [Labelled(f"text {i}", about, "any") for i, (about, _) in enumerate(labels)]
    found = check_judge(said.__getitem__, made, rng())
    for about, share in ((True, found.sensitivity), (False, found.specificity)):
        right = [answer is about for is_about, answer in labels if is_about is about]
        assert share == (wilson(sum(right), len(right)) if right else None)
    assert len(found.wrong) == sum(about is not answer for about, answer in labels)


def test_a_text_with_two_labels_is_refused() -> None:
    both = [Labelled("a dog", True, "x"), Labelled("a dog", False, "y")]
    with pytest.raises(RunError, match="labelled as about the concept and as not") as caught:
        check_judge(lexicon_judge(LEXICON), both, rng())
    assert_one_line_with_next_step(caught.value)


def test_a_check_on_no_texts_is_refused() -> None:
    with pytest.raises(RunError, match="cannot be checked on no texts") as caught:
        check_judge(lexicon_judge(LEXICON), [], rng())
    assert_one_line_with_next_step(caught.value)


# --- any callable -----------------------------------------------------------------------------------


@pytest.mark.parametrize("said", ["no", "yes", None, 1, 0.0, np.array([True])])
def test_only_true_and_false_count(said: Any) -> None:
    for ask in (lambda judge: says(judge, "a"), lambda judge: rate(judge, ["a"])):
        with pytest.raises(RunError, match="only True and False count") as caught:
            ask(lambda text: said)
        assert_one_line_with_next_step(caught.value)


def test_the_booleans_of_numpy_count() -> None:
    assert says(lambda text: np.True_, "a") is True
    assert says(lambda text: np.bool_(False), "a") is False


def test_a_rate_is_a_wilson_interval_and_none_without_texts() -> None:
    assert rate(lexicon_judge(LEXICON), ["a dog", "a cat", "dogs", "dogma"]) == wilson(2, 4)
    assert rate(lexicon_judge(LEXICON), []) is None
