"""Commands that need no model load no model library: each is run in a process of its own, which says what it loaded."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from flashinterp import decode
from flashinterp.cli import app
from flashinterp.models.checkpoint import Checkpoint

RUN = Path(__file__).parents[2] / "fixtures" / "runs" / "v1-decoys"
MODELS, DRAWING = {"torch", "transformers", "accelerate"}, {"matplotlib"}
_CODE = """
import contextlib, io, json, sys
from flashinterp.cli import main
with contextlib.redirect_stdout(io.StringIO()):
    codes = [main(arguments) for arguments in json.loads(sys.argv[1])]
print(json.dumps([codes, [m for m in ("torch", "transformers", "accelerate", "matplotlib") if m in sys.modules]]))
"""


def printed(code: str, *arguments: str) -> str:
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def loaded(*commands: list[str]) -> set[str]:
    """What some commands, run one after the other in one process, have loaded of these libraries; all must end well."""
    codes, modules = json.loads(printed(_CODE, json.dumps(commands)))
    assert codes == [0] * len(commands)
    return set(modules)


@pytest.fixture(scope="module")
def saved(planted: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(decode(planted).save(tmp_path_factory.mktemp("maps") / "map.safetensors"))


def test_help_and_completion() -> None:
    helps = [[name, "--help"] for name in app.commands]
    assert not loaded([], ["--help"], *helps, *(["completion", shell] for shell in ("bash", "zsh", "fish")))


@pytest.mark.parametrize(
    "command", [["find", "MAP", " dog"], ["neuron", "MAP", "L1N17"], ["compare", "MAP", "MAP"]], ids=lambda c: c[0]
)
def test_questions_to_a_map(command: list[str], saved: str) -> None:
    given = [saved if word == "MAP" else word for word in command]
    assert not loaded(given, [*given, "--json"])


def test_the_export_of_a_map(saved: str, tmp_path: Path) -> None:
    assert not loaded(["export", saved, "-o", str(tmp_path / "labels.csv")])


def test_a_report_and_a_comparison_of_runs() -> None:
    assert not loaded(["report", str(RUN)], ["report", str(RUN), "--json"])
    assert not loaded(["diff", str(RUN), str(RUN)])


def test_what_verify_needs() -> None:
    """All that a folder may name is there, before anything of it is made again."""
    code = """
import json, sys
import flashinterp.runs.verify.in_toto, flashinterp.runs.verify.verify
from flashinterp.runs.verify.known_derivations import import_all
import_all()
print(json.dumps(sorted(module.partition(".")[0] for module in sys.modules)))
"""
    assert not {*MODELS, *DRAWING, "scipy"} & set(json.loads(printed(code)))


@pytest.mark.slow
@pytest.mark.parametrize("command", ["verify", "statement"])
def test_a_folder_is_checked_without_a_model_library(command: str) -> None:
    """Figures are made again, so matplotlib may be there."""
    assert loaded([command, str(RUN)]) <= DRAWING
