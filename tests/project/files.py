"""The project's own files, read: pyproject.toml and tox.ini."""

from __future__ import annotations

import configparser
import re
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PYPROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


TOX = configparser.RawConfigParser()
TOX.read(ROOT / "tox.ini", encoding="utf-8")


def tox_environments() -> set[str]:
    """The names of the environments that tox.ini defines."""
    return {section.removeprefix("testenv:") for section in TOX.sections() if section.startswith("testenv:")}


def tox_commands(environment: str) -> list[str]:
    """What an environment of tox.ini runs, line by line."""
    return TOX.get(f"testenv:{environment}", "commands").strip().splitlines()


def named_environments(text: str) -> set[str]:
    """The environments that a text calls, as in ``tox -e tests``."""
    return {name for names in re.findall(r"tox -e ([\w,-]+)", text) for name in names.split(",")}


def pins(file: str) -> dict[str, str]:
    """Package to version, of a file of constraints."""
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
    return dict(re.findall(r"^([\w-]+)==([\w.]+)", line)[0] for line in lines if line and not line.startswith("#"))
