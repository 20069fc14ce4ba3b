"""Who says whether an answer is about a concept, and how good that judge is on texts whose content is known (METHOD 6).

A judge is any callable from a text to True or False. It sees nothing but the text: not the prompt, not the clamp,
not which side an answer is from.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from flashinterp.errors import RunError
from flashinterp.stats import Interval, wilson

Judge = Callable[[str], bool]
"""Says whether an answer is about the concept."""


def lexicon_judge(words: Sequence[str]) -> Judge:
    """A judge that looks for any of these words, as whole words, in any case."""
    if isinstance(words, str):
        raise RunError(f"a lexicon is a list of words, and {words!r} is a text: put it in a list")
    wanted = sorted({w.strip() for w in words if w.strip()})
    if not wanted:
        raise RunError("a lexicon needs at least one word: give the concept's written forms")
    pattern = re.compile(r"(?<!\w)(" + "|".join(map(re.escape, wanted)) + r")(?!\w)", re.IGNORECASE)
    return lambda answer: pattern.search(answer) is not None


def says(judge: Judge, text: str) -> bool:
    """What a judge says of a text.

    Raises:
        RunError: neither True nor False; the "no" of a model that judges would count as a yes.
    """
    said: Any = judge(text)
    if not isinstance(said, bool | np.bool_):
        raise RunError(f"a judge said {said!r} of a text, and only True and False count: give one that returns these")
    return bool(said)


def rate(judge: Judge, texts: Iterable[str]) -> Interval | None:
    """The share of texts about the concept, with its Wilson interval; None without texts."""
    about = [says(judge, text) for text in texts]
    return wilson(sum(about), len(about))
