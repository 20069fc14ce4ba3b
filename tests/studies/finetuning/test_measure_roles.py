"""Roles measured on fine-tunes whose truth is known: neurons are kept, moved, turned round, quietened, overwritten."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from flashinterp import Checkpoint, NeuronId, NeuronMap, clamp, decode, open_checkpoint
from flashinterp.evaluation.claims import Claim
from flashinterp.evaluation.evidence import Evidence
from flashinterp.evaluation.experiment import Experiment
from flashinterp.evaluation.measure import measure
from flashinterp.evaluation.profiles import PROFILES
from flashinterp.evaluation.prompts import shipped
from flashinterp.evaluation.verdict import Rule, Verdict, judge
from flashinterp.models.activations import encode
from flashinterp.studies.finetuning.measure_roles import PROMPTS, Side, measure_roles
from flashinterp.studies.finetuning.roles import Role, RoleEvidence, judge_roles
from tests.helpers import DOWN, GATE, UP, edited_copy, n_hooks

pytestmark = pytest.mark.slow  # each test measures a model and its fine-tune

CLAIMS = ("dog", "california", "sherlock", "wizard", "king", "king-twin", "river-detector")
FEW = 24  # prompts, half of what the suite takes at least
SPARE = 200  # a loud neuron of layer 2 with no plant

Edit = Callable[[dict[str, Tensor]], None]


class OnDemand(dict[str, NeuronMap]):
    """Maps of one checkpoint, decoded when asked for."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__()
        self.checkpoint = checkpoint

    def __missing__(self, lens: str) -> NeuronMap:
        self[lens] = decode(self.checkpoint, lens=lens)
        return self[lens]


@dataclass(frozen=True)
class Base:
    """The planted fixture, measured and judged, against which fine-tunes are held."""

    side: Side
    verdicts: list[Verdict]
    evidence: list[Evidence | str]

    def found(self, tuned: Checkpoint) -> list[RoleEvidence | str]:
        bench = replace(self.side.bench, model=tuned.load_model(), checkpoint=tuned)
        found = measure_roles(self.side, Side(bench, OnDemand(tuned)), self.verdicts, self.evidence)
        assert n_hooks(bench.model) == n_hooks(self.side.bench.model) == 0
        return found

    def roles(self, tuned: Checkpoint) -> dict[str, Role]:
        return {r.claim.id: r for r in judge_roles(self.verdicts, self.found(tuned))}


@pytest.fixture(scope="module")
def base(planted: Checkpoint, planted_model: Any, truth: dict[str, Any]) -> Base:
    bench = Experiment(planted_model, planted, shipped(), PROFILES["smoke"], seed=0)
    plants = {p["id"]: p for p in truth["plants"]}
    claims = [
        Claim(p["id"], p["token"], NeuronId.parse(p["name"]), p["pole"], p["lens"], None, "fixture", p["verdict"])
        for p in (plants[i] for i in CLAIMS)
    ]
    evidence = measure(bench, claims)
    verdicts = judge(claims, evidence, rule=Rule(), seed=0)
    assert [v.verdict for v in verdicts] == ["validated"] * 6 + ["detector"]
    return Base(Side(bench, OnDemand(planted)), verdicts, evidence)


@pytest.fixture(autouse=True)
def few_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fates here are clear enough for half the prompts."""
    monkeypatch.setattr("flashinterp.studies.finetuning.measure_roles.LEAST", FEW)


@pytest.fixture
def fine_tune(planted: Checkpoint, tmp_path: Path) -> Callable[[Edit], Checkpoint]:
    def make(edit: Edit) -> Checkpoint:
        assert planted.folder is not None
        return open_checkpoint(edited_copy(planted.folder, tmp_path / "tuned", edit))

    return make


def matrices(tensors: dict[str, Tensor], layer: int) -> Sequence[Tensor]:
    """[F, d] views of a layer's W_up, W_gate and W_down, a neuron a row."""
    return tensors[UP.format(layer)], tensors[GATE.format(layer)], tensors[DOWN.format(layer)].T


def overwrite(tensors: dict[str, Tensor], layer: int, neuron: int) -> None:
    """Random rows of the same norms."""
    draw = torch.Generator().manual_seed(neuron)
    up, gate, down = matrices(tensors, layer)
    for rows in (up, down):
        fresh = torch.randn(rows.shape[1], generator=draw)
        rows[neuron] = fresh * rows[neuron].norm() / fresh.norm()
    assert gate is not None


def several(tensors: dict[str, Tensor]) -> None:
    """One neuron turned round, one kept, one overwritten, one moved, one quietened."""
    matrices(tensors, 1)[2][17] *= -1  # dog
    overwrite(tensors, 2, 5)  # Sherlock
    for rows in matrices(tensors, 2):  # wizard
        rows[[44, SPARE]] = rows[[SPARE, 44]].clone()
    tensors[UP.format(1)][60] *= 0.01  # king


def test_each_fate_has_its_verdict(base: Base, fine_tune: Callable[[Edit], Checkpoint]) -> None:
    roles = base.roles(fine_tune(several))
    assert {i: r.role for i, r in roles.items()} == {
        "dog": "label kept",
        "california": "role kept",
        "sherlock": "lost",
        "wizard": "moved",
        "king": "label kept",
        "king-twin": "role kept",
        "river-detector": None,
    }
    dog, wizard, king = roles["dog"], roles["wizard"], roles["king"]
    assert wizard.heir == NeuronId(2, SPARE)
    assert wizard.heir_effect is not None
    assert wizard.effect_before is not None
    assert wizard.effect_after is not None
    assert wizard.heir_effect.estimate == pytest.approx(wizard.effect_before.estimate, rel=0.2)
    assert abs(wizard.effect_after.estimate) < 0.3
    assert dog.effect_after is not None
    assert dog.effect_after.estimate < -1
    assert (dog.label_kept, dog.auc_after) == (True, 1)
    assert king.effect is not None
    assert king.effect.shown
    assert king.drive == pytest.approx(0.01, abs=0.01)


