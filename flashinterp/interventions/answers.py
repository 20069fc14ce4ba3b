"""Clean and clamped answers beside each other, and whether a text is broken."""

from __future__ import annotations

from dataclasses import dataclass
from string import punctuation
from typing import Any

from flashinterp.interventions.answer_judges import Judge, rate
from flashinterp.stats import Interval

_REPEAT_SPAN = 3  # words; a text that loops repeats its three-word runs
_FEW_WORDS = 5  # of fewer, one word that makes up half of them says nothing


@dataclass(frozen=True)
class Answers:
    """n answers of the same model to the same prompt from the same seeds, unclamped and clamped.

    Attributes:
        prompt: the text that the model was given, chat template applied.
        clean, clamped: the answers' texts.
        seeds: one per answer, the same for both.
        repetition_clean, repetition_clamped: share of an answer's three-word runs that it repeats.
        perplexity_clean, perplexity_clamped: of each answer under the unclamped model; None where empty or no number.
        settings: how the answers were sampled, and where the clamp was.
    """

    prompt: str
    clean: tuple[str, ...]
    clamped: tuple[str, ...]
    seeds: tuple[int, ...]
    repetition_clean: tuple[float, ...]
    repetition_clamped: tuple[float, ...]
    perplexity_clean: tuple[float | None, ...]
    perplexity_clamped: tuple[float | None, ...]
    settings: dict[str, Any]

    def rates(self, judge: Judge) -> tuple[Interval | None, Interval | None]:
        """The share of answers about the concept, without and with the clamp, with Wilson intervals."""
        return rate(judge, self.clean), rate(judge, self.clamped)


def repetition(text: str) -> float:
    """The share of three-word runs that occurred before in the text: 0 for none, near 1 for a loop."""
    words = text.split()
    runs = [tuple(words[i : i + _REPEAT_SPAN]) for i in range(len(words) - _REPEAT_SPAN + 1)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def broken(text: str) -> bool:
    """Whether a text is none, or fell apart: it has no word, or one word makes up half of its five or more."""
    words = [word.strip(punctuation).casefold() for word in text.split()]
    words = [word for word in words if word]
    most = max(map(words.count, set(words)), default=0)
    return not words or (len(words) >= _FEW_WORDS and 2 * most >= len(words))
