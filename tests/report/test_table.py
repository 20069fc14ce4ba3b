"""Tables: their validation, their renderers, and hostile text in every one of them."""

from __future__ import annotations

import unicodedata

import numpy as np
import pytest

from flashinterp._util.text import check_name, safe_text
from flashinterp.errors import RunError
from flashinterp.report.table import Table, format_number, from_json, to_json
from flashinterp.report.table_text import TERMINAL_WIDTH, escape_markdown, to_markdown, to_text

HOSTILE = (
    "</script><img src=x onerror=alert(1)>",
    "\"'`${7*7}{{7*7}}",
    "\u202eevil\u2066",
    "\x00\x1b[31m\x07\r\n\t",
    "a|b\n| c | d |\n|---|",
    "\u200b\ufeff\U000e0041\ue000\u2028\ud800",
    "[x](javascript:alert(1)) ![x](http://h.example/x) <http://h.example> http://h.example",
    "x" * 1_000_000,
)


each_hostile = pytest.mark.parametrize(
    "text",
    HOSTILE,
    ids=["html", "quotes", "bidi", "control", "pipes", "invisible", "links", "megabyte"],
)


def table(cell: object, **fields: str) -> Table:
    """A table with one cell of interest."""
    return Table("words", "Words", ("token", "score"), ((cell, 1.0),), **fields)


@each_hostile
def test_no_hidden_character_reaches_a_terminal_or_a_file(text: str) -> None:
    subject = Table("words", text, (text, "n"), ((text, 1),), caption=text, sorted_by=text)
    for shown in (to_text(subject), to_markdown(subject)):
        hidden = {c for c in shown if unicodedata.category(c)[0] == "C" or c in "\u2028\u2029"}
        assert hidden <= {"\n"}


def test_hidden_characters_are_shown_not_dropped() -> None:
    assert safe_text("a\u202eb\nc") == "a\\u{202e}b\\u{a}c"
    assert safe_text("\ud800\u200b\ue000\u2029") == "\\u{d800}\\u{200b}\\u{e000}\\u{2029}"
    assert safe_text(" naïve 犬 \\n") == " naïve 犬 \\n"


def test_safe_text_is_idempotent() -> None:
    for text in HOSTILE:
        assert safe_text(safe_text(text)) == safe_text(text)


@each_hostile
def test_a_markdown_row_stays_one_row_of_two_cells(text: str) -> None:
    row = to_markdown(table(text)).splitlines()[4]
    bare = row.replace("\\\\", "").replace("\\|", "")
    assert bare.count("|") == 3
    assert len(to_markdown(table(text)).splitlines()) == 5


@each_hostile
def test_markdown_leaves_no_active_character_unescaped(text: str) -> None:
    escaped = escape_markdown(text)
    position = 0
    while position < len(escaped):
        if escaped[position] == "\\":
            position += 2
            continue
        assert escaped[position] not in "`*_[]<>#|~$&!@{}"
        position += 1
    assert not escaped.replace("\\://", "").count("://")


@pytest.mark.parametrize("lead", ["- item", "+ item", "1. item", "12) item", "  - item", "===", "# h"])
def test_markdown_opens_no_list_and_no_heading(lead: str) -> None:
    assert escape_markdown(lead).lstrip().startswith("\\") or "\\" in escape_markdown(lead)[:4]


def test_a_long_cell_is_cut_and_says_so() -> None:
    assert "1,000,000 characters" in to_markdown(table("x" * 1_000_000))
    assert len(to_markdown(table("x" * 1_000_000))) < 3000
    assert to_json(table("x" * 1_000_000))["rows"][0][0] == "x" * 1_000_000


@pytest.mark.parametrize(
    "value",
    [float("nan"), float("inf"), -float("inf"), np.float32("nan")],
    ids=["nan", "inf", "-inf", "float32-nan"],
)
def test_a_non_finite_cell_is_refused_with_its_place(value: float) -> None:
    with pytest.raises(RunError, match=r"table words, row 0, column 'token' is -?(nan|inf)"):
        table(value)


@pytest.mark.parametrize(
    "cell",
    [[1], {"a": 1}, b"x", np.zeros(2), 1j],
    ids=["list", "dict", "bytes", "array", "complex"],
)
def test_a_cell_of_another_type_is_refused(cell: object) -> None:
    with pytest.raises(RunError, match="row 0, column 'token' holds a"):
        table(cell)


