"""The commands about an audit: audit, report, verify, diff, statement."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from flashinterp.cli.options import AS_JSON, Job, PathOrHubId, argument, options
from flashinterp.cli.output import show, write
from flashinterp.runs.options import Options, run_options

AUDIT_FAILED, COULD_NOT_RUN = 1, 2
PYTEST_CODES = {0: 0, 1: AUDIT_FAILED}
"""pytest's exit codes; its others (interrupted, internal error, usage, nothing collected) all mean: could not run."""
_CONFIG = Path(__file__).parent / "pytest.toml"


class _Audit(Job):
    """A command that takes what stands after ``--`` as it is, whatever stands before it."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        at = args.index("--") if "--" in args else len(args)
        ctx.meta[_FOR_PYTEST] = args[at + 1 :]
        return super().parse_args(ctx, args[:at])


_FOR_PYTEST = "flashinterp.pytest_args"


def _run_options() -> Iterator[Callable[[Any], Any]]:
    """The options of a run but for the model, which is an argument here. What is not given is left to pytest."""
    for option in run_options():
        if option.name == "model":
            continue
        text = option.help if option.default in (None, (), False) else f"{option.help}  [default: {option.default}]"
        names = ("-o", option.flag) if option.name == "out" else (option.flag,)
        if option.kind is bool:
            yield click.option(*names, is_flag=True, help=text)
            continue
        kind = click.Choice(option.choices) if option.choices else PathOrHubId() if option.is_path else option.kind
        yield click.option(*names, type=kind, metavar=option.metavar, help=text)


@click.command(
    "audit",
    cls=_Audit,
    example=[
        "flashinterp audit path/to/model --tokens ' dog, California'",
        "flashinterp audit path/to/model --tuned path/to/tuned --claims claims.toml -o run",
        "flashinterp audit meta-llama/Llama-3.1-8B --profile audit -- -m gpu --require-gpu",
    ],
)
@argument("model", "[MODEL] [-- PYTEST_OPTION...]", required=False)
@options(*_run_options())
@AS_JSON
@click.pass_context
def audit(ctx: click.Context, /, as_json: bool, **chosen: Any) -> int:
    """Audit a MODEL: run the evals, print their tables, and write a run folder with a report.

    It is `pytest evals/` with the same options, also from an installed package; what stands after -- goes to pytest, as
    in `-- -k alignment` or `-- -x`. Exit code 1: a claim from a file or a neuron of the baseline did not hold, or an
    eval failed.

    Without MODEL the bundled models are audited, which are in the project's checkout only.
    """
    # With --json, stdout is for the JSON.
    ended = _run(pytest_command(chosen, ctx.meta[_FOR_PYTEST]), sys.stderr if as_json else None)
    code = PYTEST_CODES.get(ended, COULD_NOT_RUN)
    if as_json and code != COULD_NOT_RUN:
        folder = Path(chosen["out"] or Options.out)
        show("audit", True, {"exit_code": code, "folder": str(folder), **_answer(folder)}, [])
    return code


def _run(command: list[str], stdout: Any) -> int:
    """Run a command to its end. An interruption reaches pytest, too, which then writes what was measured so far."""
    with subprocess.Popen(command, stdout=stdout) as process:
        before = signal.signal(signal.SIGTERM, lambda *_: process.terminate())  # it is not to outlive this one
        try:
            while True:
                try:
                    return process.wait()
                except KeyboardInterrupt:
                    continue
        finally:
            signal.signal(signal.SIGTERM, before)


def pytest_command(chosen: dict[str, Any], pytest_args: Sequence[str]) -> list[str]:
    """The command that runs the evals with these of the plugin's options, from whatever folder one stands in.

    -P keeps that folder off the module path, where a file ``random.py`` would be taken for Python's own.
    """
    home = evals_home()
    command = [sys.executable, "-P", "-m", "pytest", str(home / "evals"), "-p", "flashinterp.pytest_plugin"]
    command += ["-c", str(_CONFIG), "--rootdir", str(home), "--confcutdir", str(home)]
    command += ["-o", f"cache_dir={Path.cwd() / '.pytest_cache'}"]  # the package's own folder may be read-only
    for name, value in chosen.items():
        option = f"--{name.replace('_', '-')}"
        if value is True:
            command.append(option)
        elif value is not None and value is not False:
            command.append(f"{option}={value}")
    return [*command, *pytest_args]


def evals_home() -> Path:
    """The folder that holds ``evals/``: inside the installed package, or the checkout.

    Raises:
        click.ClickException: it is in neither.
    """
    package = Path(__file__).parent.parent
    for home in (package / "_evals", package.parent):
        if (home / "evals" / "conftest.py").is_file():
            return home
    raise click.ClickException("this installation has no evals: install flashinterp from its wheel or its checkout")


def _answer(folder: Path) -> dict[str, Any]:
    """What a run came to, out of its folder."""
    from flashinterp.runs.folder.results_schema import read_results

    results = read_results(folder)
    keys = ("status", "self_test", "partial", "seed", "profile", "ledger", "verdicts")
    return {**{key: results[key] for key in keys}, "report": str(folder / "report.html")}


@click.command(
    "report",
    cls=Job,
    example=[
        "flashinterp report flashinterp-report > comment.md",
        "flashinterp report flashinterp-report -o report.html",
        "flashinterp report flashinterp-report --json",
    ],
)
@argument("folder")
@click.option("-o", "--out", type=PathOrHubId(), metavar="FILE", help="Write it there: .html, .md, or .xml for JUnit.")
@AS_JSON
def report(folder: str, out: str | None, as_json: bool) -> None:
    """Make a run's report again from its FOLDER: Markdown on stdout, or a file; with --json its answer.

    The folder itself, whose files are listed by digest, is left as it is.
    """
    from flashinterp.runs.folder.rendered_files import encoded, rendered_from

    if as_json:
        show("report", True, {"folder": folder, **_answer(Path(folder))}, [])
    if out is None:
        if not as_json:
            write(rendered_from(folder)["report.md"])
        return
    made = {".html": "report.html", ".md": "report.md", ".xml": "junit.xml"}.get(Path(out).suffix.lower())
    if made is None:
        raise click.ClickException(f"{out} is no kind of report: name it .html, .md or .xml")
    if Path(out).resolve().is_relative_to(Path(folder).resolve()):
        raise click.ClickException(f"{out} is inside the run folder, whose files are pinned: choose a place outside it")
    Path(out).write_bytes(encoded(rendered_from(folder)[made]))


@click.command(
    "verify",
    cls=Job,
    example=[
        "flashinterp verify flashinterp-report",
        "flashinterp verify flashinterp-report --manifest 5f3c... --json",
    ],
)
@argument("folder")
@click.option("--manifest", metavar="SHA256", help="Of manifest.json, as the run printed it: pins the whole folder.")
@AS_JSON
def verify(folder: str, manifest: str | None, as_json: bool) -> int:
    """Check a run FOLDER without the model: digests, and every verdict and table made again from raw numbers.

    Exit code 1 with the first thing that differs.
    """
    from flashinterp.runs.verify.verify import verify

    found = verify(folder, manifest)
    show("verify", as_json, found.record(), [found.table()])
    if not as_json and found.manifest:
        write(f"\nmanifest sha256 {found.manifest}")
    return 0 if found.ok else AUDIT_FAILED


@click.command("diff", cls=Job, example=["flashinterp diff before/ after/", "flashinterp diff before/ after/ --json"])
@argument("before")
@argument("after")
@AS_JSON
def diff(before: str, after: str, as_json: bool) -> int:
    """Compare two run folders: which neurons kept, moved or lost their words or their role.

    Exit code 1 where a validated neuron of BEFORE is lost in AFTER.
    """
    from flashinterp.runs.compare.diff import diff
    from flashinterp.runs.compare.diff_tables import diff_tables

    found = diff(before, after)
    show("diff", as_json, found.as_dict(), diff_tables(found))
    if not as_json:
        write(f"\n{found.message}")
    return found.exit_code


@click.command("statement", cls=Job, example=["flashinterp statement flashinterp-report > audit.intoto.json"])
@argument("folder")
def statement(folder: str) -> None:
    """Print a run FOLDER as an in-toto statement, as JSON, to be signed by whoever vouches for the run."""
    from flashinterp.runs.verify.in_toto import statement

    write(json.dumps(statement(folder), indent=1, allow_nan=False))


COMMANDS = (audit, report, verify, diff, statement)
