"""Faults in what drives a concept and what takes it out: steering, its judge, the removal, and the exported clamp."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from flashinterp.interventions import clamp_export as export
from flashinterp.interventions.answer_judges import Judge
from flashinterp.interventions.row_edits import RowEdit
from flashinterp.studies.concept_erasure import reverse
from flashinterp.studies.concept_erasure.concept_vector import ConceptVector
from flashinterp.studies.concept_erasure.removal import RankedRow
from flashinterp.studies.steering import measure, records
from tests.integration.faults.faults import Fault, after, instead
from tests.integration.faults.running import REMOVAL, STEERING


def no_clamp(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steered answers are made without the steering."""
    sound = measure.steer

    def idle(model: Any, tokenizer: Any, prompt: Any, clamps: dict[Any, float], **kwargs: Any) -> Any:
        return sound(model, tokenizer, prompt, dict.fromkeys(clamps, 0.0), **kwargs)

    monkeypatch.setattr(measure, "steer", idle)


def first_clamp_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several clamps at once only the first is set."""
    sound = measure.steer

    def steer(model: Any, tokenizer: Any, prompt: Any, clamps: dict[Any, float], **kwargs: Any) -> Any:
        return sound(model, tokenizer, prompt, dict([next(iter(clamps.items()))]), **kwargs)

    monkeypatch.setattr(measure, "steer", steer)


def by_substring(words: Sequence[str]) -> Judge:
    """A judge that finds its words in the middle of longer ones, too."""
    wanted = [word.strip().casefold() for word in words if word.strip()]
    return lambda answer: any(word in answer.casefold() for word in wanted)


def towards_the_concept(concept: ConceptVector, rows: Sequence[RankedRow]) -> list[RowEdit]:
    """Rows are turned to the concept's vector and not to its opposite."""
    return [reverse._turned(row.place, concept.refined, row.norm) for row in rows]


FAULTS = {
    "steering without a clamp": Fault(no_clamp, STEERING, "test_clamped_answers", "AssertionError: clamped"),
    "only the first of two clamps": Fault(first_clamp_alone, STEERING, "test_two_clamps_at_once", "two at once, "),
    "a judge of substrings": Fault(
        instead(records, "lexicon_judge", by_substring),
        STEERING,
        "test_judge_is_checked_blindly",
        "right, a longer word around it",
    ),
    "a removal that does not reverse": Fault(
        instead(reverse, "reversed_rows", towards_the_concept),
        REMOVAL,
        "test_concepts_removed",
        "nats, and by",
    ),
    "an exported clamp that is not written": Fault(
        after(export, "_edits", lambda *_: {}), REMOVAL, "test_exported_clamp", "exported at up: the logits are off by"
    ),
}