def test_a_ragged_row_and_a_table_without_columns_are_refused() -> None:
    with pytest.raises(RunError, match="row 1 has 1 cells for 2 columns"):
        Table("t", "T", ("a", "b"), ((1, 2), (3,)))
    with pytest.raises(RunError, match="has no columns"):
        Table("t", "T", (), ())


@pytest.mark.parametrize("name", ["paper--words", "a", "L25N1442", "v1.2_x"])
def test_a_slug_is_a_name(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "a\\b", "../x", "a..b", ".x", "x.", "a b", "é", "a\n", "a" * 121]
)
def test_what_could_leave_the_folder_is_no_name(name: str) -> None:
    with pytest.raises(RunError, match="cannot name a file"):
        Table(name, "T", ("a",), ())


def test_numbers_read_at_four_significant_digits() -> None:
    shown = [format_number(x) for x in (0.0, 0.123456, 1234.56, 123456.7, 1.5e12, 1.23456e-9, -2.0)]
    assert shown == ["0", "0.1235", "1235", "123457", "1.5e+12", "1.235e-09", "-2"]


def test_cells_read_as_words() -> None:
    text = to_text(Table("t", "T", ("a", "b", "c", "d"), ((None, True, False, np.int64(7)),)))
    assert [part.strip() for part in text.splitlines()[4].split("│")[1:-1]] == [
        "-",
        "yes",
        "no",
        "7",
    ]


def test_numpy_scalars_are_kept_as_builtins() -> None:
    row = Table("t", "T", ("a", "b", "c"), ((np.float64(1.5), np.int32(2), np.bool_(True)),)).rows[0]
    assert [type(cell) for cell in row] == [float, int, bool]


def test_a_wide_table_fits_the_terminal_and_keeps_its_text() -> None:
    words = "dog puppy canine hound terrier spaniel beagle " * 4
    wide = Table("t", "T", ("token", "words", "more words", "n"), ((" dog", words, words, 3),))
    lines = to_text(wide).splitlines()
    assert max(map(len, lines)) <= TERMINAL_WIDTH
    assert "  dog " in lines[4]
    assert to_text(wide).count("terrier") == 8


def test_an_empty_table_shows_its_columns() -> None:
    empty = Table("t", "Nothing found", ("token", "score"), ())
    assert "token" in to_text(empty)
    assert "| token | score |" in to_markdown(empty)


def test_the_caption_says_the_order() -> None:
    assert to_text(table("x", caption="All layers", sorted_by="score")).endswith("All layers. Sorted by score.")


def test_json_comes_back_as_the_same_table() -> None:
    first = Table("t", "T", ("a", "b"), (("x", None), ("y", 0.1)), "Caption.", "b")
    assert from_json(to_json(first)) == first


@pytest.mark.parametrize(
    "record",
    [{}, {"name": "t"}, {"name": "t", "title": "", "headers": 3}],
    ids=["empty", "name-only", "headers-no-list"],
)
def test_a_record_that_is_no_table_is_refused(record: dict[str, object]) -> None:
    with pytest.raises(RunError, match="cannot be read"):
        from_json(record)


def test_a_long_table_is_cut_on_the_terminal_and_nowhere_else() -> None:
    rows = tuple((f"word{i}", i) for i in range(41))
    table = Table("own--long", "Long", ("word", "n"), rows, "All of them")
    shown = to_text(table)
    assert "word39" in shown
    assert "word40" not in shown
    assert shown.endswith("All of them.\n… and 1 more rows: see tables/own--long.md")
    assert "word40" in to_markdown(table)
    assert "word40" in to_text(table, most=None)
    assert "more rows" not in to_text(table, most=None)
    assert "more rows" not in to_text(Table("own--long", "Long", ("word", "n"), rows[:40]))


@pytest.mark.parametrize("code", [0xFFFE, 0xFFFF, 0x1FFFE, 0x10FFFF, 0xFDD0, 0xFDEF])
def test_a_noncharacter_is_made_visible(code: int) -> None:
    """XML cannot hold some of them: one in a token would cost a figure, and with it the report."""
    assert safe_text(f"a{chr(code)}b") == f"a\\u{{{code:x}}}b"
    assert safe_text(chr(0xFFFD)) == chr(0xFFFD)
