"""Evidence: what is in its arrays, how it comes back from them, and when it cannot be judged at all."""

from __future__ import annotations

import io
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from flashinterp.evaluation.evidence import Evidence
from tests.evidence_by_hand import STRONG, evidence

NAMES = [f.name for f in fields(Evidence)]
SCALARS = [name for name in NAMES if np.ndim(getattr(STRONG, name)) == 0]
ARRAYS = [name for name in NAMES if name not in SCALARS]
RATIOS = ["control_scale_ratio", "control_norm_ratio"]
TOLD = ["theme", "other_themes", "stress_doses", "stress_log_odds"]  # or drawn, and not judged
NEEDED = ["doses", "log_odds", "unrelated_effects", "kl", "present", "absent"]
ONLY_CONTROLS = "control_separations"  # the one field that may be infinite


def spoiled(name: str, value: float, places: int = 1) -> Evidence:
    """The strong case with some numbers of one field replaced."""
    values = np.array(getattr(STRONG, name), dtype=np.float64)
    values.flat[:places] = value
    return evidence(**{name: values if values.ndim else float(values)})


def saved_and_loaded(found: Evidence) -> Evidence:
    file = io.BytesIO()
    np.savez(file, **found.arrays())
    file.seek(0)
    with np.load(file, allow_pickle=False) as loaded:
        return Evidence.from_arrays(dict(loaded))


# --- arrays -----------------------------------------------------------------------------------------


def test_every_field_is_an_array_of_doubles() -> None:
    got = STRONG.arrays()
    assert list(got) == NAMES
    assert {a.dtype for a in got.values()} == {np.dtype(np.float64)}
    for name, values in got.items():
        np.testing.assert_array_equal(values, getattr(STRONG, name))


@pytest.mark.parametrize("missing", [[], RATIOS[:1], RATIOS[1:], RATIOS], ids=str)
def test_an_unknown_ratio_is_left_out_and_comes_back_unknown(missing: list[str]) -> None:
    found = evidence(**dict.fromkeys(missing))
    assert [name for name in NAMES if name not in found.arrays()] == sorted(missing, key=NAMES.index)
    again = saved_and_loaded(found)
    for name in RATIOS:
        assert getattr(again, name) == getattr(found, name)


def test_scalars_come_back_as_plain_numbers_and_arrays_as_arrays() -> None:
    again = saved_and_loaded(STRONG)
    assert {type(getattr(again, name)) for name in SCALARS} == {float}
    assert {type(getattr(again, name)) for name in ARRAYS} == {np.ndarray}


any_number = st.floats(allow_nan=True, allow_infinity=True)


@given(st.data())
def test_evidence_of_any_size_survives_a_file(data: st.DataObject) -> None:
    changes: dict[str, Any] = {}
    for name in ARRAYS:
        shape = tuple(data.draw(st.integers(0, 3)) for _ in range(np.ndim(getattr(STRONG, name))))
        changes[name] = data.draw(arrays(np.float64, shape, elements=any_number))
    changes |= {name: data.draw(any_number) for name in SCALARS}
    found = evidence(**changes)
    again = saved_and_loaded(found)
    for name in NAMES:
        np.testing.assert_array_equal(getattr(again, name), getattr(found, name), err_msg=name)
        assert np.shape(getattr(again, name)) == np.shape(getattr(found, name))


@pytest.mark.parametrize("name", [n for n in NAMES if n not in RATIOS])
def test_evidence_is_not_made_up_where_an_array_is_missing(name: str) -> None:
    left = {k: v for k, v in STRONG.arrays().items() if k != name}
    with pytest.raises(TypeError, match=name):
        Evidence.from_arrays(left)


def test_arrays_of_a_later_version_are_passed_over() -> None:
    again = Evidence.from_arrays({**STRONG.arrays(), "something_new": np.ones(3)})
    assert again.arrays().keys() == STRONG.arrays().keys()


# --- what cannot be judged ----------------------------------------------------------------------------


def test_sound_evidence_can_be_judged() -> None:
    assert STRONG.unfit() is None
    assert evidence(**dict.fromkeys(RATIOS)).unfit() is None


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", [n for n in NAMES if n not in (*TOLD, ONLY_CONTROLS)])
def test_a_single_number_that_is_none_spoils_what_is_judged(name: str, value: float) -> None:
    size = np.size(getattr(STRONG, name))
    reason = spoiled(name, value).unfit()
    assert reason == f"1 of {size} {name} are not finite numbers: run the model in a wider dtype"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", TOLD)
def test_what_is_only_told_or_drawn_spoils_nothing(name: str, value: float) -> None:
    assert spoiled(name, value).unfit() is None
    assert evidence(**{name: np.empty(0)}).unfit() is None


def test_a_separation_may_be_infinite_but_not_undefined() -> None:
    assert spoiled(ONLY_CONTROLS, np.inf).unfit() is None
    assert spoiled(ONLY_CONTROLS, -np.inf).unfit() is None
    assert "3 of 199 control_separations" in str(spoiled(ONLY_CONTROLS, np.nan, 3).unfit())


@pytest.mark.parametrize("name", NEEDED)
def test_what_was_not_measured_at_all_is_told_by_name(name: str) -> None:
    for axis in range(np.ndim(getattr(STRONG, name))):
        empty = np.delete(getattr(STRONG, name), slice(None), axis=axis)
        assert evidence(**{name: empty}).unfit() == f"nothing was measured for {name}: give more texts and doses"


@pytest.mark.parametrize("name", ["control_effects", "control_written", "control_scales", "control_separations"])
def test_a_layer_without_controls_is_for_the_rule_to_judge(name: str) -> None:
    assert evidence(**{name: np.empty(0)}).unfit() is None


def test_the_first_fault_is_the_one_that_is_told() -> None:
    both = replace(spoiled("log_odds", np.nan, 2), present=np.full(4, np.inf), kl=np.empty((2, 0)))
    assert "2 of 30 log_odds" in str(both.unfit())
    assert "nothing was measured for kl" in str(replace(both, log_odds=STRONG.log_odds).unfit())
