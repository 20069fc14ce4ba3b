"""ARCHITECTURE, CONTRIBUTING and the other pages at the top: what they name is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.documents import sections
from tests.project.files import PYPROJECT, ROOT, named_environments, tox_environments

NEW = ("ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md")
PAGES = (*NEW, "README.md", "BENCHMARKS.md")
ARCHITECTURE = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
_PATH = r"`((?:flashinterp|tests|evals|fixtures|benchmarks)/[\w./-]*)`"


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def defined(file: Path) -> set[str]:
    """The names of a module's own functions, classes and values."""
    names = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return names


@pytest.mark.parametrize("page", ["ARCHITECTURE.md", "CONTRIBUTING.md"])
def test_every_path_that_a_page_names_exists(page: str) -> None:
    named = set(re.findall(_PATH, text(page)))
    assert len(named) > 5
    # What the reader is to write has its name in capitals.
    missing = [path for path in sorted(named) if "NAME" not in path and not (ROOT / path).exists()]
    assert missing == []


def test_every_name_is_in_the_module_beside_it() -> None:
    pairs = re.findall(r"`(flashinterp/[\w/]+\.py)`\s+\(((?:`\w+`(?:,\s+)?)+)\)", ARCHITECTURE)
    assert len(pairs) > 20
    for path, names in pairs:
        assert set(re.findall(r"\w+", names)) <= defined(ROOT / path), path


def test_the_picture_is_the_import_contract() -> None:
    (picture,) = re.findall(r"```\n(.*?)```", sections(ARCHITECTURE, 2)["The packages"], re.DOTALL)
    shown = re.findall(r"\b\w+(?=/ |\.py)", picture)
    (contract,) = [c for c in PYPROJECT["tool"]["importlinter"]["contracts"] if c["id"] == "packages"]
    layers = [name.strip() for layer in contract["layers"] for name in layer.split("|")]
    assert shown == [name for name in layers if name != "__main__"]


def test_every_package_has_its_row() -> None:
    rows = " ".join(re.findall(r"^\| (`flashinterp/.*?) \|", ARCHITECTURE, re.MULTILINE))
    package = ROOT / "flashinterp"
    packages = [f"{p.parent.name}/" for p in package.glob("*/__init__.py")]
    modules = [p.name for p in package.glob("*.py") if not p.name.startswith("__")]
    for name in packages + modules:
        assert f"`flashinterp/{name}`" in rows, name


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[\w-]+)?\)", text(page)):
        assert (ROOT / target).exists(), target


@pytest.mark.parametrize("page", PAGES)
def test_the_environments_that_a_page_names_are_in_tox_ini(page: str) -> None:
    assert named_environments(text(page)) <= tox_environments()


def test_contributing_lists_every_environment() -> None:
    assert named_environments(text("CONTRIBUTING.md")) == tox_environments()


@pytest.mark.parametrize("page", NEW)
def test_lines_are_no_longer_than_code(page: str) -> None:
    assert [line for line in text(page).splitlines() if len(line) > 120] == []
