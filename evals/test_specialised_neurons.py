"""Which neuron is a word's specialised neuron (Figure 1 of arXiv 2501.02688).

Every up-projection neuron of the model is decoded with the model's own LM head: its weight vector is
multiplied with the unembedding of every token, and a token's score is its softmax probability over the mean
of the neuron's 100 highest. The specialised neuron of a token is the one with the highest score in the whole
model. This reads weights only. It says what a neuron's weights name, not what the neuron does; the verdicts
on that are under clamp causality.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from flashinterp import Checkpoint, NeuronMap, Token
from flashinterp.decoding.backends.score import SCORE_TOKENS
from flashinterp.decoding.neuron_map import Found, LensMaps
from flashinterp.neurons import POLES, NeuronId, Pole
from flashinterp.runs.eval_recorder import EvalRecorder
from flashinterp.runs.session import AuditSession
from flashinterp.studies.vocabulary.word_figures import MARKED, word_layers, word_spikes
from flashinterp.studies.vocabulary.word_tables import (
    Catalogue,
    Listed,
    NamedWord,
    best_scores,
    catalogue_table,
    highest,
    neurons_table,
    word_layers_table,
    words_named,
)
from flashinterp.tokens import show

FIGURES = 4  # words that are drawn; all are in the table
WORDS = 6
CANDIDATES = 20  # neurons by exact logits, of which a word's best and its runner-up are taken
LISTED_WORDS = 5


def test_specialised_neurons(
    audit: AuditSession, base: Checkpoint, maps: LensMaps, tokens: tuple[str, ...], evidence: EvalRecorder
) -> None:
    """For each word, the neuron that names it most, with its other words.

    Implementation: `decode` keeps each neuron's best tokens on both poles; `find` ranks all neurons by the
    word's score, and where the kept tokens cannot make the answer certain, exact logits are computed. The
    table gives the score as a ratio to the mean and to the sum of the 100 highest probabilities, its lead over
    the runner-up neuron, and the neuron's best words on that pole. On the bundled models each planted neuron
    must be the answer.
    """
    paper = maps["paper"]
    named = [_named(paper, base, base.vocabulary.resolve(text)) for text in tokens]
    counted = min(SCORE_TOKENS, len(paper.vocabulary))
    evidence.derived(neurons_table, "neurons", "The specialised neuron of each word", named, counted)
    for text in tokens[:FIGURES]:
        _draw(paper, base.vocabulary.resolve(text), evidence)
    evidence.finding(
        1,
        'a "dog" and a "California" neuron, found by decoding weights alone',
        words_named,
        named,
        _planted(audit.truth),
    )
    if audit.truth:
        _check_plants(audit.truth, maps, base)


def _named(paper: NeuronMap, base: Checkpoint, token: Token) -> NamedWord:
    """A word's best neurons by exact logits, what the map alone can say, and the words of the best one."""
    found = paper.find(token, CANDIDATES, checkpoint=base)
    best, listed = found[0], _listed(paper, token).best(1)
    words = [str(w.token) for w in paper.words(best.neuron, WORDS, best.pole)]
    unit_score = paper.unit_score(best.neuron, token, best.pole)
    return NamedWord(str(token), found, listed[0][-1] if listed else 0.0, _bound(paper, token), unit_score, words)


def _listed(paper: NeuronMap, token: Token) -> Listed:
    """The neurons that keep a word among their best, with its scores."""
    scores = {pole: paper.scores(token, pole) for pole in POLES}
    rows = {pole: np.flatnonzero(np.isfinite(scores[pole])).astype(np.int32) for pole in POLES}
    return Listed(str(token), rows, {pole: scores[pole][rows[pole]] for pole in POLES})


def _bound(paper: NeuronMap, token: Token) -> float:
    """The highest score that a word can have at a neuron which does not keep it: that of the last word it keeps."""
    bounds = [0.0]
    for pole in POLES:
        ids, logits, _, log_means = paper.pole_arrays(pole)
        unlisted = np.isnan(paper.scores(token, pole))
        if ids.shape[1] < len(paper.vocabulary) and unlisted.any():
            bounds.append(float(np.exp((logits[:, -1].astype(np.float64) - log_means)[unlisted].max())))
    return max(bounds)


