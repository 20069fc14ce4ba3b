"""What a map says of a word, and of every neuron's words: the values that the tables of words are made of."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from flashinterp.decoding.neuron_map import NeuronMap
from flashinterp.models.checkpoint import Checkpoint
from flashinterp.neurons import POLES, Pole
from flashinterp.studies.vocabulary.word_figures import MARKED
from flashinterp.studies.vocabulary.word_tables import Catalogue, Listed, NamedWord, best_scores, highest
from flashinterp.tokens import Token, show

WORDS = 6
CANDIDATES = 20
"""Neurons by exact logits, of which a word's best and its runner-up are taken."""
LISTED_WORDS = 5


def named_word(paper: NeuronMap, checkpoint: Checkpoint, token: Token) -> NamedWord:
    """A word's best neurons by exact logits, what the map alone can say, and the words of the best one."""
    found = paper.find(token, CANDIDATES, checkpoint=checkpoint)
    best, kept = found[0], listed(paper, token).best(1)
    words = [str(w.token) for w in paper.words(best.neuron, WORDS, best.pole)]
    unit_score = paper.unit_score(best.neuron, token, best.pole)
    bound = unlisted_bound(paper, token)
    return NamedWord(str(token), found, kept[0][-1] if kept else 0.0, bound, unit_score, words)


def listed(paper: NeuronMap, token: Token) -> Listed:
    """The neurons that keep a word among their best, with its scores."""
    scores = {pole: paper.scores(token, pole) for pole in POLES}
    rows = {pole: np.flatnonzero(np.isfinite(scores[pole])).astype(np.int32) for pole in POLES}
    return Listed(str(token), rows, {pole: scores[pole][rows[pole]] for pole in POLES})


def unlisted_bound(paper: NeuronMap, token: Token) -> float:
    """The highest score that a word can have at a neuron which does not keep it: that of the last word it keeps."""
    bounds = [0.0]
    for pole in POLES:
        ids, logits, _, log_means = paper.pole_arrays(pole)
        unlisted = np.isnan(paper.scores(token, pole))
        if ids.shape[1] < len(paper.vocabulary) and unlisted.any():
            bounds.append(float(np.exp((logits[:, -1].astype(np.float64) - log_means)[unlisted].max())))
    return max(bounds)


def marked_words(paper: NeuronMap, word: Listed) -> dict[int, list[str]]:
    """By the position of each neuron that a drawing of the word labels, its best words on its better pole."""
    return {
        at: [str(w.token) for w in paper.words(paper.neuron(at), MARKED, pole)] for at, pole, _ in word.best(MARKED)
    }


def catalogue(paper: NeuronMap) -> Catalogue:
    """Every neuron's best logit on each pole, and the words of those that a page lists."""
    logits, log_means = (np.stack(both) for both in zip(*(best_logits(paper, pole) for pole in POLES), strict=True))
    rows = highest(best_scores(logits, log_means))
    ids = np.full((len(rows), len(POLES), LISTED_WORDS), -1, np.int32)
    for at, row in enumerate(rows):
        for side, pole in enumerate(POLES):
            words = [w.token.id for w in paper.words(paper.neuron(row), LISTED_WORDS, pole)]
            ids[at, side, : len(words)] = words
    shown = {i: show(paper.vocabulary.surfaces[i]) for i in np.unique(ids[ids >= 0]).tolist()}
    return Catalogue(logits, log_means, np.array(rows, np.int32), ids, shown)


def best_logits(paper: NeuronMap, pole: Pole) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """[N] the logit of each neuron's best word on one pole, NaN where the map keeps none; log means."""
    ids, logits, _, log_means = paper.pole_arrays(pole)
    allowed = ~paper.vocabulary.excluded[ids]
    first = np.take_along_axis(logits, allowed.argmax(axis=1)[:, None], axis=1)[:, 0]
    return np.where(allowed.any(axis=1), first, np.float32(np.nan)), log_means
