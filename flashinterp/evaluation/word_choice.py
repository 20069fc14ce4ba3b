"""Which words to find neurons for, where nobody has named any: chosen by weights alone (METHOD 4)."""

from __future__ import annotations

from flashinterp.decoding.neuron_map import NeuronMap
from flashinterp.errors import FlashinterpError
from flashinterp.evaluation.prompts import PromptSet
from flashinterp.tokens import Vocabulary

MOST_WORDS = 8
"""Words that are chosen for a model that nobody made claims about."""


def well_named(paper: NeuronMap, prompts: PromptSet) -> tuple[str, ...]:
    """Up to eight words: the prompt set's concepts that are tokens here, then others, each by the score of its neuron.

    The others are the words that are some neuron's best. Chosen by weights alone, so nothing that is measured later has
    chosen it. Ties go to the lower id.

    Args:
        paper: the map of the paper lens.
        prompts: whose concepts come first.
    """
    vocabulary = paper.vocabulary
    concepts = _tokens_of(prompts.concepts, vocabulary)
    others = [int(i) for i in set(paper.top_tokens("+")) & set(vocabulary.words()) - set(concepts)]

    def by_score(ids: list[int]) -> list[int]:
        return sorted(ids, key=lambda i: (-_best_score(paper, i), i))

    return tuple(vocabulary.surfaces[i] for i in [*by_score(concepts), *by_score(others)][:MOST_WORDS])


def _tokens_of(words: tuple[str, ...], vocabulary: Vocabulary) -> list[int]:
    """The ids of those words that are one token in this vocabulary."""
    found = []
    for word in words:
        try:
            found.append(vocabulary.resolve(word).id)
        except FlashinterpError:
            continue
    return found


def _best_score(paper: NeuronMap, token_id: int) -> float:
    """The highest score of a token at any neuron of the map; 0 where no neuron keeps it."""
    found = paper.find(token_id, 1)
    return found[0].score if found else 0.0
