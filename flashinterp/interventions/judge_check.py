"""Is a judge of answers right? It is asked about texts of which the answer is known (METHOD 6)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from flashinterp.errors import RunError
from flashinterp.interventions.answer_judges import Judge, says
from flashinterp.provenance.registry import record
from flashinterp.stats import Interval, wilson


@record("steering.labelled_text", version=1)
@dataclass(frozen=True)
class Labelled:
    """A text, what is in it, and why it is asked about.

    Attributes:
        text: what the judge sees, and all that it sees.
        about: whether it is about the concept, by how it was made.
        kind: which difficulty it stands for.
    """

    text: str
    about: bool
    kind: str


@dataclass(frozen=True)
class JudgeCheck:
    """What a judge said of texts with known content.

    Attributes:
        texts: in the order in which they were shown.
        said: what the judge said of each.
        sensitivity: the share of the texts about the concept that it called so, with its Wilson interval; None where
            there were none.
        specificity: the same for the others, called otherwise.
    """

    texts: tuple[Labelled, ...]
    said: tuple[bool, ...]
    sensitivity: Interval | None
    specificity: Interval | None

    @property
    def wrong(self) -> tuple[Labelled, ...]:
        """The texts that it got wrong."""
        return tuple(t for t, said in zip(self.texts, self.said, strict=True) if said is not t.about)

    def by_kind(self) -> dict[str, tuple[bool, int, int]]:
        """For each kind of text: whether it is about the concept, how many the judge got right, of how many."""
        wrong = [t.kind for t in self.wrong]
        kinds = sorted({(not t.about, t.kind) for t in self.texts})  # those about the concept first
        counts = {kind: sum(t.kind == kind for t in self.texts) for _, kind in kinds}
        return {kind: (not other, counts[kind] - wrong.count(kind), counts[kind]) for other, kind in kinds}


def check_judge(judge: Judge, texts: Sequence[Labelled], rng: np.random.Generator) -> JudgeCheck:
    """Ask a judge about texts with known content, blindly: shuffled, and it sees only the text.

    Raises:
        RunError: there are no texts, a text has both labels, or the judge says neither True nor False.
    """
    if not texts:
        raise RunError("a judge cannot be checked on no texts: give some about the concept and some about others")
    labels: dict[str, bool] = {}
    for one in texts:
        if labels.setdefault(one.text, one.about) is not one.about:
            raise RunError(f"the text {one.text!r} is labelled as about the concept and as not: give it one label")
    shown = tuple(texts[i] for i in rng.permutation(len(texts)))
    said = tuple(says(judge, t.text) for t in shown)
    right = {
        about: [s is about for t, s in zip(shown, said, strict=True) if t.about is about] for about in (True, False)
    }
    sensitivity, specificity = (wilson(sum(right[about]), len(right[about])) for about in (True, False))
    return JudgeCheck(shown, said, sensitivity, specificity)


NAMED, INFLECTED = "names the concept", "inflected or in other letters"
SYNONYM, NEAR, OTHER = "a synonym", "a near word", "another theme's word"
PART, THEME, ELSEWHERE = "a longer word around it", "of the theme, names no concept", "about something else"
_WHOLE = ("{} {}.", "{} {}, and about nothing else.", 'He said "{1}" when they asked about it.', "{1}! {0}")
_MOST = 40  # texts of a kind; one of hundreds would be all of a share


def known_texts(
    word: str,
    contexts: Sequence[str],
    *,
    near: Sequence[str],
    others: Sequence[str],
    theme: Sequence[str],
    elsewhere: Sequence[str],
    synonyms: Sequence[str] = (),
    rng: np.random.Generator,
) -> tuple[Labelled, ...]:
    """Texts that are about a word's concept, or not, by how they are made.

    About it: beginnings with the word in several sentences, with its plural, possessive and other capitals, and with
    synonyms. Not about it: with a near word of the same theme, with a word of another theme, with a longer word that
    has it as a part (as "dogma" and "hotdogs" have "dog"), texts of the theme that name none of its words, and texts
    about something else.

    Args:
        word: the concept as it is written.
        contexts: beginnings after which a noun may stand.
        near: words of the same theme; those that are forms of the word or synonyms are left out.
        others: words of other themes.
        theme, elsewhere: texts that name no concept, of the theme and of others.
        synonyms: other words that are known to name the concept.
        rng: which of them are taken, where there are many.
    """
    word = word.strip()
    forms = [f for f in (f"{word}s", f"{word}'s", word.upper(), word.capitalize(), word.lower()) if f != word]
    same = {w.strip().casefold() for w in (word, *forms, *synonyms)}
    meant = [w for w in synonyms if w.strip().casefold() != word.casefold()]
    kinds = {
        NAMED: (True, _sentences(contexts, [word], _WHOLE)),
        INFLECTED: (True, _sentences(contexts, forms, _WHOLE[:1])),
        SYNONYM: (True, _sentences(contexts, meant, _WHOLE)),
        NEAR: (False, _sentences(contexts, [w for w in near if w.strip().casefold() not in same], _WHOLE)),
        OTHER: (False, _sentences(contexts, [w for w in others if w.strip().casefold() not in same], _WHOLE)),
        PART: (False, _sentences(contexts, [f"{word.lower()}ma", f"hot{word.lower()}s"], _WHOLE[:1])),
        THEME: (False, iter(theme)),
        ELSEWHERE: (False, iter(elsewhere)),
    }
    made = []
    for kind, (about, texts) in kinds.items():
        several = list(dict.fromkeys(texts))
        chosen = sorted(rng.permutation(len(several))[:_MOST].tolist())
        made += [Labelled(several[i], about, kind) for i in chosen]
    return tuple(made)


def _sentences(contexts: Sequence[str], words: Sequence[str], patterns: Sequence[str]) -> Iterator[str]:
    return (pattern.format(context, w.strip()) for pattern, context, w in product(patterns, contexts, words))
