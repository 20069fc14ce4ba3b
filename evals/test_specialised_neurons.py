"""Which neuron is a word's specialised neuron (Figure 1 of arXiv 2501.02688).

Every up-projection neuron of the model is decoded with the model's own LM head: its weight vector is
multiplied with the unembedding of every token, and a token's score is its softmax probability over the mean
of the neuron's 100 highest. The specialised neuron of a token is the one with the highest score in the whole
model. This reads weights only. It says what a neuron's weights name, not what the neuron does; the verdicts
on that are under clamp causality.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from evals.conftest import Maps
from flashinterp import Checkpoint, NeuronMap, Token
from flashinterp.audit.figures import spikes
from flashinterp.audit.figures_layers import LayerRow, concept_layers
from flashinterp.audit.session import AuditSession
from flashinterp.audit.tables import clip
from flashinterp.neuron import POLES, Pole
from flashinterp.neuron_map import Found
from flashinterp.pytest_plugin import Evidence

FIGURES = 4  # words that are drawn; all are in the table
WORDS = 6
TOLD = 5  # words that the answers name
MARKED = 3  # neurons that a drawing labels, with as many of their words
NEAREST = 20  # a word's best neurons, whose layers are counted
PER_LAYER = 4  # neurons of each layer that the drawing of layers shows
LISTED = 3000  # neurons that a page lists with their words: of a larger model the best-scored
LISTED_WORDS = 5
LONGEST = 60  # characters of a token that are listed: some have kilobytes


def test_specialised_neurons(
    audit: AuditSession, base: Checkpoint, maps: Maps, tokens: tuple[str, ...], evidence: Evidence
) -> None:
    """For each word, the neuron that names it most, with its other words.

    Implementation: `decode` keeps each neuron's best tokens on both poles; `find` ranks all neurons by the
    word's score, and where the kept tokens cannot make the answer certain, exact logits are computed. The
    table gives the score as a ratio to the mean and to the sum of the 100 highest probabilities, its lead over
    the runner-up neuron, and the neuron's best words on that pole. On the bundled models each planted neuron
    must be the answer.
    """
    paper = maps["paper"]
    rows: list[list[Any]] = []
    for text in tokens:
        token = base.vocabulary.resolve(text)
        first, second = paper.find(token, 2, checkpoint=base)
        words = ", ".join(str(w.token) for w in paper.words(first.neuron, WORDS, first.pole))
        total = paper.find(token, 1, score="sum", checkpoint=base)[0].score
        listed = paper.find(token, 1)
        certain = bool(listed) and listed[0].certain
        rows.append(
            [str(token), str(first.neuron), first.pole, first.score, total, first.probability]
            + [first.score / second.score, paper.unit_score(first.neuron, token, first.pole), certain, words]
        )
    evidence.table(
        "neurons",
        "The specialised neuron of each word",
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
    for text in tokens[:FIGURES]:
        _draw(paper, base.vocabulary.resolve(text), evidence)
    evidence.finding(
        1,
        'a "dog" and a "California" neuron, found by decoding weights alone',
        f"{len(rows)} words: " + ", ".join(f"{row[0].strip()} {row[1]}{row[2]}" for row in rows[:TOLD]),
        _planted(audit.truth),
    )
    if audit.truth:
        _check_plants(audit.truth, maps, base)


def _planted(truth: dict[str, Any] | None) -> str | None:
    """The first planted neurons, in words."""
    if truth is None:
        return None
    by_token = {p["token"]: f"{p['token'].strip()} {p['name']}{p['pole']}" for p in reversed(truth["plants"])}
    return ", ".join(list(by_token.values())[::-1][:TOLD])


def _draw(paper: NeuronMap, token: Token, evidence: Evidence) -> None:
    """Figure 1: the word's score at every neuron of the model, the higher pole of each."""
    flat = _either_pole(paper, token), paper.roster.layer_of()
    marks = [(paper.index(f.neuron), f"{f.neuron}{f.pole} {_words(paper, f)}") for f in _apart(paper, token, MARKED)]
    scale = f"score (0: not among its best {paper.top_ids.shape[1]})"
    evidence.figure(spikes, f"spikes-{token.id}", f"Score of {token} at every neuron", flat, marks, scale)


def _either_pole(paper: NeuronMap, token: Token) -> np.ndarray:
    """[N] the token's score at each neuron, on the pole where it is higher; 0 where the map does not list it."""
    both = [paper.scores(token, "+"), paper.scores(token, "-"), np.zeros(len(paper))]
    result: np.ndarray = np.nanmax(np.stack(both), axis=0)
    return result


def _apart(paper: NeuronMap, token: Token, n: int) -> list[Found]:
    """The n best neurons of a word, each once, on its better pole."""
    first: dict[str, Found] = {}
    for found in paper.find(token, 2 * n):
        first.setdefault(str(found.neuron), found)
    return list(first.values())[:n]


def _words(paper: NeuronMap, found: Found) -> str:
    """A neuron's best words, each cut: a label has no room for more."""
    return " ".join(str(w.token)[:12] for w in paper.words(found.neuron, MARKED, found.pole))


