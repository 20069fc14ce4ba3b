"""Which neuron is a word's specialised neuron (Figure 1 of arXiv 2501.02688).

Every up-projection neuron of the model is decoded with the model's own LM head: its weight vector is
multiplied with the unembedding of every token, and a token's score is its softmax probability over the mean
of the neuron's 100 highest. The specialised neuron of a token is the one with the highest score in the whole
model. This reads weights only. It says what a neuron's weights name, not what the neuron does; the verdicts
on that are under clamp causality.
"""

from __future__ import annotations

from typing import Any

from flashinterp import Checkpoint
from flashinterp.decoding.backends.score import SCORE_TOKENS
from flashinterp.decoding.neuron_map import Found, LensMaps
from flashinterp.neurons import NeuronId, Pole
from flashinterp.runs.eval_recorder import EvalRecorder
from flashinterp.runs.session import AuditSession
from flashinterp.studies.vocabulary.word_figures import word_layers, word_spikes
from flashinterp.studies.vocabulary.word_lists import catalogue, listed, marked_words, named_word
from flashinterp.studies.vocabulary.word_tables import catalogue_table, neurons_table, word_layers_table, words_named

FIGURES = 4  # words that are drawn; all are in the table


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
    asked = [base.vocabulary.resolve(text) for text in tokens]
    named = [named_word(paper, base, token) for token in asked]
    counted = min(SCORE_TOKENS, len(paper.vocabulary))
    evidence.derived(neurons_table, "neurons", "The specialised neuron of each word", named, counted)
    for token in asked[:FIGURES]:
        word, title = listed(paper, token), f"Score of {token} at every neuron"
        values = word, paper.roster, marked_words(paper, word), paper.top_ids.shape[1]
        evidence.figure(word_spikes, f"spikes-{token.id}", title, *values)
    paper_says = 'a "dog" and a "California" neuron, found by decoding weights alone'
    evidence.finding(1, paper_says, words_named, named, _planted(audit.truth))
    if audit.truth:
        _check_plants(audit.truth, maps, base)


def _planted(truth: dict[str, Any] | None) -> list[tuple[str, NeuronId, Pole]] | None:
    """Token, neuron and pole of each planted neuron."""
    return [(p["token"], NeuronId.parse(p["name"]), p["pole"]) for p in truth["plants"]] if truth else None


def test_where_the_neurons_of_a_word_sit(
    maps: LensMaps, base: Checkpoint, tokens: tuple[str, ...], evidence: EvalRecorder
) -> None:
    """In which layers the neurons of each word are: where a sparse autoencoder for the concept may look first.

    Implementation: the word's 20 best neurons of the whole model, by the score of the map of the paper lens (a neuron
    that keeps the word among its best 100 only), counted by layer. The paper offers such layers as a guide for where
    to train sparse autoencoders. It is a guide from weights alone: it says where the word is named, not where it acts.
    """
    paper = maps["paper"]
    words = [listed(paper, base.vocabulary.resolve(text)) for text in tokens]
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
    evidence.derived(catalogue_table, "catalogue", "Neurons and their words", catalogue(paper), paper.roster)


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
