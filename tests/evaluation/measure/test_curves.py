"""The writing side of the evidence: doses, curves, damage and logits against single clamped passes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
import torch

from fixtures.build import VOCAB
from flashinterp import Checkpoint, NeuronId
from flashinterp.evaluation import clamp_checks
from flashinterp.evaluation.evidence import Evidence
from flashinterp.evaluation.experiment import Experiment
from flashinterp.evaluation.matched_controls import Controls
from flashinterp.evaluation.natural_range import natural_text
from flashinterp.evaluation.verdict import Rule, judge
from flashinterp.models.activations import capture, encode
from flashinterp.neurons import Block
from tests.evaluation.measure.planted_claims import (
    ODD,
    ODD_CLAIMS,
    QUICK,
    SMOKE,
    claims_of,
    clamped,
    evidence_of,
    odds,
)


def test_evidence_has_the_sizes_of_the_profile(odd: list[Evidence]) -> None:
    for e in odd:
        assert e.doses.shape == (4,)
        assert e.log_odds.shape == (3, 4)
        assert e.clean_log_odds.shape == e.gate.shape == e.act_gate.shape == e.own.shape == (3,)
        assert e.control_effects.shape == e.control_separations.shape == e.control_scales.shape == (8,)
        assert e.control_written.shape == (8,)
        assert isinstance(e.written, float)
        assert e.unrelated_effects.shape == e.z_write_unrelated.shape == (6,)
        assert e.kl.shape == (2, 2)
        assert e.present.shape == (5,)
        assert e.absent.shape == (5, 7)
        assert e.theme.shape == e.other_themes.shape == (12,)
        assert (e.stress_doses.shape, e.stress_log_odds.shape) == ((9,), (3, 9))
        assert (e.stress_doses[0], e.stress_doses[-1]) == (-500, 500)
        assert (np.diff(e.doses) > 0).all()
        assert {a.dtype for a in e.arrays().values()} == {np.dtype(np.float64)}
        assert e.unfit() is None
        assert all(np.isfinite(a).all() for a in e.arrays().values())


@pytest.mark.parametrize("selection", [8, SMOKE.selection])
def test_doses_are_the_quantiles_of_as_much_selection_text_as_the_profile_says(
    bench: Experiment, truth: dict[str, Any], selection: int
) -> None:
    prompts, tokenizer = bench.prompts, bench.tokenizer
    texts = [encode(tokenizer, t) for t in (*prompts.selection[:selection], *prompts.contexts_selection)]
    for context in prompts.contexts_selection:
        for token in (" dog", " king"):
            texts.append(encode(tokenizer, context + token))
    own = np.concatenate([s[Block(1)].up[:, 17] for s in capture(bench.model, texts, [1])])
    dog, _ = evidence_of(replace(bench, profile=replace(ODD, selection=selection, doses=5)), truth, "dog", "king")
    np.testing.assert_allclose(dog.doses, np.quantile(own, [0.01, 0.255, 0.5, 0.745, 0.99]), rtol=1e-4, atol=1e-5)


def test_a_curve_is_of_single_clamps_on_heldout_prompts(bench: Experiment, odd: list[Evidence]) -> None:
    for e, claim in zip(odd, ODD_CLAIMS, strict=True):
        neuron, token = NeuronId.parse(claim[1]), bench.checkpoint.vocabulary.resolve(claim[0])
        for p, prompt in enumerate(bench.prompts.heldout[:3]):
            ids = encode(bench.tokenizer, prompt)
            for d, dose in enumerate(e.doses):
                wanted = odds(clamped(bench, neuron, float(dose), ids)[-1, token.id])
                assert e.log_odds[p, d] == pytest.approx(wanted, abs=1e-3)
            for d in (0, 4, 8):
                wanted = odds(clamped(bench, neuron, float(e.stress_doses[d]), ids)[-1, token.id])
                assert e.stress_log_odds[p, d] == pytest.approx(wanted, abs=1e-3)
            assert e.clean_log_odds[p] == pytest.approx(odds(clamped(bench, neuron, None, ids)[-1, token.id]), abs=1e-3)
            seen = capture(bench.model, [ids], [neuron.block])[0][neuron.block]
            last = [seen.up[-1, neuron.neuron], seen.gate[-1, neuron.neuron], seen.act[-1, neuron.neuron]]
            assert [e.own[p], e.gate[p], e.act_gate[p]] == pytest.approx(last, abs=1e-4)


def test_the_stress_curve_takes_no_more_than_four_prompts(measured: list[Evidence | str]) -> None:
    for e in measured:
        assert isinstance(e, Evidence)
        assert e.stress_log_odds.shape == (4, SMOKE.stress_doses)


def test_unrelated_effects_are_of_single_clamps_at_both_ends(bench: Experiment, odd: list[Evidence]) -> None:
    small = replace(bench, profile=ODD)
    for e, (text, name) in zip(odd, ODD_CLAIMS, strict=True):
        neuron, token = NeuronId.parse(name), bench.checkpoint.vocabulary.resolve(text)
        others = clamp_checks.unrelated_tokens(small, token)
        effects = np.zeros((3, 6))
        for p, prompt in enumerate(bench.prompts.heldout[:3]):
            ids = encode(bench.tokenizer, prompt)
            low, high = (clamped(bench, neuron, float(dose), ids)[-1] for dose in (e.doses[0], e.doses[-1]))
            effects[p] = [odds(high[t.id]) - odds(low[t.id]) for t in others]
        np.testing.assert_allclose(e.unrelated_effects, effects.mean(axis=0), atol=1e-3)


def damage(bench: Experiment, neuron: NeuronId, token_id: int, ends: Sequence[float], text: str) -> tuple[Any, Any]:
    """[2] KL(clean || clamped) of one text in float64, over all tokens but one, and over all."""
    ids = encode(bench.tokenizer, text)
    p = clamped(bench, neuron, None, ids)
    rest = torch.arange(p.shape[-1]) != token_id
    others, every = [], []
    for dose in ends:
        q = clamped(bench, neuron, float(dose), ids)
        for found, (a, b) in ((others, (p[:, rest], q[:, rest])), (every, (p, q))):
            a, b = a - a.logsumexp(-1, keepdim=True), b - b.logsumexp(-1, keepdim=True)
            found.append(float((a.exp() * (a - b)).sum(-1).mean()))
    return np.array(others), np.array(every)


def test_kl_is_the_sum_over_the_other_tokens_on_text_of_other_themes(bench: Experiment, odd: list[Evidence]) -> None:
    for e, (text, name) in zip(odd, ODD_CLAIMS, strict=True):
        neuron, token = NeuronId.parse(name), bench.checkpoint.vocabulary.resolve(text)
        own = set(next(g for g in bench.prompts.groups if text in g.words).heldout)
        texts = [t for t in bench.prompts.heldout if t not in own][:2]
        for x, other in enumerate(texts):
            wanted, every = damage(bench, neuron, token.id, (e.doses[0], e.doses[-1]), other)
            np.testing.assert_allclose(e.kl[:, x], wanted, rtol=1e-3, atol=1e-6)
            assert (abs(every - wanted) > 1e-2 * wanted).all(), "all tokens would give another number"
        assert (e.kl > 0).all()
        assert e.kl[0] != pytest.approx(e.kl[1], rel=1e-3), "each end is a clamp of its own"


@pytest.mark.parametrize("token_id", [0, 7, VOCAB - 1])
@pytest.mark.parametrize("louder", [0.0, 1.0, 30.0])
def test_the_rise_of_the_token_itself_is_no_damage(bench: Experiment, token_id: int, louder: float) -> None:
    """What moves one token alone has no KL when the claim is of this token, and some when it is of another."""

    def lift(module: Any, args: Any, out: torch.Tensor) -> torch.Tensor:
        out = out[:1].expand_as(out).clone()  # all rows as the clean one
        out[1:, :, token_id] += louder
        return out

    tokens = [bench.checkpoint.vocabulary.resolve(i) for i in (token_id, 11)]
    small, neuron = replace(bench, profile=ODD), NeuronId(1, 17)
    handle = bench.model.lm_head.register_forward_hook(lift)
    try:
        own, another = (clamp_checks.measure_kl(small, neuron, token, (-1.0, 1.0)) for token in tokens)
    finally:
        handle.remove()
    assert (own <= 1e-6).all()
    assert (another > 1e-5).all() == (louder > 0)


@pytest.mark.parametrize("times", [2, 4])
def test_a_louder_plant_is_measured_by_what_it_does_to_other_words(
    bench: Experiment, truth: dict[str, Any], times: int
) -> None:
    model = bench.checkpoint.load_model()
    claims = claims_of(truth, "dog", "california", "wizard")
    for claim in claims:
        neuron = cast(NeuronId, claim.neuron)
        model.model.layers[neuron.layer].mlp.down_proj.weight.data[:, neuron.neuron] *= times
    louder = replace(bench, model=model, profile=QUICK)
    found = evidence_of(louder, truth, *(c.id for c in claims))
    for claim, e in zip(claims, found, strict=True):
        token = louder.token(claim)
        for x, text in enumerate(bench.prompts.about_something_else(token.text, QUICK.unrelated_texts)):
            ends = (e.doses[0], e.doses[-1])
            wanted, every = damage(louder, cast(NeuronId, claim.neuron), token.id, ends, text)
            np.testing.assert_allclose(e.kl[:, x], wanted, rtol=2e-3, atol=1e-6)
            assert (wanted < every).all()  # without the token there is less of it
    verdicts = {v.claim.id: v for v in judge(claims, found, rule=Rule(), seed=0)}
    assert verdicts["california"].verdict == "validated"
    # What is louder still disturbs other words, too, and that is all it lacks.
    for e, verdict in zip(found, verdicts.values(), strict=True):
        assert (verdict.verdict == "validated") == (e.kl.mean(axis=1).max() <= Rule().max_kl)
        assert verdict.lacking == ("" if verdict.verdict == "validated" else "writes: specific")


def test_what_is_written_is_the_natural_range_times_the_columns_length(
    bench: Experiment, odd: list[Evidence], odd_controls: list[Controls]
) -> None:
    ids = [bench.checkpoint.vocabulary.resolve(text).id for text, _ in ODD_CLAIMS]
    for e, controls, (_, name) in zip(odd, odd_controls, ODD_CLAIMS, strict=True):
        neuron = NeuronId.parse(name)
        up = natural_text(replace(bench, profile=ODD), [neuron.block], ids)[neuron.block].up
        low, high = np.quantile(up, [0.01, 0.99], axis=0)
        down = bench.model.model.layers[neuron.layer].mlp.down_proj.weight.detach().double().numpy()
        wanted = (high - low) * np.sqrt((down**2).sum(axis=0))
        np.testing.assert_allclose(e.control_written, wanted[list(controls.neurons)], rtol=1e-4)
        assert e.written == pytest.approx(wanted[neuron.neuron], rel=1e-4)
        assert np.ptp(e.control_written) > 0


def test_the_lenses_logits_are_matrix_products(bench: Experiment, odd: list[Evidence], planted: Checkpoint) -> None:
    small, head = replace(bench, profile=ODD), planted.head().double().numpy()
    final = bench.model.model.norm.weight.detach().double().numpy()
    for e, (text, name) in zip(odd, ODD_CLAIMS, strict=True):
        neuron, token = NeuronId.parse(name), planted.vocabulary.resolve(text)
        mlp = bench.model.model.layers[neuron.layer].mlp
        up = mlp.up_proj.weight.detach().double().numpy()[neuron.neuron]
        down = mlp.down_proj.weight.detach().double().numpy()[:, neuron.neuron]
        said = head @ (final * down / np.sqrt((down**2).mean() + planted.config.rms_norm_eps))
        assert e.z_read == pytest.approx(head[token.id] @ up, rel=1e-4)
        assert e.z_write == pytest.approx(said[token.id], rel=1e-4)
        others = [t.id for t in clamp_checks.unrelated_tokens(small, token)]
        np.testing.assert_allclose(e.z_write_unrelated, said[others], rtol=1e-3, atol=1e-4)
