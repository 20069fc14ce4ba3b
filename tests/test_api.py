"""The public names: there, complete, the right things, and nothing is imported before one is used."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

import pytest

import flashinterp
from flashinterp import api

HEAVY = ("torch", "transformers", "matplotlib")


def _python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


@pytest.mark.parametrize("module", ["flashinterp", "flashinterp.cli", "flashinterp.pytest_plugin"])
def test_nothing_heavy_is_imported_at_the_door(module: str) -> None:
    assert _python(f"import sys, {module}; print([m for m in {HEAVY} if m in sys.modules])") == "[]"


def test_every_public_name_is_given() -> None:
    for name in api.__all__:
        assert getattr(flashinterp, name) is getattr(api, name)
    assert set(dir(flashinterp)) == set(flashinterp.__all__) == set(api.__all__)


def test_a_function_is_not_hidden_by_the_module_of_its_name() -> None:
    shared = {name for name in api.__all__ if find_spec(f"flashinterp.{name}")}
    assert shared == flashinterp._FUNCTIONS
    # In a process in which the modules come first.
    modules = ", ".join(f"flashinterp.{name}" for name in sorted(shared))
    code = f"import {modules}, flashinterp as fi; print([n for n in {sorted(shared)} if not callable(getattr(fi, n))])"
    assert _python(code) == "[]"


@pytest.mark.parametrize("module", ["decode"])
def test_a_module_is_imported_alone(module: str) -> None:
    _python(f"import flashinterp.{module}; from flashinterp import {module}")


def test_other_modules_are_attributes() -> None:
    module = import_module("flashinterp.gpu")
    assert isinstance(flashinterp.gpu, ModuleType)  # type: ignore[attr-defined]
    assert flashinterp.gpu is module  # type: ignore[attr-defined]


def test_a_name_that_is_not_there() -> None:
    with pytest.raises(AttributeError, match="no attribute 'decoed'"):
        _ = flashinterp.decoed  # type: ignore[attr-defined]
