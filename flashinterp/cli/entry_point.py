"""The command line's door: its commands, and what becomes of an error.

Nothing here or in a command's module imports torch before a command needs it, so that ``--help`` and completion answer
at once.
"""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any

import click

from flashinterp._util.text import one_line
from flashinterp.cli import intervention_commands, model_commands, neuron_commands, run_commands
from flashinterp.cli.options import Job
from flashinterp.cli.output import ReaderGone
from flashinterp.errors import FlashinterpError

COULD_NOT_RUN = 2
"""The exit code of bad input, of an interruption and of a fault of ours; 1 is kept for a claim that failed."""


class _App(click.Group):
    """The commands in the order of their work, which is that of their modules."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(cls=_App, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--traceback", is_flag=True, help="With an error, show where in the code it arose.")
@click.version_option(package_name="flashinterp", message="%(prog)s %(version)s")
@click.pass_context
def app(ctx: click.Context, traceback: bool) -> None:
    """Read a language model's neurons from its weights, clamp them, and put claims about them to the test.

    Layers and neurons count from 0: L25N1442 is neuron 1442 of layer 25, L12E3N40 neuron 40 of expert 3 in layer 12.
    A MODEL is a folder with safetensors or a Hub id, a MAP a file that `flashinterp map` wrote.

    Exit codes: 0; 1 where a claim failed, a folder does not verify or something was lost since a baseline; 2 where
    the command could not run, with one line on stderr that says what to do.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


@app.command(cls=Job, example=['eval "$(flashinterp completion bash)"', "flashinterp completion fish | source"])
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the script that lets a SHELL complete commands, options and files."""
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None  # the choices are click's own
    click.echo(kind(app, {}, "flashinterp", "_FLASHINTERP_COMPLETE").source())


for _module in (neuron_commands, model_commands, intervention_commands, run_commands):
    for _command in _module.COMMANDS:
        app.add_command(_command)


app.commands["completion"] = app.commands.pop("completion")  # the last of the list


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line, ``sys.argv`` by default, and return its exit code."""
    given = list(sys.argv[1:] if args is None else args)
    try:
        code: Any = app.main(given, prog_name="flashinterp", standalone_mode=False)
        sys.stdout.flush()
    except (ReaderGone, BrokenPipeError):  # as in `flashinterp find ... | head -1`
        with contextlib.suppress(OSError):  # a stdout that is no file
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return COULD_NOT_RUN
    except Exception as error:  # the last resort: whatever it is, its exit code is not 1
        if "--traceback" in given:
            traceback.print_exc()
        click.echo(f"flashinterp: {one_line(_told(error))}", err=True)
        return COULD_NOT_RUN
    return code if isinstance(code, int) else 0


def run() -> None:
    """The console's command: `main`, then an end with its exit code."""
    sys.exit(main())


def _told(error: Exception) -> str:
    """An error in words, with a next step."""
    if isinstance(error, click.Abort):
        return "interrupted: run it again"
    if isinstance(error, click.UsageError):
        path = error.ctx.command_path if error.ctx else "flashinterp"
        return f"{error.format_message().rstrip('.')}: see {path} --help"
    if isinstance(error, click.ClickException):
        return error.format_message()
    if isinstance(error, FlashinterpError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'a file'}: {error.strerror}: choose another place, or make room"
    return (
        f"a fault of flashinterp's own ({type(error).__name__}: {error}): run `flashinterp --traceback ...` and report "
        "what it prints"
    )
