"""The exact top k from block maxima."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flashinterp.decoding.backends.topk import BLOCK, block_maxima, padded, select
from tests.examples import examples


def _select(z: torch.Tensor, keep: int, *, negate: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Through poisoned padding, in two uneven tiles."""
    n, vocab = z.shape
    buffer = torch.full((n, padded(vocab)), torch.nan)
    buffer[:, :vocab] = z
    maxima = torch.full((n, buffer.shape[1] // BLOCK), torch.nan)
    middle = min(BLOCK * 3, vocab)
    for start, stop in ((0, middle), (middle, vocab)):
        if start < stop:
            block_maxima(buffer, start, stop, maxima, negate=negate)
    return select(buffer, maxima, keep, vocab, negate=negate)


@examples(60)
@given(
    vocab=st.sampled_from([1, 63, 64, 65, 300, 6401, 9000]),
    keep=st.integers(1, 130),
    levels=st.sampled_from([1, 2, 5, 10**6]),
    negate=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_it_is_the_front_of_a_stable_full_sort(vocab: int, keep: int, levels: int, negate: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    z = torch.from_numpy(rng.integers(-levels, levels + 1, (4, vocab)).astype(np.float32))
    z[z == 0] *= torch.from_numpy(rng.choice([-1.0, 1.0], int((z == 0).sum())).astype(np.float32))  # both zeros
    keep = min(keep, vocab)
    ids, values = _select(z, keep, negate=negate)
    order = (-z if negate else z).sort(dim=1, descending=True, stable=True)
    assert torch.equal(ids, order.indices[:, :keep])
    assert torch.equal(values, order.values[:, :keep])


def test_the_best_may_all_be_in_one_block() -> None:
    z = torch.zeros(1, 10_000)
    z[0, 640:700] = torch.arange(60.0) + 1
    assert _select(z, 40)[0].tolist() == [list(range(699, 659, -1))]


@pytest.mark.parametrize("dtype", [torch.float64])
def test_float64_is_not_rounded_on_the_way(dtype: torch.dtype) -> None:
    z = torch.zeros(1, 128, dtype=dtype)
    z[0, 100] = 1e-12
    maxima = z.unflatten(1, (-1, BLOCK)).amax(2)
    assert select(z, maxima, 2, 128)[0].tolist() == [[100, 0]]
