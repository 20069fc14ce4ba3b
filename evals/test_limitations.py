"""Where the method stops: words without a neuron of their own, and neurons that are not one word's alone.

In arXiv 2501.02688 "Dumbledore" has no neuron of its own: decoding leads to the "wizard" neuron, and clamping
that one brings wizards. "Sherlock" has its own. A name of several tokens has no row to decode at all; a neuron may
carry two words, and two neurons the same one. These are experiments with a result for every model, not failures to
hide. Each has a page in docs/limitations.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from flashinterp import Checkpoint, FlashinterpError, NeuronId, clamp, sweep
from flashinterp.decoding.neuron_map import LensMaps
from flashinterp.evaluation.claims import Claim
from flashinterp.evaluation.experiment import Experiment
from flashinterp.evaluation.natural_range import LEAST_ROUTED, Natural, append, natural_text
from flashinterp.models.activations import capture, encode
from flashinterp.models.forward_pass import input_device
from flashinterp.neurons import Pole
from flashinterp.runs.eval_recorder import EvalRecorder
from flashinterp.runs.session import AuditSession
from flashinterp.studies.limitations.driven_neuron import Driven
from flashinterp.studies.limitations.name_tables import By, Lead, names_found, names_table, several_tokens_table
from flashinterp.studies.limitations.second_word import Likeness
from flashinterp.studies.limitations.shared_neuron_tables import (
    Carrier,
    Paired,
    duplicates_table,
    two_concepts_table,
    two_word_effects,
    with_two_words,
)
from flashinterp.studies.limitations.twin_neurons import cosines_with, nearest_twin, twin_effects
from flashinterp.tokens import Token

NAMES = (" Dumbledore", " Sherlock", " Hermione", " Einstein", " Paris", " California", " dog")
NEAR = 10  # a concept among a neuron's first words is a part of what it names
PROMPTS = 6
MOST_NEURONS = 8  # of the claims, that are looked at for second words and twins
UNRELATED_WORDS = 40
LEAST_EFFECT = 0.1  # nats of log-odds, as for a verdict

Ranges = Mapping[NeuronId, tuple[float, float]]
"""The natural range of each neuron that natural text reaches."""


@pytest.mark.limitation
def test_rare_names_lead_to_broader_neurons(
    audit: AuditSession, base: Checkpoint, maps: LensMaps, model: Any, bench: Experiment, evidence: EvalRecorder
) -> None:
    """For a list of names, whether the found neuron is the name's own, a broader one's, or noise.

    Implementation: a name that is one token is looked up as it is; one of several tokens by its first token and
    by the mean of its tokens' logits, each a row. The neuron is `own` if its best word is the name (in any
    written form), a `piece` if it is one of the name's several tokens, `broader` if another word is best and the
    name's (first) token is among its first ten, else `noise`.
    Then the neuron is driven over its natural range and the change of log-odds of both words is measured:
    what it brings is the word that is likelier at the end. Limit FI-L001.
    """
    leads = _driven([lead for name in NAMES for lead in _leads(name, base, maps)], model, bench)
    kept = evidence.value("leads", leads)
    evidence.derived(names_table, "names", "Where names lead (FI-L001)", kept)
    paper = '"Dumbledore" leads to a "wizard" neuron; "Sherlock" has its own'
    evidence.finding(6, paper, names_found, kept, audit.truth is not None)
    if audit.truth:
        by_name = {lead.name: lead for lead in reversed(leads)}
        wizard = next(p["name"] for p in audit.truth["plants"] if p["id"] == "wizard")
        dumbledore, sherlock = by_name[" Dumbledore"], by_name[" Sherlock"]
        assert str(dumbledore.found.neuron) == wizard
        assert dumbledore.best.text == audit.truth["dumbledore"]["leads_to"]
        assert (dumbledore.reading, sherlock.reading) == ("broader", "own")
        assert dumbledore.brings == 1, "clamping the wizard neuron should bring wizards"


def _leads(name: str, base: Checkpoint, maps: LensMaps) -> list[Lead]:
    """One lead for a single token; two, by the first token and by the mean, for a name of several."""
    paper, vocabulary = maps["paper"], base.vocabulary
    tokens = _pieces(base, name)
    ids = tuple(token.id for token in tokens)
    forms = {ids[0], *(v.id for v in vocabulary.variants(vocabulary.resolve(ids[0])))} if len(ids) == 1 else ()
    leads = []
    ways: tuple[By, ...] = ("token",) if len(ids) == 1 else ("first", "mean")
    for by in ways:
        found = paper.find_mean(ids if by == "mean" else ids[:1], 1, checkpoint=base)[0]
        words = tuple(paper.words(found.neuron, NEAR, found.pole))
        leads.append(Lead(name, by, tokens, tuple(sorted(forms)), found, words))
    return leads


def _pieces(base: Checkpoint, name: str) -> tuple[Token, ...]:
    """The tokens of a name in the middle of a text; one where it is a single token in any form."""
    vocabulary = base.vocabulary
    try:
        return (vocabulary.resolve(name),)
    except FlashinterpError:
        text = name.strip() if vocabulary.prefix_space else f" {name.strip()}"
        return tuple(vocabulary.resolve(i) for i in base.tokenizer.encode(text, add_special_tokens=False))


def _driven(leads: Sequence[Lead], model: Any, bench: Experiment) -> list[Lead]:
    """With what their neurons do, where natural text reaches them."""
    ranges = _natural_ranges(bench, [lead.found.neuron for lead in leads])
    done = []
    for lead in leads:
        neuron, pole = lead.found.neuron, lead.found.pole
        words = (lead.tokens[0].id, lead.best.id)
        reached = neuron in ranges
        done.append(replace(lead, driven=_drive(model, bench, neuron, pole, ranges, words)) if reached else lead)
    return done


def _natural_ranges(bench: Experiment, neurons: Iterable[NeuronId]) -> Ranges:
    """From one capture; without those whose expert natural text does not reach."""
    wanted = list(dict.fromkeys(neurons))
    natural = natural_text(bench, list(dict.fromkeys(neuron.block for neuron in wanted))) if wanted else {}
    reached = [neuron for neuron in wanted if len(natural[neuron.block].up) >= LEAST_ROUTED]
    return {neuron: _from_to(natural[neuron.block], neuron, up=True) for neuron in reached}


def _drive(
    model: Any, bench: Experiment, neuron: NeuronId, pole: Pole, ranges: Ranges, tokens: Sequence[int]
) -> Driven:
    """Over the neuron's natural range, towards the pole."""
    low, high = ranges[neuron]
    doses = (low, high) if pole == "+" else (high, low)
    curves = sweep(model, bench.tokenizer, bench.prompts.heldout[:PROMPTS], [neuron], doses, list(tokens))
    return Driven(doses, tuple(tokens), curves.log_odds[0])


