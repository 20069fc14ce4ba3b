"""The command `audit`: the options of the plugin, what it asks of pytest, its exit codes."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from flashinterp.cli import app, main, run_commands
from flashinterp.cli.run_commands import evals_home, pytest_command

ROOT = Path(__file__).parents[2]
Captured = pytest.CaptureFixture[str]


def _plugin_options(pytestconfig: pytest.Config) -> dict[str, Any]:
    """The plugin's options by name, as pytest's parser has them."""
    (group,) = [g for g in pytestconfig._parser._groups if g.name == "flashinterp"]
    return {option.names()[0]: option.attrs() for option in group.options}


def test_audit_has_the_plugins_options(pytestconfig: pytest.Config) -> None:
    wanted = _plugin_options(pytestconfig)
    own = {f"--{p.name.replace('_', '-')}": p for p in app.commands["audit"].params if p.name != "as_json"}
    assert set(own) == set(wanted)
    for name, parameter in own.items():
        choices = list(parameter.type.choices) if isinstance(parameter.type, click.Choice) else None
        assert choices == (list(wanted[name]["choices"]) if wanted[name].get("choices") else None), name


def test_every_option_reaches_pytest_by_its_name() -> None:
    chosen = {"model": "m", "tuned": None, "tokens": " dog, cat", "seed": 3, "require_gpu": True}
    command = pytest_command(chosen, ("-k", "alignment"))
    assert command[-6:] == ["--model=m", "--tokens= dog, cat", "--seed=3", "--require-gpu", "-k", "alignment"]
    assert command[:4] == [sys.executable, "-P", "-m", "pytest"]
    assert "--require-gpu" not in pytest_command({"require_gpu": False}, ())


def test_the_evals_of_the_checkout_are_found() -> None:
    assert evals_home() == ROOT


def test_the_packaged_settings_are_the_projects_but_for_warnings() -> None:
    own = tomllib.loads(run_commands._CONFIG.read_text())["pytest"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]
    assert own == {k: v for k, v in project.items() if k not in ("testpaths", "filterwarnings")}


@pytest.fixture
def instead(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[Any]]:
    """Runs Python code in the place of pytest, and keeps what would have been asked of pytest."""

    def instead(code: str) -> list[Any]:
        asked: list[Any] = []

        def command(chosen: dict[str, Any], rest: list[str]) -> list[str]:
            asked.append(({k: v for k, v in chosen.items() if v}, rest))
            return [sys.executable, "-c", code]

        monkeypatch.setattr(run_commands, "pytest_command", command)
        return asked

    return instead


@pytest.mark.parametrize(("pytests", "ours"), [(0, 0), (1, 1), (2, 2), (3, 2), (4, 2), (5, 2), (-9, 2)])
def test_exit_codes(pytests: int, ours: int, instead: Callable[[str], list[Any]]) -> None:
    code = f"import sys; sys.exit({pytests})" if pytests >= 0 else "import os; os.kill(os.getpid(), 9)"
    asked = instead(code)
    assert main(["audit", "m"]) == ours
    assert asked == [({"model": "m"}, [])]


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        (["m", "--seed", "3", "--", "-k", "x"], ({"model": "m", "seed": 3}, ["-k", "x"])),
        (["--", "-m", "gpu"], ({}, ["-m", "gpu"])),
        (["--bundled", "decoys", "--", "--lf", "--", "x"], ({"bundled": "decoys"}, ["--lf", "--", "x"])),
    ],
)
def test_what_stands_after_the_dashes_is_pytests(given: list[str], asked: Any, instead: Any) -> None:
    seen = instead("")
    assert main(["audit", *given]) == 0
    assert seen == [asked]


def test_an_option_of_pytest_before_the_dashes_is_refused(capsys: Captured, instead: Any) -> None:
    seen = instead("")
    assert main(["audit", "m", "-k", "x"]) == 2
    assert "No such option '-k'" in capsys.readouterr().err
    assert not seen


def test_an_interruption_waits_for_the_report(tmp_path: Path) -> None:
    """What pytest gets from Ctrl-C it uses to write its report; the command must outlive it."""
    pytests = "import time, signal; signal.signal(signal.SIGINT, lambda *_: None)\n"
    pytests += "print('up', flush=True); time.sleep(1.5); open('report', 'w').close(); raise SystemExit(2)"
    code = "import sys; from flashinterp.cli import main, run_commands\n"
    code += (
        f"run_commands.pytest_command = lambda *_: [sys.executable, '-c', {pytests!r}]\nsys.exit(main(['audit', 'm']))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    time.sleep(0.2)  # the command waits by now; were it not yet waiting, it would do so after the signal
    process.send_signal(signal.SIGINT)
    process.communicate()
    assert process.returncode == 2
    assert (tmp_path / "report").exists()


def test_no_evals_are_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Captured) -> None:
    monkeypatch.setattr(run_commands, "__file__", str(tmp_path / "flashinterp" / "cli" / "run_commands.py"))
    assert main(["audit", "m"]) == 2
    assert "install flashinterp from its wheel or its checkout" in capsys.readouterr().err
