"""Faults in which neuron names which word: the search, the poles, and the alignment of the output weights."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from flashinterp.decoding.neuron_map import NeuronMap
from flashinterp.studies.vocabulary import alignment
from flashinterp.tokens import Token, Vocabulary
from tests.integration.faults.faults import Fault, after
from tests.integration.faults.running import ALIGNMENT, NEURONS


def next_token(token: Token, vocabulary: Vocabulary, _: Any) -> Token:
    """A text is taken for the token after its own."""
    return Token(token.id + 1, vocabulary.surfaces[token.id + 1], token.form)


def other_pole(found: list[Any], *_: Any, **__: Any) -> list[Any]:
    """The poles are named the wrong way round."""
    return [f._replace(pole="-" if f.pole == "+" else "+") for f in found]


def positive_only(aligned: Any, *_: Any) -> Any:
    """Alignment with the sign left on."""
    return replace(aligned, max_abs=aligned.map.top_logits[:, 0].astype(aligned.max_abs.dtype))


WORD = "test_specialised_neurons"

FAULTS = {
    "token off by one": Fault(after(Vocabulary, "resolve", next_token), NEURONS, WORD, "planted L3N31"),
    "poles swapped": Fault(after(NeuronMap, "find", other_pole), NEURONS, WORD, "assert '-' == '+'"),
    "signed alignment": Fault(
        after(alignment, "alignment_of", positive_only),
        ALIGNMENT,
        "test_alignment_by_layer",
        "assert False",
    ),
}
