"""The shipped texts: prompts and contexts, split once into selection and held-out parts that never mix."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from functools import cache, cached_property
from hashlib import sha256
from importlib import resources
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

from flashinterp.errors import RunError
from flashinterp.provenance.registry import record


@record("evaluation.prompt_group", version=1)
@dataclass(frozen=True)
class Group:
    """Prompts of one theme: beginnings after which a word of that theme is about to come.

    Attributes:
        name: the theme.
        words: its concepts, as tokens are written, with a space in front; empty for prompts after which anything may
            come. No prompt of any group names one.
        selection, heldout: its prompts.
    """

    name: str
    words: tuple[str, ...]
    selection: tuple[str, ...]
    heldout: tuple[str, ...]


@dataclass(frozen=True)
class PromptSet:
    """Texts for one purpose each.

    Attributes:
        groups: the prompts by theme. Doses and activation scales are measured on those for selection, effects are
            tested on those that are held out.
        contexts_selection, contexts_heldout: beginnings to which a concept's token is appended, for the
            reading side.
        questions: for steering.
        concepts: words that are tried on a model when nobody names tokens.
    """

    groups: tuple[Group, ...]
    contexts_selection: tuple[str, ...]
    contexts_heldout: tuple[str, ...]
    questions: tuple[str, ...]
    concepts: tuple[str, ...]

    @cached_property
    def selection(self) -> tuple[str, ...]:
        """All selection prompts: each group's first, then each group's second, and so on until all are through."""
        return _round_robin([g.selection for g in self.groups])

    @cached_property
    def heldout(self) -> tuple[str, ...]:
        """All held-out prompts, in the same order: the first few of them are of many themes."""
        return _round_robin([g.heldout for g in self.groups])

    @cached_property
    def digest(self) -> str:
        """The sha256 of all of it, for the record."""
        canonical = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return sha256(canonical.encode()).hexdigest()

    def group_of(self, word: str) -> Group | None:
        """The group that has a word among its concepts, however its space and its capitals are written."""
        return next((g for g in self.groups if _plain(word) in map(_plain, g.words)), None)

    def about_something_else(self, word: str, n: int) -> tuple[str, ...]:
        """The first n held-out prompts that are not of the word's theme and do not contain it."""
        own = self.group_of(word)
        own_texts = set(own.heldout) if own else set()
        contained = re.compile(rf"(?<!\w){re.escape(_plain(word))}(?!\w)")
        others = [t for t in self.heldout if t not in own_texts and not contained.search(t.casefold())]
        return tuple(others[:n])


@cache
def shipped() -> PromptSet:
    """The prompt set in ``prompts.json``."""
    return _parsed(json.loads(resources.files(__package__).joinpath("prompts.json").read_text(encoding="utf-8")))


def read_prompts(file: str | Path) -> PromptSet:
    """A prompt set from a file with the fields of the shipped one, which is ``flashinterp/evaluation/prompts.json``.

    Raises:
        RunError: the file cannot be read, is no JSON, or lacks a field.
    """
    try:
        return _parsed(json.loads(Path(file).read_text(encoding="utf-8")))
    except OSError as error:
        raise RunError(f"the prompt file {file} cannot be read ({error.strerror}): name one that is there") from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunError(
            f"{file} is no prompt file ({type(error).__name__}: {error}): give it the fields of the shipped "
            "flashinterp/evaluation/prompts.json"
        ) from None


def _parsed(raw: Any) -> PromptSet:
    prompts = PromptSet(
        groups=tuple(
            Group(str(g["name"]), *(_texts(g[k]) for k in ("words", "selection", "heldout"))) for g in raw["groups"]
        ),
        contexts_selection=_texts(raw["contexts"]["selection"]),
        contexts_heldout=_texts(raw["contexts"]["heldout"]),
        questions=_texts(raw["questions"]),
        concepts=_texts(raw["concepts"]),
    )
    for name in ("selection", "heldout", "contexts_selection", "contexts_heldout", "questions"):
        if not getattr(prompts, name):
            raise ValueError(f"no texts in {name}")
    return prompts


def _texts(given: Any) -> tuple[str, ...]:
    if not isinstance(given, list) or not all(isinstance(t, str) and t.strip() for t in given):
        raise TypeError(f"a list of texts is wanted, not {str(given)[:60]!r}")
    return tuple(given)


def check_split(prompts: PromptSet) -> None:
    """Check that nothing is tested on text that has set a dose.

    Raises:
        RunError: a held-out text is a selection text, or one of them is the beginning of the other, so that the
            model would be measured at the same positions.
    """
    selection = {_normal(t): t for t in (*prompts.selection, *prompts.contexts_selection)}
    for text in (*prompts.heldout, *prompts.contexts_heldout):
        own = _normal(text)
        for other, written in selection.items():
            if own.startswith(other) or other.startswith(own):
                raise RunError(
                    f"the held-out text {text!r} is not apart from the selection text {written!r}: one is the other "
                    "or its beginning; take one of them out"
                )


def _round_robin(parts: list[tuple[str, ...]]) -> tuple[str, ...]:
    rounds = chain.from_iterable(zip_longest(*parts))
    return tuple(text for text in rounds if text is not None)


def _plain(word: str) -> str:
    return word.strip().casefold()


def _normal(text: str) -> str:
    return " ".join(text.casefold().split())
