"""Slopes, steps and dead neurons, by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from flashinterp.evaluation.evidence import Evidence
from flashinterp.evaluation.judgement import Judged
from flashinterp.neuron_index import NeuronIndex
from flashinterp.neurons import Block, NeuronId
from flashinterp.studies.limitations.dose_steps import Steps
from flashinterp.studies.limitations.dose_tables import (
    DTYPES,
    MOST_PARAMETERS,
    DtypeCurves,
    all_steps,
    dead_neurons,
    dead_table,
    rounding_not_measured,
    rounding_table,
    saturation_table,
    slope,
    too_large,
)
from tests.evidence_by_hand import CLAIM, evidence
from tests.runs.made_again import made_again

# --- saturation -----------------------------------------------------------------------------------------


def _saturating(near: float, far: float, low: float = 0.0) -> Evidence:
    """A slope within the natural range from 0 to 4, and others in the last steps up and down."""
    stress = np.array([-500.0, -400.0, 0.0, 400.0, 500.0])
    curve = np.array([-low * 100, 0.0, 0.0, 0.0, far * 100])
    return evidence(
        doses=np.linspace(0, 4, 5),
        log_odds=np.array([near * np.linspace(0, 4, 5), 3 * near * np.linspace(0, 4, 5)]) / 2,
        stress_doses=stress,
        stress_log_odds=np.array([curve + 7, curve - 7]),
    )


def test_slopes_near_and_far_in_the_claimed_direction() -> None:
    found = _saturating(0.5, 0.0125, low=0.25)
    assert slope(CLAIM, found) == pytest.approx((0.5, 0.0125))
    assert slope(CLAIM, found).left == pytest.approx(0.025)
    assert slope(replace(CLAIM, direction="-"), found).far == pytest.approx(0.25)
    flat = replace(found, doses=np.zeros(5))
    assert (slope(CLAIM, flat).natural, slope(CLAIM, flat).left) == (None, None)


def test_claims_that_were_not_measured_have_no_row() -> None:
    judged = Judged((CLAIM, replace(CLAIM, id="cat")), (_saturating(0.5, 0.0125), "no text reaches it"), ())
    _, rows, _ = saturation_table(judged)
    assert [row[:2] for row in rows] == [["dog", "L1N17"]]
    assert rows[0][2:] == pytest.approx([0.5, 0.0125, 0.025])
    assert saturation_table(Judged((), (), ()))[1] == [["none", None, None, None, None]]


# --- rounding -------------------------------------------------------------------------------------------


def _curves(claim: str = "dog") -> DtypeCurves:
    """Two prompts: one whose whole curve rises, one that falls."""

    def of(*curves: list[float]) -> Any:
        return np.array(curves, dtype=np.float32)

    whole = {"float32": of([0, 1, 2, 3], [0, -1, -0.5, -3]), "bfloat16": of([0, 1, 1, 3], [0, 0, 0, -3])}
    part = {"float32": of([0, 1, 2, 2], [0, -1, -2, -3]), "bfloat16": of([0, 0, 0, -1], [1, 1, 2, 0])}
    return DtypeCurves(claim, NeuronId(1, 2), {"whole range": whole, "first fiftieth": part})


def test_steps_are_counted_against_the_whole_range_in_float32() -> None:
    made = made_again(rounding_table, [_curves(), _curves("cat")])
    whole, part = [1, 0, 0, 3, 6], [0, 1, 2, 3, 6]  # reversed and level in float32, in bfloat16, and of how many
    assert [row[3:] for row in made[1]] == [whole, part, whole, part, [2 * n for n in whole], [2 * n for n in part]]
    assert [row[:3] for row in made[1][3:5]] == [["cat", "L1N2", "first fiftieth"], ["all", None, "whole range"]]
    assert all_steps([_curves()] * 3, "first fiftieth", "bfloat16") == Steps(18, 6, 9)


def test_a_changed_curve_makes_another_table() -> None:
    for part in ("whole range", "first fiftieth"):
        for dtype in DTYPES:
            forged = _curves()
            forged.curves[part][dtype][0, 1] = -5
            assert made_again(rounding_table, [forged]) != rounding_table([_curves()])


def test_a_model_that_is_too_large_says_so() -> None:
    assert too_large(int(MOST_PARAMETERS)) == ""
    assert made_again(rounding_not_measured, 8_030_261_248)[1] == [
        ["not measured: 8,030,261,248 parameters in a second dtype"]
    ]


# --- dead neurons ---------------------------------------------------------------------------------------

ROSTER = NeuronIndex((Block(0), Block(1, 0), Block(1, 1), Block(2)), (4, 3, 3, 2))
# A dense layer, of whose median 0.005 is a hundredth; an expert that is routed to, one that no text reaches; a layer of
# living neurons.
SCALES = np.array([1.0, 0.004, 2.0, 0.0, *(1.0, 0.0, 3.0), *(0.0, 0.0, 0.0), *(1.0, 1.0)], dtype=np.float32)
WORDS, SCORES = np.array([7, 8, 7, 9, 8, 7], dtype=np.int32), np.array([2.0, 3.0, 1.0, 5.0, 4.0, 5.0])
SHOWN = {7: "␣dog", 8: "␣cat", 9: "␣sea"}


def test_the_dead_are_below_a_hundredth_of_their_own_mlps_median() -> None:
    assert np.flatnonzero(dead_neurons(ROSTER, SCALES)).tolist() == [1, 3, 5, 7, 8, 9]
    louder = SCALES.copy()
    louder[1] = 0.006
    assert np.flatnonzero(dead_neurons(ROSTER, louder)).tolist() == [3, 5, 7, 8, 9]


def test_dead_neurons_by_layer_with_wilsons_interval_and_the_best_named() -> None:
    made = made_again(dead_table, ROSTER, SCALES, WORDS, SCORES, SHOWN)
    assert [row[:3] for row in made[1]] == [[0, 4, 2], [1, 6, 4], [2, 2, 0]]
    assert [row[6:] for row in made[1]] == [["L0N3", "␣cat", 3.0], ["L1E1N0", "␣sea", 5.0], [None, None, None]]
    for row in made[1]:
        n, k, z = row[1], row[2], 1.959963984540054
        middle, half = (k + z**2 / 2) / (n + z**2), z / (n + z**2) * np.sqrt(k * (n - k) / n + z**2 / 4)
        assert row[3:6] == pytest.approx([k / n, middle - half, middle + half], abs=1e-12)


def test_changed_scales_words_and_scores_make_another_table_or_none() -> None:
    plain = dead_table(ROSTER, SCALES, WORDS, SCORES, SHOWN)
    louder = SCORES.copy()
    louder[0] = 3.5
    assert made_again(dead_table, ROSTER, SCALES, WORDS, louder, SHOWN) != plain
    assert made_again(dead_table, ROSTER, SCALES, WORDS[::-1].copy(), SCORES, SHOWN) != plain
    scales = SCALES.copy()
    scales[6] = 0.0
    with pytest.raises(ValueError, match="7 neurons are dead, and 6 have a best word"):
        dead_table(ROSTER, scales, WORDS, SCORES, SHOWN)
