"""The tables of neurons that are not one word's alone (FI-L006, FI-L007): made from measured values, by the eval and
again by `verify`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flashinterp.decoding.neuron_map import Word
from flashinterp.evaluation.claims import Claim
from flashinterp.neurons import NeuronId, Pole
from flashinterp.provenance.registry import derivation, record
from flashinterp.report.table import Told
from flashinterp.studies.limitations.driven_neuron import Driven
from flashinterp.studies.limitations.second_word import second_word, unlike
from flashinterp.studies.limitations.twin_records import Twin, TwinEffects, nearest_twin
from flashinterp.tokens import Token


@record("limitations.two_word_neuron", version=1)
@dataclass(frozen=True)
class Carrier:
    """A claimed neuron, the words that it may stand for, and what driving it does.

    Attributes:
        neuron, pole: which vector, and which way.
        lens: of the first claim about it.
        claimed: the words of the claims about it, each once.
        forms: the ids of the first of them, in every written form.
        words: the neuron's first words by the lens, best first.
        cosines: [words] of each with the first claimed word.
        driven: on the two words and on unrelated ones; None where it has one word, or was not driven.
        standing: three arrays of u: where the first word stands, the second, and others.
    """

    neuron: NeuronId
    pole: Pole
    lens: str
    claimed: tuple[Token, ...]
    forms: tuple[int, ...]
    words: tuple[Word, ...]
    cosines: NDArray[np.float32]
    driven: Driven | None = None
    standing: tuple[NDArray[np.float32], ...] = ()

    def pair(self, below: float) -> tuple[Token, Token] | None:
        """Its two words: of two claims, or the claim's and the best of its list that is unlike it; None for one word.

        Args:
            below: a cosine below this one is no likeness.
        """
        if self.by_claim:
            return self.claimed[0], self.claimed[1]
        word = second_word(self.words, self.forms, self.cosines, below)
        return None if word is None else (self.claimed[0], word.token)

    @property
    def by_claim(self) -> bool:
        """Whether another claim names the second word."""
        return len(self.claimed) > 1


@dataclass(frozen=True)
class Effects:
    """What driving a neuron does to its two words.

    Attributes:
        words: the two.
        on: the changes of their log-odds, nats.
        usual: the absolute change that 95 % of unrelated words do not reach.
    """

    words: tuple[Token, Token]
    on: tuple[float, float]
    usual: float

    @property
    def carried(self) -> list[Token]:
        """Those of the words that it raises by more than it moves 95 % of unrelated ones."""
        return [word for word, effect in zip(self.words, self.on, strict=True) if effect > self.usual]


def with_two_words(
    carriers: Sequence[Carrier], pairs: NDArray[np.float32]
) -> list[tuple[Carrier, tuple[Token, Token]]]:
    """Those that may carry two words, with these: first those of two claims.

    Args:
        carriers: the claimed neurons.
        pairs: [P] cosines of random pairs of words.
    """
    below = unlike(pairs)
    found = [(one, words) for one in carriers if (words := one.pair(below)) is not None]
    return sorted(found, key=lambda one: not one[0].by_claim)


def two_word_effects(carriers: Sequence[Carrier], pairs: NDArray[np.float32]) -> list[tuple[Carrier, Effects]]:
    """The driven ones of `with_two_words`, with the effects on both words."""
    found = []
    for one, words in with_two_words(carriers, pairs):
        if one.driven is not None:
            ids = [word.id for word in words]
            first, second = one.driven.effects_on(ids)
            found.append((one, Effects(words, (first, second), one.driven.usual(ids))))
    return found


@derivation("limitations.two_concepts", version=1)
def two_concepts_table(carriers: Sequence[Carrier], pairs: NDArray[np.float32]) -> Told:
    """Each neuron that may carry two words, which of them it raises, and its value where they stand."""
    rows: list[list[Any]] = []
    for one, effects in two_word_effects(carriers, pairs):
        how = "another claim" if one.by_claim else f"the {one.lens} lens"
        told = " and ".join(map(str, effects.carried)) or "neither"
        where = [float(np.median(u)) for u in one.standing]
        row = [str(one.neuron), one.pole, *map(str, effects.words), how, *effects.on, effects.usual, told]
        rows.append([*row, *where])
    headers = ["neuron", "pole", "first word", "second word", "second by", "effect, first", "effect, second"]
    return (
        [*headers, "95 % of unrelated", "carries", "u at first", "u at second", "u at others"],
        rows or [["no claim names a neuron with a second word", *[None] * 11]],
        "Effects: change of log-odds (nats) when the neuron is driven over its natural range towards the pole; of "
        "unrelated words the absolute effect that 95 % of them do not reach. u: its value where a word stands.",
    )


@record("limitations.neuron_pair", version=1)
@dataclass(frozen=True)
class Paired:
    """A claimed neuron beside all others of its MLP, and what clamping it and its nearest twin did.

    Attributes:
        claim: about the neuron.
        cosines: [2, F] of what it reads, and of what it writes, with all neurons of its MLP.
        effects: of it and the twin.
    """

    claim: Claim
    cosines: NDArray[np.float32]
    effects: TwinEffects

    @property
    def twin(self) -> Twin:
        """The nearest."""
        assert self.claim.neuron is not None
        twin = nearest_twin(self.claim.neuron.neuron, self.cosines)
        assert twin is not None
        return twin

    @property
    def other(self) -> NeuronId:
        """The twin's name."""
        assert self.claim.neuron is not None
        return NeuronId(self.claim.neuron.layer, self.twin.neuron, self.claim.neuron.expert)


@derivation("limitations.duplicate_neurons", version=1)
def duplicates_table(pairs: Sequence[Paired]) -> Told:
    """Each claimed neuron with its nearest twin, the most alike first: silenced and driven, one and both."""
    rows: list[list[Any]] = []
    for one in pairs:
        silenced, driven = one.effects.silenced, one.effects.driven
        share = silenced[0] / silenced[2] if silenced[2] else None
        row = [one.claim.id, str(one.claim.neuron), str(one.other), one.twin.likeness]
        rows.append([*row, *silenced, share, driven[0], driven[2]])
    headers = ["claim", "neuron", "nearest twin", "likeness", "silenced", "twin silenced", "both silenced"]
    return (
        [*headers, "one of both", "driven", "both driven"],
        sorted(rows, key=lambda row: -row[3]) or [["no claim names a neuron with others in its MLP", *[None] * 9]],
        "Likeness: the smaller of the cosines of what the two read and of what they write; near 1 they are one neuron "
        "twice. Changes of the claim's word's log-odds, in nats. One of both: its silencing over that of both.",
    )
