"""Several words reversed: those that cannot be are told, with the reason."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from flashinterp.errors import RunError
from flashinterp.models.checkpoint import Checkpoint
from flashinterp.studies.concept_erasure import reverse_words as module
from flashinterp.studies.concept_erasure.reverse_words import concept_vectors, reverse_words


def test_what_cannot_be_reversed_is_told(planted: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    def reverse(bench: Any, word: str) -> str:
        if word == " cat":
            raise RunError("no number of edits spares other text")
        return f"reversed{word}"

    monkeypatch.setattr(module, "reverse", reverse)
    bench: Any = SimpleNamespace(checkpoint=planted)
    found, unmeasured = reverse_words(bench, (" dog", " cat", " sea"))
    assert found == ["reversed dog", "reversed sea"]
    assert unmeasured == [("␣cat", "no number of edits spares other text")]


def test_both_vectors_are_kept() -> None:
    made = SimpleNamespace(approximate=torch.tensor([1.0, 2]).double(), refined=torch.tensor([3.0, 4]).double())
    given: Any = [SimpleNamespace(concept=made)]
    (vectors,) = concept_vectors(given)
    assert vectors.tolist() == [[1, 2], [3, 4]]
    assert vectors.dtype == "float32"
