"""The looks at the instrument from outside: each sees what is there, on a planted model, and sees a fault."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from flashinterp.evaluation.claims import Claim
from flashinterp.evaluation.experiment import Experiment
from flashinterp.evaluation.natural_range import HIGH, LOW, natural_text
from flashinterp.evaluation.profiles import PROFILES
from flashinterp.evaluation.prompts import shipped
from flashinterp.interventions import clamp_hooks
from flashinterp.interventions.clamp import clamp
from flashinterp.models.checkpoint import Checkpoint
from flashinterp.neurons import NeuronId, Site
from flashinterp.studies.instrument_checks.clamp_check import (
    change_by_the_weights,
    check_clamp,
    check_curve,
    check_generated,
    check_noise,
    greedy_tokens,
)
from tests.evidence_by_hand import STRONG
from tests.helpers import n_hooks

DOG = NeuronId(1, 17)
CLAIM = Claim("dog", " dog", DOG, "+", "paper", None, "fixture")
IDS = torch.tensor([[5, 300, 17, 42]])


@pytest.fixture(scope="module")
def bench(planted_model: Any, planted: Checkpoint) -> Experiment:
    return Experiment(planted_model, planted, shipped(), replace(PROFILES["smoke"], prompts=3, selection=2), 0)


def silu(x: torch.Tensor) -> torch.Tensor:
    return x / (1 + (-x).exp())


@pytest.mark.parametrize("site", ["up", "gate", "post"])
def test_the_change_is_the_formulas(bench: Experiment, site: Site) -> None:
    mlp = bench.model.model.layers[1].mlp
    seen: list[torch.Tensor] = []
    handle = mlp.register_forward_pre_hook(lambda module, args: seen.append(args[0][0].double()))
    bench.model(IDS)
    handle.remove()
    u, g = (seen[0] @ m.weight[DOG.neuron].double() for m in (mlp.up_proj, mlp.gate_proj))
    after = {"up": 7 * silu(g), "gate": u * silu(torch.tensor(7.0)), "post": torch.full_like(u, 7)}[site]
    wanted = (after - u * silu(g))[:, None] * mlp.down_proj.weight[:, DOG.neuron].double()
    found = change_by_the_weights(bench, DOG, site, 7.0, IDS)
    assert torch.allclose(found, wanted, rtol=1e-5, atol=1e-7)
    check = check_clamp(bench, DOG, site, IDS)
    assert check.changes == pytest.approx(wanted.abs().amax(1).numpy(), rel=1e-5, abs=1e-7)
    assert 0 < check.error <= check.allowed
    assert n_hooks(bench.model) == 0


def test_a_clamp_that_does_nothing_is_seen(bench: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clamp_hooks._Writer, "_write_one", lambda self, *_: setattr(self, "written", self.written + 1))
    check = check_clamp(bench, DOG, "up", IDS)
    assert check.error > check.allowed


def test_all_ways_give_the_same_log_probabilities(bench: Experiment) -> None:
    clean, clamped = check_noise(bench.model, IDS, DOG)
    assert (clean.state, clamped.state) == ("clean", "L1N17 clamped at 7")
    assert list(clean.ways)[:3] == ["the same pass again", "in a batch of 64", "in two parts, with a cache"]
    for check in (clean, clamped):
        assert max(check.errors.values()) <= check.allowed
        assert np.exp(check.whole).sum() == pytest.approx(1, rel=1e-5)
    assert np.abs(clean.whole - clamped.whole).max() > clean.allowed


def test_a_curve_by_plain_passes(bench: Experiment) -> None:
    word = bench.token(CLAIM).id
    found = check_curve(bench, CLAIM, 3.0, [word, 40, word])
    for odds, clamps in ((found.clean, {}), (found.high, {DOG: 3.0})):
        wanted = []
        for text in bench.heldout:
            ids = bench.tokenizer(text, return_tensors="pt")["input_ids"]
            if clamps:
                with clamp(bench.model, clamps):
                    p = bench.model(ids).logits[0, -1].double().softmax(-1)[word]
            else:
                p = bench.model(ids).logits[0, -1].double().softmax(-1)[word]
            wanted.append(float(p.logit()))
        assert odds == pytest.approx(np.array(wanted), abs=1e-6)
    natural = natural_text(bench, [DOG.block], [word, 40])[DOG.block].up[:, DOG.neuron]
    wanted_range = np.quantile(natural, [LOW, HIGH])
    assert np.quantile(found.natural.astype(np.float64), [LOW, HIGH]) == pytest.approx(wanted_range, rel=1e-5)


def test_generated_text_and_greedy_passes_are_one(bench: Experiment) -> None:
    tokens = greedy_tokens(bench.model, IDS, {DOG: 30.0})
    ids = IDS
    for token in tokens:
        with clamp(bench.model, {DOG: 30.0}):
            assert int(bench.model(ids).logits[0, -1].argmax()) == token
        ids = torch.cat([ids, torch.tensor([[token]])], dim=1)
    texts = check_generated(bench, [(CLAIM, STRONG)])
    for text in texts:
        assert (text.claim, text.generated) == (0, text.by_passes)
    assert texts
