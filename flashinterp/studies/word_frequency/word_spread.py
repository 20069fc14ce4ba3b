"""Over how many neurons some words are spread, by score and by effect (METHOD 7)."""

from __future__ import annotations

from collections.abc import Sequence

from flashinterp.errors import FlashinterpError
from flashinterp.evaluation.experiment import Experiment
from flashinterp.studies.word_frequency.concentration import concentration
from flashinterp.studies.word_frequency.concentration_records import Concentration
from flashinterp.studies.word_frequency.concentration_tables import WordGroup

WORDS = 32
"""That are drawn from the vocabulary."""
NULLS = 3


def drawn_words(bench: Experiment) -> list[int]:
    """Words of the vocabulary, ascending."""
    return sorted(bench.draw_words("spread words", WORDS, set()))


def word_spread(bench: Experiment, name: str, ids: Sequence[int]) -> WordGroup:
    """The spread of some words; of effects that cannot be had, the reason.

    Args:
        bench: the model and its texts.
        name: what the words have in common.
        ids: the words, each once.
    """
    by_score = concentration(bench, ids, lenses=("paper", "read", "write"), how=(), nulls=NULLS)
    by_effect: list[Concentration] | str
    try:
        by_effect = concentration(bench, ids, lenses=(), nulls=NULLS)
    except FlashinterpError as error:  # quantised or offloaded weights: the rest stands
        by_effect = str(error)
    return WordGroup(name, len(ids), len(bench.checkpoint.layout.roster), by_score, by_effect)
