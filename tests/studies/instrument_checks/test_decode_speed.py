"""What is timed finds the same logits, and the ways take turns."""

from __future__ import annotations

import torch

from flashinterp.models.checkpoint import Checkpoint
from flashinterp.studies.instrument_checks.decode_speed import (
    ROUNDS,
    ROWS,
    logits_found,
    naive_top_logits,
    time_interleaved,
    timed_weights,
    ways_to_decode,
)
from flashinterp.studies.instrument_checks.decode_tables import BARE, WAYS


def test_the_ways_take_turns_and_the_first_round_is_not_counted() -> None:
    called: list[str] = []
    seconds = time_interleaved({name: lambda name=name: called.append(name) for name in "ab"}, "cpu")
    assert called == ["a", "b"] * (ROUNDS + 1)
    assert {name: len(times) for name, times in seconds.items()} == {"a": ROUNDS, "b": ROUNDS}


def test_all_ways_find_the_same_logits(planted: Checkpoint) -> None:
    weights = timed_weights(planted, (16, 300), "cpu")
    assert [(len(w), u.shape) for w, u in weights.values()] == [
        (min(ROWS, planted.layout.roster.width(planted.layout.roster.blocks[-1])), planted.head().shape),
        (ROWS, (300, 16)),
    ]
    w, u = weights["random"]
    assert torch.equal(w, w.bfloat16().float())
    ways = ways_to_decode(w, u, "cpu")
    assert next(iter(ways)) == BARE
    assert set(ways) <= {BARE, *WAYS}
    assert torch.equal(naive_top_logits(w, u), (w @ u.T).sort(1, descending=True).values[:, :100])
    for ours, naive, apart in logits_found(w, u, ways):
        torch.testing.assert_close(ours, naive, rtol=apart, atol=1e-5)
