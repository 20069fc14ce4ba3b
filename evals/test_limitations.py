"""Where the method stops: words without a neuron of their own, and neurons that are not one word's alone.

In arXiv 2501.02688 "Dumbledore" has no neuron of its own: decoding leads to the "wizard" neuron, and clamping
that one brings wizards. "Sherlock" has its own. A name of several tokens has no row to decode at all; a neuron may
carry two words, and two neurons the same one. These are experiments with a result for every model, not failures to
hide. Each has a page in docs/limitations.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from evals.conftest import Maps
from flashinterp import Checkpoint, FlashinterpError, NeuronId, clamp, sweep
from flashinterp.audit.session import AuditSession
from flashinterp.bench import Bench
from flashinterp.capture import capture, encode
from flashinterp.claims import Claim
from flashinterp.natural import LEAST_ROUTED, Natural, append, natural_text
from flashinterp.neuron import Pole
from flashinterp.neuron_map import Found
from flashinterp.passes import input_device
from flashinterp.pytest_plugin import Evidence
from flashinterp.second_word import Likeness, second_word
from flashinterp.twins import TwinEffects, nearest_twin, twin_effects

NAMES = (" Dumbledore", " Sherlock", " Hermione", " Einstein", " Paris", " California", " dog")
NEAR = 10  # a concept among a neuron's first words is a part of what it names
PROMPTS = 6
NOT_REACHED = "not measured: natural text does not reach its expert"
MOST_NEURONS = 8  # of the claims, that are looked at for second words and twins
UNRELATED_WORDS = 40
LEAST_EFFECT = 0.1  # nats of log-odds, as for a verdict

Ranges = Mapping[NeuronId, tuple[float, float]]
"""The natural range of each neuron that natural text reaches."""


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
    ranges = _natural_ranges(bench, [lead.found.neuron for lead in leads])
    rows = []
    for lead in leads:
        token, best = (base.vocabulary.show(i) for i in (lead.token, lead.best))
        effects, brings = _drive(model, bench, lead, ranges)
        brought = {0: token, 1: best, None: "neither"}[brings] if lead.found.neuron in ranges else NOT_REACHED
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
    told = {"own": "has its own", "piece": "leads to its piece", "broader": "leads to", "noise": "leads to noise,"}
    evidence.finding(
        6,
        '"Dumbledore" leads to a "wizard" neuron; "Sherlock" has its own',
        ", ".join(
            f"{lead.name.strip()} {told[lead.reading]}"
            + ("" if lead.reading == "own" else f" {base.vocabulary.surfaces[lead.best].strip()}")
            for lead in {lead.name: lead for lead in reversed(leads)}.values()
            if lead.name in (" Dumbledore", " Sherlock")
        ),
        "the same" if audit.truth else None,
    )
    if audit.truth:
        by_name = {lead.name: lead for lead in reversed(leads)}
        wizard = next(p["name"] for p in audit.truth["plants"] if p["id"] == "wizard")
        dumbledore, sherlock = by_name[" Dumbledore"], by_name[" Sherlock"]
        assert str(dumbledore.found.neuron) == wizard
        assert base.vocabulary.surfaces[dumbledore.best] == audit.truth["dumbledore"]["leads_to"]
        assert (dumbledore.reading, sherlock.reading) == ("broader", "own")
        assert _drive(model, bench, dumbledore, ranges)[1] == 1, "clamping the wizard neuron should bring wizards"


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


def _natural_ranges(bench: Bench, neurons: Iterable[NeuronId]) -> Ranges:
    """From one capture; without those whose expert natural text does not reach."""
    wanted = list(dict.fromkeys(neurons))
    natural = natural_text(bench, list(dict.fromkeys(neuron.block for neuron in wanted))) if wanted else {}
    reached = [neuron for neuron in wanted if len(natural[neuron.block].up) >= LEAST_ROUTED]
    return {neuron: _from_to(natural[neuron.block], neuron, up=True) for neuron in reached}


def _drive(model: Any, bench: Bench, lead: Lead, ranges: Ranges) -> tuple[list[float | None], int | None]:
    """Effects on [name, best word], and which of them is brought: 0, 1 or neither."""
    neuron, pole = lead.found.neuron, lead.found.pole
    if neuron not in ranges:
        return [None, None], None
    odds = _ends(model, bench, neuron, pole, ranges, [lead.token, lead.best])  # [2 ends, 2 tokens]
    effects = (odds[1] - odds[0]).tolist()
    if max(effects) <= 0:
        return effects, None
    return effects, int(np.argmax(np.where(odds[1] - odds[0] > 0, odds[1], -np.inf)))


def _ends(model: Any, bench: Bench, neuron: NeuronId, pole: Pole, ranges: Ranges, tokens: list[int]) -> np.ndarray:
    """Mean log-odds [from, to] x tokens, driven over the natural range towards the pole."""
    low, high = ranges[neuron]
    doses = [low, high] if pole == "+" else [high, low]
    curves = sweep(model, bench.tokenizer, bench.prompts.heldout[:PROMPTS], [neuron], doses, tokens)
    return curves.log_odds[0].mean(axis=1)


# --- names of several tokens ----------------------------------------------------------------------------


@pytest.mark.limitation
def test_names_of_several_tokens(
    audit: AuditSession, base: Checkpoint, maps: Maps, model: Any, bench: Bench, evidence: Evidence
) -> None:
    """A name of several tokens, looked up by its first token and by the mean of all: where it leads, and what comes.

    Implementation: the names of the list above, and the prompt set's concepts, that are no single token here. Each way
    gives a neuron, which is driven over its natural range; the effect on the *whole* name is the change of the sum of
    its tokens' log-probabilities, one after the other, after a held-out prompt. It stands beside the effect on its
    first token alone, which many other words may share, and on the neuron's best word. Limit FI-L008.
    """
    names = [n for n in dict.fromkeys((*NAMES, *bench.prompts.concepts)) if len(_pieces(base, n)) > 1][:MOST_NEURONS]
    by_name = {name: _leads(name, base, maps) for name in names}
    ranges = _natural_ranges(bench, [lead.found.neuron for leads in by_name.values() for lead in leads])
    rows: list[list[Any]] = []
    for name, leads in by_name.items():
        for lead in leads:
            own, best = _drive(model, bench, lead, ranges)[0]
            whole = _whole(model, bench, lead, ranges, _pieces(base, name))
            same = "yes" if len({one.found.neuron for one in leads}) == 1 else "no"
            found, shown = lead.found, base.vocabulary.show(lead.best)
            rows.append([name.strip(), lead.form, str(found.neuron), found.pole, same, shown, whole, own, best])
    evidence.table(
        "several-tokens",
        "Names of several tokens (FI-L008)",
        ["name", "looked up by", "neuron", "pole", "same by both", "its best word", "effect, whole name",
         "effect, first token", "effect, best word"],
        rows or [["none: each is one token here", *[None] * 8]],
        "Effects in nats, when the neuron is driven from one end of its natural range to the other, towards the pole: "
        "on log-odds for single tokens, on the log-probability of all tokens together for the whole name.",
    )  # fmt: skip
    if audit.truth:
        by_first = next(row for row in rows if row[0] == audit.truth["dumbledore"]["text"].strip())
        assert by_first[5] == base.vocabulary.show(base.vocabulary.resolve(audit.truth["dumbledore"]["leads_to"]).id)
        assert by_first[8] > LEAST_EFFECT, "the neuron that the name leads to should bring its own word"


def _pieces(base: Checkpoint, name: str) -> list[int]:
    """The tokens of a name in the middle of a text; one where it is a single token in any form."""
    try:
        return [base.vocabulary.resolve(name).id]
    except FlashinterpError:
        text = name.strip() if base.vocabulary.prefix_space else f" {name.strip()}"
        return list(base.tokenizer.encode(text, add_special_tokens=False))


@torch.no_grad()
def _whole(model: Any, bench: Bench, lead: Lead, ranges: Ranges, ids: list[int]) -> float | None:
    """The effect of the lead's neuron on the log-probability of all of a name's tokens, mean over prompts."""
    if lead.found.neuron not in ranges:
        return None
    low, high = ranges[lead.found.neuron]
    ends = []
    for dose in (low, high) if lead.found.pole == "+" else (high, low):
        with clamp(model, {lead.found.neuron: dose}):
            total = 0.0
            for prompt in bench.prompts.heldout[:PROMPTS]:
                text = encode(bench.tokenizer, prompt, input_device(model))
                whole = torch.cat([text, torch.tensor([ids], device=text.device)], dim=1)
                log_p = model(whole, use_cache=False).logits[0, text.shape[1] - 1 : -1].double().log_softmax(-1)
                total += float(log_p[range(len(ids)), ids].sum())
        ends.append(total / PROMPTS)
    return ends[1] - ends[0]


# --- two concepts in one neuron -------------------------------------------------------------------------


@dataclass(frozen=True)
class Shared:
    """A neuron and two unrelated words that it may carry."""

    neuron: NeuronId
    pole: Pole
    words: tuple[int, int]
    how: str


@pytest.mark.limitation
def test_two_concepts_in_one_neuron(
    audit: AuditSession,
    base: Checkpoint,
    maps: Maps,
    claims: tuple[Claim, ...],
    model: Any,
    bench: Bench,
    evidence: Evidence,
) -> None:
    """Whether the claims' neurons carry a second, unrelated word, and what the clamp does to both.

    Implementation: the second word is that of another claim about the same neuron, or the best among the neuron's first
    ten words (by the claim's lens) whose row of the head is no more like the first word's than those of three in four
    random pairs of words are. The neuron is driven over its natural range, and both effects are compared with those
    on unrelated words: it *carries* a word that it raises by more than 95 % of these. Beside them, where each word
    itself drives the neuron: the median of u at the word, over held-out contexts. Two words that drive it to
    the same values cannot be told apart by a dose. Limit FI-L006.
    """
    found = _shared(base, maps, claims, bench)
    ranges = _natural_ranges(bench, [one.neuron for one in found])
    shared = [one for one in found if one.neuron in ranges]
    rows: list[list[Any]] = []
    for one in shared:
        effects, usual = _effects_beside(model, bench, one, ranges)
        carried = [base.vocabulary.show(w) for w, e in zip(one.words, effects, strict=True) if e > usual]
        where = [_at_word(model, bench, one.neuron, word) for word in (*one.words, None)]
        shown = [base.vocabulary.show(word) for word in one.words]
        told = " and ".join(carried) if carried else "neither"
        rows.append([str(one.neuron), one.pole, *shown, one.how, *effects, usual, told, *where])
    evidence.table(
        "two-concepts",
        "Two unrelated words of one neuron (FI-L006)",
        ["neuron", "pole", "first word", "second word", "second by", "effect, first", "effect, second",
         "95 % of unrelated", "carries", "u at first", "u at second", "u at others"],
        rows or [["no claim names a neuron with a second word", *[None] * 11]],
        "Effects: change of log-odds (nats) when the neuron is driven over its natural range towards the pole; of "
        "unrelated words the absolute effect that 95 % of them do not reach. u: its value where a word stands.",
    )  # fmt: skip
    for known in (audit.truth or {}).get("two_concepts", []):
        words = {base.vocabulary.resolve(token).id for token in known["tokens"]}
        row = next(row for one, row in zip(shared, rows, strict=True) if set(one.words) == words)
        assert row[0] == known["neuron"]
        assert row[5] > row[7], f"{row[0]} should bring {row[2]}"
        assert row[6] > row[7], f"{row[0]} should bring {row[3]}"


def _shared(base: Checkpoint, maps: Maps, claims: tuple[Claim, ...], bench: Bench) -> list[Shared]:
    """For each claimed neuron the claims' two words, or the claim's and the best unrelated one of its list."""
    likeness = Likeness.of(base, bench.words(), bench.rng("unrelated rows"))
    by_neuron: dict[tuple[NeuronId, Pole], list[Claim]] = {}
    for claim in claims:
        if claim.neuron is not None and claim.pole is not None:
            by_neuron.setdefault((claim.neuron, claim.pole), []).append(claim)
    found = []
    for (neuron, pole), own in by_neuron.items():
        ids = list(dict.fromkeys(bench.token(claim).id for claim in own))
        if len(ids) > 1:
            found.append(Shared(neuron, pole, (ids[0], ids[1]), "another claim"))
        elif word := second_word(maps[own[0].lens], neuron, pole, ids[0], likeness):
            found.append(Shared(neuron, pole, (ids[0], word.token.id), f"the {own[0].lens} lens"))
    return sorted(found, key=lambda one: one.how != "another claim")[:MOST_NEURONS]


def _effects_beside(model: Any, bench: Bench, one: Shared, ranges: Ranges) -> tuple[list[float], float]:
    """Effects on both words, and the absolute effect that 95 % of unrelated words do not reach."""
    others = bench.draw_words(f"beside {one.neuron}", UNRELATED_WORDS, set(one.words))
    odds = _ends(model, bench, one.neuron, one.pole, ranges, [*one.words, *others])
    effects = odds[1] - odds[0]
    return effects[:2].tolist(), float(np.quantile(np.abs(effects[2:]), 0.95))


def _at_word(model: Any, bench: Bench, neuron: NeuronId, word: int | None) -> float:
    """The median of u where a word stands, over held-out contexts; where others stand for None."""
    words = bench.draw_words("stands elsewhere", UNRELATED_WORDS // 4, set()) if word is None else [word]
    contexts = [encode(bench.tokenizer, text, input_device(model)) for text in bench.prompts.contexts_heldout]
    texts = [append(context, i) for context in contexts for i in words]
    seen = capture(model, texts, [neuron.block])
    return float(np.median([one[neuron.block].up[-1, neuron.neuron] for one in seen]))


# --- neurons that do the same ---------------------------------------------------------------------------


@pytest.mark.limitation
def test_duplicated_neurons(
    audit: AuditSession, claims: tuple[Claim, ...], model: Any, bench: Bench, evidence: Evidence
) -> None:
    """What silencing one of two neurons that do the same shows, beside silencing both and driving one.

    Implementation: a neuron's nearest twin is that of its MLP for which the smaller of two cosines, of what both read
    and of what both write, is the largest; both may be negative, which is the same function. Silenced is fixed at the
    mean of u on natural text, on held-out contexts with the claim's word after them, where the neuron is at work;
    driven is from one end of its natural range to the other, on held-out prompts. Of a true pair the silencing of one
    shows half of what the two do together, or less, whereas driving one brings the word. Limit FI-L007.
    """
    rows: list[list[Any]] = []
    pairs: dict[frozenset[str], TwinEffects] = {}
    for claim, twin, likeness, effects in _twins(claims, model, bench):
        pairs[frozenset((str(claim.neuron), str(twin)))] = effects
        silenced, driven = effects.silenced, effects.driven
        share = silenced[0] / silenced[2] if silenced[2] else None
        rows.append([claim.id, str(claim.neuron), str(twin), likeness, *silenced, share, driven[0], driven[2]])
    rows = sorted(rows, key=lambda row: -row[3])
    evidence.table(
        "duplicates",
        "Neurons and their nearest twins (FI-L007)",
        ["claim", "neuron", "nearest twin", "likeness", "silenced", "twin silenced", "both silenced", "one of both",
         "driven", "both driven"],
        rows or [["no claim names a neuron with others in its MLP", *[None] * 9]],
        "Likeness: the smaller of the cosines of what the two read and of what they write; near 1 they are one neuron "
        "twice. Changes of the claim's word's log-odds, in nats. One of both: its silencing over that of both.",
    )  # fmt: skip
    for pair in (audit.truth or {}).get("duplicates", []):
        silenced, driven = pairs[frozenset(pair)].silenced, pairs[frozenset(pair)].driven
        # Two thirds: a half where the two add up, and room for what the norm makes of the sum.
        assert max(abs(silenced[0]), abs(silenced[1])) < abs(silenced[2]) * 2 / 3, f"{pair} silenced: {silenced}"
        assert min(driven[0], driven[1]) > LEAST_EFFECT, f"{pair} driven: {driven}"


def _twins(claims: tuple[Claim, ...], model: Any, bench: Bench) -> list[tuple[Claim, NeuronId, float, TwinEffects]]:
    """Each claimed neuron, once, with its nearest twin, and what silencing and driving them does."""
    named = {claim.neuron: claim for claim in reversed(claims) if claim.neuron is not None}
    chosen = list(named.values())[::-1][: 2 * MOST_NEURONS]
    blocks = list(dict.fromkeys(claim.neuron.block for claim in chosen if claim.neuron))
    natural = natural_text(bench, blocks, [bench.token(claim).id for claim in chosen])
    neutral = [encode(bench.tokenizer, text, input_device(model)) for text in bench.prompts.heldout[:PROMPTS]]
    contexts = [encode(bench.tokenizer, text, input_device(model)) for text in bench.prompts.contexts_heldout]
    found = []
    for claim in (c for c in chosen if c.neuron and len(natural[c.neuron.block].up) >= LEAST_ROUTED):
        assert claim.neuron is not None
        here, token = natural[claim.neuron.block], bench.token(claim).id
        twin = nearest_twin(claim.neuron.neuron, here.reading, here.writing)
        if twin is None:
            continue
        other = NeuronId(claim.neuron.layer, twin.neuron, claim.neuron.expert)
        up = claim.drive == "+"
        effects = twin_effects(
            model,
            (claim.neuron, other),
            token,
            means=(_mean(here, claim.neuron), _mean(here, other)),
            ends=(_from_to(here, claim.neuron, up=up), _from_to(here, other, up=up != twin.mirrored)),
            present=[append(context, token) for context in contexts],
            neutral=neutral,
        )
        found.append((claim, other, twin.likeness, effects))
    return found


def _mean(natural: Natural, neuron: NeuronId) -> float:
    return float(natural.up[:, neuron.neuron].mean())


def _from_to(natural: Natural, neuron: NeuronId, *, up: bool) -> tuple[float, float]:
    low, high = map(float, natural.doses(neuron.neuron, 2))
    return (low, high) if up else (high, low)
