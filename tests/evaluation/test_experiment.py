"""The bench: which texts are whose, streams of chance by name, and which words may be drawn."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashinterp import Checkpoint, TokenError
from flashinterp.evaluation.claims import Claim
from flashinterp.evaluation.experiment import Experiment
from flashinterp.evaluation.profiles import PROFILES, Profile
from flashinterp.evaluation.prompts import shipped
from flashinterp.tokens import Vocabulary

SMOKE = PROFILES["smoke"]


def bench_of(surfaces: list[str], excluded: list[int] | None = None, seed: int = 0) -> Experiment:
    """A bench with a vocabulary and nothing else."""
    checkpoint: Any = SimpleNamespace(vocabulary=Vocabulary(surfaces, excluded or [], prefix_space=False))
    return Experiment(None, checkpoint, shipped(), SMOKE, seed)


def named(n: int) -> list[str]:
    """So many words with a space in front."""
    return [" " + "".join("abcdefghij"[int(d)] for d in f"{i:03}") for i in range(n)]


ALL_WORDS = bench_of(named(300))


# --- texts ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_each_profile_takes_its_own_number_of_texts(profile: Profile) -> None:
    prompts = shipped()
    bench = replace(ALL_WORDS, profile=profile)
    assert bench.selection == prompts.selection[: profile.selection] + prompts.contexts_selection
    assert bench.heldout == prompts.heldout[: profile.prompts]
    assert len(bench.selection) == profile.selection + len(prompts.contexts_selection)
    assert len(bench.heldout) == profile.prompts
    assert not set(bench.selection) & {*bench.heldout, *prompts.contexts_heldout}


def test_tokens_and_texts_are_read_with_the_checkpoints_tokenizer(planted: Checkpoint) -> None:
    bench = Experiment(None, planted, shipped(), SMOKE, 0)
    assert bench.tokenizer is planted.tokenizer
    claim = Claim("dog", "dog", None, None, "paper", None, "file")
    assert bench.token(claim) == planted.vocabulary.resolve("dog")
    assert bench.token(claim).text == " dog"
    assert bench.token(replace(claim, token=5)).id == 5
    with pytest.raises(TokenError):
        bench.token(replace(claim, token=" Dumbledore"))


# --- chance -----------------------------------------------------------------------------------------


def first_of(seed: int, name: str) -> float:
    return float(bench_of([" ab"], seed=seed).rng(name).random())


def test_a_stream_is_of_its_seed_and_of_its_name() -> None:
    again = [first_of(0, "words"), first_of(0, "words")]
    others = [first_of(1, "words"), first_of(0, "Words"), first_of(0, ""), first_of(1, "")]
    assert again[0] == again[1]
    assert len({again[0], *others}) == 5


def test_two_streams_of_one_name_do_not_go_on_from_each_other() -> None:
    ALL_WORDS.rng("words").random(100)
    assert ALL_WORDS.draw_words("words", 5, set()) == ALL_WORDS.draw_words("words", 5, set())


# --- words ------------------------------------------------------------------------------------------


def test_words_are_what_looks_like_words() -> None:
    odd = ["ab", " x", " 12", " a1", "<s>", " It's"]
    bench = bench_of([*odd, *named(120)], excluded=[10])
    assert bench.words() == [i for i in range(len(odd), len(odd) + 120) if i != 10]


def test_of_hardly_any_words_every_token_is_one_but_those_excluded() -> None:
    odd = ["<s>", "ab", " 12"]
    assert bench_of([*odd, *named(100)], excluded=[0]).words() == list(range(3, 103))
    assert bench_of([*odd, *named(99)], excluded=[0]).words() == list(range(1, 102))


@given(n=st.integers(0, 400), seed=st.integers(0, 99), but=st.sets(st.integers(0, 299)))
def test_words_are_drawn_once_each_and_none_that_is_left_out(n: int, seed: int, but: set[int]) -> None:
    drawn = replace(ALL_WORDS, seed=seed).draw_words("some", n, but)
    assert len(drawn) == len(set(drawn)) == min(n, 300 - len(but))
    assert not set(drawn) & but
    assert set(drawn) <= set(range(300))
    assert {type(i) for i in drawn} <= {int}


def test_where_all_words_are_drawn_all_come() -> None:
    assert sorted(ALL_WORDS.draw_words("all", 10**6, {7})) == [i for i in range(300) if i != 7]
    assert ALL_WORDS.draw_words("none", 5, set(range(300))) == []


def test_another_name_or_seed_draws_other_words() -> None:
    draws = [
        ALL_WORDS.draw_words("some", 20, set()),
        ALL_WORDS.draw_words("other", 20, set()),
        replace(ALL_WORDS, seed=1).draw_words("some", 20, set()),
    ]
    assert len({tuple(d) for d in draws}) == 3
    assert draws[0] != sorted(draws[0]), "or the first ones of a vocabulary would always come"


def test_every_word_is_as_likely_as_any_other() -> None:
    counts = np.zeros(300)
    for seed in range(400):
        counts[replace(ALL_WORDS, seed=seed).draw_words("some", 30, set())] += 1
    # Each is drawn with chance 1/10: 40 times, with a standard deviation of 6.
    assert 40 - 6 * 5 < counts.min() < counts.max() < 40 + 6 * 5
    assert counts.sum() == 400 * 30
