"""The tables of words and of the neurons that name them: made from what a map lists, by the eval and again by `verify`.

Rankings are made here, from the scores; what is kept of a map is the part that a ranking rests on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flashinterp._util.text import clip
from flashinterp.decoding.neuron_map import Found
from flashinterp.errors import RunError
from flashinterp.evaluation.evidence import Floats
from flashinterp.neuron_index import NeuronIndex
from flashinterp.neurons import POLES, NeuronId, Pole
from flashinterp.provenance.registry import derivation, record
from flashinterp.report.table import Told

NEAREST = 20
"""A word's best neurons, whose layers are counted."""
LISTED = 3000
"""Neurons that a page lists with their words: of a larger model the best-scored ones."""
_TOLD = 5  # words that the answers name, and neurons that a row of the layers names
_LONGEST = 60  # characters of a token that are listed: some have kilobytes


@record("vocabulary.word_scores", version=1)
@dataclass(frozen=True)
class Listed:
    """Every neuron of a map that keeps one word among its best; the word's score at all others counts as 0.

    Attributes:
        word: as it is shown.
        rows: by pole, [m] the positions of the neurons that keep it on that pole, ascending.
        scores: by pole, [m] its scores there, above 0.
    """

    word: str
    rows: Mapping[Pole, NDArray[np.int32]]
    scores: Mapping[Pole, Floats]

    def everywhere(self, n: int) -> Floats:
        """[n] the score at each of the model's neurons, on the pole where it is higher."""
        result = np.zeros(n)
        for pole in POLES:
            np.maximum.at(result, self.rows[pole], self.scores[pole])
        return result

    def best(self, n: int) -> list[tuple[int, Pole, float]]:
        """The n best neurons, each once on its better pole: position, pole, score; ties to the lower, then to "+"."""
        rows = np.concatenate([self.rows[pole] for pole in POLES]).astype(np.int64)
        signs = np.repeat(np.arange(len(POLES)), [len(self.rows[pole]) for pole in POLES])
        scores = np.concatenate([self.scores[pole] for pole in POLES])
        first: dict[int, tuple[int, Pole, float]] = {}
        for at in np.lexsort((signs, rows, -scores)).tolist():
            if len(first) == n:
                break
            row = int(rows[at])
            first.setdefault(row, (row, POLES[signs[at]], float(scores[at])))
        return list(first.values())


@record("vocabulary.word_best_neurons", version=1)
@dataclass(frozen=True)
class NamedWord:
    """The neurons that name one word most by exact logits, and what the best of them is besides.

    Attributes:
        word: as it is shown.
        found: the best of the whole model, two or more.
        listed: the highest of the word's scores in the saved map; 0 where no neuron keeps it among its best words.
        bound: the highest score that it can have at a neuron which does not.
        unit_score: the word's score at the best one, with its vector scaled to norm 1; None where the map cannot tell.
        words: the best one's words on its pole, best first, as they are shown.
    """

    word: str
    found: Sequence[Found]
    listed: float
    bound: float
    unit_score: float | None
    words: Sequence[str]

    @property
    def ranked(self) -> list[Found]:
        """The neurons, the highest score first."""
        return sorted(self.found, key=lambda found: -found.score)


@record("vocabulary.neuron_word_list", version=1)
@dataclass(frozen=True)
class Catalogue:
    """The best word's logit at every neuron, and the words of the neurons with the highest scores.

    Attributes:
        logits: [2, N] by pole, the logit of ±w for the best word that is not excluded; NaN where the map keeps none.
        log_means: [2, N] by pole, the log of the mean of the 100 highest exp(logit), which scores are relative to.
        rows: [R] positions of the neurons whose words are kept.
        ids: [R, 2, n] by pole, the token ids of their best words, best first; -1 where there are fewer.
        words: by token id, as it is shown.
    """

    logits: NDArray[np.float32]
    log_means: NDArray[np.float32]
    rows: NDArray[np.int32]
    ids: NDArray[np.int32]
    words: Mapping[int, str]

    @property
    def scores(self) -> Floats:
        """[N] as `best_scores` gives them."""
        return best_scores(self.logits, self.log_means)


def best_scores(logits: NDArray[np.float32], log_means: NDArray[np.float32]) -> Floats:
    """[N] the score of each neuron's best word, on the pole where it is higher; 0 where no word is kept.

    Args:
        logits, log_means: [2, N] as `Catalogue` holds them.
    """
    by_pole = np.exp(logits.astype(np.float64) - log_means)
    result: Floats = np.nan_to_num(by_pole, nan=0.0).max(axis=0)
    return result