# --- names of several tokens ----------------------------------------------------------------------------


@pytest.mark.limitation
def test_names_of_several_tokens(
    audit: AuditSession, base: Checkpoint, maps: LensMaps, model: Any, bench: Experiment, evidence: EvalRecorder
) -> None:
    """A name of several tokens, looked up by its first token and by the mean of all: where it leads, and what comes.

    Implementation: the names of the list above, and the prompt set's concepts, that are no single token here. Each way
    gives a neuron, which is driven over its natural range; the effect on the *whole* name is the change of the sum of
    its tokens' log-probabilities, one after the other, after a held-out prompt. It stands beside the effect on its
    first token alone, which many other words may share, and on the neuron's best word. Limit FI-L008.
    """
    names = [n for n in dict.fromkeys((*NAMES, *bench.prompts.concepts)) if len(_pieces(base, n)) > 1][:MOST_NEURONS]
    found = _driven([lead for name in names for lead in _leads(name, base, maps)], model, bench)
    leads = [replace(lead, whole=_whole(model, bench, lead)) for lead in found]
    evidence.derived(several_tokens_table, "several-tokens", "Names of several tokens (FI-L008)", leads)
    if audit.truth:
        by_first = next(lead for lead in leads if lead.name.strip() == audit.truth["dumbledore"]["text"].strip())
        assert by_first.best.id == base.vocabulary.resolve(audit.truth["dumbledore"]["leads_to"]).id
        brought = by_first.effects[1]
        assert brought is not None
        assert brought > LEAST_EFFECT, "the neuron that the name leads to should bring its own word"


