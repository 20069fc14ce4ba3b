"""The instrument's tables by hand: errors from single coordinates and passes, ranges from single values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from flashinterp.evaluation.judgement import Judged
from flashinterp.evaluation.prompts import Group
from flashinterp.neurons import NeuronId
from flashinterp.provenance.derivation import keep, read
from flashinterp.provenance.recorded import Recorded
from flashinterp.studies.instrument_checks.clamp_tables import (
    ClampCheck,
    Continued,
    NoiseCheck,
    SinglePasses,
    controls_table,
    far_dose,
    generated_table,
    mechanics_table,
    noise_table,
    shared_texts,
    single_passes_table,
    texts_table,
)
from tests.evidence_by_hand import CLAIM, evidence
from tests.runs.made_again import cells, made_again

NEURON = NeuronId(1, 17)
STEP = 2.0**-7  # of bfloat16 at 1


def _with(judged: Judged, make: Callable[..., Any], *values: Any) -> Any:
    """The outcome from packed values, where the judgement itself is looked up."""
    arrays, _ = keep(("A title",), [*values, Recorded("judgements", "claims")], {})
    made = read(arrays).called(make, lambda _: judged)
    assert made == make(*values, judged)
    return made


# --- the clamp --------------------------------------------------------------------------------------------

CLAMPED = ClampCheck(NEURON, "up", STEP, np.array([0.01, 0.03]), np.array([2.0, 1.5]), np.array([4.0, 6.0]))


def test_a_clamps_error_is_its_largest_difference_over_the_largest_output() -> None:
    _, rows, _ = made_again(mechanics_table, [CLAMPED, replace(CLAMPED, site="post", off=np.array([0.0, 0.6]))])
    assert rows == [
        ["L1N17", "up", 2.0, 0.03 / 6.0, 64 / 128],
        ["L1N17", "post", 2.0, 0.6 / 6.0, 64 / 128],
    ]


@pytest.mark.parametrize("forged", ["off", "changes", "outputs"])
def test_one_position_forged_shows_in_the_table_of_the_clamp(forged: str) -> None:
    wrong = replace(CLAMPED, **{forged: getattr(CLAMPED, forged) + [0.0, 10.0]})
    assert made_again(mechanics_table, [wrong]) != made_again(mechanics_table, [CLAMPED])


# --- the noise ---------------------------------------------------------------------------------------------


def test_noise_is_the_largest_difference_of_any_token() -> None:
    whole = np.array([-8.0, -0.5, -3.0], np.float32)
    ways = {"again": whole, "in a batch": whole + np.float32([0, 0.25, -0.5])}
    check = NoiseCheck("clean", STEP, whole, ways)
    headers, rows, _ = made_again(noise_table, [check])
    assert headers == ["state", "way", "largest difference", "allowed"]
    assert rows == [["clean", "again", 0.0, 64 / 128 * 8.0], ["clean", "in a batch", 0.5, 64 / 128 * 8.0]]
    forged = replace(check, ways={**ways, "again": whole + np.float32([0, 0, 1e-3])})
    assert made_again(noise_table, [forged]) != made_again(noise_table, [check])


# --- curves and text ----------------------------------------------------------------------------------------

JUDGED = Judged((CLAIM, replace(CLAIM, id="late"), CLAIM), (evidence(), "no time was left", evidence()), ())


def _passes(**changes: Any) -> SinglePasses:
    """Plain passes that find what was judged, up to a quarter of a nat on one prompt."""
    e = evidence()
    clean, high = e.clean_log_odds.copy(), e.log_odds[:, -1].copy()
    clean[2] += 0.25
    # 1st and 99th percentile of 0 … 100 are 1 and 99: here of -2.04 … 2.04 in steps of 0.0408, they are -2 and 2.
    natural = (np.arange(101) / 49 * 2 - 100 / 49).astype(np.float32)
    return replace(SinglePasses(STEP, clean, high, natural), **changes)


def test_the_judged_curve_is_compared_prompt_by_prompt_and_its_ends_with_single_values() -> None:
    made = _with(JUDGED, single_passes_table, [_passes(), _passes()])
    assert cells(made, "claim") == ["dog", "dog"]  # of the claim that was not measured nothing is told
    assert cells(made, "prompts") == [6, 6]
    assert cells(made, "error, clean") == pytest.approx([0.25, 0.25])
    assert cells(made, "error, highest dose") == [0, 0]
    assert cells(made, "error of the doses") == pytest.approx([0, 0], abs=1e-6)
    largest = max(np.abs(_passes().clean).max(), np.abs(_passes().high).max())
    assert cells(made, "allowed") == pytest.approx([64 / 128 * largest] * 2)


def test_doses_of_other_texts_are_off_by_the_ends_that_differ() -> None:
    wider = _passes(natural=_passes().natural * np.float32(1.25))
    made = _with(JUDGED, single_passes_table, [wider, _passes()])
    assert cells(made, "error of the doses") == pytest.approx([0.5 / 2.5, 0], abs=1e-6)


@pytest.mark.parametrize("forged", ["clean", "high", "natural"])
def test_one_pass_forged_shows_in_the_table_of_single_passes(forged: str) -> None:
    values = getattr(_passes(), forged).copy()
    values[:3] += 9
    honest = _with(JUDGED, single_passes_table, [_passes(), _passes()])
    assert _with(JUDGED, single_passes_table, [_passes(), _passes(**{forged: values})]) != honest


def test_where_nothing_was_measured_a_row_says_so() -> None:
    nothing = Judged((CLAIM,), ("no time was left",), ())
    for make, values in ((single_passes_table, [[]]), (generated_table, [[]]), (controls_table, [])):
        _, rows, _ = _with(nothing, make, *values)
        assert [row[0] for row in rows] == ["none"]


def test_a_continuation_is_told_with_the_dose_of_its_claim() -> None:
    down = replace(CLAIM, id="down", pole="-")
    judged = Judged((CLAIM, down), (evidence(), evidence()), ())
    texts = [Continued(1, (5, 7, 9), " a b c", " a b c", " d e f")]
    _, rows, _ = _with(judged, generated_table, texts)
    assert far_dose(down, evidence()) == -far_dose(CLAIM, evidence()) == -500
    assert rows == [["down", -500, 3, " a b c", " a b c", " d e f"]]
    assert _with(judged, generated_table, [replace(texts[0], generated=" a b d")])[1] != rows


# --- texts and controls -------------------------------------------------------------------------------------

GROUPS = (Group("animals", (" dog",), ("One", "Two"), ("Three",)), Group("any", (), ("Four",), ("Five", "Six")))


@pytest.mark.parametrize(
    ("tested", "shared"),
    [
        ([[1, 9], [2]], []),
        ([[1, 2, 3]], [0]),  # the same text
        ([[9], [1, 2]], [1]),  # its beginning
        ([[4, 5]], [0]),  # its continuation
        ([[2, 3]], []),  # a part, and not from the first token on
    ],
)
def test_a_shared_text_is_the_same_or_begins_as_another(tested: list[list[int]], shared: list[int]) -> None:
    selection = [[1, 2, 3], [4]]
    assert shared_texts(selection, tested) == shared
    _, rows, caption = made_again(texts_table, GROUPS, selection, tested)
    assert caption.endswith(f"or its continuation: {len(shared)}.")
    assert rows == [
        ["animals", 1, 2, 1],
        ["any", 0, 1, 2],
        ["used in this profile", None, 2, len(tested)],
    ]


def test_controls_are_told_by_their_ends_and_their_median() -> None:
    scales = np.array([0.5, 3.0, 1.0, 0.75])
    e = evidence(control_scales=scales, control_effects=np.zeros(4), control_separations=np.zeros(4))
    headers, rows, _ = _with(Judged((CLAIM,), (e,), ()), controls_table)
    assert rows == [["dog", 4, 1.0, 0.5, (0.75 + 1.0) / 2, 3.0, 1.1, 1.0]]
    forged = replace(e, control_scales=np.array([0.5, 3.0, 1.0, 0.001]))
    assert _with(Judged((CLAIM,), (forged,), ()), controls_table)[1] != rows
    assert len(headers) == len(rows[0])


def test_without_controls_their_loudness_is_unknown() -> None:
    none = np.zeros(0)
    e = evidence(control_scales=none, control_effects=none, control_separations=none)
    _, rows, _ = _with(Judged((CLAIM,), (e,), ()), controls_table)
    assert rows[0][1:6] == [0, 1.0, None, None, None]
