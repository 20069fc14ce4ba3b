"""Every kernel compiles for the GPUs that matter, without a GPU, and keeps what it works on in registers."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.decoding.backends.kernels import require_triton

if TYPE_CHECKING:
    from flashinterp.decoding.backends.triton_compile import Compiled

KERNELS = {"stats", "choose_blocks", "choose_tokens", "finish"}


def _compiled(arch: int, *sizes: tuple[int, int, int]) -> list[Compiled]:
    require_triton()
    if os.environ.get("TRITON_INTERPRET") == "1":
        pytest.skip("this process interprets kernels: unset TRITON_INTERPRET to compile them")
    from flashinterp.decoding.backends.triton_compile import compile_all
    from flashinterp.decoding.backends.triton_select import Plan

    return compile_all(arch, {str(size): Plan(*size) for size in sizes} or None)


@pytest.mark.slow  # compiles for GPUs
@pytest.mark.parametrize("arch", [80, 89, 90])
def test_production_sizes_compile_without_spills(arch: int) -> None:
    found = _compiled(arch)
    assert {one.kernel for one in found} == KERNELS
    for one in found:
        assert one.arch == arch
        assert (one.stack, one.local, one.spills) == (0, 0, 0), one
        assert 0 < one.registers <= 168, one  # three programs of 128 threads on a multiprocessor, at least
        # More would mean that keys go through shared memory on their way to the scattered stores.
        assert one.shared <= 1024, one


@pytest.mark.slow  # compiles for GPUs
def test_sizes_of_one_compile() -> None:
    """An argument that is 1 becomes a constant of the code, a number of another kind."""
    assert {one.kernel for one in _compiled(90, (1, 1, 1), (20, 1, 2))} == KERNELS


@pytest.mark.slow  # compiles for GPUs
def test_large_keeps_compile() -> None:
    """For 1,000 kept tokens the gathered blocks do not fit into the registers of a program: slow, known, and right."""
    by_name = {one.kernel: one for one in _compiled(90, (128_256, 1000, 2))}
    assert by_name.keys() == KERNELS
    assert {name for name, one in by_name.items() if one.spills} <= {"choose_tokens"}