@torch.no_grad()
def _whole(model: Any, bench: Experiment, lead: Lead) -> np.ndarray | None:
    """[2 ends, prompts] the log-probability of all of a name's tokens, one after the other."""
    if lead.driven is None:
        return None
    ids = [token.id for token in lead.tokens]
    ends: list[list[float]] = []
    for dose in lead.driven.doses:
        ends.append([])
        with clamp(model, {lead.found.neuron: dose}):
            for prompt in bench.prompts.heldout[:PROMPTS]:
                text = encode(bench.tokenizer, prompt, input_device(model))
                whole = torch.cat([text, torch.tensor([ids], device=text.device)], dim=1)
                log_p = model(whole, use_cache=False).logits[0, text.shape[1] - 1 : -1].double().log_softmax(-1)
                ends[-1].append(float(log_p[range(len(ids)), ids].sum()))
    return np.array(ends)


# --- two concepts in one neuron -------------------------------------------------------------------------


@pytest.mark.limitation
def test_two_concepts_in_one_neuron(
    audit: AuditSession,
    base: Checkpoint,
    maps: LensMaps,
    claims: tuple[Claim, ...],
    model: Any,
    bench: Experiment,
    evidence: EvalRecorder,
) -> None:
    """Whether the claims' neurons carry a second, unrelated word, and what the clamp does to both.

    Implementation: the second word is that of another claim about the same neuron, or the best among the neuron's first
    ten words (by the claim's lens) whose row of the head is no more like the first word's than those of three in four
    random pairs of words are. The neuron is driven over its natural range, and both effects are compared with those
    on unrelated words: it *carries* a word that it raises by more than 95 % of these. Beside them, where each word
    itself drives the neuron: the median of u at the word, over held-out contexts. Two words that drive it to
    the same values cannot be told apart by a dose. Limit FI-L006.
    """
    likeness = Likeness.of(base, bench.words(), bench.rng("unrelated rows"))
    carriers = _measured(_carriers(maps, claims, bench, likeness), likeness, model, bench)
    title = "Two unrelated words of one neuron (FI-L006)"
    evidence.derived(two_concepts_table, "two-concepts", title, carriers, likeness.pairs)
    for known in (audit.truth or {}).get("two_concepts", []):
        words = {base.vocabulary.resolve(token).id for token in known["tokens"]}
        found = two_word_effects(carriers, likeness.pairs)
        one, effects = next(both for both in found if {word.id for word in both[1].words} == words)
        assert str(one.neuron) == known["neuron"]
        missing = [str(word) for word in effects.words if word not in effects.carried]
        assert not missing, f"{one.neuron} should bring {' and '.join(missing)}"


def _carriers(maps: LensMaps, claims: tuple[Claim, ...], bench: Experiment, likeness: Likeness) -> list[Carrier]:
    """Each claimed neuron with the claims' words, and with its first words by the claim's lens."""
    vocabulary = bench.checkpoint.vocabulary
    by_neuron: dict[tuple[NeuronId, Pole], list[Claim]] = {}
    for claim in claims:
        if claim.neuron is not None and claim.pole is not None:
            by_neuron.setdefault((claim.neuron, claim.pole), []).append(claim)
    found = []
    for (neuron, pole), own in by_neuron.items():
        claimed = tuple({token.id: token for token in map(bench.token, own)}.values())
        first, lens = claimed[0].id, own[0].lens
        forms = {first, *(v.id for v in vocabulary.variants(vocabulary.resolve(first)))}
        words = tuple(maps[lens].words(neuron, NEAR, pole))
        cosines = likeness.cosines(first, [word.token.id for word in words])
        found.append(Carrier(neuron, pole, lens, claimed, tuple(sorted(forms)), words, cosines))
    return found


