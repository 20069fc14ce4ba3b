"""The tables of names and where they lead (FI-L001, FI-L008): made from measured values, by the eval and again by
`verify`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from flashinterp.decoding.neuron_map import Found, Word
from flashinterp.provenance.registry import derivation, record
from flashinterp.report.table import Told
from flashinterp.studies.limitations.driven_neuron import Driven
from flashinterp.tokens import Token

By = Literal["token", "first", "mean"]
Reading = Literal["own", "piece", "broader", "noise"]
COMPARED = (" Dumbledore", " Sherlock")
"""The names of the paper that the finding is about."""
NOT_REACHED = "not measured: natural text does not reach its expert"
_TOLD: dict[Reading, str] = {
    "own": "has its own",
    "piece": "leads to its piece",
    "broader": "leads to",
    "noise": "leads to noise,",
}


@record("limitations.name_lookup", version=1)
@dataclass(frozen=True)
class Lead:
    """Where one look-up of a name leads, and what driving that neuron does.

    Attributes:
        name: as it was asked for.
        by: what was looked up: its one ``token``, or, of several, the ``first`` or the ``mean`` of them.
        tokens: of the name.
        forms: the ids of a name of one token, in every written form; of a name of several none.
        found: the neuron with the highest score, and the pole.
        words: the neuron's first words on that pole, best first.
        driven: on the name's first token and on the neuron's best word; None where natural text does not reach it.
        whole: [2 ends, prompts] the log-probability of all the name's tokens one after the other; None where it was not
            taken.
    """

    name: str
    by: By
    tokens: tuple[Token, ...]
    forms: tuple[int, ...]
    found: Found
    words: tuple[Word, ...]
    driven: Driven | None = None
    whole: NDArray[np.float64] | None = None

    @property
    def best(self) -> Token:
        """The neuron's best word."""
        return self.words[0].token

    @property
    def looked_up_by(self) -> str:
        """In words."""
        if self.by == "token":
            return f"token {self.tokens[0]}"
        return f"first of {len(self.tokens)}: {self.tokens[0]}" if self.by == "first" else f"mean of {len(self.tokens)}"

    @property
    def reading(self) -> Reading:
        """What the neuron's best word is to the name: its own, a piece of it, a broader word, or noise."""
        ids = [token.id for token in self.tokens]
        if len(ids) == 1 and self.best.id in self.forms:
            return "own"
        if len(ids) > 1 and self.best.id in ids:
            return "piece"
        return "broader" if any(word.token.id == ids[0] for word in self.words) else "noise"

    @property
    def effects(self) -> list[float | None]:
        """On the name's first token and on the best word, nats; None where the neuron was not driven."""
        return [None, None] if self.driven is None else [*self.driven.effects]

    @property
    def brings(self) -> int | None:
        """Which of the two rises and is likelier at the end: 0, the name, 1, the best word, or neither."""
        if self.driven is None or max(self.driven.effects) <= 0:
            return None
        return int(np.argmax(np.where(np.array(self.driven.effects) > 0, self.driven.means[1], -np.inf)))

    @property
    def whole_effect(self) -> float | None:
        """On the log-probability of all tokens of the name, mean over prompts, nats."""
        if self.whole is None:
            return None
        start, end = (float(sum(values)) / len(values) for values in self.whole)
        return end - start


@derivation("limitations.name_lookups", version=1)
def names_table(leads: Sequence[Lead]) -> Told:
    """Where each name leads, and what the found neuron brings."""
    rows: list[list[Any]] = []
    for lead in leads:
        f = lead.found
        row = [lead.name.strip(), lead.looked_up_by, str(f.neuron), f.pole, f.score, str(lead.best), lead.reading]
        brought = {0: str(lead.tokens[0]), 1: str(lead.best), None: "neither"}[lead.brings]
        rows.append([*row, *lead.effects, NOT_REACHED if lead.driven is None else brought])
    headers = ["name", "looked up by", "neuron", "pole", "score", "its best word", "reading"]
    return (
        [*headers, "effect, name", "effect, best word", "brings"],
        rows,
        "Effect: change of log-odds (nats) when the neuron is driven from one end of its natural range to the other, "
        "towards the pole. Brings: the word that rises and is likelier at the end; for a name of several tokens, its "
        "first token stands for it.",
    )


@derivation("limitations.name_lookups_summary", version=1)
def names_found(leads: Sequence[Lead], planted: bool) -> tuple[str, str | None]:
    """Where the paper's two names lead, by their first look-up; the same is true where they were planted."""
    first = {lead.name: lead for lead in reversed(leads)}
    told = [
        f"{lead.name.strip()} {_TOLD[lead.reading]}" + ("" if lead.reading == "own" else f" {lead.best.text.strip()}")
        for lead in first.values()
        if lead.name in COMPARED
    ]
    return ", ".join(told), "the same" if planted else None


@derivation("limitations.multi_token_names", version=1)
def several_tokens_table(leads: Sequence[Lead]) -> Told:
    """Names of several tokens: whether both look-ups lead to one neuron, and what it does to the whole name."""
    neurons: dict[str, set[str]] = {}
    for lead in leads:
        neurons.setdefault(lead.name, set()).add(str(lead.found.neuron))
    rows: list[list[Any]] = []
    for lead in leads:
        same, (own, best) = "yes" if len(neurons[lead.name]) == 1 else "no", lead.effects
        row = [lead.name.strip(), lead.looked_up_by, str(lead.found.neuron), lead.found.pole, same, str(lead.best)]
        rows.append([*row, lead.whole_effect, own, best])
    headers = ["name", "looked up by", "neuron", "pole", "same by both", "its best word"]
    return (
        [*headers, "effect, whole name", "effect, first token", "effect, best word"],
        rows or [["none: each is one token here", *[None] * 8]],
        "Effects in nats, when the neuron is driven from one end of its natural range to the other, towards the pole: "
        "on log-odds for single tokens, on the log-probability of all tokens together for the whole name.",
    )
