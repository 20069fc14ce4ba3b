"""Why a curve goes the way it goes: the gate, what is written, the pole, and what later layers make of it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashinterp.evaluation.explanation import explain, sign_name
from flashinterp.neurons import LENSES
from tests.evidence_by_hand import CLAIM, DOSES, FALLING, FLAT, PROMPTS, RISING, STRONG, evidence

WORDS = np.array([-1.0, 1.0, -1.0, 1.0])  # what is written of other words: mean 0, standard deviation 2 / √3
SD = 2 / np.sqrt(3)


def explained(claim_changes: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    return explain(replace(CLAIM, **(claim_changes or {})), evidence(**{"z_write_unrelated": WORDS, **changes}))


def opened(by: float) -> dict[str, Any]:
    """A gate that is open by so much at every prompt."""
    return {"act_gate": np.full(PROMPTS, by)}


# --- the cases in words -------------------------------------------------------------------------------

CALIFORNIA = {"z_read": -5.0, "z_write": -3.0, "log_odds": FALLING, **opened(1.7)}

# Claim's changes, evidence's changes, predicted, observed, why.
CASES: dict[str, tuple[dict[str, Any], dict[str, Any], str, str, str]] = {
    "it writes for the word": (
        {}, {}, "+", "+",
        "higher values raise the word: it writes for it (+2.6 s.d.) and its gate is open",
    ),
    "California: on its negative pole, written against": (
        {"pole": "-"}, CALIFORNIA, "-", "-",
        "lower values raise the word: it writes against it (-2.6 s.d.) and its gate is open; its negative pole names "
        "the word, so that negative values stand for it",
    ),
    "a negative gate turns it round": (
        {}, {"log_odds": FALLING, **opened(-0.2)}, "-", "-",
        "lower values raise the word: it writes for it (+2.6 s.d.) and its gate is negative, which turns it round",
    ),
    "a negative gate turns what it writes against": (
        {}, {"z_write": -3.0, **opened(-0.2)}, "+", "+",
        "higher values raise the word: it writes against it (-2.6 s.d.) and its gate is negative, which turns it round",
    ),
    "later layers turn it round": (
        {}, {"log_odds": FALLING}, "+", "-",
        "lower values raise the word: it writes for it (+2.6 s.d.) and its gate is open, which by itself goes the "
        "other way: later layers turn it round",
    ),
    "later layers turn a negative pole round": (
        {"pole": "-"}, {**CALIFORNIA, "log_odds": RISING}, "-", "+",
        "higher values raise the word: it writes against it (-2.6 s.d.) and its gate is open, which by itself goes the "
        "other way: later layers turn it round",
    ),
    "hardly written": (
        {}, {"z_write": 0.9 * SD}, "0", "+",
        "higher values raise the word, which it hardly writes: what it writes of other words decides",
    ),
    "hardly written, and falling": (
        {}, {"z_write": -0.9 * SD, "log_odds": FALLING}, "0", "-",
        "lower values raise the word, which it hardly writes: what it writes of other words decides",
    ),
    "a shut gate": (
        {}, {"log_odds": FLAT, **opened(1e-8)}, "+", "0",
        "its gate is shut (act(g) 1e-08): whatever its value is, it writes next to nothing",
    ),
    "a gate that is shut from below": (
        {}, {"log_odds": FLAT, **opened(-0.0099)}, "-", "0",
        "its gate is shut (act(g) -0.01): whatever its value is, it writes next to nothing",
    ),
    "a shut gate is told first, whatever moved": (
        {}, opened(0.0099), "+", "+",
        "its gate is shut (act(g) 0.01): whatever its value is, it writes next to nothing",
    ),
    "a shut gate is told first, whatever is written": (
        {"pole": "-"}, {**CALIFORNIA, "z_write": 0.0, **opened(-1e-3)}, "0", "-",
        "its gate is shut (act(g) -0.001): whatever its value is, it writes next to nothing",
    ),
    "a gate that is just open": (
        {}, opened(0.01), "+", "+",
        "higher values raise the word: it writes for it (+2.6 s.d.) and its gate is open",
    ),
    "a gate that is just open from below": (
        {}, {"log_odds": FALLING, **opened(-0.01)}, "-", "-",
        "lower values raise the word: it writes for it (+2.6 s.d.) and its gate is negative, which turns it round",
    ),
    "an open gate that moves nothing": (
        {}, {"log_odds": FLAT, **opened(0.01)}, "+", "0",
        "no value of it moves the word beyond the noise",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_curve_is_explained_in_words(case: str) -> None:
    claim_changes, changes, predicted, observed, why = CASES[case]
    got = explained(claim_changes, **changes)
    assert (got["predicted_direction"], got["observed_direction"]) == (predicted, observed)
    assert got["why"] == why


@pytest.mark.parametrize("case", CASES)
def test_an_explanation_can_be_written(case: str) -> None:
    got = explained(*CASES[case][:1], **CASES[case][1])
    assert json.loads(json.dumps(got, allow_nan=False)) == got


# --- each threshold on both sides ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "predicted"), [(1.001, "+"), (0.999, "0"), (0.0, "0"), (-0.999, "0"), (-1.001, "-")]
)
def test_a_word_is_written_from_one_standard_deviation_on(written: float, predicted: str) -> None:
    got = explained(z_write=written * SD)
    assert got["z_write_deviations"] == pytest.approx(written)
    assert got["predicted_direction"] == predicted
    assert ("hardly writes" in got["why"]) == (predicted == "0")


@pytest.mark.parametrize(("moved", "observed"), [(1.5, "+"), (0.5, "0"), (-0.5, "0"), (-1.5, "-")])
def test_a_direction_is_seen_beyond_the_noise_floor(moved: float, observed: str) -> None:
    curve = np.linspace(0, moved * 1e-3, DOSES)
    assert explained(log_odds=np.tile(curve, (PROMPTS, 1)), noise_floor=1e-3)["observed_direction"] == observed


def test_only_the_ends_of_the_mean_curve_are_seen() -> None:
    humped = np.tile([0.0, 5.0, 9.0, 5.0, 1.0], (PROMPTS, 1))
    assert explained(log_odds=humped)["observed_direction"] == "+"
    one_falls = np.vstack([RISING[1:], RISING[:1, ::-1]])
    assert explained(log_odds=one_falls)["observed_direction"] == "+"


@pytest.mark.parametrize("others", [[], [0.3], [0.3, 0.3, 0.3]], ids=str)
def test_without_other_words_to_measure_it_against_nothing_is_predicted(others: list[float]) -> None:
    got = explained(z_write_unrelated=np.array(others))
    assert got["z_write_deviations"] is None
    assert got["predicted_direction"] == "0"
    assert "hardly writes" in got["why"]


# --- properties ---------------------------------------------------------------------------------------

numbers = st.floats(-50, 50).filter(lambda x: abs(x) > 1e-3)


@given(shift=st.floats(-100, 100), z=st.floats(-5, 5))
def test_what_is_written_of_all_words_alike_cancels(shift: float, z: float) -> None:
    plain = explained(z_write=z)
    shifted = explained(z_write=z + shift, z_write_unrelated=WORDS + shift)
    assert shifted["z_write_deviations"] == pytest.approx(plain["z_write_deviations"], abs=1e-9)


@given(z_read=numbers, z_write=numbers, act=numbers, scale=st.floats(0.1, 10))
def test_no_gauge_changes_whether_it_writes_what_it_reads(
    z_read: float, z_write: float, act: float, scale: float
) -> None:
    plain = explained(z_read=z_read, z_write=z_write, **opened(act))
    turned = explained(
        {"pole": "-"}, z_read=-z_read * scale, z_write=-z_write / scale, z_write_unrelated=-WORDS / scale, **opened(act)
    )
    assert turned["reads_times_writes"] == plain["reads_times_writes"] == sign_name(z_read * z_write)
    assert turned["z_write_deviations"] == pytest.approx(-plain["z_write_deviations"])
    mirror = {"+": "-", "-": "+", "0": "0"}
    assert turned["predicted_direction"] == mirror[plain["predicted_direction"]]


@given(z_write=numbers, act=numbers)
def test_the_prediction_is_the_gates_sign_times_what_is_written(z_write: float, act: float) -> None:
    got = explained(z_write=z_write, **opened(act))
    wanted = 0.0 if abs(z_write) < SD else np.sign(act) * np.sign(z_write)
    assert got["predicted_direction"] == sign_name(wanted)


def test_the_gate_that_counts_is_the_mean_over_prompts() -> None:
    mixed = np.array([2.0, 2.0, 2.0, 2.0, 2.0, -0.2])
    got = explained(act_gate=mixed, gate=np.arange(6.0), own=np.arange(6.0) / 10)
    assert got["act_gate"] == pytest.approx(mixed.mean())
    assert got["gate"] == pytest.approx(2.5)
    assert got["own_value"] == pytest.approx(0.25)
    assert got["predicted_direction"] == "+"


def test_the_rest_is_told_as_it_was_measured() -> None:
    got = explained()
    assert (got["z_read"], got["z_write"]) == (STRONG.z_read, STRONG.z_write)
    assert (got["dose_low"], got["dose_high"]) == (-2, 2)
    assert (got["control_scale_ratio"], got["control_norm_ratio"]) == (1.1, 1.0)
    none = explained(control_scale_ratio=None, control_norm_ratio=None)
    assert (none["control_scale_ratio"], none["control_norm_ratio"]) == (None, None)


@pytest.mark.parametrize("lens", LENSES)
def test_the_side_that_selected_is_the_lenses(lens: str) -> None:
    side = "write" if lens in ("write", "logit-lens") else "read"
    assert explained({"lens": lens})["selected_by"] == side


@pytest.mark.parametrize(("value", "sign"), [(2.0, "+"), (1e-300, "+"), (0.0, "0"), (-0.0, "0"), (-3, "-")])
def test_a_direction_is_written_as_a_sign(value: float, sign: str) -> None:
    assert sign_name(value) == sign