def highest(scores: Floats) -> list[int]:
    """The positions of the neurons that a page lists, the highest score first; ties to the lower."""
    found: list[int] = np.argsort(-scores, kind="stable")[:LISTED].tolist()
    return found


@derivation("vocabulary.word_neurons", version=1)
def neurons_table(named: Sequence[NamedWord], counted: int) -> Told:
    """The specialised neuron of each word.

    Args:
        named: one for each word.
        counted: how many probabilities a score's mean is over: 100, or the vocabulary where that is less.
    """
    rows: list[list[Any]] = []
    for word in named:
        first, second = word.ranked[:2]
        scores = [first.score, first.score / counted, first.probability, first.score / second.score, word.unit_score]
        certain = word.listed > word.bound
        rows.append([word.word, str(first.neuron), first.pole, *scores, certain, ", ".join(word.words)])
    return (
        [
            "word",
            "neuron",
            "pole",
            "score",
            "score (sum)",
            "probability",
            "lead",
            "unit score",
            "map certain",
            "its best words",
        ],
        rows,
        "Lens: paper. Score: the word's probability over the mean of the neuron's 100 highest. Lead: the score "
        "over the runner-up neuron's. Unit score: of the vector scaled to norm 1, which no rescaling of a gated neuron "
        "changes. Map certain: no neuron outside the saved map could score as high.",
    )


@derivation("vocabulary.word_neurons_summary", version=1)
def words_named(
    named: Sequence[NamedWord], plants: Sequence[tuple[str, NeuronId, Pole]] | None
) -> tuple[str, str | None]:
    """The first words with their neurons, in words; and those that were planted where that is known.

    Args:
        named: one for each word.
        plants: token, neuron and pole of each planted neuron, in order; of those for one token the first is told.
    """
    told = [f"{n.word.strip()} {n.ranked[0].neuron}{n.ranked[0].pole}" for n in named[:_TOLD]]
    here = f"{len(named)} words: {', '.join(told)}"
    if plants is None:
        return here, None
    by_token: dict[str, str] = {}
    for token, neuron, pole in plants:
        by_token.setdefault(token, f"{token.strip()} {neuron}{pole}")
    return here, ", ".join(list(by_token.values())[:_TOLD])


@derivation("vocabulary.word_layers", version=1)
def word_layers_table(words: Sequence[Listed], roster: NeuronIndex) -> Told:
    """In which layers each word's best neurons are."""
    rows: list[list[Any]] = []
    for word in words:
        near = [(roster.neuron(at), pole, score) for at, pole, score in word.best(NEAREST)]
        if not near:
            rows.append([word.word, None, None, None, "no neuron keeps it among its best words"])
            continue
        layers = Counter(neuron.layer for neuron, _, _ in near)
        most = max(layers, key=lambda layer: (layers[layer], -layer))
        counted = ", ".join(f"{layers[layer]} in layer {layer}" for layer in sorted(layers))
        named = ", ".join(f"{neuron}{pole} {score:.3g}" for neuron, pole, score in near[:_TOLD])
        rows.append([word.word, near[0][0].layer, most, counted, named])
    return (
        ["word", "layer of its best neuron", "layer with most", "by layer", "its best neurons, with scores"],
        rows,
        f"Of each word's {NEAREST} best neurons by score (fewer where fewer list it). Lens: paper.",
    )


@derivation("vocabulary.neuron_words", version=1)
def catalogue_table(catalogue: Catalogue, roster: NeuronIndex) -> Told:
    """The neurons with their words on both poles; of a large model those with the highest scores.

    Raises:
        RunError: the words of one of them are not among the values.
    """
    kept = {row: at for at, row in enumerate(catalogue.rows.tolist())}
    scores = catalogue.scores
    rows: list[list[Any]] = []
    for i in highest(scores):
        if i not in kept:
            raise RunError(f"{roster.neuron(i)} is to be listed, and its words were not kept: measure the run again")
        words = [
            ", ".join(clip(catalogue.words[token], _LONGEST) for token in ids if token >= 0)
            for ids in catalogue.ids[kept[i]].tolist()
        ]
        rows.append([str(roster.neuron(i)), float(scores[i]), *words])
    part = "All" if len(rows) == len(roster) else f"The {len(rows):,} best-scored of"
    return (
        ["neuron", "score", "words of its + pole", "words of its - pole"],
        rows,
        f"{part} {len(roster):,} neurons, the highest score first: the probability of the neuron's best word over the "
        f"mean of its 100 highest, on the pole where that is higher. + pole: what positive values of the neuron stand "
        f"for; - pole: negative ones. Lens: paper.",
    )