def _measured(carriers: Sequence[Carrier], likeness: Likeness, model: Any, bench: Experiment) -> list[Carrier]:
    """All of them, the first ones of two words with what driving them does, and their values where words stand."""
    chosen = with_two_words(carriers, likeness.pairs)[:MOST_NEURONS]
    ranges = _natural_ranges(bench, [one.neuron for one, _ in chosen])
    measured = {}
    for one, pair in chosen:
        if one.neuron in ranges:
            ids = tuple(word.id for word in pair)
            others = bench.draw_words(f"beside {one.neuron}", UNRELATED_WORDS, set(ids))
            driven = _drive(model, bench, one.neuron, one.pole, ranges, (*ids, *others))
            standing = tuple(_at_word(model, bench, one.neuron, word) for word in (*ids, None))
            measured[one.neuron, one.pole] = replace(one, driven=driven, standing=standing)
    return [measured.get((one.neuron, one.pole), one) for one in carriers]


def _at_word(model: Any, bench: Experiment, neuron: NeuronId, word: int | None) -> np.ndarray:
    """[texts] u where a word stands, over held-out contexts; where others stand for None."""
    words = bench.draw_words("stands elsewhere", UNRELATED_WORDS // 4, set()) if word is None else [word]
    contexts = [encode(bench.tokenizer, text, input_device(model)) for text in bench.prompts.contexts_heldout]
    texts = [append(context, i) for context in contexts for i in words]
    seen = capture(model, texts, [neuron.block])
    return np.array([one[neuron.block].up[-1, neuron.neuron] for one in seen])


# --- neurons that do the same ---------------------------------------------------------------------------


@pytest.mark.limitation
def test_duplicated_neurons(
    audit: AuditSession, claims: tuple[Claim, ...], model: Any, bench: Experiment, evidence: EvalRecorder
) -> None:
    """What silencing one of two neurons that do the same shows, beside silencing both and driving one.

    Implementation: a neuron's nearest twin is that of its MLP for which the smaller of two cosines, of what both read
    and of what both write, is the largest; both may be negative, which is the same function. Silenced is fixed at the
    mean of u on natural text, on held-out contexts with the claim's word after them, where the neuron is at work;
    driven is from one end of its natural range to the other, on held-out prompts. Of a true pair the silencing of one
    shows half of what the two do together, or less, whereas driving one brings the word. Limit FI-L007.
    """
    found = _twins(claims, model, bench)
    evidence.derived(duplicates_table, "duplicates", "Neurons and their nearest twins (FI-L007)", found)
    pairs = {frozenset((str(one.claim.neuron), str(one.other))): one.effects for one in found}
    for pair in (audit.truth or {}).get("duplicates", []):
        silenced, driven = pairs[frozenset(pair)].silenced, pairs[frozenset(pair)].driven
        # Two thirds: a half where the two add up, and room for what the norm makes of the sum.
        assert max(abs(silenced[0]), abs(silenced[1])) < abs(silenced[2]) * 2 / 3, f"{pair} silenced: {silenced}"
        assert min(driven[0], driven[1]) > LEAST_EFFECT, f"{pair} driven: {driven}"


def _twins(claims: tuple[Claim, ...], model: Any, bench: Experiment) -> list[Paired]:
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
        cosines = cosines_with(claim.neuron.neuron, here.reading, here.writing).astype(np.float32)
        twin = nearest_twin(claim.neuron.neuron, cosines)
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
        found.append(Paired(claim, cosines, effects))
    return found


def _mean(natural: Natural, neuron: NeuronId) -> float:
    return float(natural.up[:, neuron.neuron].mean())


def _from_to(natural: Natural, neuron: NeuronId, *, up: bool) -> tuple[float, float]:
    low, high = map(float, natural.doses(neuron.neuron, 2))
    return (low, high) if up else (high, low)
