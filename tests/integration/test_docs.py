"""What the docs show is run: the tutorial from end to end, and the blocks of the other pages."""

from __future__ import annotations

import io
import json
import math
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from flashinterp.cli import main
from flashinterp.provenance.registry import derivation_id
from flashinterp.runs.verify.in_toto import statement
from tests.documents import DOCS, ROOT, Block, blocks, sections, unexplained

TUTORIAL = blocks((DOCS / "TUTORIAL.md").read_text(encoding="utf-8"))
# What a long command is cut down to here: the verdicts, and what the gate compares.
EVALS = "test_claims or test_specialised or test_nothing_is_lost"
CLOSE = 0.02  # relative; another processor rounds otherwise, and what is shown has four digits


# --- running a page -------------------------------------------------------------------------------------


@dataclass
class Shown:
    """What a block did when it was run, beside what the page shows of it.

    Attributes:
        block: as it stands on the page.
        shown: the text block after it; None without one.
        said: what it printed.
        code: its last exit code.
        error: what it raised.
    """

    block: Block
    shown: Block | None
    said: str = ""
    code: int = 0
    error: BaseException | None = None


@dataclass
class Page:
    """A page that is run in a folder of its own, in which the fixtures are where the page says."""

    folder: Path
    names: dict[str, Any] = field(default_factory=dict)

    def run(self, shown: Shown) -> None:
        try:
            if shown.block.language == "python":
                shown.said = self._python(shown.block.text)
            else:
                for line in shown.block.text.replace("\\\n", " ").splitlines():
                    if line.strip():
                        code, said = self._command(line, long="long" in shown.block.mark)
                        shown.code, shown.said = code, shown.said + said
        except BaseException as error:
            shown.error = error

    def _python(self, text: str) -> str:
        with redirect_stdout(io.StringIO()) as out:
            exec(compile(text, "docs", "exec"), self.names)
        return out.getvalue()

    def _command(self, line: str, *, long: bool) -> tuple[int, str]:
        program, *args = shlex.split(line, comments=True)
        assert program == "flashinterp", f"the page runs {program!r}, which this test does not"
        if long:
            return self._audit(args)
        with redirect_stdout(io.StringIO()) as out:
            code = main(args)
        return code, out.getvalue()

    def _audit(self, args: list[str]) -> tuple[int, str]:
        """An audit in the smallest profile, and of a few evals only."""
        command = [sys.executable, "-m", "flashinterp", *args, "--profile", "smoke", "--", "-k", EVALS]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr


def runnable(page: list[Block]) -> list[Shown]:
    """The blocks of a page that are run, each with the output that is shown after it."""
    after: list[Block | None] = [*page[1:], None]
    return [
        Shown(block, next_ if next_ and next_.language == "text" else None)
        for block, next_ in zip(page, after, strict=True)
        if block.language in ("sh", "python") and not block.mark.startswith("not run:")
    ]


@contextmanager
def inside(folder: Path) -> Iterator[None]:
    former = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(former)


@pytest.fixture(scope="module")
def tutorial(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Shown]]:
    """The tutorial, run once from its beginning to its end, with its folder."""
    folder = tmp_path_factory.mktemp("tutorial")
    (folder / "fixtures").symlink_to(ROOT / "fixtures")
    page, done = Page(folder), runnable(TUTORIAL)
    with inside(folder):
        for shown in done:
            page.run(shown)
    return folder, done


IDS = [f"{i}-{shown.block.language}" for i, shown in enumerate(runnable(TUTORIAL))]


@pytest.mark.parametrize("i", range(len(IDS)), ids=IDS)
def test_a_block_of_the_tutorial_runs(tutorial: tuple[Path, list[Shown]], i: int) -> None:
    shown = tutorial[1][i]
    if shown.error:
        raise shown.error
    wanted = re.search(r"exit code (\d)", shown.block.mark)
    assert shown.code == (int(wanted[1]) if wanted else 0), shown.said[-2000:]


COMPARED = [
    pytest.param(i, id=IDS[i])
    for i, shown in enumerate(runnable(TUTORIAL))
    if shown.shown and not shown.shown.mark.startswith("not compared:")
]


@pytest.mark.parametrize("i", COMPARED)
def test_what_the_tutorial_shows_is_what_is_printed(tutorial: tuple[Path, list[Shown]], i: int) -> None:
    shown = tutorial[1][i]
    assert shown.shown is not None
    assert missing(shown.shown.text, shown.said, numbers="of the run" not in shown.block.mark) == []


def test_only_what_needs_a_network_or_your_weights_is_not_run() -> None:
    reasons = [b.mark for b in TUTORIAL if b.mark.startswith(("not run:", "not compared:"))]
    assert sum(r.startswith("not run:") for r in reasons) == 2  # the set-up, and your own model
    assert len(COMPARED) >= 9
    assert all(len(r) > len("not compared: a reason") for r in reasons)
    assert {b.mark.split(":")[0].split(",")[0] for b in TUTORIAL if b.mark} <= {
        "not run",
        "not compared",
        "long",
        "of the run",
        "exit code 1",
    }


