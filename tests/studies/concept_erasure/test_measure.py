"""A removal is measured as written: four directions, the last position of each text, KL at all of other text."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from flashinterp.evaluation.experiment import Experiment
from flashinterp.evaluation.profiles import PROFILES
from flashinterp.evaluation.prompts import shipped
from flashinterp.interventions.row_edits import RowEdit
from flashinterp.interventions.row_place import RowPlace
from flashinterp.models.checkpoint import Checkpoint
from flashinterp.neurons import NeuronId
from flashinterp.studies.concept_erasure.measure import Texts, measure_removal
from flashinterp.studies.concept_erasure.removal import by_direction, change
from flashinterp.tokens import Token


@pytest.fixture(scope="module")
def bench(planted: Checkpoint, planted_model: Any) -> Experiment:
    return Experiment(planted_model, planted, shipped(), PROFILES["smoke"], 0)


@pytest.fixture(scope="module")
def dog(bench: Experiment) -> Token:
    return bench.checkpoint.vocabulary.resolve(" dog")


def _edit(bench: Experiment) -> list[RowEdit]:
    row = bench.checkpoint.rows("up", 1)[17]
    return [RowEdit(RowPlace(NeuronId(1, 17), "up"), -row)]


def _told(bench: Experiment, sequences: list[torch.Tensor]) -> list[str]:
    return [bench.tokenizer.decode(ids[0], skip_special_tokens=True) for ids in sequences]


@pytest.mark.parametrize("part", ["selection", "heldout"])
def test_the_directions_are_what_their_names_say(bench: Experiment, dog: Token, part: Any) -> None:
    texts = Texts.of(bench, dog, part)
    theme = bench.prompts.group_of(" dog")
    assert theme is not None
    contexts = {"selection": bench.prompts.contexts_selection, "heldout": bench.prompts.contexts_heldout}[part]
    contexts = contexts[: bench.profile.contexts]
    assert list(texts.directions) == ["theme", "anything", "just said", "said before"]
    assert set(_told(bench, texts.directions["theme"])) <= set(getattr(theme, part))
    assert _told(bench, texts.directions["anything"]) == list(contexts)
    assert _told(bench, texts.directions["just said"]) == [f"{context} dog" for context in contexts]
    for text, first in zip(_told(bench, texts.directions["said before"]), contexts, strict=True):
        assert text.startswith(f"{first} dog. ")
        assert text.removeprefix(f"{first} dog. ") in contexts
    others = _told(bench, texts.others)
    assert others
    assert not any(" dog" in text or text in (*theme.selection, *theme.heldout) for text in others)
    assert set(others) <= set(getattr(bench.prompts, part))


def test_a_word_without_a_theme_has_three_directions(bench: Experiment) -> None:
    token = bench.checkpoint.vocabulary.resolve(" the")
    assert bench.prompts.group_of(" the") is None
    assert list(Texts.of(bench, token, "heldout").directions) == ["anything", "just said", "said before"]


def test_the_numbers_are_those_of_the_formulas(bench: Experiment, dog: Token) -> None:
    texts = Texts.of(bench, dog, "heldout")
    clean, edited = (measure_removal(bench.model, texts, dog, edits) for edits in ([], _edit(bench)))

    def log_probs(ids: torch.Tensor) -> Any:
        with torch.no_grad():
            return bench.model(ids).logits[0].double().log_softmax(-1).numpy()

    for name, sequences in texts.directions.items():
        wanted = [log_probs(ids)[-1, dog.id] for ids in sequences]
        assert np.allclose(clean.log_probs[name], wanted, atol=1e-5)
    every = np.concatenate([clean.log_probs[name] for name in texts.directions])
    assert clean.probability() == pytest.approx(float(np.exp(every).mean()))
    assert len(clean.other) == sum(ids.shape[1] for ids in texts.others)
    p, q = clean.other.double().numpy(), edited.other.double().numpy()
    assert np.allclose(edited.kl(clean), (np.exp(p) * (p - q)).sum(1), atol=1e-5)
    assert clean.kl(clean).max() == 0
    after = np.concatenate([edited.log_probs[name] for name in texts.directions])
    assert change(clean.log_probs, edited.log_probs) == pytest.approx(
        float(np.log(np.exp(after).mean() / np.exp(every).mean()))
    )


def test_the_reversed_dog_row_takes_the_dog_away(bench: Experiment, dog: Token) -> None:
    texts = Texts.of(bench, dog, "heldout")
    clean, edited = (measure_removal(bench.model, texts, dog, edits) for edits in ([], _edit(bench)))
    assert change(clean.log_probs, edited.log_probs) < -0.5
    told = by_direction(clean.log_probs, edited.log_probs)
    before, after, highest, odds = told["just said"]
    assert after < before / 3
    assert after <= highest
    assert odds < -1
