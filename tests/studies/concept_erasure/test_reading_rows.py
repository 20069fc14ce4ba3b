"""Rows are ranked by their cosine, as one float64 formula says, and matched with others of their kind."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flashinterp.errors import LayoutError, RunError
from flashinterp.interventions.row_place import RowPlace
from flashinterp.neurons import NeuronId
from flashinterp.studies.concept_erasure.reading_rows import ReadingRows
from tests.architecture_cases import Case
from tests.helpers import assert_one_line_with_next_step, small_checkpoint


@given(seed=st.integers(0, 10_000))
def test_the_ranking_is_that_of_the_cosines(seed: int) -> None:
    rng = np.random.default_rng(seed)
    checkpoint = small_checkpoint(rng, layers=3, neurons=5, hidden=4)
    vector = rng.standard_normal(4)
    rows = ReadingRows.of(checkpoint, torch.as_tensor(vector))
    every = {}
    for layer in range(3):
        for kind in ("up", "gate"):
            for n, row in enumerate(checkpoint.rows(kind, layer).double().numpy()):
                cosine = row @ vector / np.linalg.norm(row) / np.linalg.norm(vector)
                every[f"L{layer}N{n} {kind}"] = (cosine, np.linalg.norm(row))
    best = rows.best(len(rows))
    assert len(best) == len(every) == 30
    for row in best:
        assert (row.cosine, row.norm) == pytest.approx(every[str(row.place)], abs=1e-6)
    cosines = [row.cosine for row in best]
    assert cosines == sorted(cosines, reverse=True)
    assert rows.best(2) == best[:2]


def test_a_row_of_zeros_has_no_direction_and_comes_where_0_comes() -> None:
    checkpoint = small_checkpoint(np.random.default_rng(1), layers=1)
    checkpoint.model.model.layers[0].mlp.up_proj.weight[2] = 0
    rows = ReadingRows.of(checkpoint, torch.ones(4))
    assert rows.cosines[2] == 0
    assert np.isfinite(rows.cosines).all()


@given(seed=st.integers(0, 10_000), n=st.integers(1, 20))
def test_controls_are_other_rows_of_the_same_matrix_with_near_norms(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    checkpoint = small_checkpoint(rng, layers=2, neurons=60, hidden=4)
    rows = ReadingRows.of(checkpoint, torch.ones(4))
    places = [row.place for row in rows.best(n)]
    drawn = rows.matched(places, rng)
    assert len({row.place for row in drawn} | set(places)) == 2 * n
    for place, other in zip(places, drawn, strict=True):
        assert (other.place.kind, other.place.neuron.layer) == (place.kind, place.neuron.layer)
        matrix = checkpoint.rows(place.kind, place.neuron.layer).double().norm(dim=1).numpy()
        far = np.sort(np.abs(matrix - matrix[place.neuron.neuron]))
        assert abs(other.norm - matrix[place.neuron.neuron]) <= far[15 + 2 * n] + 1e-9
        assert other.norm == pytest.approx(matrix[other.place.neuron.neuron])


def test_a_matrix_without_another_row_has_no_control() -> None:
    rows = ReadingRows.of(small_checkpoint(np.random.default_rng(0), layers=1, neurons=3), torch.ones(4))
    with pytest.raises(RunError, match="no row left") as caught:
        rows.matched([RowPlace(NeuronId(0, n), "up") for n in range(3)], np.random.default_rng(0))
    assert_one_line_with_next_step(caught.value)


def test_experts_are_left_out(case: Callable[[str], Case]) -> None:
    with pytest.raises(LayoutError, match="in experts") as caught:
        ReadingRows.of(case("mixtral").checkpoint, torch.ones(32))
    assert_one_line_with_next_step(caught.value)
    rows = ReadingRows.of(case("qwen3_moe").checkpoint, torch.ones(32))  # whose layer 1 is dense
    assert {row.place.neuron.layer for row in rows.best(len(rows))} == {1}


def test_without_a_gate_there_is_one_row_a_neuron(case: Callable[[str], Case]) -> None:
    rows = ReadingRows.of(case("gpt2").checkpoint, torch.ones(32))
    assert len(rows) == 3 * 48
    assert {row.place.kind for row in rows.best(len(rows))} == {"up"}
