"""Tests of the Triton kernels: their values under Triton's interpreter, their code as compiled for three GPUs."""

from __future__ import annotations

import importlib.util
import os

import pytest


def require_triton() -> None:
    """Skip where Triton is not installed; in CI that is a failure, so that these tests cannot silently vanish."""
    if importlib.util.find_spec("triton") is None:
        reason = "triton is not installed: pip install triton to test the kernels"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