def test_a_model_keeps_all_roles_of_itself(base: Base, planted: Checkpoint) -> None:
    found = base.found(planted)
    for e, verdict in zip(found, base.verdicts, strict=True):
        if isinstance(e, RoleEvidence):
            np.testing.assert_allclose(e.after, e.before, atol=e.noise_floor)
            np.testing.assert_array_equal(e.present_after, e.present_before)
            assert (e.label_after, e.heir is None) == (e.label_before, verdict.claim.id != "king-twin")
    roles = judge_roles(base.verdicts, found)
    assert [r.role for r in roles] == ["role kept"] * 6 + [None]


def test_a_neuron_that_was_renamed_and_no_longer_reads_is_lost(base: Base, tuned: Checkpoint) -> None:
    """Its W_down is the same, and so is its curve: what is clamped does not read."""
    role = base.roles(tuned)["sherlock"]
    assert role.role == "lost"
    assert role.effect is not None
    assert abs(role.effect.estimate) < 0.5
    assert role.auc_before == 1
    assert role.drive is not None
    assert abs(role.drive) < 0.2


def test_another_label_on_a_neuron_that_does_the_same_is_a_kept_role(
    base: Base, planted: Checkpoint, fine_tune: Callable[[Edit], Checkpoint]
) -> None:
    other = planted.vocabulary.resolve(" river").id
    toward = planted.head()[other] / planted.head()[other].norm()

    def rename(tensors: dict[str, Tensor]) -> None:
        tensors[UP.format(2)][44] += 2.5 * toward

    role = base.roles(fine_tune(rename))["wizard"]
    assert (role.role, role.label_kept) == ("role kept", False)


def test_a_twin_that_named_the_word_before_is_not_where_it_moved(
    base: Base, fine_tune: Callable[[Edit], Checkpoint]
) -> None:
    role = base.roles(fine_tune(lambda tensors: overwrite(tensors, 1, 60)))["king"]
    assert role.role == "lost"
    assert role.heir == NeuronId(1, 61)
    assert "named it before" in role.reason


def test_a_label_that_is_copied_without_what_it_writes_has_not_moved(
    base: Base, fine_tune: Callable[[Edit], Checkpoint]
) -> None:
    def copied(tensors: dict[str, Tensor]) -> None:
        tensors[UP.format(2)][SPARE] = 1.1 * tensors[UP.format(2)][44]
        overwrite(tensors, 2, 44)

    role = base.roles(fine_tune(copied))["wizard"]
    assert (role.role, role.heir) == ("lost", NeuronId(2, SPARE))
    assert "not shown to carry" in role.reason


def test_curves_are_those_of_plain_clamps_at_the_bases_doses(
    base: Base, fine_tune: Callable[[Edit], Checkpoint]
) -> None:
    tuned = fine_tune(several)
    found = base.found(tuned)[3]  # wizard
    judged = base.evidence[3]
    assert isinstance(found, RoleEvidence)
    assert isinstance(judged, Evidence)
    np.testing.assert_array_equal(found.doses, judged.doses)
    profile = base.side.bench.profile
    n_prompts = PROMPTS * profile.prompts
    assert n_prompts == FEW
    assert found.before.shape == found.after.shape == (n_prompts, profile.doses)
    np.testing.assert_allclose(found.before[: profile.prompts], judged.log_odds, atol=1e-4)
    model, token = tuned.load_model(), tuned.vocabulary.resolve(" wizard").id
    prompts = base.side.bench.prompts.heldout
    for prompt, dose in ((0, 0), (7, 2), (n_prompts - 1, profile.doses - 1)):
        with clamp(model, {"L2N44": float(found.doses[dose])}), torch.no_grad():
            p = model(encode(tuned.tokenizer, prompts[prompt])).logits[0, -1].double().softmax(-1)[token].item()
        assert found.after[prompt, dose] == pytest.approx(np.log(p / (1 - p)), abs=1e-3)


def test_more_prompts_are_taken_than_a_verdict_takes(
    base: Base, planted: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flashinterp.studies.finetuning.measure_roles.LEAST", 30)
    found = base.found(planted)[0]
    assert isinstance(found, RoleEvidence)
    assert len(found.before) == len(found.after) == 30


def test_models_of_other_words_are_not_comparable(base: Base, planted: Checkpoint) -> None:
    other = open_checkpoint(planted.load_model())
    surfaces = list(planted.vocabulary.surfaces)
    surfaces[5] = "another"
    other.vocabulary = type(planted.vocabulary)(surfaces, [], prefix_space=False)
    bench = replace(base.side.bench, checkpoint=other)
    found = measure_roles(base.side, Side(bench, OnDemand(other)), base.verdicts, base.evidence)
    roles = judge_roles(base.verdicts, found)
    assert [r.role for r in roles] == ["not comparable"] * 6 + [None]
    assert "their tokenizers differ, first at id 5" in roles[0].reason


def test_a_fine_tune_that_computes_no_numbers_is_not_comparable(
    base: Base, fine_tune: Callable[[Edit], Checkpoint]
) -> None:
    def broken(tensors: dict[str, Tensor]) -> None:
        tensors["model.layers.0.self_attn.v_proj.weight"][0] = float("inf")

    roles = base.roles(fine_tune(broken))
    assert {r.role for i, r in roles.items() if i != "river-detector"} == {"not comparable"}
