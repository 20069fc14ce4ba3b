"""Imports go down only: the contract in pyproject.toml holds, and an import that goes up breaks it by name."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from tests.project.files import ROOT

if not os.environ.get("CI"):
    pytest.importorskip("importlinter", reason="import-linter is not installed: pip install -e .[lint]")

PLANTED = "from flashinterp.runs import session"


class Linter:
    """The contract of pyproject.toml, put to the package in a folder."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capsys = monkeypatch, capsys

    def __call__(self, folder: Path) -> tuple[bool, str]:
        """Whether every contract is kept, and what is printed, in one line."""
        import importlinter.api  # noqa: F401 (it sets the linter up)
        from importlinter.application.use_cases import lint_imports

        # The package is looked for as if it had not been imported.
        with self._monkeypatch.context() as patch:
            patch.delitem(sys.modules, "flashinterp", raising=False)
            patch.syspath_prepend(folder)
            self._capsys.readouterr()
            kept = lint_imports(config_filename=str(ROOT / "pyproject.toml"), cache_dir=None, no_logo=True)
        return kept, " ".join(self._capsys.readouterr().out.split())


@pytest.fixture
def linter(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Linter:
    return Linter(monkeypatch, capsys)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A folder with a copy of the package."""
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "flashinterp", tmp_path / "flashinterp", ignore=ignored)
    return tmp_path


def test_the_contract_is_kept(linter: Linter) -> None:
    kept, printed = linter(ROOT)
    assert kept, printed
    assert " 0 broken" in printed


@pytest.mark.parametrize(
    "before",
    ["", "def planted() -> None:\n    ", "from typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n    "],
    ids=["at the top", "in a function", "for types only"],
)
def test_an_import_from_a_higher_package_is_found(copy: Path, linter: Linter, before: str) -> None:
    module = copy / "flashinterp" / "decoding" / "resume.py"
    module.write_text(f"{module.read_text(encoding='utf-8')}\n\n{before}{PLANTED}\n", encoding="utf-8")
    kept, printed = linter(copy)
    assert not kept
    assert "flashinterp.decoding is not allowed to import flashinterp.runs" in printed
    assert "flashinterp.decoding.resume -> flashinterp.runs.session" in printed


@pytest.mark.parametrize(
    ("importer", "line", "named"),
    [
        ("studies/vocabulary/alignment.py", "from flashinterp.studies.steering import tables", "studies.steering"),
        ("runs/folder/run_folder.py", "from flashinterp.runs.compare import diff", "runs.compare.diff"),
        ("errors.py", "import flashinterp.stats", "flashinterp.stats"),
        ("models/norms.py", "from flashinterp import decode", "flashinterp.models.norms -> flashinterp (l."),
    ],
    ids=["a study from a study", "the folder from its readers", "among the base modules", "the public names"],
)
def test_the_other_contracts_are_broken_too(copy: Path, linter: Linter, importer: str, line: str, named: str) -> None:
    module = copy / "flashinterp" / importer
    module.write_text(module.read_text(encoding="utf-8") + f"\n\n{line}\n", encoding="utf-8")
    kept, printed = linter(copy)
    assert not kept
    assert named in printed


def test_a_new_package_must_be_given_its_place(copy: Path, linter: Linter) -> None:
    (copy / "flashinterp" / "garage").mkdir()
    (copy / "flashinterp" / "garage" / "__init__.py").write_text("")
    kept, printed = linter(copy)
    assert not kept
    assert "garage" in printed
