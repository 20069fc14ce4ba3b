"""From a live model to evidence: every number against explicit arithmetic, and a broken instrument is no finding."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

from fixtures.build import VOCAB
from flashinterp import Checkpoint, NeuronId, clamp, decode
from flashinterp.bench import Bench
from flashinterp.capture import Activations, capture, encode
from flashinterp.claims import Claim, resolve_claim
from flashinterp.controls import DEAD_SCALE, Controls, LayerScale, matched_controls
from flashinterp.errors import ClampError, RunError
from flashinterp.evidence import Evidence
from flashinterp.measure import measure
from flashinterp.natural import natural_text
from flashinterp.neuron import Block
from flashinterp.profiles import PROFILES
from flashinterp.prompts import PromptSet, shipped
from flashinterp.sweep import sweep
from flashinterp.tokens import Token
from flashinterp.verdict import Rule, Verdict, judge
from tests.architecture_cases import Case
from tests.helpers import n_hooks

# By name: the package's `clamp` and `sweep` are the functions.
clamp_module, measure_module, natural_module, sweep_module = (
    import_module(f"flashinterp.{m}") for m in ("clamp", "measure", "natural", "sweep")
)

SMOKE = PROFILES["smoke"]
QUICK = replace(SMOKE, prompts=4, controls=59, unrelated=10, unrelated_texts=2, stress_doses=3)
# Every size another number, so that none stands for another.
ODD = replace(
    SMOKE, selection=13, prompts=3, contexts=5, absent=7, doses=4, controls=8, unrelated=6, unrelated_texts=2,
    stress_doses=9,
)  # fmt: skip


def claims_of(truth: dict[str, Any], *ids: str) -> list[Claim]:
    return [
        Claim(p["id"], p["token"], NeuronId.parse(p["name"]), p["pole"], p["lens"], None, "fixture", p["verdict"])
        for p in truth["plants"]
        if not ids or p["id"] in ids
    ]


def family_verdicts(bench: Bench, claims: Sequence[Claim]) -> dict[str, Verdict]:
    return {v.claim.id: v for v in judge(claims, measure(bench, claims), rule=Rule(), seed=0)}


@pytest.fixture(scope="module")
def bench(planted: Checkpoint, planted_model: Any) -> Bench:
    return Bench(planted_model, planted, shipped(), SMOKE, seed=0)


@pytest.fixture(scope="module")
def measured(bench: Bench, truth: dict[str, Any]) -> list[Evidence | str]:
    return measure(bench, claims_of(truth))


@pytest.fixture(scope="module")
def verdicts(measured: list[Evidence | str], truth: dict[str, Any]) -> dict[str, Verdict]:
    claims = claims_of(truth)
    return {v.claim.id: v for v in judge(claims, measured, rule=Rule(), seed=0)}


def evidence_of(bench: Bench, truth: dict[str, Any], *ids: str) -> list[Evidence]:
    """The evidence for planted claims, in this order; all of it must be there."""
    by_id = {c.id: c for c in claims_of(truth)}
    found = measure(bench, [by_id[i] for i in ids])
    assert all(isinstance(e, Evidence) for e in found), found
    return cast(list[Evidence], found)


ODD_CLAIMS = [(" dog", "L1N17"), (" king", "L1N60"), (" California", "L3N31")]


def odd_claims(truth: dict[str, Any]) -> list[Claim]:
    by_id = {c.id: c for c in claims_of(truth)}
    return [by_id[i] for i in ("dog", "king", "california")]


@contextmanager
def controls_noted() -> Iterator[list[Controls]]:
    """The controls that are chosen meanwhile, in order."""
    chosen: list[Controls] = []

    def spy(*args: Any) -> Controls:
        chosen.append(matched_controls(*args))
        return chosen[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure_module, "matched_controls", spy)
        yield chosen


@pytest.fixture(scope="module")
def odd_measured(bench: Bench, truth: dict[str, Any]) -> tuple[list[Evidence], list[Controls]]:
    with controls_noted() as chosen:
        found = evidence_of(replace(bench, profile=ODD), truth, "dog", "king", "california")
    assert [(c.token, str(c.neuron)) for c in odd_claims(truth)] == ODD_CLAIMS
    return found, chosen


@pytest.fixture(scope="module")
def odd(odd_measured: tuple[list[Evidence], list[Controls]]) -> list[Evidence]:
    """Dog, king and California, with sizes that are all different."""
    return odd_measured[0]


@pytest.fixture(scope="module")
def odd_controls(odd_measured: tuple[list[Evidence], list[Controls]]) -> list[Controls]:
    """Their controls."""
    return odd_measured[1]


# --- what was planted -------------------------------------------------------------------------------


def test_the_planted_neurons_come_out_as_planted(verdicts: dict[str, Verdict], truth: dict[str, Any]) -> None:
    assert {i: v.verdict for i, v in verdicts.items()} == {p["id"]: p["verdict"] for p in truth["plants"]}
    assert {v.verdict for v in verdicts.values()} == {"validated", "lever", "detector", "refuted", "inconclusive"}


def test_what_is_validated_is_specific(verdicts: dict[str, Verdict]) -> None:
    for verdict in verdicts.values():
        if verdict.verdict == "validated":
            assert verdict.writes is not None
            specificity, kl = (verdict.writes.figures[name] for name in ("specificity", "kl"))
            assert specificity is not None
            assert kl is not None
            assert specificity >= 0.9
            assert 0 < kl <= 0.1


def test_a_neuron_planted_on_the_negative_pole_is_explained(verdicts: dict[str, Verdict]) -> None:
    explained = verdicts["california"].explained
    assert explained["predicted_direction"] == explained["observed_direction"] == "-"
    assert explained["z_read"] < 0
    assert explained["z_write"] < 0
    assert explained["reads_times_writes"] == "+"
    assert explained["act_gate"] > 1
    assert explained["z_write_deviations"] < -2
    assert "lower values raise the word: it writes against it" in explained["why"]
    assert "its negative pole names the word" in explained["why"]
    assert "its gate is open" in explained["why"]
    assert "higher values raise the word: it writes for it" in verdicts["dog"].explained["why"]
    assert verdicts["dog"].explained["predicted_direction"] == verdicts["dog"].explained["observed_direction"] == "+"


def test_the_same_claims_on_a_model_with_nothing_planted_are_never_validated(
    unplanted: Checkpoint, truth: dict[str, Any]
) -> None:
    maps = {lens: decode(unplanted, lens=lens) for lens in ("paper", "write")}
    found = [
        resolve_claim(Claim(f"{p['id']}-{lens}", p["token"], None, None, lens, None, "discovered"), maps, unplanted)
        for p in truth["plants"][:4]
        for lens in maps
    ]
    bench = Bench(unplanted.load_model(), unplanted, shipped(), SMOKE, seed=0)
    family = family_verdicts(bench, [*claims_of(truth, "dog", "california"), *found])
    assert "validated" not in {v.verdict for v in family.values()}
    assert "not_measured" not in {v.verdict for v in family.values()}


def test_a_neuron_that_disturbs_all_text_is_not_validated(bench: Bench, truth: dict[str, Any]) -> None:
    """It brings its word as before, and writes four times as much of something that no word is made of."""
    model = bench.checkpoint.load_model()
    column = model.model.layers[1].mlp.down_proj.weight.data[:, 17]
    noise = torch.randn(len(column), generator=torch.Generator().manual_seed(0))
    noise -= (noise @ column) / (column @ column) * column
    column += 4 * column.norm() * noise / noise.norm()
    verdict = family_verdicts(replace(bench, model=model, profile=QUICK), claims_of(truth, "dog"))["dog"]
    assert verdict.lacking == "writes: specific"
    assert verdict.verdict == "inconclusive"
    assert verdict.writes is not None
    kl = verdict.writes.figures["kl"]
    assert kl is not None
    assert kl > 0.1


# --- what the evidence is ---------------------------------------------------------------------------


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


def test_the_means_are_sound(measured: list[Evidence | str]) -> None:
    for e in measured:
        assert isinstance(e, Evidence)
        assert e.identity_error <= e.noise_floor + 1e-6
        assert 0 < e.noise_floor < 1e-4  # float32, where two batches never agree for certain


@pytest.mark.parametrize("selection", [8, SMOKE.selection])
def test_doses_are_the_quantiles_of_as_much_selection_text_as_the_profile_says(
    bench: Bench, truth: dict[str, Any], selection: int
) -> None:
    prompts, tokenizer = bench.prompts, bench.tokenizer
    texts = [encode(tokenizer, t) for t in (*prompts.selection[:selection], *prompts.contexts_selection)]
    for context in prompts.contexts_selection:
        for token in (" dog", " king"):
            texts.append(encode(tokenizer, context + token))
    own = np.concatenate([s[Block(1)].up[:, 17] for s in capture(bench.model, texts, [1])])
    dog, _ = evidence_of(replace(bench, profile=replace(ODD, selection=selection, doses=5)), truth, "dog", "king")
    np.testing.assert_allclose(dog.doses, np.quantile(own, [0.01, 0.255, 0.5, 0.745, 0.99]), rtol=1e-4, atol=1e-5)


def clamped(bench: Bench, neuron: NeuronId, value: float | None, ids: torch.Tensor) -> torch.Tensor:
    """[positions, V] log-probabilities in float64, of one text by itself under one clamp, or under none."""
    with torch.no_grad():
        if value is None:
            return bench.model(ids).logits[0].double().log_softmax(-1)
        with clamp(bench.model, {neuron: value}):
            return bench.model(ids).logits[0].double().log_softmax(-1)


def odds(log_p: torch.Tensor) -> float:
    return float(log_p - torch.log(-torch.expm1(log_p)))


def test_a_curve_is_of_single_clamps_on_heldout_prompts(bench: Bench, odd: list[Evidence]) -> None:
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


def test_unrelated_effects_are_of_single_clamps_at_both_ends(bench: Bench, odd: list[Evidence]) -> None:
    small = replace(bench, profile=ODD)
    for e, (text, name) in zip(odd, ODD_CLAIMS, strict=True):
        neuron, token = NeuronId.parse(name), bench.checkpoint.vocabulary.resolve(text)
        others = measure_module._unrelated(small, token)
        effects = np.zeros((3, 6))
        for p, prompt in enumerate(bench.prompts.heldout[:3]):
            ids = encode(bench.tokenizer, prompt)
            low, high = (clamped(bench, neuron, float(dose), ids)[-1] for dose in (e.doses[0], e.doses[-1]))
            effects[p] = [odds(high[t.id]) - odds(low[t.id]) for t in others]
        np.testing.assert_allclose(e.unrelated_effects, effects.mean(axis=0), atol=1e-3)


def damage(bench: Bench, neuron: NeuronId, token_id: int, ends: Sequence[float], text: str) -> tuple[Any, Any]:
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


def test_kl_is_the_sum_over_the_other_tokens_on_text_of_other_themes(bench: Bench, odd: list[Evidence]) -> None:
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
def test_the_rise_of_the_token_itself_is_no_damage(bench: Bench, token_id: int, louder: float) -> None:
    """What moves one token alone has no KL when the claim is of this token, and some when it is of another."""

    def lift(module: Any, args: Any, out: torch.Tensor) -> torch.Tensor:
        out = out[:1].expand_as(out).clone()  # all rows as the clean one
        out[1:, :, token_id] += louder
        return out

    tokens = [bench.checkpoint.vocabulary.resolve(i) for i in (token_id, 11)]
    small, neuron = replace(bench, profile=ODD), NeuronId(1, 17)
    handle = bench.model.lm_head.register_forward_hook(lift)
    try:
        own, another = (measure_module._kl(small, neuron, token, (-1.0, 1.0)) for token in tokens)
    finally:
        handle.remove()
    assert (own <= 1e-6).all()
    assert (another > 1e-5).all() == (louder > 0)


@pytest.mark.parametrize("times", [2, 4])
def test_a_louder_plant_is_measured_by_what_it_does_to_other_words(
    bench: Bench, truth: dict[str, Any], times: int
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
    bench: Bench, odd: list[Evidence], odd_controls: list[Controls]
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


def test_the_lenses_logits_are_matrix_products(bench: Bench, odd: list[Evidence], planted: Checkpoint) -> None:
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
        others = [t.id for t in measure_module._unrelated(small, token)]
        np.testing.assert_allclose(e.z_write_unrelated, said[others], rtol=1e-3, atol=1e-4)


# --- the reading side -----------------------------------------------------------------------------------


def absent_words(bench: Bench, claims: Sequence[Claim]) -> list[int]:
    """The ids that stand where a concept's token stood, as they are drawn."""
    drawn: list[int] = []

    def spy(self: Bench, name: str, n: int, but: set[int]) -> list[int]:
        words = draw(self, name, n, but)
        drawn.extend(words if name == "absent words" and not drawn else [])
        return words

    draw = Bench.draw_words
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Bench, "draw_words", spy)
        measure(bench, claims)
    return drawn


