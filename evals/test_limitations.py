"""Where the method stops: names without a neuron of their own, and doses beyond what the norm passes on.

In arXiv 2501.02688 "Dumbledore" has no neuron of its own: decoding leads to the "wizard" neuron, and clamping
that one brings wizards. "Sherlock" has its own. These are experiments with a result for every model, not
failures to hide.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from evals.conftest import Judged, Maps
from flashinterp import Checkpoint, FlashinterpError, NeuronId, sweep
from flashinterp.audit.session import AuditSession
from flashinterp.bench import Bench
from flashinterp.evidence import Evidence as Measured
from flashinterp.natural import natural_range
from flashinterp.neuron import Pole
from flashinterp.neuron_map import Found
from flashinterp.pytest_plugin import Evidence

NAMES = (" Dumbledore", " Sherlock", " Hermione", " Einstein", " Paris", " California", " dog")
NEAR = 10  # a concept among a neuron's first words is a part of what it names
PROMPTS = 6


@dataclass(frozen=True)
class Lead:
    """Where a name leads: by which of its tokens, to which neuron, and what that neuron is first of all."""

    name: str
    form: str
    token: int
    found: Found
    best: int
    reading: str


@pytest.mark.limitation
def test_rare_names_lead_to_broader_neurons(
    audit: AuditSession, base: Checkpoint, maps: Maps, model: Any, bench: Bench, evidence: Evidence
) -> None:
    """For a list of names, whether the found neuron is the name's own, a broader one's, or noise.

    Implementation: a name that is one token is looked up as it is; one of several tokens by its first token and
    by the mean of its tokens' logits, each a row. The neuron is `own` if its best word is the name (in any
    written form), a `piece` if it is one of the name's several tokens, `broader` if another word is best and the
    name's (first) token is among its first ten, else `noise`.
    Then the neuron is driven over its natural range and the change of log-odds of both words is measured:
    what it brings is the word that is likelier at the end. Limit FI-L001.
    """
    leads = [lead for name in NAMES for lead in _leads(name, base, maps)]
    rows = []
    for lead in leads:
        token, best = (base.vocabulary.show(i) for i in (lead.token, lead.best))
        effects, brings = _drive(model, bench, lead)
        brought = {0: token, 1: best, None: "neither"}[brings]
        f = lead.found
        rows.append(
            [lead.name.strip(), lead.form, str(f.neuron), f.pole, f.score, best, lead.reading, *effects, brought]
        )
    evidence.table(
        "names",
        "Where names lead (FI-L001)",
        [
            "name",
            "looked up by",
            "neuron",
            "pole",
            "score",
            "its best word",
            "reading",
            "effect, name",
            "effect, best word",
            "brings",
        ],
        rows,
        "Effect: change of log-odds (nats) when the neuron is driven from one end of its natural range to the other, "
        "towards the pole. Brings: the word that rises and is likelier at the end; for a name of several tokens, its "
        "first token stands for it.",
    )
    if audit.truth:
        by_name = {lead.name: lead for lead in reversed(leads)}
        wizard = next(p["name"] for p in audit.truth["plants"] if p["id"] == "wizard")
        dumbledore, sherlock = by_name[" Dumbledore"], by_name[" Sherlock"]
        assert str(dumbledore.found.neuron) == wizard
        assert base.vocabulary.surfaces[dumbledore.best] == audit.truth["dumbledore"]["leads_to"]
        assert (dumbledore.reading, sherlock.reading) == ("broader", "own")
        assert _drive(model, bench, dumbledore)[1] == 1, "clamping the wizard neuron should bring wizards"


def _leads(name: str, base: Checkpoint, maps: Maps) -> list[Lead]:
    """One lead for a single token; two, by the first token and by the mean, for a name of several."""
    paper, vocabulary = maps["paper"], base.vocabulary
    try:
        token = vocabulary.resolve(name)
        ids, forms = [token.id], [(f"token {token}", [token.id])]
    except FlashinterpError:
        ids = base.tokenizer.encode(name if not vocabulary.prefix_space else name.strip(), add_special_tokens=False)
        first = f"first of {len(ids)}: {vocabulary.show(ids[0])}"
        forms = [(first, ids[:1]), (f"mean of {len(ids)}", ids)]
    leads = []
    for form, chosen in forms:
        found = paper.find_mean(chosen, 1, checkpoint=base)[0]
        words = paper.words(found.neuron, NEAR, found.pole)
        best = words[0].token
        reading = _reading(base, ids, best.id, near=any(w.token.id == ids[0] for w in words))
        leads.append(Lead(name, form, ids[0], found, best.id, reading))
    return leads


def _reading(base: Checkpoint, ids: list[int], best: int, *, near: bool) -> str:
    """What a neuron's best word is to a name: its own, a piece of it, a broader word, or noise."""
    if len(ids) == 1:
        forms = {v.id for v in base.vocabulary.variants(base.vocabulary.resolve(ids[0]))} | {ids[0]}
        if best in forms:
            return "own"
    elif best in ids:
        return "piece"
    return "broader" if near else "noise"


def _drive(model: Any, bench: Bench, lead: Lead) -> tuple[list[float], int | None]:
    """Effects on [name, best word], and which of them is brought: 0, 1 or neither."""
    neuron, pole = lead.found.neuron, lead.found.pole
    odds = _ends(model, bench, neuron, pole, [lead.token, lead.best])  # [2 ends, 2 tokens]
    effects = (odds[1] - odds[0]).tolist()
    if max(effects) <= 0:
        return effects, None
    return effects, int(np.argmax(np.where(odds[1] - odds[0] > 0, odds[1], -np.inf)))


def _ends(model: Any, bench: Bench, neuron: NeuronId, pole: Pole, tokens: list[int]) -> np.ndarray:
    """Mean log-odds [from, to] x tokens, driven over the natural range towards the pole."""
    low, high = natural_range(bench, neuron)
    doses = [low, high] if pole == "+" else [high, low]
    curves = sweep(model, bench.tokenizer, bench.prompts.heldout[:PROMPTS], [neuron], doses, tokens)
    return curves.log_odds[0].mean(axis=1)


@pytest.mark.limitation
def test_saturation_at_high_dose(judged: Judged, evidence: Evidence) -> None:
    """Far outside the natural range a higher dose does little more: the final norm takes the neuron's growth away.

    Implementation: for each claim, the change of log-odds per unit of clamp value within the natural range and
    over the last step of the -500…500 curve in the claimed direction. A doubling of the dose near 500 says
    little about doses that occur. Limit FI-L002.
    """
    rows: list[list[Any]] = []
    for claim, e in zip(judged.claims, judged.evidence, strict=True):
        if not isinstance(e, Measured):
            continue
        natural = (
            (e.log_odds[:, -1] - e.log_odds[:, 0]).mean() / (e.doses[-1] - e.doses[0])
            if e.doses[-1] > e.doses[0]
            else None
        )
        mean = e.stress_log_odds.mean(axis=0)
        last = slice(-2, None) if claim.drive == "+" else slice(None, 2)
        far = float(np.diff(mean[last])[0] / np.diff(e.stress_doses[last])[0])
        share = far / natural if natural else None
        rows.append([claim.id, str(claim.neuron), None if natural is None else float(natural), far, share])
    evidence.table(
        "saturation",
        "What a unit of clamp value does, near and far (FI-L002)",
        ["claim", "neuron", "per unit, natural range", "per unit, at 500", "share left"],
        rows or [["none", None, None, None, None]],
        "Change of the token's log-odds (nats) per unit of clamp value.",
    )
