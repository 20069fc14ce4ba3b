"""What is packed comes back as it was, and nothing but what the reader knows is ever made of it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashinterp.errors import RunError
from flashinterp.provenance.packing import VALUE, pack, unpack
from flashinterp.provenance.registry import record
from flashinterp.runs.folder.run_folder import RunFolder, read_arrays
from tests.helpers import assert_one_line_with_next_step


@record("tests.place", version=1)
class Place(NamedTuple):
    layer: int
    expert: int | None = None


@record("tests.found", version=1)
@dataclass(frozen=True)
class Found:
    word: str
    at: Place
    scores: np.ndarray[Any, Any]
    more: dict[int, tuple[float, ...]]
    cached: list[int] = field(default_factory=list, init=False, compare=False)


@dataclass(frozen=True)
class WithoutId:
    word: str


FOUND = Found("\ud800 dog\x00", Place(1), np.array([[1.5, -np.inf]], np.float32), {3: (0.5, float("inf")), -1: ()})

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(st.text() | st.integers() | st.tuples(st.integers(), st.text()), inner)
        | st.builds(Place, st.integers(), st.none() | st.integers())
    ),
    max_leaves=20,
)


@given(value=plain)
def test_plain_values_come_back_as_they_were(value: Any) -> None:
    assert repr(unpack(pack(value))) == repr(value)


def test_records_and_arrays_come_back_through_a_file(tmp_path: Any) -> None:
    folder = RunFolder.create(tmp_path / "run")
    folder.write_arrays("x", pack([FOUND, np.array(["a", "bc"]), np.arange(3) > 1]))
    found, words, mask = unpack(read_arrays(tmp_path / "run" / "raw" / "x.npz"))
    assert (found.word, found.at, found.more) == (FOUND.word, FOUND.at, FOUND.more)
    assert type(found.at) is Place
    assert found.scores.dtype == np.float32
    np.testing.assert_array_equal(found.scores, FOUND.scores)
    assert words.tolist() == ["a", "bc"]
    assert mask.tolist() == [False, False, True]


def test_gaps_come_back_though_a_folder_holds_none(tmp_path: Any) -> None:
    folder = RunFolder.create(tmp_path / "run")
    values = np.array([1.0, np.nan, -np.inf], np.float32)
    folder.write_arrays("x", pack((values, float("nan"))))
    array, one = unpack(read_arrays(tmp_path / "run" / "raw" / "x.npz"))
    np.testing.assert_array_equal(array, values)
    assert array.dtype == np.float32
    assert np.isnan(one)


def test_scalars_of_numpy_come_back_as_pythons() -> None:
    back = unpack(pack([np.float32(0.5), np.int64(3), np.bool_(True), np.str_("x")]))
    assert back == [0.5, 3, True, "x"]
    assert [type(v) for v in back] == [float, int, bool, str]


def test_what_is_kept_is_read_with_numpy_and_json_alone() -> None:
    arrays = pack({"score": np.arange(2)})
    assert json.loads(bytes(arrays[VALUE])) == {"$dict": [["score", {"$array": ["a0"]}]]}


@pytest.mark.parametrize("value", [object(), {1, 2}, b"x", Place, lambda: 0, [WithoutId("x")]])
def test_what_has_no_plain_form_is_refused_before_anything_is_written(value: Any) -> None:
    with pytest.raises(RunError, match="cannot be kept in raw/") as caught:
        pack(value)
    assert_one_line_with_next_step(caught.value)


def test_a_record_of_the_same_name_is_another_kind() -> None:
    @dataclass(frozen=True)
    class Found:
        word: str

    with pytest.raises(RunError, match="a Found cannot be kept"):
        pack(Found("x"))


@pytest.mark.parametrize(
    "text",
    [
        '{"$record": ["system", {"command": "true"}]}',
        '{"$record": ["Place", {"layer": 1}]}',
        '{"$record": [["tests.place/1"], {"layer": 1}]}',
        '{"$record": [1, {"layer": 1}]}',
        '{"$call": ["tests.place/1", {"layer": 1}]}',
        '{"$record": ["tests.found/1", {}]}',
        '{"$record": ["tests.place/1", {"layer": 1, "other": 2}]}',
        '{"$array": ["a9"]}',
        '{"$array": [], "$tuple": []}',
        "{}",
        "[",
    ],
)
def test_hostile_text_makes_nothing(text: str) -> None:
    """`verify` names the file, whatever kind of error it is."""
    with pytest.raises((RunError, TypeError, ValueError, KeyError)):
        unpack({VALUE: np.frombuffer(text.encode(), np.uint8)})


def test_arrays_of_something_else_are_refused() -> None:
    with pytest.raises(RunError, match="no array 'value'") as caught:
        unpack({"x": np.arange(3)})
    assert_one_line_with_next_step(caught.value)
