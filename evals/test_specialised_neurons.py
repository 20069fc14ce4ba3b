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

from evals.conftest import Maps
from flashinterp import Checkpoint, NeuronMap, Token
from flashinterp.audit.figures import spikes
from flashinterp.audit.session import AuditSession
from flashinterp.neuron_map import Found
from flashinterp.pytest_plugin import Evidence

FIGURES = 4  # words that are drawn; all are in the table
WORDS = 6
TOLD = 5  # words that the answers name


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
    both = np.nanmax(np.stack([paper.scores(token, "+"), paper.scores(token, "-"), np.zeros(len(paper))]), axis=0)
    best = paper.find(token, 1)
    marks = [(paper.index(f.neuron), f"{f.neuron} {f.pole}") for f in best]
    flat = both, paper.roster.layer_of()
    evidence.figure(spikes, f"spikes-{token.id}", f"Score of {token} at every neuron", flat, marks)


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
