"""From a live model to verdicts: what was planted comes out, and a broken instrument does not pass as a finding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import import_module
from typing import Any

import numpy as np
import pytest
import torch

from flashinterp import Checkpoint, NeuronId, clamp, decode
from flashinterp.capture import capture, encode
from flashinterp.claims import Claim, resolve_claim
from flashinterp.controls import DEAD_SCALE, Controls, LayerScale, matched_controls
from flashinterp.measure import Bench, measure
from flashinterp.neuron import Block
from flashinterp.profiles import PROFILES
from flashinterp.prompts import shipped
from flashinterp.verdict import Evidence, Rule, Verdict, judge
from tests.helpers import n_hooks

# By name: the package's `clamp` and `sweep` are the functions.
clamp_module, measure_module, sweep_module = (import_module(f"flashinterp.{m}") for m in ("clamp", "measure", "sweep"))

SMOKE = PROFILES["smoke"]
QUICK = replace(SMOKE, prompts=4, controls=59, unrelated=4, stress_doses=3)


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


@pytest.fixture(scope="module")
def dog(measured: list[Evidence | str]) -> Evidence:
    first = measured[0]
    assert isinstance(first, Evidence), first
    return first


# --- what was planted -------------------------------------------------------------------------------


def test_the_planted_neurons_come_out_as_planted(verdicts: dict[str, Verdict], truth: dict[str, Any]) -> None:
    assert {i: v.verdict for i, v in verdicts.items()} == {p["id"]: p["verdict"] for p in truth["plants"]}
    assert {v.verdict for v in verdicts.values()} == {"validated", "lever", "detector", "refuted", "inconclusive"}


def test_a_neuron_planted_on_the_negative_pole_is_explained(verdicts: dict[str, Verdict]) -> None:
    explained = verdicts["california"].explained
    assert explained["predicted_direction"] == explained["observed_direction"] == "-"
    assert explained["z_read"] < 0
    assert explained["z_write"] < 0
    assert explained["reads_times_writes"] == "+"
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


# --- what the evidence is ---------------------------------------------------------------------------


def test_evidence_has_the_sizes_of_the_profile(measured: list[Evidence | str]) -> None:
    for e in measured:
        assert isinstance(e, Evidence), e
        assert e.doses.shape == (SMOKE.doses,)
        assert e.log_odds.shape == (SMOKE.prompts, SMOKE.doses)
        assert e.control_effects.shape == e.control_separations.shape == (SMOKE.controls,)
        assert e.unrelated_effects.shape == (SMOKE.unrelated,)
        assert e.present.shape == (SMOKE.contexts,)
        assert e.absent.shape == (SMOKE.contexts, SMOKE.absent)
        assert e.stress_doses.shape == e.stress_log_odds.shape[1:] == (SMOKE.stress_doses,)
        assert (e.stress_doses[0], e.stress_doses[-1]) == (-500, 500)
        assert (np.diff(e.doses) > 0).all()
        assert all(np.isfinite(a).all() for a in e.arrays().values())


def test_the_means_are_sound(measured: list[Evidence | str]) -> None:
    for e in measured:
        assert isinstance(e, Evidence)
        assert e.identity_error <= e.noise_floor + 1e-6
        assert 0 <= e.noise_floor < 1e-4  # float32


def test_doses_are_the_quantiles_of_the_neurons_own_selection_text(
    bench: Bench, dog: Evidence, truth: dict[str, Any]
) -> None:
    prompts, tokenizer = bench.prompts, bench.tokenizer
    texts = [encode(tokenizer, t) for t in (*prompts.selection, *prompts.contexts_selection)]
    for context in prompts.contexts_selection:
        for token in {p["token"] for p in truth["plants"]}:
            texts.append(encode(tokenizer, context + token))
    own = np.concatenate([s[Block(1)].up[:, 17] for s in capture(bench.model, texts, [1])])
    np.testing.assert_allclose(dog.doses, np.quantile(own, [0.01, 0.255, 0.5, 0.745, 0.99]), rtol=1e-4, atol=1e-5)


def test_the_curve_and_the_reading_are_of_heldout_text(bench: Bench, dog: Evidence) -> None:
    token = bench.checkpoint.vocabulary.resolve(" dog")
    for p, prompt in enumerate(bench.prompts.heldout[: SMOKE.prompts]):
        ids = encode(bench.tokenizer, prompt)
        for d in (0, SMOKE.doses - 1):
            with torch.no_grad(), clamp(bench.model, {"L1N17": float(dog.doses[d])}):
                log_p = bench.model(ids).logits[0, -1].double().log_softmax(-1)[token.id]
            assert dog.log_odds[p, d] == pytest.approx(float(log_p - torch.log(-torch.expm1(log_p))), abs=1e-3)
    for c, context in enumerate(bench.prompts.contexts_heldout[: SMOKE.contexts]):
        seen = capture(bench.model, [encode(bench.tokenizer, context + " dog")], [1])[0][Block(1)]
        assert dog.present[c] == pytest.approx(seen.post[-1, 17], rel=1e-4)


def test_no_absent_word_is_a_form_of_a_claimed_token(bench: Bench, truth: dict[str, Any]) -> None:
    vocabulary = bench.checkpoint.vocabulary
    every = replace(bench, profile=replace(SMOKE, absent=10**6, unrelated=10**6))  # all that may be drawn
    absent = measure_module._absent_words(every, claims_of(truth))
    claimed = {p["token"].strip().lower() for p in truth["plants"]}
    assert len(set(absent)) == len(absent) > 300
    assert not {vocabulary.surfaces[i].strip().lower() for i in absent} & claimed
    assert not vocabulary.excluded[absent].any()
    unrelated = measure_module._unrelated(every, vocabulary.resolve(" dog"))
    assert len({t.id for t in unrelated}) == len(unrelated) > 300
    assert " dog" not in {t.text for t in unrelated}
    assert len(measure_module._absent_words(bench, claims_of(truth))) == SMOKE.absent
    assert len(measure_module._unrelated(bench, vocabulary.resolve(" dog"))) == SMOKE.unrelated


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
        ({"token": 768}, "768 is out of range"),
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


def controls_are_the_twins(patch: pytest.MonkeyPatch, _: Bench) -> None:
    """Controls that do what the target does: nothing is left that only the target does."""
    patch.setattr(measure_module, "matched_controls", lambda scale, target, n, _: Controls((target,) * n, 1.0, 1.0))


@pytest.mark.parametrize(
    ("fault", "allowed"),
    [
        (one_layer_off, {"not_measured"}),
        (one_neuron_off, {"not_measured"}),
        (writes_with(lambda before, after: 2 * before - after), {"not_measured", "detector"}),  # the change reversed
        (writes_with(lambda before, after: -after), {"not_measured"}),
        (writes_with(lambda before, after: before), {"detector"}),  # writes nothing, and says it did
        (writes_with(lambda before, after: after + 0.01), {"not_measured"}),
        (swept_token_off, {"detector"}),
        (claimed_token_off, {"refuted", "inconclusive"}),
        (all_others_dead, {"inconclusive"}),
        (controls_are_the_twins, {"refuted"}),
    ],
    ids=[
        "one-layer-off", "one-neuron-off", "change-reversed", "sign-flipped", "writes-nothing", "writes-too-much",
        "swept-token-off", "claimed-token-off", "others-dead", "controls-are-the-target",
    ],
)  # fmt: skip
def test_a_fault_in_the_instrument_is_no_finding(
    bench: Bench, truth: dict[str, Any], monkeypatch: pytest.MonkeyPatch, fault: Patch, allowed: set[str]
) -> None:
    claims = claims_of(truth, "dog", "california")
    quick = replace(bench, profile=QUICK)
    fault(monkeypatch, quick)
    assert {v.verdict for v in family_verdicts(quick, claims).values()} <= allowed


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
