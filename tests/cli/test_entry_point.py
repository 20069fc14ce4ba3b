"""The command line's door: help, examples, exit codes, one line for an error, completion."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest

from flashinterp._util.text import one_line
from flashinterp.cli import app, entry_point, main
from flashinterp.cli.options import Job
from flashinterp.cli.output import ReaderGone
from flashinterp.errors import MapError

DESIGNED = "map find neuron sweep steer compare align audit report verify diff export".split()
Captured = pytest.CaptureFixture[str]


def _lines(text: str) -> list[str]:
    return text.strip().splitlines()


# --- help ---------------------------------------------------------------------------------------------


def test_every_command_is_there() -> None:
    assert set(DESIGNED) <= set(app.commands)
    assert all(isinstance(command, Job) for command in app.commands.values())


@pytest.mark.parametrize("name", sorted(app.commands))
def test_help_says_what_it_does_and_shows_an_example(name: str, capsys: Captured) -> None:
    assert main([name, "--help"]) == 0
    out = capsys.readouterr().out
    command = app.commands[name]
    assert isinstance(command, Job)
    assert command.help is not None
    assert "Example" in out
    for line in command.example:
        assert f"  {line}\n" in out
    for parameter in command.params:
        assert not isinstance(parameter, click.Option) or parameter.help, parameter.name


@pytest.mark.parametrize(
    ("name", "line"), [(name, line) for name, c in app.commands.items() if isinstance(c, Job) for line in c.example]
)
def test_the_examples_are_commands(name: str, line: str) -> None:
    words = shlex.split(line.partition(" > ")[0].partition(" | ")[0])
    if name != "completion":
        assert words[:2] == ["flashinterp", name]
        app.commands[name].make_context(name, words[2:])  # parses, refuses what is not there, and runs nothing


def test_alone_it_shows_the_commands(capsys: Captured) -> None:
    assert main([]) == 0
    out = capsys.readouterr().out
    assert all(f"\n  {name} " in out for name in app.commands)


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from flashinterp.cli import main; main(['sweep', '--help']);"
        "print([m for m in ('torch', 'numpy', 'transformers', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert _lines(done.stdout)[-1] == "[]"


def test_as_a_module_and_its_version() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "flashinterp", "--version"], check=True, capture_output=True, text=True
    )
    assert done.stdout.startswith("flashinterp 0.")


# --- errors -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["frobnicate"], "flashinterp --help"),
        (["find"], "flashinterp find --help"),
        (["find", "nowhere.safetensors", "dog"], "flashinterp map"),
        (["find", "no/such/folder", "dog"], "give a model folder, or a Hub id"),
        (["map", ".", "-o", "nowhere/map.safetensors"], "make its folder first"),
        (["steer", ".", "Hello", "--clamp", "L0N1"], "L25N1442=145"),
        (["steer", ".", "Hello", "--clamp", "L0N1=high"], "give one as in 10.3"),
        (["steer", ".", "Hello", "--clamp", "L0N1=1", "--clamp", "L0N1=2"], "give it one value"),
        (["sweep", ".", "L0N1", "dog", "--values", "5:1:3"], "-500:500:21"),
        (["sweep", ".", "L0N1", "dog", "--site", "post"], "give --values"),
        (["map", ".", "-o", "m.safetensors", "--layers", "3-1"], "0-3,7"),
        (["export", ".", "-o", "labels.txt"], ".csv, .jsonl or .parquet"),
        (["verify", "."], "give the --out of a run"),
        (["diff", ".", "."], "give the"),
        (["report", "."], "give the"),
    ],
)
def test_bad_input_is_one_line_and_code_2(
    given: list[str], told: str, capsys: Captured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(given) == 2
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = _lines(err)
    assert line.startswith("flashinterp: ")
    assert told in line


def _raises(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise error

    monkeypatch.setattr(app.commands["completion"], "callback", fail)


def test_an_error_of_the_library_is_its_line(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    _raises(MapError("m.safetensors is none: decode the model again"), monkeypatch)
    assert main(["completion", "bash"]) == 2
    assert capsys.readouterr().err == "flashinterp: m.safetensors is none: decode the model again\n"


def test_a_fault_of_ours_is_never_a_failed_claim(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    _raises(ZeroDivisionError("a\nb"), monkeypatch)
    assert main(["completion", "bash"]) == 2
    (line,) = _lines(capsys.readouterr().err)
    assert "ZeroDivisionError: a b" in line
    assert main(["--traceback", "completion", "bash"]) == 2
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ReaderGone(), BrokenPipeError()])
def test_what_did_not_come_to_its_end_is_code_2(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    _raises(error, monkeypatch)
    monkeypatch.setattr(entry_point.os, "dup2", lambda *_: None)  # the tests' own stdout stays
    assert main(["completion", "bash"]) == 2


def test_a_full_disk_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    _raises(OSError(28, "No space left on device", "plot.svg"), monkeypatch)
    assert main(["completion", "bash"]) == 2
    assert _lines(capsys.readouterr().err) == [
        "flashinterp: plot.svg: No space left on device: choose another place, or make room"
    ]


def test_a_message_cannot_act_on_the_terminal() -> None:
    assert one_line("a\x1b[2Jb\u202ec\nd") == "a\\u{1b}[2Jb\\u{202e}c d"


def test_a_reader_that_left_is_no_traceback(tmp_path: Path) -> None:
    code = "import sys; from flashinterp.cli.output import write; from flashinterp.cli import app, main\n"
    code += "app.commands['completion'].callback = lambda shell: [write('x' * 99) for _ in range(9999)]\n"
    code += "sys.exit(main(['completion', 'bash']))"
    read, into = os.pipe()
    process = subprocess.Popen([sys.executable, "-c", code], stdout=into, stderr=subprocess.PIPE, text=True)
    os.close(into)
    os.close(read)
    _, err = process.communicate()
    assert (process.returncode, err) == (2, "")


# --- completion ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str, capsys: Captured) -> None:
    assert main(["completion", shell]) == 0
    assert "_FLASHINTERP_COMPLETE" in capsys.readouterr().out


def _complete(words: str, at: int) -> list[str]:
    told = {"_FLASHINTERP_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(at)}
    code = "from flashinterp.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, **told}, capture_output=True, text=True)
    return _lines(done.stdout)


def test_commands_options_choices_and_files_are_completed() -> None:
    assert "plain,compare" in _complete("flashinterp comp", 1)
    assert "plain,--lens" in _complete("flashinterp find --l", 2)
    assert "plain,logit-lens" in _complete("flashinterp find --lens l", 3)
    assert _complete("flashinterp find mod", 2) == ["file,mod"]


def test_json_is_one_object_with_a_version(capsys: Captured) -> None:
    from flashinterp.cli.output import show

    show("x", True, {"text": "\u202e\x1b", "none": None}, [])
    out = capsys.readouterr().out
    assert out.isascii()
    assert json.loads(out) == {"command": "x", "json_version": 1, "text": "\u202e\x1b", "none": None}
