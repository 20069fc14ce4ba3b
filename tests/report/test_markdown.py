"""The report in Markdown: the answer and what fits into a pull request's comment."""

from __future__ import annotations

import re

from flashinterp.report.html import render_markdown
from flashinterp.report.table import Table

MOST = 65_536  # characters of a comment on GitHub


def table(name: str, rows: int, text: str = "a word") -> Table:
    return Table(name, f"About {name}", ("word", "n"), tuple((text, i) for i in range(rows)), "A note")


def test_it_has_the_parts_of_the_page_in_the_same_order() -> None:
    verdict = {"id": "dog", "token": " dog", "neuron": "L1N17", "verdict": "validated", "reason": "it does"}
    results = {"verdicts": [verdict], "ledger": {"passed": 1}, "limits": ["One."], "model": {"name": "m"}}
    text = render_markdown(results, [table("answers--paper", 2), table("paper--words", 2)])
    marks = ["# flashinterp audit of m", "## The answer", "It does.", "About answers", "## What was audited"]
    marks += ["## The evidence", "<summary>Paper</summary>", "## Ledger", "## Limits of the method", "## How to check"]
    places = [text.index(mark) for mark in marks]
    assert places == sorted(places)


def test_a_comment_can_hold_it_and_what_is_left_out_is_named() -> None:
    tables = [table(f"eval{i}--rows", 25, "x" * 90) for i in range(60)]
    text = render_markdown({"limits": ["One."] * 20}, tables)
    assert len(text) < MOST
    left = re.findall(r"tables/(eval\d+--rows)\.md", text.replace("\\", ""))
    shown = re.findall(r"### About (eval\d+--rows)", text)
    assert shown
    assert left
    assert [*shown, *left] == [t.name for t in tables]


def test_a_long_table_is_cut_and_says_where_the_rest_is() -> None:
    text = render_markdown({}, [table("paper--words", 40)])
    assert text.count("| a word |") == 25
    assert "A note. 15 more rows are in tables/paper--words.md." in text


def test_the_catalogue_of_neurons_is_left_to_the_page() -> None:
    assert "About paper" not in render_markdown({}, [table("paper--catalogue", 3)])


def test_what_is_folded_is_closed_again() -> None:
    text = render_markdown({"model": {"name": "</details>"}}, [table("a--b", 3, "</details><details>")])
    assert len(re.findall(r"^<details>", text, re.M)) == len(re.findall(r"^</details>", text, re.M)) == 3
