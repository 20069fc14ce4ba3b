"""Claimed neurons that carry a second word, and those that another neuron doubles, on a live model (METHOD 7)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from flashinterp.decoding.neuron_map import LensMaps
from flashinterp.evaluation.claims import Claim
from flashinterp.evaluation.experiment import Experiment
from flashinterp.evaluation.natural_range import LEAST_ROUTED, Natural, append, natural_text
from flashinterp.models.activations import capture, encode
from flashinterp.models.forward_pass import input_device
from flashinterp.neurons import NeuronId, Pole
from flashinterp.studies.limitations.drive import PROMPTS, drive, natural_ranges, range_towards
from flashinterp.studies.limitations.names import NEAR
from flashinterp.studies.limitations.second_word import Likeness
from flashinterp.studies.limitations.shared_neuron_tables import Carrier, Paired, with_two_words
from flashinterp.studies.limitations.twin_neurons import twin_effects
from flashinterp.studies.limitations.twin_records import cosines_with, nearest_twin

UNRELATED_WORDS = 40

# --- two words of one neuron ----------------------------------------------------------------------------


def two_word_carriers(
    bench: Experiment, maps: LensMaps, claims: Iterable[Claim], likeness: Likeness, most: int
) -> list[Carrier]:
    """Each claimed neuron with the words that it may stand for; the first ones of two words are driven.

    Args:
        bench: the model and its texts.
        maps: its maps.
        claims: about its neurons.
        likeness: of the model's words.
        most: neurons that are driven.
    """
    carriers = _carriers(bench, maps, claims, likeness)
    chosen = with_two_words(carriers, likeness.pairs)[:most]
    ranges = natural_ranges(bench, [one.neuron for one, _ in chosen])
    measured = {}
    for one, pair in chosen:
        if one.neuron in ranges:
            ids = tuple(word.id for word in pair)
            others = bench.draw_words(f"beside {one.neuron}", UNRELATED_WORDS, set(ids))
            driven = drive(bench, one.neuron, one.pole, ranges, (*ids, *others))
            standing = tuple(values_at_word(bench, one.neuron, word) for word in (*ids, None))
            measured[one.neuron, one.pole] = replace(one, driven=driven, standing=standing)
    return [measured.get((one.neuron, one.pole), one) for one in carriers]


def _carriers(bench: Experiment, maps: LensMaps, claims: Iterable[Claim], likeness: Likeness) -> list[Carrier]:
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


def values_at_word(bench: Experiment, neuron: NeuronId, word: int | None) -> NDArray[np.float32]:
    """[texts] u where a word stands, over held-out contexts; where others stand for None."""
    words = bench.draw_words("stands elsewhere", UNRELATED_WORDS // 4, set()) if word is None else [word]
    device = input_device(bench.model)
    contexts = [encode(bench.tokenizer, text, device) for text in bench.prompts.contexts_heldout]
    texts = [append(context, i) for context in contexts for i in words]
    seen = capture(bench.model, texts, [neuron.block])
    return np.array([one[neuron.block].up[-1, neuron.neuron] for one in seen])


# --- neurons that do the same ---------------------------------------------------------------------------


def twin_pairs(bench: Experiment, claims: Sequence[Claim], most: int) -> list[Paired]:
    """The first claimed neurons, each once, with the nearest twin, and what silencing and driving the two does.

    Left out are neurons whose expert natural text hardly reaches, and those that are alone in their MLP.
    """
    named = {claim.neuron: claim for claim in reversed(claims) if claim.neuron is not None}
    chosen = list(named.values())[::-1][:most]
    blocks = list(dict.fromkeys(claim.neuron.block for claim in chosen if claim.neuron))
    natural = natural_text(bench, blocks, [bench.token(claim).id for claim in chosen])
    reached = [claim for claim in chosen if claim.neuron and len(natural[claim.neuron.block].up) >= LEAST_ROUTED]
    pairs = (_with_twin(bench, claim, natural[claim.neuron.block]) for claim in reached if claim.neuron)
    return [pair for pair in pairs if pair is not None]


def _with_twin(bench: Experiment, claim: Claim, here: Natural) -> Paired | None:
    neuron, token = claim.neuron, bench.token(claim).id
    assert neuron is not None
    cosines = cosines_with(neuron.neuron, here.reading, here.writing).astype(np.float32)
    twin = nearest_twin(neuron.neuron, cosines)
    if twin is None:
        return None
    other = NeuronId(neuron.layer, twin.neuron, neuron.expert)
    up, device = claim.drive == "+", input_device(bench.model)
    effects = twin_effects(
        bench.model,
        (neuron, other),
        token,
        means=(_mean(here, neuron), _mean(here, other)),
        ends=(range_towards(here, neuron, up=up), range_towards(here, other, up=up != twin.mirrored)),
        present=[append(encode(bench.tokenizer, text, device), token) for text in bench.prompts.contexts_heldout],
        neutral=[encode(bench.tokenizer, text, device) for text in bench.prompts.heldout[:PROMPTS]],
    )
    return Paired(claim, cosines, effects)


def _mean(natural: Natural, neuron: NeuronId) -> float:
    return float(natural.up[:, neuron.neuron].mean())
