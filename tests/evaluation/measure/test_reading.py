"""The reading side of the evidence: a neuron's output at the end of held-out contexts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from flashinterp import NeuronId
from flashinterp.evaluation import clamp_checks
from flashinterp.evaluation.claims import Claim
from flashinterp.evaluation.evidence import Evidence
from flashinterp.evaluation.experiment import Experiment
from flashinterp.evaluation.matched_controls import Controls
from flashinterp.evaluation.measure import measure
from flashinterp.evaluation.natural_range import natural_text
from flashinterp.models.activations import capture, encode
from flashinterp.neurons import Block
from tests.evaluation.measure.planted_claims import ODD, ODD_CLAIMS, claims_of, odd_claims


def absent_words(bench: Experiment, claims: Sequence[Claim]) -> list[int]:
    """The ids that stand where a concept's token stood, as they are drawn."""
    drawn: list[int] = []

    def spy(self: Experiment, name: str, n: int, but: set[int]) -> list[int]:
        words = draw(self, name, n, but)
        drawn.extend(words if name == "absent words" and not drawn else [])
        return words

    draw = Experiment.draw_words
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Experiment, "draw_words", spy)
        measure(bench, claims)
    return drawn


def output_at_the_end(bench: Experiment, text: str, block: Block, token_id: int | None = None) -> np.ndarray:
    """[F] u · silu(g) at the last position of one text by itself, in float64."""
    ids = encode(bench.tokenizer, text)
    if token_id is not None:
        ids = torch.cat([ids, torch.tensor([[token_id]])], dim=1)
    seen = capture(bench.model, [ids], [block])[0][block]
    u, g = (part[-1].astype(np.float64) for part in (seen.up, seen.gate))
    wanted: np.ndarray = u * g / (1 + np.exp(-g))
    return wanted


def test_the_reading_is_of_the_last_position_of_heldout_contexts(
    bench: Experiment, odd: list[Evidence], odd_controls: list[Controls], truth: dict[str, Any]
) -> None:
    small = replace(bench, profile=ODD)
    absent = absent_words(small, odd_claims(truth))
    assert len(absent) == 7
    ids = [bench.checkpoint.vocabulary.resolve(text).id for text, _ in ODD_CLAIMS]
    natural = natural_text(small, [NeuronId.parse(name).block for _, name in ODD_CLAIMS], ids)
    for e, controls, (text, name) in zip(odd, odd_controls, ODD_CLAIMS, strict=True):
        neuron, token = NeuronId.parse(name), bench.checkpoint.vocabulary.resolve(text)
        contexts = bench.prompts.contexts_heldout[:5]
        present = np.array([output_at_the_end(bench, c, neuron.block, token.id) for c in contexts])
        missing = np.array([[output_at_the_end(bench, c, neuron.block, i) for i in absent] for c in contexts])
        np.testing.assert_allclose(e.present, present[:, neuron.neuron], rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(e.absent, missing[..., neuron.neuron], rtol=1e-3, atol=1e-4)
        scale = natural[neuron.block].scale.activation
        gaps = (present.mean(axis=0) - missing.mean(axis=(0, 1))) / scale
        np.testing.assert_allclose(e.control_separations, gaps[list(controls.neurons)], rtol=1e-3, atol=1e-4)
        assert e.activation_scale == pytest.approx(scale[neuron.neuron], rel=1e-4)


def test_the_theme_is_read_at_the_end_of_its_own_texts_and_of_as_many_others(
    bench: Experiment, odd: list[Evidence]
) -> None:
    for e, (text, name) in zip(odd, ODD_CLAIMS, strict=True):
        neuron = NeuronId.parse(name)
        own = next(g for g in bench.prompts.groups if text in g.words).heldout
        others = [t for t in bench.prompts.heldout if t not in own][: len(own)]
        for got, texts in ((e.theme, own), (e.other_themes, others)):
            wanted = [output_at_the_end(bench, t, neuron.block)[neuron.neuron] for t in texts]
            np.testing.assert_allclose(got, wanted, rtol=1e-3, atol=1e-4)


def test_a_word_of_no_theme_has_none(bench: Experiment, truth: dict[str, Any]) -> None:
    assert bench.prompts.group_of(" kettle") is None
    (dog,) = claims_of(truth, "dog")
    (e,) = measure(replace(bench, profile=ODD), [replace(dog, token=" kettle")])
    assert isinstance(e, Evidence)
    assert e.theme.size == e.other_themes.size == 0
    assert e.unfit() is None


def test_no_absent_word_is_a_form_of_a_claimed_token(bench: Experiment, truth: dict[str, Any]) -> None:
    vocabulary = bench.checkpoint.vocabulary
    every = replace(bench, profile=replace(ODD, absent=10**6, contexts=1))  # all that may be drawn
    absent = absent_words(every, claims_of(truth))
    claimed = {p["token"].strip().lower() for p in truth["plants"]}
    assert len(set(absent)) == len(absent) > 300
    assert not {vocabulary.surfaces[i].strip().lower() for i in absent} & claimed
    assert not vocabulary.excluded[absent].any()
    every = replace(bench, profile=replace(ODD, unrelated=10**6))
    unrelated = clamp_checks.unrelated_tokens(every, vocabulary.resolve(" dog"))
    assert len({t.id for t in unrelated}) == len(unrelated) > 300
    assert not {t.text.strip().lower() for t in unrelated} & {"dog", "dogs"}
