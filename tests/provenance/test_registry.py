"""An id stands for one function or one record, whatever the code calls it."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from flashinterp.errors import RunError
from flashinterp.provenance import registry
from flashinterp.provenance.registry import (
    UnknownId,
    derivation,
    derivation_id,
    derivation_of,
    record,
    record_id,
    record_of,
    register_record,
)
from tests.helpers import assert_one_line_with_next_step


def first() -> None: ...


def second() -> None: ...


class Pair(NamedTuple):
    a: int
    b: int


def test_what_is_registered_is_found_by_its_id_and_stays_itself() -> None:
    assert derivation("tests.first", version=1)(first) is first
    assert record("tests.pair", version=2)(Pair) is Pair
    assert derivation_id(first) == "tests.first/1"
    assert record_id(Pair) == "tests.pair/2"
    assert derivation_of("tests.first/1") is first
    assert record_of("tests.pair/2") is Pair
    assert derivation_id(second) is None
    assert record_id(int) is None
    assert derivation_id([]) is None


def test_an_id_twice_is_refused_with_both_places() -> None:
    derivation("tests.twice", version=1)(_one)
    with pytest.raises(RunError, match=r"'tests\.twice/1', \S+\._one and \S+\._other: give one of them") as caught:
        derivation("tests.twice", version=1)(_other)
    assert_one_line_with_next_step(caught.value)
    derivation("tests.twice", version=2)(_other)
    assert derivation_of("tests.twice/1") is _one


def _one() -> None: ...


def _other() -> None: ...


def test_a_function_and_a_class_have_one_id_each() -> None:
    derivation("tests.of_one", version=1)(second)
    with pytest.raises(RunError, match=r"second has two ids, 'tests\.of_one/1' and 'tests\.of_two/1'") as caught:
        derivation("tests.of_two", version=1)(second)
    assert_one_line_with_next_step(caught.value)

    class Own(NamedTuple):
        a: int

    register_record(Own, "tests.own", 1)
    with pytest.raises(RunError, match="has two ids"):
        register_record(Own, "tests.other", 1)


def test_a_module_that_is_loaded_again_takes_its_own_place() -> None:
    """A notebook's cell is run twice."""

    def defined() -> Any:
        @derivation("tests.cell", version=1)
        def cell() -> None: ...

        return cell

    before, after = defined(), defined()
    assert derivation_of("tests.cell/1") is after
    assert derivation_id(before) is None


@pytest.mark.parametrize("noun", ["", "table", "Tests.table", "tests.", "tests.a table", "tests.table/1", ".a", "1.a"])
def test_an_id_of_another_form_is_refused(noun: str) -> None:
    with pytest.raises(RunError, match="is no id for") as caught:
        derivation(noun, version=1)(lambda: None)
    assert_one_line_with_next_step(caught.value)


@pytest.mark.parametrize("version", [0, -1, 1.0, "1.5", True])
def test_a_version_is_a_whole_number_from_1(version: Any) -> None:
    with pytest.raises(RunError, match="is no id for"):
        derivation("tests.version", version=version)(lambda: None)


def test_the_packages_areas_are_not_for_others() -> None:
    """`verify` tells by the first word whether an id should be there."""
    with pytest.raises(RunError, match="choose another first word") as caught:
        derivation("finetuning.mine", version=1)(lambda: None)
    assert_one_line_with_next_step(caught.value)


def test_a_record_is_a_frozen_dataclass_or_a_named_tuple() -> None:
    @dataclass(frozen=True)
    class Base:
        a: int

    class Derived(Base): ...

    @dataclass
    class Mutable:
        a: int

    class Plain: ...

    for kind in (Derived, Mutable, Plain, int):
        with pytest.raises(RunError, match="use @record above @dataclass") as caught:
            record("tests.no_record", version=1)(kind)
        assert_one_line_with_next_step(caught.value)


@pytest.mark.parametrize(
    ("key", "foreign", "told"),
    [
        (
            "finetuning.label_shares/99",
            False,
            "made by finetuning.label_shares/99, this release has /1: verify it with",
        ),
        ("finetuning.nothing/1", False, "made by finetuning.nothing/1, this release has none of that name: verify it"),
        ("shares_table_of_old", False, "this release has none of that name"),
        ("mylab.my_table/1", True, "made by mylab.my_table/1, which is not of flashinterp: run the eval again"),
    ],
)
def test_an_unknown_id_is_refused_by_name(key: str, foreign: bool, told: str) -> None:
    import flashinterp.studies.finetuning.label_tables

    assert flashinterp.studies.finetuning.label_tables
    with pytest.raises(UnknownId, match=told) as caught:
        derivation_of(key)
    assert caught.value.foreign is foreign
    assert_one_line_with_next_step(caught.value)


def test_it_imports_nothing_but_the_errors() -> None:
    """Whatever gives an id imports it: it must lie below all of them."""
    tree = ast.parse(inspect.getsource(registry))
    ours = {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and str(n.module).startswith("flash")}
    assert ours == {"flashinterp.errors"}


@pytest.mark.slow  # another process imports torch
def test_a_module_that_is_run_as_a_command_keeps_its_ids() -> None:
    """Its classes are then of ``__main__``."""
    command = [sys.executable, "-m", "flashinterp.studies.word_frequency.concentration", "--help"]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
