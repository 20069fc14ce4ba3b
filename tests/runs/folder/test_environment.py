"""What a run's figures may depend on is recorded, what is unknown is None, and no secret is in it."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from flashinterp.runs.folder import environment as module
from flashinterp.runs.folder.environment import VARIABLES, code_digest, environment


def test_it_says_with_what_and_from_where(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    monkeypatch.delenv("PYTHONHASHSEED", raising=False)
    monkeypatch.setattr(sys, "argv", ["pytest", "evals"])
    found = environment("then")
    assert found["packages"]["torch"] == torch.__version__
    assert found["argv"] == ["pytest", "evals"]
    assert found["variables"]["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert found["variables"]["PYTHONHASHSEED"] is None
    assert found["started"] == "then"
    assert found["tf32"] is torch.backends.cuda.matmul.allow_tf32
    assert (found["gpu"] is None) == (not torch.cuda.is_available())


def test_no_secret_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "AWS_SECRET_ACCESS_KEY", "GITHUB_TOKEN"):
        monkeypatch.setenv(name, "hush")
    assert "hush" not in str(environment("then"))
    assert not [name for name in VARIABLES if "TOKEN" in name or "KEY" in name or "SECRET" in name]


def test_the_evals_that_ran_are_told_by_their_bytes(tmp_path: Path) -> None:
    file = tmp_path / "evals" / "test_a.py"
    file.parent.mkdir()
    file.write_text("x")
    found = environment("then", [file, file, tmp_path / "evals" / "gone.py"])["evals"]
    assert found == {"evals/test_a.py": hashlib.sha256(b"x").hexdigest(), "evals/gone.py": None}


def test_the_codes_digest_is_of_its_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy elsewhere has the same; one changed byte, a new file or a changed template has another."""
    copy = tmp_path / "flashinterp"
    shutil.copytree(module.PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))

    def digest() -> str:
        code_digest.cache_clear()
        monkeypatch.setattr(module, "PACKAGE", copy)
        return code_digest()

    try:
        whole = digest()
        for name in (
            "evaluation/verdict.py",
            "new.py",
            "report/templates/report.html.j2",
            "runs/folder/results.schema.json",
        ):
            file = copy / name
            before = file.read_bytes() if file.exists() else None
            file.write_bytes((before or b"") + b"\n")
            assert digest() != whole, name
            file.write_bytes(before) if before is not None else file.unlink()
        assert digest() == whole
    finally:
        code_digest.cache_clear()


def git(folder: Path, *args: str) -> str:
    author = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    return subprocess.run(["git", "-C", str(folder), *author, *args], check=True, capture_output=True, text=True).stdout


def test_the_commit_is_the_codes_own_and_a_change_shows(tmp_path: Path) -> None:
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    assert module._git(package) == {"commit": None, "dirty": None}  # no repository
    git(tmp_path, "init", "-q")
    assert module._git(package) == {"commit": None, "dirty": None}  # another project's repository around it
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "x")
    commit = git(tmp_path, "rev-parse", "HEAD").strip()
    assert module._git(package) == {"commit": commit, "dirty": False}
    (package / "__init__.py").write_text("changed")
    assert module._git(package) == {"commit": commit, "dirty": True}


def test_a_command_that_is_not_there_hangs_or_fails_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PATIENCE", 0.1)
    assert module._told("no-such-command-anywhere") is None
    assert module._told(sys.executable, "-c", "import time; time.sleep(60)") is None
    assert module._told(sys.executable, "-c", "raise SystemExit(3)") is None


def test_a_package_that_is_not_there_has_no_version() -> None:
    assert module._version("no-such-package-anywhere") is None