@pytest.mark.parametrize(
    ("run", "of"), [("flashinterp-report", "clamp_causality--writing"), ("heavy-report", "regression--roles")]
)
def test_every_table_of_its_runs_is_explained(tutorial: tuple[Path, list[Shown]], run: str, of: str) -> None:
    results = json.loads((tutorial[0] / run / "results.json").read_text(encoding="utf-8"))
    assert of in {table["name"] for table in results["tables"]}
    assert list(unexplained(results["tables"])) == []


# --- comparing what is shown ----------------------------------------------------------------------------


def missing(shown: str, said: str, *, numbers: bool) -> list[str]:
    """The shown lines that were not printed, in this order; a line of … stands for any that are left out.

    Numbers are compared within a tolerance, or, without ``numbers``, as numbers only.
    """
    left, lost = [_words(line) for line in said.splitlines()], []
    for line in shown.splitlines():
        wanted = _words(line)
        if not wanted or wanted == ["…"]:
            continue
        at = next((i for i, words in enumerate(left) if _alike(wanted, words, numbers=numbers)), None)
        if at is None:
            lost.append(line)
        else:
            left = left[at + 1 :]
    return lost


def _words(line: str) -> list[str]:
    return re.sub("[│┌┐└┘├┤┬┴┼─]", " ", line).split()


def _alike(wanted: list[str], words: list[str], *, numbers: bool) -> bool:
    if len(wanted) != len(words):
        return False
    for one, other in zip(wanted, words, strict=True):
        a, b = _number(one), _number(other)
        if a is None or b is None:
            if one != other:
                return False
        elif numbers and not math.isclose(a, b, rel_tol=CLOSE, abs_tol=1e-9):
            return False
    return True


def _number(word: str) -> float | None:
    try:
        return float(word.rstrip("%,;.)").lstrip("(["))
    except ValueError:
        return None


def test_a_line_that_was_not_printed_is_found() -> None:
    said = "│ dog │ 5.491 │\n│ cat │ 1.2 │\nThe end."
    assert missing("dog 5.49\n…\nThe end.", said, numbers=True) == []
    assert missing("dog 6.49", said, numbers=True) == ["dog 6.49"]
    assert missing("dog 6.49", said, numbers=False) == []
    assert missing("cat 1.2\ndog 5.491", said, numbers=True) == ["dog 5.491"]
    assert missing("cow 1.2", said, numbers=False) == ["cow 1.2"]


# --- the other pages ------------------------------------------------------------------------------------


def test_the_folder_is_checked_by_hand_as_the_report_page_says(
    tutorial: tuple[Path, list[Shown]], capsys: pytest.CaptureFixture[str]
) -> None:
    own, block, read = [b for b in blocks((DOCS / "REPORT.md").read_text(encoding="utf-8")) if b.language == "python"]
    folder = tutorial[0]
    names: dict[str, Any] = {"__name__": "own_eval"}
    exec(compile(own.text, "REPORT.md", "exec"), names)
    assert derivation_id(names["means_table"]) == "mylab.means/1"
    assert names["means_table"]([1.0, 3.0])[1] == [[2.0]]
    with inside(folder):
        exec(compile(read.text, "REPORT.md", "exec"), {})
        exec(compile(block.text, "REPORT.md", "exec"), {})
        report = folder / "flashinterp-report" / "report.md"
        before = report.read_bytes()
        report.write_bytes(before + b"\n")
        with pytest.raises(AssertionError, match=r"report\.md"):
            exec(compile(block.text, "REPORT.md", "exec"), {})
        report.write_bytes(before)
    assert "'verdicts'" in capsys.readouterr().out  # what the table of verdicts is made of


def test_the_report_page_lists_every_file_and_every_key(tutorial: tuple[Path, list[Shown]]) -> None:
    page = (DOCS / "REPORT.md").read_text(encoding="utf-8")
    folder = tutorial[0] / "flashinterp-report"
    cells = re.findall(r"^\| (`.*?) \| ", page, re.MULTILINE)
    listed = {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}
    for path in folder.rglob("*"):
        if path.is_file():
            name = path.relative_to(folder)
            pattern = name.as_posix() if name.parent == Path() else f"{name.parent}/*{name.suffix}"
            assert f"`{pattern}`" in page, pattern
    keys = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    assert set(keys) <= listed


def test_the_report_page_maps_every_part_of_the_statement(tutorial: tuple[Path, list[Shown]]) -> None:
    page = (DOCS / "REPORT.md").read_text(encoding="utf-8")
    made = statement(tutorial[0] / "flashinterp-report")
    rows = " ".join(re.findall(r"^\| (`.*?) \| ", sections(page, 2)["The in-toto statement"], re.MULTILINE))
    told = {name.removeprefix("predicate.") for name in re.findall(r"`([\w.]+)`", rows)}
    assert told == (set(made) | set(made["predicate"])) - {"predicate"}
    assert f"`{made['predicateType']}`" in page
    assert f"`{made['_type']}`" in page
