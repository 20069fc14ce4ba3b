"""The ready workflow: it is YAML, its actions are pinned, and each command in it exists with these options."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
FILE = ROOT / "docs" / "ci" / "github-actions.yml"
TEXT = FILE.read_text(encoding="utf-8")
# In YAML 1.1, as PyYAML reads it, the key "on" is the truth value.
WORKFLOW: dict[Any, Any] = yaml.safe_load(TEXT)
STEPS: list[dict[str, Any]] = WORKFLOW["jobs"]["gate"]["steps"]
LINES = [line for step in STEPS for line in step.get("run", "").splitlines()]
COMMANDS = [shlex.split(line) for line in LINES if line.startswith("python -m ")]


def step(part: str) -> dict[str, Any]:
    """The step that has this text in its command or action."""
    (found,) = [s for s in STEPS if part in s.get("run", "") + s.get("uses", "")]
    return found


def place(part: str) -> int:
    return STEPS.index(step(part))


def test_it_runs_on_pull_requests_and_may_only_read() -> None:
    assert set(WORKFLOW[True]) == {"pull_request", "workflow_dispatch"}
    assert WORKFLOW["permissions"] == {"contents": "read"}


def test_every_action_is_pinned() -> None:
    used = [s["uses"] for s in STEPS if "uses" in s]
    assert used
    assert all(re.fullmatch(r"actions/[a-z-]+@v\d+", action) for action in used)
    assert "full commit" in TEXT
    assert "SHA" in TEXT


def test_no_text_of_a_pull_request_is_put_into_a_command() -> None:
    """What stands in braces is put into the script before a shell reads it; variables are not."""
    assert not [line for line in LINES if "${{" in line]
    named = set(re.findall(r"\$(\w+)", "\n".join(LINES)))
    assert named <= set(WORKFLOW["env"]) | {"GITHUB_WORKSPACE", "GITHUB_STEP_SUMMARY"}
    assert set(WORKFLOW["env"]) <= named


def test_a_failing_gate_still_leaves_its_folder_and_its_report() -> None:
    assert step("upload-artifact")["if"] == "${{ always() }}"
    assert step("upload-artifact")["with"]["path"] == "run"
    assert "run/report.md" in step("GITHUB_STEP_SUMMARY")["run"]
    for part in ("GITHUB_STEP_SUMMARY", "flashinterp verify", "flashinterp diff"):
        assert step(part)["if"] == "${{ !cancelled() }}"
        assert place(part) > place("--baseline")


def test_the_gate_and_the_check_of_its_folder_can_fail_the_job() -> None:
    failing = [s for s in STEPS if not s.get("continue-on-error")]
    assert step("--baseline") in failing
    assert step("flashinterp verify") in failing
    assert "|| true" not in TEXT


@pytest.mark.slow  # another process imports torch
def test_the_gates_options_exist(pytester_help: str) -> None:
    (gate,) = [c for c in COMMANDS if c[2] == "pytest"]
    options = [word for word in gate if word.startswith("--")]
    assert {"--model", "--baseline", "--profile", "--seed", "--out"} <= set(options)
    for option in options:
        assert re.search(rf"^  {option}[ =]", pytester_help, re.M), option
    assert gate[3] == "../suite/evals"
    assert (ROOT / "evals").is_dir()


@pytest.fixture(scope="module")
def pytester_help() -> str:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return done.stdout


@pytest.mark.parametrize("command", [c for c in COMMANDS if c[2] == "flashinterp"], ids=lambda c: c[3])
def test_the_command_lines_commands_exist(command: list[str]) -> None:
    done = subprocess.run([sys.executable, "-m", "flashinterp", command[3], "--help"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    usage = done.stdout.split("\n\n")[0]
    arguments = [word for word in command[4:] if not word.startswith("-")]
    assert len(re.findall(r"\b[A-Z]{1,}\b", usage.partition("[OPTIONS]")[2])) >= len(arguments), usage
    for option in (word for word in command[4:] if word.startswith("-")):
        assert option in done.stdout


@pytest.mark.slow  # another process imports torch
def test_the_commands_of_its_comments_exist_too(pytester_help: str) -> None:
    (line,) = [line for line in TEXT.splitlines() if line.startswith("#     python -m pytest")]
    for option in re.findall(r"--[a-z-]+", line):
        assert re.search(rf"^  {option}[ =]", pytester_help, re.M), option


def test_it_reads_the_same_everywhere() -> None:
    assert TEXT.isascii()
    assert "\t" not in TEXT
    assert all(len(line) <= 120 for line in TEXT.splitlines())
