"""The public names: there, complete, the right things, and nothing is imported before one is used."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages
from types import ModuleType

import pytest

import flashinterp
import flashinterp.interventions.clamp as clamp_module

HEAVY = ("torch", "transformers", "matplotlib")


def _python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


@pytest.mark.parametrize("module", ["flashinterp", "flashinterp.cli", "flashinterp.pytest_plugin"])
def test_nothing_heavy_is_imported_at_the_door(module: str) -> None:
    assert _python(f"import sys, {module}; print([m for m in {HEAVY} if m in sys.modules])") == "[]"


def test_every_public_name_is_given() -> None:
    assert set(dir(flashinterp)) == set(flashinterp.__all__) == set(flashinterp._MODULE_OF)
    for name, module in flashinterp._MODULE_OF.items():
        assert getattr(flashinterp, name) is getattr(import_module(module), name)


def test_type_checkers_see_the_same_names() -> None:
    """What stands under TYPE_CHECKING is the table, name for name and module for module."""
    tree = ast.parse(Path(flashinterp.__file__).read_text())
    seen = {
        alias.name: imported.module
        for block in tree.body
        if isinstance(block, ast.If)
        for imported in block.body
        if isinstance(imported, ast.ImportFrom)
        for alias in imported.names
    }
    assert seen == flashinterp._MODULE_OF


@pytest.mark.slow  # another process imports torch
def test_no_name_is_hidden_by_a_module() -> None:
    """`flashinterp.clamp` is the function and `flashinterp.interventions.clamp` the module, whichever came first."""
    assert isinstance(clamp_module, ModuleType)
    assert flashinterp.clamp is clamp_module.clamp
    modules = sorted(set(flashinterp._MODULE_OF.values()))
    code = "print([n for n in fi.__all__ if type(getattr(fi, n)) is type(fi)])"
    assert _python(f"import {', '.join(modules)}, flashinterp as fi; {code}") == "[]"


@pytest.mark.slow  # another process imports torch
@pytest.mark.parametrize("module", ["decoding.decode", "interventions.clamp", "studies.concept_erasure.reverse"])
def test_a_module_is_imported_alone(module: str) -> None:
    package, _, name = module.rpartition(".")
    code = (
        f"import flashinterp.{module} as m; from flashinterp.{package} import {name}; print(m is {name}, callable(m))"
    )
    assert _python(code) == "True False"


def test_every_module_can_be_imported_by_its_name() -> None:
    """`import flashinterp.a.b as m` takes the attribute of the package: nothing else may have that name there."""
    found = [m.name for m in walk_packages(flashinterp.__path__, "flashinterp.") if ".triton_" not in m.name]
    for name in found:
        if name not in ("flashinterp.__main__", "flashinterp._evals"):
            package, _, base = name.rpartition(".")
            assert import_module(name) is getattr(import_module(package), base)


def test_a_name_that_is_not_there() -> None:
    with pytest.raises(AttributeError, match="no attribute 'decoed'"):
        _ = flashinterp.decoed  # type: ignore[attr-defined]
