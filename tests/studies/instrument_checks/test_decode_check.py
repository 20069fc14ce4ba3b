"""A decode against float64: what is right, and each thing that can be wrong."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flashinterp.decoding.backends.choice import decode_rows
from flashinterp.decoding.backends.top_tokens import Pole
from flashinterp.decoding.lens_maps import DecodedMaps
from flashinterp.decoding.lens_rows import lens_rows
from flashinterp.models.checkpoint import Checkpoint
from flashinterp.neurons import Block
from flashinterp.studies.instrument_checks.decode_check import (
    DTYPES,
    PATTERNS,
    SAMPLE,
    Comparison,
    compare_lens,
    compare_pole,
    compare_random,
    joined,
    lens_formula,
    random_weights,
)


@given(n=st.integers(1, 4), d=st.integers(1, 6), vocab=st.integers(1, 130), top_k=st.integers(1, 120),
       dtype=st.sampled_from(DTYPES), pattern=st.sampled_from(PATTERNS), seed=st.integers(0, 99))  # fmt: skip
def test_the_decode_is_right_on_random_weights(n: int, d: int, vocab: int, top_k: int, **drawn: Any) -> None:
    both = compare_random(n, d, vocab, top_k=top_k, device="cpu", **drawn)
    assert [(one.ids, one.wrong) for one in both] == [(n * min(top_k, vocab), "")] * 2
    if drawn["pattern"] == "small integers":
        assert [(one.swapped, one.error, one.plain) for one in both] == [(0, 0, 0)] * 2


ROWS, HEAD = random_weights(3, 4, 40, torch.float32, "small integers", 0)
EXACT = ROWS.double() @ HEAD.double().T
SOUND = decode_rows(ROWS, HEAD, top_k=20)[0]


def swapped(pole: Pole) -> Pole:
    """Two equal logits in the order of their ids no more."""
    row, at = torch.nonzero(pole.logits.diff(dim=1) == 0)[0].tolist()
    ids = pole.ids.clone()
    ids[row, [at, at + 1]] = ids[row, [at + 1, at]]
    return replace(pole, ids=ids)


def later_tie(pole: Pole) -> Pole:
    """Of equal logits the last one is another token's, with a higher id."""
    ids = pole.ids.clone()
    for row in range(len(ids)):
        equal = torch.nonzero(EXACT[row] == pole.logits[row, -1]).flatten()
        if (left := [i for i in equal.tolist() if i not in ids[row].tolist()]) != []:
            ids[row, -1] = left[-1]
    return replace(pole, ids=ids)


WRONG = {
    "our logits are off by": lambda pole: replace(pole, logits=pole.logits + 1e-3),
    "an id is wrong: float64 separates it by": lambda pole: replace(
        pole, ids=EXACT.argsort(1)[:, :20].int(), logits=EXACT.sort(1).values[:, :20].float()
    ),
    "tokens with equal logits are not in": swapped,
    "of tokens with equal logits, not those": later_tie,
    "logsumexp is off by": lambda pole: replace(pole, logsumexp=pole.logsumexp + 1e-3),
    "the mean of the 100 highest is off by": lambda pole: replace(pole, log_mean_top=pole.log_mean_top - 1e-3),
}


@pytest.mark.parametrize("told", WRONG)
def test_what_is_wrong_is_said(told: str) -> None:
    assert compare_pole(SOUND, EXACT, 0.0).wrong == ""
    assert compare_pole(WRONG[told](SOUND), EXACT, 0.0).wrong.startswith(told)


def test_a_token_that_is_listed_twice() -> None:
    ids = torch.tensor([[0, 0]], dtype=torch.int32)
    twice = Pole(ids, torch.zeros(1, 2), torch.zeros(1).add(2).log(), torch.zeros(1))
    assert compare_pole(twice, torch.zeros(1, 2).double(), 0.0).wrong == "a token is listed twice"


def test_they_are_joined_in_order() -> None:
    kept = joined(("a", "b"), [Comparison(4, 1, 0.5, 0.25, ""), Comparison(6, 0, 0.125, 1.0, "")])
    assert kept.kind == ("a", "b")
    assert [x.tolist() for x in (kept.ids, kept.swapped, kept.errors, kept.plain)] == [
        [4, 6], [1, 0], [0.5, 0.125], [0.25, 1.0]
    ]  # fmt: skip


def test_each_lens_of_a_model_is_its_formula(planted: Checkpoint) -> None:
    maps, head = DecodedMaps(planted, "cpu"), planted.head().double()
    for lens in planted.layout.lenses:
        rows = lens_rows(planted, lens, 1, dtype=torch.float64)
        assert torch.allclose(lens_formula(planted, lens, Block(1)), rows, rtol=1e-12)
    found = compare_lens(planted, maps, planted.layout.lenses[-1], head, np.random.default_rng(0))
    assert not any(one.wrong for one in found)
    assert len(found) == 2 * planted.layout.n_layers
    assert {one.ids for one in found} == {SAMPLE * 100}
