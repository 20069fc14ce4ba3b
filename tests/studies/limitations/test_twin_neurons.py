"""What silencing and driving a pair of neurons does, on neurons copied by hand."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch

from flashinterp.models.checkpoint import Checkpoint
from flashinterp.neurons import NeuronId
from flashinterp.studies.limitations.twin_neurons import log_odds_under, twin_effects
from tests.helpers import n_hooks

TEXTS = [torch.tensor([[5, 300, 17, 42]]), torch.tensor([[5, 88, 9]])]


@pytest.fixture(scope="module")
def twinned(planted_model: Any) -> Any:
    """The planted model, in which L1N61 is made the exact copy of L1N60, and L1N62 its mirror."""
    model = copy.deepcopy(planted_model)
    mlp = model.model.layers[1].mlp
    mlp.gate_proj.weight[61:63] = mlp.gate_proj.weight[60]
    for n, sign in ((61, 1.0), (62, -1.0)):
        mlp.up_proj.weight[n] = sign * mlp.up_proj.weight[60]
        mlp.down_proj.weight[:, n] = sign * mlp.down_proj.weight[:, 60]
    return model


def _log_odds_by_hand(model: Any, ids: torch.Tensor, token: int, clamps: dict[int, float]) -> float:
    """With a hook of its own on layer 1."""

    def fix(_: Any, __: Any, out: torch.Tensor) -> torch.Tensor:
        out = out.clone()
        for neuron, value in clamps.items():
            out[..., neuron] = value
        return out

    handle = model.model.layers[1].mlp.up_proj.register_forward_hook(fix)
    try:
        p = model(ids).logits[0, -1].double().softmax(0)[token]
    finally:
        handle.remove()
    return float(torch.log(p) - torch.log1p(-p))


def test_effects_are_those_of_clamps_by_hand(twinned: Any, planted: Checkpoint) -> None:
    king = planted.vocabulary.resolve(" king").id
    present = [torch.cat([ids, torch.tensor([[king]])], dim=1) for ids in TEXTS]
    found = twin_effects(
        twinned,
        (NeuronId(1, 60), NeuronId(1, 61)),
        king,
        means=(0.5, -0.25),
        ends=((-3.0, 9.0), (-2.0, 8.0)),
        present=present,
        neutral=TEXTS,
    )

    def mean(texts: list[torch.Tensor], clamps: dict[int, float]) -> float:
        return float(np.mean([_log_odds_by_hand(twinned, ids, king, clamps) for ids in texts]))

    clean = mean(present, {})
    assert found.silenced == pytest.approx(
        [mean(present, c) - clean for c in ({60: 0.5}, {61: -0.25}, {60: 0.5, 61: -0.25})], abs=1e-4
    )
    ends = [({60: -3.0}, {60: 9.0}), ({61: -2.0}, {61: 8.0}), ({60: -3.0, 61: -2.0}, {60: 9.0, 61: 8.0})]
    assert found.driven == pytest.approx([mean(TEXTS, b) - mean(TEXTS, a) for a, b in ends], abs=1e-4)
    assert n_hooks(twinned) == 0


def test_of_a_pair_the_silencing_of_one_shows_half_and_driving_one_brings_the_word(
    twinned: Any, planted: Checkpoint
) -> None:
    king = planted.vocabulary.resolve(" king").id
    present = [torch.cat([ids, torch.tensor([[king]])], dim=1) for ids in TEXTS]
    for other, ends in ((61, (-1.0, 8.0)), (62, (1.0, -8.0))):
        found = twin_effects(
            twinned,
            (NeuronId(1, 60), NeuronId(1, other)),
            king,
            means=(0.0, 0.0),
            ends=((-1.0, 8.0), ends),
            present=present,
            neutral=TEXTS,
        )
        one, two, both = found.silenced
        assert one == pytest.approx(two, rel=1e-3)
        assert both < one < 0
        assert 0.4 < one / both < 0.6
        assert found.driven[0] == pytest.approx(found.driven[1], rel=1e-3)
        assert found.driven[0] > 0.5
        assert found.driven[2] > 1.5 * found.driven[0]


def test_without_a_clamp_it_is_the_models_own(planted_model: Any) -> None:
    own = [_log_odds_by_hand(planted_model, ids, 300, {}) for ids in TEXTS]
    assert log_odds_under(planted_model, TEXTS, 300, {}) == pytest.approx(own, abs=1e-5)
