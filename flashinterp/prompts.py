"""The shipped texts: prompts and contexts, split once into selection and held-out parts that never mix."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources


@dataclass(frozen=True)
class PromptSet:
    """Texts for one purpose each.

    Attributes:
        selection: prompts on which doses and activation scales are measured.
        heldout: prompts on which effects are tested; none is in ``selection``.
        contexts_selection, contexts_heldout: beginnings to which a concept's token is appended, for the
            reading side.
        questions: for steering.
        concepts: words that are tried on a model when nobody names tokens.
    """

    selection: tuple[str, ...]
    heldout: tuple[str, ...]
    contexts_selection: tuple[str, ...]
    contexts_heldout: tuple[str, ...]
    questions: tuple[str, ...]
    concepts: tuple[str, ...]


@cache
def shipped() -> PromptSet:
    """The prompt set in ``prompts.json``."""
    raw = json.loads(resources.files("flashinterp").joinpath("prompts.json").read_text(encoding="utf-8"))
    return PromptSet(
        selection=tuple(raw["prompts"]["selection"]),
        heldout=tuple(raw["prompts"]["heldout"]),
        contexts_selection=tuple(raw["contexts"]["selection"]),
        contexts_heldout=tuple(raw["contexts"]["heldout"]),
        questions=tuple(raw["questions"]),
        concepts=tuple(raw["concepts"]),
    )
