"""Vocabulary alignment against the whole product in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats

from flashinterp.decoding.decode import decode
from flashinterp.errors import MapError
from flashinterp.models.checkpoint import Checkpoint
from flashinterp.studies.vocabulary.alignment import Alignment, alignment, alignment_of
from tests.helpers import small_checkpoint


def _product(checkpoint: Checkpoint) -> NDArray[np.float64]:
    """[N, V] U · W_down[:, n] in float64."""
    columns = torch.cat([checkpoint.rows("down", n) for n in range(checkpoint.layout.n_layers)])
    product: NDArray[np.float64] = (columns.double() @ checkpoint.head().double().T).numpy()
    return product


@pytest.fixture(scope="module")
def aligned(planted: Checkpoint) -> Alignment:
    return alignment(planted)


def test_alignment_is_the_largest_magnitude_of_the_product(aligned: Alignment, planted: Checkpoint) -> None:
    z = _product(planted)
    at = np.abs(z).argmax(axis=1)
    best = z[np.arange(len(z)), at]
    np.testing.assert_allclose(aligned.max_abs, np.abs(best), rtol=1e-5)
    np.testing.assert_array_equal(aligned.token_ids, at)
    np.testing.assert_array_equal(aligned.signs, np.sign(best))
    assert set(aligned.signs.tolist()) == {1, -1}
    assert (aligned.max_abs.dtype, aligned.token_ids.dtype, aligned.signs.dtype) == (np.float32, np.int32, np.int8)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("top_k", [1, 10])
def test_alignment_with_exact_ties(seed: int, top_k: int) -> None:
    checkpoint = small_checkpoint(np.random.default_rng(seed), integers=True, neurons=40)
    z = _product(checkpoint)
    got = alignment(checkpoint, top_k=top_k)
    np.testing.assert_array_equal(got.max_abs, np.abs(z).max(axis=1))
    positive = z.max(axis=1) >= -z.min(axis=1)  # an equal magnitude goes to the positive pole, then the lower id
    np.testing.assert_array_equal(got.signs, np.where(positive, 1, -1))
    np.testing.assert_array_equal(got.token_ids, np.where(positive, z.argmax(axis=1), z.argmin(axis=1)))
    assert (z.max(axis=1) == -z.min(axis=1)).any(), "no tie between the poles was tried"


def test_planted_writers_align_with_their_token_and_sign(
    aligned: Alignment, planted: Checkpoint, truth: dict[str, Any]
) -> None:
    for plant in (p for p in truth["plants"] if p["writes"]):
        at = aligned.map.index(plant["name"])
        assert planted.vocabulary.surfaces[aligned.token_ids[at]] == plant["token"], plant
        assert aligned.signs[at] == (-1 if plant["pole"] == "-" else 1)


def test_negated_columns_change_only_the_signs(aligned: Alignment) -> None:
    checkpoint = small_checkpoint(np.random.default_rng(5))
    before = alignment(checkpoint)
    for layer in checkpoint.model.model.layers:
        layer.mlp.down_proj.weight.neg_()
    after = alignment(checkpoint)
    np.testing.assert_array_equal(before.max_abs, after.max_abs)
    np.testing.assert_array_equal(before.token_ids, after.token_ids)
    np.testing.assert_array_equal(before.signs, -after.signs)


def test_the_distribution_is_given_layer_by_layer(aligned: Alignment) -> None:
    assert [len(x) for x in aligned.by_layer()] == [256] * 4
    for layer, row in enumerate(aligned.per_layer):
        x = aligned.max_abs[layer * 256 : (layer + 1) * 256].astype(np.float64)
        assert row.layer == layer
        want = [x.mean(), np.median(x), x.max(), stats.skew(x), stats.kurtosis(x)]
        assert [row.mean, row.median, row.maximum, row.skew, row.kurtosis] == pytest.approx(want)


def test_a_layer_of_equal_alignments_has_no_skew() -> None:
    checkpoint = small_checkpoint(np.random.default_rng(1), integers=True)
    down = checkpoint.model.model.layers[0].mlp.down_proj.weight
    down.copy_(down[:, :1].expand_as(down).clone())
    flat, other = alignment(checkpoint).per_layer
    assert (flat.skew, flat.kurtosis) == (None, None)
    assert flat.mean == flat.median == flat.maximum
    assert other.skew is not None


def test_some_layers_keep_their_own_numbers(planted: Checkpoint) -> None:
    part = alignment_of(decode(planted, lens="logit-lens", top_k=1, layers=[1, 3]))
    assert [row.layer for row in part.per_layer] == [1, 3]


def test_progress_is_passed_on(planted: Checkpoint) -> None:
    seen: list[tuple[int, int]] = []
    alignment(planted, top_k=1, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (4, 4)


@pytest.mark.parametrize("lens", ["paper", "write"])
def test_a_map_of_another_lens_is_refused(lens: str, planted: Checkpoint) -> None:
    with pytest.raises(MapError, match=f"logit-lens map, not {lens}"):
        alignment_of(decode(planted, lens=lens, top_k=1))
