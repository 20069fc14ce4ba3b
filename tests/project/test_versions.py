"""The version stands in pyproject.toml. What else shows one agrees with it, and so do the lists of dependencies."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import version

import pytest
import yaml
from packaging.version import Version

from tests.project.files import PYPROJECT, ROOT, pins

PROJECT = PYPROJECT["project"]
VERSION: str = PROJECT["version"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_the_installed_version_is_it() -> None:
    assert version("flashinterp") == VERSION, "install again: pip install -e ."


def test_the_command_line_prints_it_without_torch() -> None:
    code = (
        "import sys; from flashinterp.cli import main; main(['--version']); "
        "print([m for m in ('torch', 'numpy', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    assert done.stdout.splitlines() == [f"flashinterp {VERSION}", "[]"]


def test_no_module_writes_it_down() -> None:
    for file in sorted((ROOT / "flashinterp").rglob("*.py")):
        assert f'"{VERSION}"' not in file.read_text(encoding="utf-8"), file


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load(text("CITATION.cff"))
    assert citation["version"] == VERSION
    assert citation["license"] == PROJECT["license"]
    assert citation["cff-version"] == "1.2.0"


def test_the_newest_release_of_the_changelog_is_this_version() -> None:
    first, *releases = re.findall(r"^## \[(.+?)\]", text("CHANGELOG.md"), re.MULTILINE)
    assert first == "Unreleased"
    assert releases[0] == VERSION
    assert all(re.fullmatch(r"\d+\.\d+\.\d+", release) for release in releases)


@pytest.mark.parametrize("extras", [(), ("test",)], ids=["dependencies", "test"])
def test_the_lowest_versions_are_those_that_are_allowed(extras: tuple[str, ...]) -> None:
    required = [*PROJECT["dependencies"], *(line for extra in extras for line in EXTRAS[extra])]
    lowest = {name: low for line in required for name, low in re.findall(r"^([\w-]+)>=([\d.]+)", line)}
    pinned = pins("constraints-lowest.txt")
    for name, low in lowest.items():
        assert Version(pinned[name]) == Version(low), name


def test_every_dependency_is_pinned_for_ci() -> None:
    required = [*PROJECT["dependencies"], *(line for lines in EXTRAS.values() for line in lines)]
    names = {re.match(r"[\w-]+", line)[0] for line in required}  # type: ignore[index]
    assert names | {"pytest-cov"} <= set(pins("constraints.txt"))
