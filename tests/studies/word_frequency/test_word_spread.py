"""The spread of words: by score and by effect, or why an effect cannot be had."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from flashinterp.errors import RunError
from flashinterp.evaluation.experiment import Experiment
from flashinterp.evaluation.profiles import PROFILES
from flashinterp.evaluation.prompts import shipped
from flashinterp.models.checkpoint import Checkpoint
from flashinterp.studies.word_frequency import word_spread as module
from flashinterp.studies.word_frequency.word_spread import NULLS, WORDS, drawn_words, word_spread


def test_words_are_drawn_once_and_ascending(planted: Checkpoint) -> None:
    bench = Experiment(None, planted, shipped(), PROFILES["smoke"], 0)
    words = drawn_words(bench)
    assert words == sorted(set(words)) == drawn_words(bench)
    assert len(words) == WORDS
    assert set(words) <= set(planted.vocabulary.words())


@pytest.mark.parametrize("quantised", [False, True])
def test_both_ways_or_the_reason(quantised: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def concentration(bench: Any, ids: Any, *, lenses: Any, nulls: int, how: Any = ("attribution",)) -> Any:
        if how and quantised:
            raise RunError("no gradients")
        return [(tuple(ids), lenses, nulls, how)]

    monkeypatch.setattr(module, "concentration", concentration)
    roster = range(12)
    bench: Any = SimpleNamespace(checkpoint=SimpleNamespace(layout=SimpleNamespace(roster=roster)))
    found = word_spread(bench, "some", [3, 5])
    assert (found.name, found.words, found.neurons) == ("some", 2, 12)
    assert found.by_score == [((3, 5), ("paper", "read", "write"), NULLS, ())]
    assert found.by_effect == ("no gradients" if quantised else [((3, 5), (), NULLS, ("attribution",))])