def _planted(truth: dict[str, Any] | None) -> list[tuple[str, NeuronId, Pole]] | None:
    """Token, neuron and pole of each planted neuron."""
    return [(p["token"], NeuronId.parse(p["name"]), p["pole"]) for p in truth["plants"]] if truth else None


def _draw(paper: NeuronMap, token: Token, evidence: EvalRecorder) -> None:
    """Figure 1: the word's score at every neuron of the model."""
    listed = _listed(paper, token)
    labels = {
        at: [str(w.token) for w in paper.words(paper.neuron(at), MARKED, pole)] for at, pole, _ in listed.best(MARKED)
    }
    values = listed, paper.roster, labels, paper.top_ids.shape[1]
    evidence.figure(word_spikes, f"spikes-{token.id}", f"Score of {token} at every neuron", *values)


def test_where_the_neurons_of_a_word_sit(
    maps: LensMaps, base: Checkpoint, tokens: tuple[str, ...], evidence: EvalRecorder
) -> None:
    """In which layers the neurons of each word are: where a sparse autoencoder for the concept may look first.

    Implementation: the word's 20 best neurons of the whole model, by the score of the map of the paper lens (a neuron
    that keeps the word among its best 100 only), counted by layer. The paper offers such layers as a guide for where
    to train sparse autoencoders. It is a guide from weights alone: it says where the word is named, not where it acts.
    """
    paper = maps["paper"]
    words = [_listed(paper, base.vocabulary.resolve(text)) for text in tokens]
    title = "Where the neurons of each word sit"
    evidence.derived(word_layers_table, "layers", title, words, paper.roster)
    if any(word.best(1) for word in words):
        evidence.figure(word_layers, "layers", title, words, paper.roster)


def test_every_neuron_and_its_words(maps: LensMaps, evidence: EvalRecorder) -> None:
    """Each neuron with the words that it names, to look up a word or a neuron.

    Implementation: the map of the paper lens, both poles, without special and unused tokens. A model of more than
    3,000 neurons is listed by its best-scored ones, those that name one word most clearly; `flashinterp export`
    writes all of them.
    """
    paper = maps["paper"]
    evidence.derived(catalogue_table, "catalogue", "Neurons and their words", _catalogue(paper), paper.roster)


def _catalogue(paper: NeuronMap) -> Catalogue:
    """Every neuron's best logit on each pole, and the words of those that a page lists."""
    logits, log_means = (np.stack(both) for both in zip(*(_best_logits(paper, pole) for pole in POLES), strict=True))
    rows = highest(best_scores(logits, log_means))
    ids = np.full((len(rows), len(POLES), LISTED_WORDS), -1, np.int32)
    for at, row in enumerate(rows):
        for side, pole in enumerate(POLES):
            words = [w.token.id for w in paper.words(paper.neuron(row), LISTED_WORDS, pole)]
            ids[at, side, : len(words)] = words
    shown = {i: show(paper.vocabulary.surfaces[i]) for i in np.unique(ids[ids >= 0]).tolist()}
    return Catalogue(logits, log_means, np.array(rows, np.int32), ids, shown)


def _best_logits(paper: NeuronMap, pole: Pole) -> tuple[np.ndarray, np.ndarray]:
    """[N] the logit of each neuron's best word on one pole, NaN where the map keeps none; log means."""
    ids, logits, _, log_means = paper.pole_arrays(pole)
    allowed = ~paper.vocabulary.excluded[ids]
    first = np.take_along_axis(logits, allowed.argmax(axis=1)[:, None], axis=1)[:, 0]
    return np.where(allowed.any(axis=1), first, np.float32(np.nan)), log_means


def _check_plants(truth: dict[str, Any], maps: LensMaps, base: Checkpoint) -> None:
    """The lens that should find a planted neuron finds it, on the pole on which it was planted."""
    twins = {name for pair in truth["duplicates"] for name in pair}
    for plant in truth["plants"]:
        found: Found = maps[plant["lens"]].find(plant["token"], 1, checkpoint=base)[0]
        expected = twins if plant["name"] in twins else {plant["name"]}
        assert str(found.neuron) in expected, f"{plant['token']}: found {found.neuron}, planted {plant['name']}"
        assert found.pole == plant["pole"]
    if wanted := set(truth.get("dog_words", ())):
        assert {w.token.text for w in maps["paper"].words("L1N17", len(wanted))} == wanted
