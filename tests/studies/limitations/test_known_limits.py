"""Every limit has a page, a line in the index and an eval that names it, and nothing names one that is not there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from flashinterp.errors import FlashinterpError
from flashinterp.studies.limitations.known_limits import LIMITS, limit
from tests.helpers import assert_one_line_with_next_step

ROOT = Path(__file__).parents[3]
IDS = [one.id for one in LIMITS]
PARTS = ("What is claimed", "How it is tested", "What came out", "What it cannot say", "The command")


def _named(text: str) -> set[str]:
    return set(re.findall(r"FI-L\d+", text))


def _evals() -> dict[str, set[str]]:
    """The limits that each eval test's docstring names."""
    found = {}
    for file in sorted((ROOT / "evals").glob("test_*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                found[f"{file.name}::{node.name}"] = _named(ast.get_docstring(node) or "")
    return found


def test_ids_run_from_one() -> None:
    assert [f"FI-L{n:03}" for n in range(1, len(LIMITS) + 1)] == IDS
    assert len({one.title for one in LIMITS}) == len(LIMITS)


@pytest.mark.parametrize("one", LIMITS, ids=IDS)
def test_a_limit_has_a_page_with_all_its_parts(one: object) -> None:
    page = (ROOT / one.page).read_text(encoding="utf-8")  # type: ignore[attr-defined]
    assert page.startswith(f"# {one.id}: {one.title}\n")  # type: ignore[attr-defined]
    assert re.findall(r"^## (.+)$", page, re.MULTILINE) == list(PARTS)
    sections = re.split(r"^## .+$", page, flags=re.MULTILINE)[1:]
    assert all(len(section.strip()) > 40 for section in sections)
    command = sections[-1]
    assert "```sh" in command
    for file in re.findall(r"(?:evals|benchmarks)/[\w/]+\.py", command):
        assert (ROOT / file).is_file(), file


def test_pages_and_limits_are_the_same_set() -> None:
    assert {file.stem for file in (ROOT / "docs" / "limitations").glob("*.md")} == set(IDS)


def test_the_index_lists_each_with_its_title_and_its_page() -> None:
    index = (ROOT / "docs" / "LIMITATIONS.md").read_text(encoding="utf-8")
    for one in LIMITS:
        assert f"[{one.id}](limitations/{one.id}.md) | {one.title} |" in index
    assert _named(index) == set(IDS)


@pytest.mark.parametrize("limit_id", IDS)
def test_an_eval_names_each_limit(limit_id: str) -> None:
    assert any(limit_id in named for named in _evals().values())


def test_no_eval_names_a_limit_that_is_not_there() -> None:
    assert set().union(*_evals().values()) <= set(IDS)


def test_each_page_names_the_eval_that_measures_it() -> None:
    evals = _evals()
    for one in LIMITS:
        page = (ROOT / one.page).read_text(encoding="utf-8")
        measured = [name.partition("::")[2] for name, named in evals.items() if one.id in named]
        assert any(name in page for name in measured), (one.id, measured)


def test_a_limit_is_found_by_its_id() -> None:
    assert limit("FI-L002").title == "High doses saturate"
    with pytest.raises(FlashinterpError, match="FI-L001 to FI-L010") as error:
        limit("FI-L999")
    assert_one_line_with_next_step(error.value)