def test_where_the_neurons_of_a_word_sit(
    maps: Maps, base: Checkpoint, tokens: tuple[str, ...], evidence: Evidence
) -> None:
    """In which layers the neurons of each word are: where a sparse autoencoder for the concept may look first.

    Implementation: the word's 20 best neurons of the whole model, by the score of the map of the paper lens (a neuron
    that keeps the word among its best 100 only), counted by layer. The paper offers such layers as a guide for where
    to train sparse autoencoders. It is a guide from weights alone: it says where the word is named, not where it acts.
    """
    paper = maps["paper"]
    rows, drawn = [], []
    for text in tokens:
        token = base.vocabulary.resolve(text)
        near = _apart(paper, token, NEAREST)
        if not near:
            rows.append([str(token), None, None, None, "no neuron keeps it among its best words"])
            continue
        layers = Counter(found.neuron.layer for found in near)
        most = max(layers, key=lambda layer: (layers[layer], -layer))
        named = ", ".join(f"{f.neuron}{f.pole} {f.score:.3g}" for f in near[:TOLD])
        counted = ", ".join(f"{layers[layer]} in layer {layer}" for layer in sorted(layers))
        rows.append([str(token), near[0].neuron.layer, most, counted, named])
        drawn.append(LayerRow(str(token), _by_layer(paper, token), f"{near[0].neuron}{near[0].pole}"))
    evidence.table(
        "layers",
        "Where the neurons of each word sit",
        ["word", "layer of its best neuron", "layer with most", "by layer", "its best neurons, with scores"],
        rows,
        f"Of each word's {NEAREST} best neurons by score (fewer where fewer list it). Lens: paper.",
    )
    if drawn:
        evidence.figure(concept_layers, "layers", "Where the neurons of each word sit", list(paper.layers), drawn)


def _by_layer(paper: NeuronMap, token: Token) -> np.ndarray:
    """[L, n] the word's best scores in each layer, best first; 0 where there are fewer neurons."""
    scores = _either_pole(paper, token)
    result = np.zeros((len(paper.layers), PER_LAYER))
    for row, layer in enumerate(paper.layers):
        best = np.sort(scores[paper.roster.layer_span(layer)])[::-1][:PER_LAYER]
        result[row, : best.size] = best
    return result


def test_every_neuron_and_its_words(maps: Maps, evidence: Evidence) -> None:
    """Each neuron with the words that it names, to look up a word or a neuron.

    Implementation: the map of the paper lens, both poles, without special and unused tokens. A model of more than
    3,000 neurons is listed by its best-scored ones, those that name one word most clearly; `flashinterp export`
    writes all of them.
    """
    paper = maps["paper"]
    score = np.max([_best_scores(paper, pole) for pole in POLES], axis=0)
    order = np.argsort(-score, kind="stable")[:LISTED]
    rows = []
    for i in order.tolist():
        neuron = paper.neuron(i)
        words = [
            ", ".join(clip(str(w.token), LONGEST) for w in paper.words(neuron, LISTED_WORDS, pole)) for pole in POLES
        ]
        rows.append([str(neuron), float(score[i]), *words])
    part = "All" if len(rows) == len(paper) else f"The {len(rows):,} best-scored of"
    evidence.table(
        "catalogue",
        "Neurons and their words",
        ["neuron", "score", "words of its + pole", "words of its - pole"],
        rows,
        f"{part} {len(paper):,} neurons, the highest score first: the probability of the neuron's best word over the "
        f"mean of its 100 highest, on the pole where that is higher. + pole: what positive values of the neuron stand "
        f"for; - pole: negative ones. Lens: paper.",
    )


def _best_scores(paper: NeuronMap, pole: Pole) -> np.ndarray:
    """[N] the score of each neuron's best word on one pole; 0 where all that the map keeps are left out."""
    ids, logits, _, log_mean_top = paper.pole_arrays(pole)
    allowed = ~paper.vocabulary.excluded[ids]
    first = allowed.argmax(axis=1)[:, None]
    logs = np.take_along_axis(logits, first, axis=1)[:, 0].astype(np.float64) - log_mean_top
    result: np.ndarray = np.where(allowed.any(axis=1), np.exp(logs), 0.0)
    return result


def _check_plants(truth: dict[str, Any], maps: Maps, base: Checkpoint) -> None:
    """The lens that should find a planted neuron finds it, on the pole on which it was planted."""
    twins = {name for pair in truth["duplicates"] for name in pair}
    for plant in truth["plants"]:
        found: Found = maps[plant["lens"]].find(plant["token"], 1, checkpoint=base)[0]
        expected = twins if plant["name"] in twins else {plant["name"]}
        assert str(found.neuron) in expected, f"{plant['token']}: found {found.neuron}, planted {plant['name']}"
        assert found.pole == plant["pole"]
    if wanted := set(truth.get("dog_words", ())):
        assert {w.token.text for w in maps["paper"].words("L1N17", len(wanted))} == wanted
