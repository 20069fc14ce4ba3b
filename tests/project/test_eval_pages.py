"""Each eval has a page that explains each of its tables, and judges it by the faults that are planted for it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from flashinterp.report.wording import READING_ORDER
from flashinterp.studies.limitations.known_limits import LIMITS
from tests.documents import PAGES, ROOT, blocks, explained, sections, unexplained
from tests.integration.test_suite_is_judged import FAULTS

EVALS = sorted(path.stem.removeprefix("test_") for path in (ROOT / "evals").glob("test_*.py"))
DIFF_TABLES = ast.parse((ROOT / "flashinterp" / "runs" / "compare" / "diff_tables.py").read_text(encoding="utf-8"))
PARTS = (
    "What it claims",
    "How",
    "Its tables",
    "What it cannot say",
    "Limits that apply",
    "How it was judged",
    "The command",
)


def page(name: str) -> str:
    return (PAGES / f"{name}.md").read_text(encoding="utf-8")


def source(name: str) -> ast.Module:
    return ast.parse((ROOT / "evals" / f"test_{name}.py").read_text(encoding="utf-8"))


def recorded(name: str) -> list[str]:
    """The names of the tables that an eval records, each as a pattern."""
    calls = [node for node in ast.walk(source(name)) if isinstance(node, ast.Call) and node.args]
    place = {"table": 0, "derived": 1}  # of the name among the arguments
    ours = [c for c in calls if isinstance(c.func, ast.Attribute) and c.func.attr in place]
    names = [c.args[place[c.func.attr]] for c in ours if isinstance(c.func, ast.Attribute)]
    assert names
    return [_pattern(argument, name) for argument in names]


def _pattern(argument: ast.expr, name: str) -> str:
    if isinstance(argument, ast.Constant):
        return re.escape(str(argument.value))
    if isinstance(argument, ast.JoinedStr):
        parts = [re.escape(str(v.value)) if isinstance(v, ast.Constant) else ".*" for v in argument.values]
        return "".join(parts)
    # A variable: any text that the module writes down, or, of a table made elsewhere, the module that makes it.
    made = DIFF_TABLES if isinstance(argument, ast.Attribute) else source(name)
    texts = {node.value for node in ast.walk(made) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    return "|".join(sorted(re.escape(text) for text in texts if re.fullmatch(r"[\w-]+", text)))


def test_pages_and_evals_are_the_same_set() -> None:
    assert sorted(p.stem for p in PAGES.glob("*.md") if p.stem != "README") == EVALS


def test_the_index_lists_them_in_the_reports_order() -> None:
    index = (PAGES / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| \[(\w+)\]\(\1\.md\) \|", index, re.MULTILINE) == list(READING_ORDER)


@pytest.mark.parametrize("name", EVALS)
def test_a_page_has_all_its_parts(name: str) -> None:
    text = page(name)
    assert text.startswith(f"# `test_{name}`: ")
    found = sections(text, 2)
    assert tuple(found) == PARTS
    assert all(len(body.strip()) > 4 for body in found.values())
    (command,) = blocks(found["The command"])
    assert f"evals/test_{name}.py" in command.text


@pytest.mark.parametrize("name", EVALS)
def test_every_table_that_an_eval_records_is_explained(name: str) -> None:
    on_the_page = set(explained(page(name)))
    for pattern in recorded(name):
        assert any(re.fullmatch(pattern, title) for title in on_the_page), f"{name}.md explains no table {pattern}"


@pytest.mark.parametrize("name", EVALS)
def test_no_page_explains_a_table_that_is_not_recorded(name: str) -> None:
    patterns = recorded(name)
    for title in explained(page(name)):
        assert any(re.fullmatch(pattern, title) for pattern in patterns), title


@pytest.mark.parametrize("name", EVALS)
def test_a_page_names_the_limits_that_its_eval_measures(name: str) -> None:
    known = {one.id for one in LIMITS}
    links = re.findall(r"\[(FI-L\d+)\]\((.+?)\)", sections(page(name), 2)["Limits that apply"])
    assert all((PAGES / target).is_file() and Path(target).stem == limit for limit, target in links)
    named = set(re.findall(r"FI-L\d+", page(name)))
    assert named <= known
    measured = set(re.findall(r"Limit (FI-L\d+)", ast.unparse(source(name))))
    assert measured <= {limit for limit, _ in links}


@pytest.mark.parametrize("name", EVALS)
def test_a_page_names_the_faults_that_turn_its_eval_red(name: str) -> None:
    planted = {fault for fault, (_, where, *_) in FAULTS.items() if where == f"test_{name}.py"}
    told = sections(page(name), 2)["How it was judged"]
    listed = {one for line in re.findall(r"^- (.*?):|; (`.*?`):", told, re.MULTILINE)
              for part in line for one in re.findall(r"`([^`]+)`", part)}  # fmt: skip
    assert listed == planted
    assert ("No fault is planted" in told) == (not planted)


def test_a_table_or_a_column_without_a_word_is_found() -> None:
    known = {"name": "clamp_causality--why", "headers": ["claim", "neuron", "why"]}
    assert not list(unexplained([known]))
    assert list(unexplained([{**known, "headers": ["claim", "spin"]}])) == ["clamp_causality--why: spin"]
    assert list(unexplained([{**known, "name": "clamp_causality--because"}])) == ["clamp_causality--because"]
