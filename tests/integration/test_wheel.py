"""What a user installs: the wheel, in an environment of its own, away from the checkout."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of what it is made of."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in ("flashinterp", "evals"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    code = f"from setuptools.build_meta import build_wheel; build_wheel({str(out)!r})"
    done = subprocess.run([sys.executable, "-c", code], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment's Python, in which flashinterp is the wheel's and all else is this environment's.

    The other packages come by a path file, which does not carry this environment's own path files: the checkout is not
    importable there.
    """
    home = tmp_path_factory.mktemp("venv")
    venv.create(home, with_pip=False, symlinks=True)
    python = home / "bin" / "python"
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = Path(subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout.strip())
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)
    (packages / "others.pth").write_text("\n".join({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}))
    return python


def test_it_holds_what_it_needs(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    evals = {f"flashinterp/_evals/evals/{p.name}" for p in (ROOT / "evals").glob("*.py")}
    modules = {p.relative_to(ROOT).as_posix() for p in (ROOT / "flashinterp").rglob("*.py")}
    data = {
        f"flashinterp/{n}"
        for n in (
            "evaluation/prompts.json",
            "py.typed",
            "cli/pytest.toml",
            "runs/folder/results.schema.json",
            "runs/verify/ids_v1.json",
        )
    }
    templates = {p.relative_to(ROOT).as_posix() for p in (ROOT / "flashinterp" / "report" / "templates").glob("*.*")}
    assert evals | modules | data | templates <= names
    assert not [n for n in names if n.startswith(("tests/", "evals/", "fixtures/", "benchmarks/", "conftest"))]


def test_its_console_command_is_the_command_line(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    (entries,) = [n for n in archive.namelist() if n.endswith("entry_points.txt")]
    assert "flashinterp = flashinterp.cli:run" in archive.read(entries).decode()


def test_an_audit_from_the_wheel(python: Path, fixture_folder: Path, tmp_path: Path) -> None:
    """The same evals with the same options, in a folder that has nothing but a model."""
    shutil.copytree(fixture_folder / "planted", tmp_path / "model")
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    where = subprocess.run(
        [python, "-P", "-c", "import flashinterp; print(flashinterp.__file__)"],
        cwd=tmp_path, env=env, check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    assert Path(where.strip()).is_relative_to(python.parent.parent)
    chosen = ["--tokens", " dog", "--profile", "smoke", "-o", "run"]
    evals = ["--", "-k", "test_alignment_by_layer or test_claims", "-q"]
    command = [python, "-P", "-m", "flashinterp", "audit", "model", *chosen, "--json", *evals]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["ledger"]["passed"] >= 1
    assert not told["ledger"].get("failed")
    assert not told["ledger"].get("errors")
    assert (tmp_path / "run" / "report.html").is_file()
    verified = subprocess.run([python, "-P", "-m", "flashinterp", "verify", "run"], cwd=tmp_path, env=env)
    assert verified.returncode == 0


def test_without_a_model_it_says_what_is_missing(python: Path, tmp_path: Path) -> None:
    command = [python, "-P", "-m", "flashinterp", "audit"]
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 2
    assert "the bundled models are in the project's checkout only: name a --model" in done.stderr
