"""The cosine is the one of the formula, and to the last bit what earlier releases recorded."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from flashinterp.studies.concept_erasure.cosine import cosine

RECORDED = {
    8: "-0x1.0cecfc0000000p-4",
    96: "0x1.b1b6080000000p-5",
    1000: "-0x1.728ca00000000p-8",
    4096: "-0x1.e2b8280000000p-11",
    8192: "-0x1.06e51e0000000p-9",
}


def pair(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Two vectors of small whole numbers, so that they are the same wherever they are drawn."""
    place = np.arange(1, size + 1)
    return (place * 37 % 101 - 50).astype(np.float32), (place * 53 % 97 - 48).astype(np.float32)


@pytest.mark.parametrize("size", [1, 3, 8, 100, 512, 4096, 11008])
def test_it_is_the_formula(size: int) -> None:
    one, other = (vector.astype(np.float64) for vector in pair(size))
    wanted = one @ other / np.linalg.norm(one) / np.linalg.norm(other)
    assert cosine(*pair(size)) == pytest.approx(wanted, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("size", RECORDED)
def test_it_is_recorded_to_the_last_bit(size: int) -> None:
    assert cosine(*pair(size)).hex() == RECORDED[size]


@pytest.mark.skipif(torch.backends.cpu.get_cpu_capability() != "AVX2", reason="torch sums in another order here")
@pytest.mark.parametrize("size", [8, 96, 512, 520, 1000, 4096, 8192])
def test_it_is_torchs_own_on_eight_lanes(size: int) -> None:
    draw = np.random.default_rng(size)
    for one, other in draw.standard_normal((20, 2, size)).astype(np.float32):
        both = torch.tensor(one), torch.tensor(other)
        assert cosine(one, other) == float(torch.cosine_similarity(*both, dim=0))