def output_at_the_end(bench: Bench, text: str, block: Block, token_id: int | None = None) -> np.ndarray:
    """[F] u · silu(g) at the last position of one text by itself, in float64."""
    ids = encode(bench.tokenizer, text)
    if token_id is not None:
        ids = torch.cat([ids, torch.tensor([[token_id]])], dim=1)
    seen = capture(bench.model, [ids], [block])[0][block]
    u, g = (part[-1].astype(np.float64) for part in (seen.up, seen.gate))
    wanted: np.ndarray = u * g / (1 + np.exp(-g))
    return wanted


def test_the_reading_is_of_the_last_position_of_heldout_contexts(
    bench: Bench, odd: list[Evidence], odd_controls: list[Controls], truth: dict[str, Any]
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


def test_the_theme_is_read_at_the_end_of_its_own_texts_and_of_as_many_others(bench: Bench, odd: list[Evidence]) -> None:
    for e, (text, name) in zip(odd, ODD_CLAIMS, strict=True):
        neuron = NeuronId.parse(name)
        own = next(g for g in bench.prompts.groups if text in g.words).heldout
        others = [t for t in bench.prompts.heldout if t not in own][: len(own)]
        for got, texts in ((e.theme, own), (e.other_themes, others)):
            wanted = [output_at_the_end(bench, t, neuron.block)[neuron.neuron] for t in texts]
            np.testing.assert_allclose(got, wanted, rtol=1e-3, atol=1e-4)


def test_a_word_of_no_theme_has_none(bench: Bench, truth: dict[str, Any]) -> None:
    assert bench.prompts.group_of(" kettle") is None
    (dog,) = claims_of(truth, "dog")
    (e,) = measure(replace(bench, profile=ODD), [replace(dog, token=" kettle")])
    assert isinstance(e, Evidence)
    assert e.theme.size == e.other_themes.size == 0
    assert e.unfit() is None


def test_no_absent_word_is_a_form_of_a_claimed_token(bench: Bench, truth: dict[str, Any]) -> None:
    vocabulary = bench.checkpoint.vocabulary
    every = replace(bench, profile=replace(ODD, absent=10**6, contexts=1))  # all that may be drawn
    absent = absent_words(every, claims_of(truth))
    claimed = {p["token"].strip().lower() for p in truth["plants"]}
    assert len(set(absent)) == len(absent) > 300
    assert not {vocabulary.surfaces[i].strip().lower() for i in absent} & claimed
    assert not vocabulary.excluded[absent].any()
    every = replace(bench, profile=replace(ODD, unrelated=10**6))
    unrelated = measure_module._unrelated(every, vocabulary.resolve(" dog"))
    assert len({t.id for t in unrelated}) == len(unrelated) > 300
    assert not {t.text.strip().lower() for t in unrelated} & {"dog", "dogs"}


# --- controls -------------------------------------------------------------------------------------------


def test_a_controls_effect_is_that_of_a_sweep_of_it_alone(
    bench: Bench, odd: list[Evidence], odd_controls: list[Controls]
) -> None:
    ids = [bench.checkpoint.vocabulary.resolve(text).id for text, _ in ODD_CLAIMS]
    small = replace(bench, profile=ODD)
    natural = natural_text(small, [NeuronId.parse(name).block for _, name in ODD_CLAIMS], ids)
    for e, controls, (text, name) in zip(odd, odd_controls, ODD_CLAIMS, strict=True):
        block = NeuronId.parse(name).block
        for i, n in enumerate(controls.neurons):
            ends = np.quantile(natural[block].up[:, n], [0.01, 0.99])
            alone = sweep(bench.model, bench.tokenizer, small.heldout, [NeuronId(block.layer, n)], ends, [text])
            low, high = alone.log_odds[0, :, :, 0].astype(np.float64)
            assert e.control_effects[i] == pytest.approx((high - low).mean(), abs=1e-4)


def test_a_controls_scale_is_its_output_over_its_layers_median(
    bench: Bench, odd: list[Evidence], odd_controls: list[Controls]
) -> None:
    ids = [bench.checkpoint.vocabulary.resolve(text).id for text, _ in ODD_CLAIMS]
    small = replace(bench, profile=ODD)
    for e, controls, (_, name) in zip(odd, odd_controls, ODD_CLAIMS, strict=True):
        neuron = NeuronId.parse(name)
        scale = natural_text(small, [neuron.block], ids)[neuron.block].scale
        output = scale.activation * scale.column_norm
        np.testing.assert_allclose(e.control_scales, output[list(controls.neurons)] / np.median(output), rtol=1e-4)
        assert e.relative_scale == pytest.approx(output[neuron.neuron] / np.median(output), rel=1e-4)
        assert (e.control_scales > DEAD_SCALE).all()
        assert (e.control_scale_ratio, e.control_norm_ratio) == pytest.approx(
            [controls.scale_ratio, controls.norm_ratio], rel=1e-4
        )


def test_what_claims_share_is_swept_once_for_all_of_them(
    bench: Bench, truth: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[list[NeuronId], list[str]]] = []

    def spy(model: Any, tokenizer: Any, prompts: Any, neurons: Any, values: Any, tokens: Sequence[Token]) -> Any:
        seen.append((list(neurons), [t.text for t in tokens]))
        return sweep(model, tokenizer, prompts, neurons, values, tokens)

    monkeypatch.setattr(measure_module, "sweep", spy)
    with controls_noted() as chosen:
        evidence_of(replace(bench, profile=ODD), truth, "dog", "california", "king", "king-twin")
    names = [NeuronId.parse(name) for name in ("L1N17", "L3N31", "L1N60", "L1N61")]
    controls = {NeuronId(name.layer, n) for name, c in zip(names, chosen, strict=True) for n in c.neurons}
    every = [neurons for neurons, _ in seen]
    assert every[:2] == [names, names]
    assert [{n.layer for n in neurons} for neurons in every[2:]] == [{1}, {3}]  # controls, block by block
    assert {n for neurons in every[2:] for n in neurons} == controls
    assert all(len(set(neurons)) == len(neurons) for neurons in every)
    for _, tokens in seen[:2]:
        assert {" dog", " king", " California"} <= set(tokens)
        assert len(set(tokens)) == len(tokens)
    # A block's controls are looked at for its own claims' tokens alone; the king and its twin have one.
    assert [tokens for _, tokens in seen[2:]] == [[" dog", " king"], [" California"]]


def test_the_order_of_the_family_does_not_change_what_controls_do(
    bench: Bench, truth: dict[str, Any], odd: list[Evidence]
) -> None:
    order = ["california", "king", "dog"]
    for name, e in zip(order, evidence_of(replace(bench, profile=ODD), truth, *order), strict=True):
        same = odd[["dog", "king", "california"].index(name)]
        np.testing.assert_allclose(e.control_effects, same.control_effects, atol=1e-5)
        np.testing.assert_allclose(e.control_separations, same.control_separations, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("what", "value"), [("up", np.nan), ("up", np.inf), ("up", -np.inf), ("gate", np.nan), ("gate", np.inf)]
)
def test_a_block_without_finite_values_spoils_the_claims_of_that_block_alone(
    bench: Bench, truth: dict[str, Any], odd: list[Evidence], monkeypatch: pytest.MonkeyPatch, what: str, value: float
) -> None:
    def overflows(*args: Any) -> list[dict[Block, Activations]]:
        found = capture(*args)
        getattr(found[2][Block(1)], what)[1, 200] = value  # one number of a neuron that nobody claims
        return found

    monkeypatch.setattr(natural_module, "capture", overflows)
    dog, king, california = measure(replace(bench, profile=ODD), odd_claims(truth))
    assert dog == king == "neurons of layer 1 have values that are not finite numbers: run the model in a wider dtype"
    assert isinstance(california, Evidence)
    np.testing.assert_allclose(california.log_odds, odd[2].log_odds, atol=1e-4)
    np.testing.assert_allclose(california.control_effects, odd[2].control_effects, atol=1e-4)
    verdicts = judge(odd_claims(truth), [dog, king, california], rule=Rule(), seed=0)
    assert [v.verdict for v in verdicts[:2]] == ["not_measured"] * 2
    assert verdicts[2].verdict != "not_measured"


def test_a_control_that_cannot_be_swept_spoils_the_claims_of_its_block_alone(
    bench: Bench,
    truth: dict[str, Any],
    odd: list[Evidence],
    odd_controls: list[Controls],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broken = NeuronId(1, odd_controls[0].neurons[0])

    def refuses(model: Any, tokenizer: Any, prompts: Any, neurons: Any, *rest: Any) -> Any:
        if broken in neurons:
            raise ClampError(f"{broken} cannot be clamped: choose another neuron")
        return sweep(model, tokenizer, prompts, neurons, *rest)

    monkeypatch.setattr(measure_module, "sweep", refuses)
    dog, king, california = measure(replace(bench, profile=ODD), odd_claims(truth))
    assert dog == king == f"its controls cannot be swept: {broken} cannot be clamped: choose another neuron"
    assert isinstance(california, Evidence)
    np.testing.assert_allclose(california.log_odds, odd[2].log_odds, atol=1e-4)
    np.testing.assert_allclose(california.control_effects, odd[2].control_effects, atol=1e-4)
    verdicts = judge(odd_claims(truth), [dog, king, california], rule=Rule(), seed=0)
    assert [v.verdict for v in verdicts[:2]] == ["not_measured"] * 2
    assert verdicts[0].reason == dog


def test_a_mistake_of_ours_in_a_controls_sweep_is_not_hidden(
    bench: Bench, truth: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(model: Any, tokenizer: Any, prompts: Any, neurons: Any, *rest: Any) -> Any:
        if len(neurons) > 1:
            raise ZeroDivisionError
        return sweep(model, tokenizer, prompts, neurons, *rest)

    monkeypatch.setattr(measure_module, "sweep", breaks)
    with pytest.raises(ZeroDivisionError):
        measure(replace(bench, profile=ODD), claims_of(truth, "dog"))


@pytest.mark.parametrize("step", ["_kl", "_identity_error", "_theme"])
def test_a_target_that_cannot_be_measured_spoils_itself_alone(
    bench: Bench, truth: dict[str, Any], odd: list[Evidence], monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    right = getattr(measure_module, step)

    def refuses(bench: Bench, target: Any, *rest: Any) -> Any:
        if getattr(target, "neuron", None) in (17, NeuronId(1, 17)):
            raise ClampError("no")
        return right(bench, target, *rest)

    monkeypatch.setattr(measure_module, step, refuses)
    dog, king, california = measure(replace(bench, profile=ODD), odd_claims(truth))
    assert dog == "no"
    for again, e in ((king, odd[1]), (california, odd[2])):
        assert isinstance(again, Evidence)
        np.testing.assert_array_equal(again.log_odds, e.log_odds)
        np.testing.assert_array_equal(again.control_effects, e.control_effects)


def test_without_a_control_there_are_no_effects_and_no_power(
    bench: Bench, truth: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure_module, "matched_controls", lambda *_: Controls((), None, None))
    (e,) = evidence_of(replace(bench, profile=ODD), truth, "dog")
    for field in ("effects", "written", "scales", "separations"):
        assert getattr(e, f"control_{field}").shape == (0,)
    assert (e.control_scale_ratio, e.control_norm_ratio) == (None, None)
    (verdict,) = judge(claims_of(truth, "dog"), [e], rule=Rule(), seed=0)
    assert (verdict.verdict, "only 0 live neurons" in verdict.reason) == ("inconclusive", True)


def test_controls_are_alive_and_not_the_target_or_its_twin(
    bench: Bench, truth: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen: list[Controls] = []

    def spy(scale: LayerScale, *args: Any) -> Controls:
        chosen.append(matched_controls(scale, *args))
        assert (scale.output[list(chosen[-1].neurons)] > DEAD_SCALE * np.median(scale.output)).all()
        return chosen[-1]

    monkeypatch.setattr(measure_module, "matched_controls", spy)
    measure(replace(bench, profile=QUICK), claims_of(truth, "king"))
    assert len(chosen[0].neurons) == QUICK.controls
    assert not {60, 61} & set(chosen[0].neurons)  # the king and its planted twin
    assert 101 not in chosen[0].neurons  # planted dead


def test_nothing_of_the_model_is_changed(bench: Bench, measured: list[Evidence | str]) -> None:
    fresh = bench.checkpoint.load_model().state_dict()
    assert all(torch.equal(fresh[k], v) for k, v in bench.model.state_dict().items())
    assert n_hooks(bench.model) == 0


# --- repeatability ----------------------------------------------------------------------------------


def quick_family(bench: Bench, truth: dict[str, Any], ids: Sequence[str], seed: int = 0) -> dict[str, Evidence | str]:
    by_id = {c.id: c for c in claims_of(truth)}
    return dict(zip(ids, measure(replace(bench, profile=QUICK, seed=seed), [by_id[i] for i in ids]), strict=True))


def test_the_same_seed_measures_the_same_numbers(bench: Bench, truth: dict[str, Any]) -> None:
    order = ["dog", "california"]
    first, same, other = (quick_family(bench, truth, order, seed) for seed in (0, 0, 1))
    turned = quick_family(bench, truth, order[::-1])
    for name in order:
        one, two, three, four = (family[name] for family in (first, same, other, turned))
        assert isinstance(one, Evidence)
        assert isinstance(two, Evidence)
        assert isinstance(three, Evidence)
        assert isinstance(four, Evidence)
        for field, values in one.arrays().items():
            np.testing.assert_array_equal(two.arrays()[field], values, err_msg=field)
            # Another order of the claims is another order of the sums behind the scales.
            np.testing.assert_allclose(four.arrays()[field], values, rtol=1e-9, err_msg=field)
        np.testing.assert_array_equal(three.log_odds, one.log_odds)  # the prompts are not drawn
        assert not np.array_equal(three.absent, one.absent)  # the words are


def test_progress_counts_every_claim(bench: Bench, truth: dict[str, Any]) -> None:
    seen: list[tuple[int, int]] = []
    claims = [replace(c, neuron=NeuronId(9, 0)) for c in claims_of(truth, "dog", "king")]
    assert len(measure(bench, claims, lambda done, total: seen.append((done, total)))) == 2
    assert seen == [(1, 2), (2, 2)]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"token": " Dumbledore"}, "not one token"),
        ({"token": VOCAB}, f"{VOCAB} is out of range"),
        ({"neuron": NeuronId(4, 0)}, "L4N0 is out of range"),
        ({"neuron": NeuronId(0, 256)}, "L0N256 is out of range"),
        ({"neuron": None}, "broken names no neuron"),
    ],
    ids=str,
)
def test_a_claim_that_cannot_be_measured_gives_its_reason_and_spoils_no_other(
    bench: Bench, truth: dict[str, Any], change: dict[str, Any], reason: str
) -> None:
    (good,) = claims_of(truth, "dog")
    small = replace(bench, profile=replace(QUICK, controls=19, prompts=3))
    bad, fine = measure(small, [replace(good, id="broken", **change), good])
    assert isinstance(bad, str)
    assert reason in bad
    (alone,) = measure(small, [good])
    assert isinstance(fine, Evidence)
    assert isinstance(alone, Evidence)
    np.testing.assert_array_equal(fine.log_odds, alone.log_odds)


def test_nothing_claimed_is_nothing_measured(bench: Bench) -> None:
    assert measure(bench, []) == []


def test_what_only_breaks_by_a_mistake_of_ours_is_not_hidden(
    bench: Bench, truth: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(*_: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr(measure_module, "_kl", breaks)
    with pytest.raises(ZeroDivisionError):
        measure(replace(bench, profile=ODD), claims_of(truth, "dog"))


# --- the split ------------------------------------------------------------------------------------------


def leaked_prompt(prompts: PromptSet) -> PromptSet:
    first, *rest = prompts.groups
    return replace(prompts, groups=(replace(first, heldout=(*first.heldout, rest[3].selection[2])), *rest))


def leaked_context(prompts: PromptSet) -> PromptSet:
    return replace(prompts, contexts_heldout=(*prompts.contexts_heldout, prompts.contexts_selection[0].upper()))


def leaked_beginning(prompts: PromptSet) -> PromptSet:
    return replace(prompts, contexts_selection=(*prompts.contexts_selection, prompts.heldout[-1].rsplit(" ", 1)[0]))


@pytest.mark.parametrize("leak", [leaked_prompt, leaked_context, leaked_beginning])
def test_a_text_on_both_sides_stops_everything_before_the_model_is_run(
    bench: Bench, truth: dict[str, Any], leak: Callable[[PromptSet], PromptSet]
) -> None:
    leaky = replace(bench, model=None, prompts=leak(bench.prompts))
    with pytest.raises(RunError, match="is not apart from the selection text"):
        measure(leaky, claims_of(truth))
    with pytest.raises(RunError):
        measure(leaky, [])


# --- experts --------------------------------------------------------------------------------------------


def test_a_neuron_of_an_expert_is_measured_and_one_that_is_not_reached_is_not(
    case: Callable[[str], Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    mixtral = case("mixtral")
    bench = Bench(mixtral.model, mixtral.checkpoint, shipped(), ODD, seed=0)
    claims = [Claim(f"e{e}", " dog", NeuronId(1, 3, e), "+", "paper", None, "file") for e in (1, 2)]
    whole = measure(bench, claims)

    def without_the_second(*args: Any) -> list[dict[Block, Activations]]:
        found = capture(*args)
        for seen in found:
            if Block(1, 2) in seen:
                seen[Block(1, 2)] = replace(seen[Block(1, 2)], weight=0 * seen[Block(1, 2)].weight)
        return found

    monkeypatch.setattr(natural_module, "capture", without_the_second)
    one, two = measure(bench, claims)
    assert isinstance(one, Evidence)
    assert isinstance(two, str)
    assert "L1E2N3" in two
    assert "only 0 tokens are routed" in two
    for e in whole:
        assert isinstance(e, Evidence)
        assert e.unfit() is None
        assert e.identity_error <= 1e-5
        assert e.control_effects.shape == (8,)
    assert isinstance(whole[0], Evidence)
    np.testing.assert_allclose(one.log_odds, whole[0].log_odds, atol=1e-4)


# --- the means ------------------------------------------------------------------------------------------


@contextmanager
def logits_that_differ(bench: Bench, by: float, at: Callable[[int], bool] = lambda rows: rows > 1) -> Iterator[None]:
    """A model whose logit of token 7 depends on how many rows share its pass."""

    def shift(module: Any, args: Any, out: torch.Tensor) -> torch.Tensor:
        out = out.clone()
        out[..., 7] += by if at(len(out)) else 0.0
        return out

    handle = bench.model.lm_head.register_forward_hook(shift)
    try:
        yield
    finally:
        handle.remove()


def test_the_noise_floor_is_what_the_batch_alone_changes(bench: Bench) -> None:
    prompt = bench.heldout[0]
    quiet = measure_module._noise_floor(bench, prompt)
    with logits_that_differ(bench, 0.01):
        loud = measure_module._noise_floor(bench, prompt)
    assert quiet < 1e-5
    assert loud == pytest.approx(0.01, rel=0.05)  # the other tokens lose next to nothing


@pytest.mark.parametrize("differs", [2, 7, 64])
def test_the_noise_floor_is_the_worst_of_several_batches(bench: Bench, differs: int) -> None:
    with logits_that_differ(bench, 0.01, lambda rows: rows == differs):
        assert measure_module._noise_floor(bench, bench.heldout[0]) == pytest.approx(0.01, rel=0.05)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_noise_floor_is_a_unit_in_the_last_place_where_all_batches_agree(
    bench: Bench, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_p = torch.tensor([[-0.5, -17.25, -3.0]])
    monkeypatch.setattr(measure_module, "last_log_probs", lambda model, ids: log_p.expand(len(ids), -1))
    model = SimpleNamespace(dtype=dtype, device=torch.device("cpu"))
    floor = measure_module._noise_floor(replace(bench, model=model), bench.heldout[0])
    assert floor == pytest.approx({torch.float32: 2.0**-23, torch.bfloat16: 2.0**-7}[dtype] * 17.25)


def test_the_noise_floor_is_never_below_a_unit_in_the_last_place(bench: Bench) -> None:
    for prompt in bench.heldout[:4]:
        with torch.no_grad():
            largest = float(bench.model(encode(bench.tokenizer, prompt)).logits[0, -1].log_softmax(-1).abs().max())
        assert measure_module._noise_floor(bench, prompt) >= 2.0**-23 * largest * (1 - 1e-5)


def test_an_identity_error_is_the_largest_of_any_token(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    writes_with(lambda before, after: after + 0.05)(monkeypatch, bench)
    worst = 0.0
    for prompt in bench.heldout[:2]:
        ids = encode(bench.tokenizer, prompt)
        own = torch.from_numpy(capture(bench.model, [ids], [1])[0][Block(1)].up[:, 17])
        with torch.no_grad(), clamp(bench.model, {"L1N17": own}):
            same = bench.model(ids).logits[0, -1].double().log_softmax(-1)
        worst = max(worst, float((same - clamped(bench, NeuronId(1, 17), None, ids)[-1]).abs().max()))
    assert worst > 1e-3
    assert measure_module._identity_error(bench, NeuronId(1, 17)) == pytest.approx(worst, rel=1e-3)


# --- a broken instrument ----------------------------------------------------------------------------

Patch = Callable[[pytest.MonkeyPatch, Bench], None]


def one_layer_off(patch: pytest.MonkeyPatch, _: Bench) -> None:
    """The clamp hangs on the next layer; what is recorded is the right one's."""
    right = clamp_module._Dense.__init__

    def shifted(self: Any, place: Any, writer: Any) -> None:
        right(self, place, writer)
        own, other = (place.layout.layer(n) for n in (place.layer, (place.layer + 1) % place.layout.n_layers))
        self.module = place.module(self.tap.module.replace(own, other))

    patch.setattr(clamp_module._Dense, "__init__", shifted)


def one_neuron_off(patch: pytest.MonkeyPatch, _: Bench) -> None:
    right = clamp_module._check_value

    def shifted(one: Any, dtype: Any) -> None:
        right(one, dtype)
        object.__setattr__(one, "neuron", NeuronId(one.neuron.layer, (one.neuron.neuron + 1) % 256))

    patch.setattr(clamp_module, "_check_value", shifted)


def writes_with(change: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Patch:
    """A writer whose result is ``change(before, after)``, and whose log says that all is well."""

    def plant(patch: pytest.MonkeyPatch, _: Bench) -> None:
        right = clamp_module._Dense.__call__
        patch.setattr(clamp_module._Dense, "__call__", lambda self, x: change(x, right(self, x)))

    return plant


_OTHER = 60  # ids further on stands a word that has nothing to do with any planted one


def swept_token_off(patch: pytest.MonkeyPatch, _: Bench) -> None:
    right = sweep_module._tokens
    patch.setattr(sweep_module, "_tokens", lambda *args: tuple(replace(t, id=t.id + _OTHER) for t in right(*args)))


def claimed_token_off(patch: pytest.MonkeyPatch, _: Bench) -> None:
    right = Bench.token
    patch.setattr(Bench, "token", lambda self, claim: replace(right(self, claim), id=right(self, claim).id + _OTHER))


def all_others_dead(patch: pytest.MonkeyPatch, _: Bench) -> None:
    def only_dead(scale: LayerScale, target: int, n: int, duplicates: Any) -> Controls:
        quiet = np.zeros_like(scale.activation)
        quiet[target] = scale.activation[target]
        return matched_controls(LayerScale(quiet, scale.column_norm), target, n, duplicates)

    patch.setattr(measure_module, "matched_controls", only_dead)


def verdicts_or_error(bench: Bench, claims: Sequence[Claim]) -> set[str]:
    """What becomes of the claims; a clamp that proves to be broken stops them all."""
    try:
        return {v.verdict for v in family_verdicts(bench, claims).values()}
    except ClampError:
        return {"error"}


@pytest.mark.parametrize(
    ("fault", "allowed"),
    [
        (one_layer_off, {"not_measured", "error"}),
        (one_neuron_off, {"not_measured"}),
        (writes_with(lambda before, after: 2 * before - after), {"not_measured", "detector"}),  # the change reversed
        (writes_with(lambda before, after: -after), {"not_measured"}),
        (writes_with(lambda before, after: before), {"detector"}),  # writes nothing, and says it did
        (writes_with(lambda before, after: after + 0.01), {"not_measured"}),
        (swept_token_off, {"detector", "inconclusive"}),
        (claimed_token_off, {"refuted", "inconclusive"}),
        (all_others_dead, {"inconclusive"}),
    ],
    ids=[
        "one-layer-off", "one-neuron-off", "change-reversed", "sign-flipped", "writes-nothing", "writes-too-much",
        "swept-token-off", "claimed-token-off", "others-dead",
    ],
)  # fmt: skip
def test_a_fault_in_the_instrument_is_no_finding(
    bench: Bench, truth: dict[str, Any], monkeypatch: pytest.MonkeyPatch, fault: Patch, allowed: set[str]
) -> None:
    claims = claims_of(truth, "dog", "california")
    quick = replace(bench, profile=QUICK)
    fault(monkeypatch, quick)
    assert verdicts_or_error(quick, claims) <= allowed


def test_controls_that_do_what_the_target_does_leave_nothing_that_only_it_does(
    bench: Bench, truth: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def itself(scale: LayerScale, target: int, n: int, _: Any) -> Controls:
        return Controls((target,) * n, 1.0, 1.0)

    monkeypatch.setattr(measure_module, "matched_controls", itself)
    claims = claims_of(truth, "dog", "california")
    found = []
    for e in evidence_of(replace(bench, profile=QUICK), truth, "dog", "california"):
        own = float((e.log_odds[:, -1] - e.log_odds[:, 0]).mean())
        np.testing.assert_allclose(e.control_effects, own, atol=1e-5)  # another batch rounds another way
        found.append(replace(e, control_effects=np.full_like(e.control_effects, own)))
    assert {v.verdict for v in judge(claims, found, rule=Rule(), seed=0)} == {"refuted"}


def test_without_a_fault_the_same_quick_bench_validates(bench: Bench, truth: dict[str, Any]) -> None:
    claims = claims_of(truth, "dog", "california")
    verdicts = family_verdicts(replace(bench, profile=QUICK), claims)
    assert {v.verdict for v in verdicts.values()} == {"validated"}


def test_a_model_that_overflows_is_not_measured(
    bench: Bench, truth: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    writes_with(lambda before, after: torch.full_like(after, float("nan")))(monkeypatch, bench)
    verdicts = family_verdicts(replace(bench, profile=QUICK), claims_of(truth, "dog"))
    assert verdicts["dog"].verdict == "not_measured"
    assert "not finite numbers" in verdicts["dog"].reason
