"""What was planted is found, and what was not is not; the model stays as it was."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from flashinterp import Checkpoint, decode
from flashinterp.evaluation.claim_resolution import resolve_claim
from flashinterp.evaluation.claims import Claim
from flashinterp.evaluation.evidence import Evidence
from flashinterp.evaluation.experiment import Experiment
from flashinterp.evaluation.prompts import shipped
from flashinterp.evaluation.verdict import Verdict
from tests.evaluation.measure.planted_claims import QUICK, SMOKE, claims_of, family_verdicts
from tests.helpers import n_hooks


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


@pytest.mark.slow  # measures another model
def test_the_same_claims_on_a_model_with_nothing_planted_are_never_validated(
    unplanted: Checkpoint, truth: dict[str, Any]
) -> None:
    maps = {lens: decode(unplanted, lens=lens) for lens in ("paper", "write")}
    found = [
        resolve_claim(Claim(f"{p['id']}-{lens}", p["token"], None, None, lens, None, "discovered"), maps, unplanted)
        for p in truth["plants"][:4]
        for lens in maps
    ]
    bench = Experiment(unplanted.load_model(), unplanted, shipped(), SMOKE, seed=0)
    family = family_verdicts(bench, [*claims_of(truth, "dog", "california"), *found])
    assert "validated" not in {v.verdict for v in family.values()}
    assert "not_measured" not in {v.verdict for v in family.values()}


def test_a_neuron_that_disturbs_all_text_is_not_validated(bench: Experiment, truth: dict[str, Any]) -> None:
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


def test_nothing_of_the_model_is_changed(bench: Experiment, measured: list[Evidence | str]) -> None:
    fresh = bench.checkpoint.load_model().state_dict()
    assert all(torch.equal(fresh[k], v) for k, v in bench.model.state_dict().items())
    assert n_hooks(bench.model) == 0
