"""Each condition by name, and each threshold on both sides, where one condition alone decides."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from flashinterp.evaluation.matched_controls import DEAD_SCALE
from flashinterp.evaluation.verdict import SideResult, judge
from tests.evaluation.verdict.broken_cases import (
    COLLAPSING,
    LOUD_ONE,
    QUIET,
    RULE,
    TINY,
    WIGGLING,
    above,
    checks,
    dipping,
    ending_at,
    judged,
    other_words,
    some,
    tangled,
)
from tests.evidence_by_hand import CLAIM, CONTROLS, FLAT, RISING, STRONG, TEXTS, UNRELATED, beaten, evidence


def test_a_strong_case_meets_every_condition_and_says_so() -> None:
    assert all(checks().values())
    assert judged({}, {}).lacking == ""
    assert "not met" not in judged({}, {}).record()["reason"]


@pytest.mark.parametrize(
    ("changes", "unmet"),
    [
        ({"identity_error": 1e-3, "noise_floor": 1e-2}, set()),
        ({"log_odds": COLLAPSING}, {"shape"}),
        ({"log_odds": WIGGLING}, {"shape"}),
        ({"log_odds": WIGGLING, "noise_floor": 0.5}, set()),  # the wiggle is noise there
        ({"log_odds": RISING[:, ::-1]}, {"shape", "trend and rank", "size"}),
        ({"log_odds": FLAT}, {"trend and rank", "size", "specific"}),  # any other word moves more than not at all
        ({"unrelated_effects": np.full(UNRELATED, -9.0)}, {"specific"}),  # downwards is movement, too
        ({"unrelated_effects": np.full(UNRELATED, 9.0), "kl": np.full((2, TEXTS), 3.0)}, {"specific"}),
        ({"control_scale_ratio": 50.0, "control_norm_ratio": 50.0}, {"controls match"}),
        ({"present": -STRONG.present}, {"separates", "test and rank"}),
        ({"present": -STRONG.present, "relative_scale": 0.0}, {"alive", "separates", "test and rank"}),
    ],
)
def test_each_condition_is_told_by_name(changes: dict[str, Any], unmet: set[str]) -> None:
    assert {name for name, met in checks(**changes).items() if not met} == unmet
    for name in unmet:
        assert name in judged({}, changes).lacking


# --- each threshold on both sides: one condition alone decides -------------------------------------------

# The side and its check -> what just meets it, what just does not.
BORDERS: dict[str, tuple[str, str, dict[str, Any], dict[str, Any]]] = {
    "identity": ("writes", "identity", {"identity_error": 1.2e-5 - 1e-9}, {"identity_error": 1.2e-5 + 1e-9}),
    "identity above a floor": (
        "writes", "identity", {"identity_error": 0.01001, "noise_floor": 0.01},
        {"identity_error": 0.010011, "noise_floor": 0.01},
    ),
    "shape": ("writes", "shape", {"log_odds": dipping(0.199)}, {"log_odds": dipping(0.201)}),
    "shape within the noise": (
        "writes", "shape", {"log_odds": dipping(0.4), "noise_floor": 0.401},
        {"log_odds": dipping(0.4), "noise_floor": 0.399},
    ),
    "trend": ("writes", "trend and rank", {"log_odds": tangled(6)}, {"log_odds": tangled(4)}),
    "rank of the effect": (
        "writes", "trend and rank", {"control_effects": beaten(9, 9.0)}, {"control_effects": beaten(10, 9.0)},
    ),
    "a control that does exactly as much": (
        "writes", "trend and rank", {"control_effects": np.where(np.arange(CONTROLS) < 10, 2.199, 0.0)},
        {"control_effects": np.where(np.arange(CONTROLS) < 10, 2.2, 0.0)},
    ),
    "rank of the effect per unit of what is written": (  # the target's effect is 2.2, of the ten's 1 each
        "writes", "trend and rank", {"control_effects": np.ones(CONTROLS), "control_written": some(10, 0.5)},
        {"control_effects": np.ones(CONTROLS), "control_written": some(10, 0.4)},
    ),
    "how much the target writes": (
        "writes", "trend and rank", {"control_effects": np.ones(CONTROLS), "written": 2.1},
        {"control_effects": np.ones(CONTROLS), "written": 2.3},
    ),
    "a control within the noise of the target": (
        "writes", "trend and rank", {"control_effects": some(10, 2.1, 0.0), "noise_floor": 0.099},
        {"control_effects": some(10, 2.1, 0.0), "noise_floor": 0.101},
    ),
    "the noise, too, is per unit": (
        "writes", "trend and rank", {"control_effects": some(10, 1.05, 0.0), "written": 2.0, "noise_floor": 0.099},
        {"control_effects": some(10, 1.05, 0.0), "written": 2.0, "noise_floor": 0.101},
    ),
    "size of equal effects": (
        "writes", "size", {"log_odds": ending_at(*[0.1001] * 6), **TINY},
        {"log_odds": ending_at(*[0.0999] * 6), **TINY},
    ),
    "size at the interval's lower end": (
        "writes", "size", {"log_odds": ending_at(0.13, 0.2, 0.3, 0.4, 0.5, 0.6), **TINY},
        {"log_odds": ending_at(-0.3, 0.01, 0.3, 0.4, 0.5, 0.6), **TINY},
    ),
    "specificity": (
        "writes", "specific", {"unrelated_effects": other_words(10, of=100)},
        {"unrelated_effects": other_words(11, of=100)},
    ),
    "specificity of a few": (
        "writes", "specific", {"unrelated_effects": other_words(2, of=20)},
        {"unrelated_effects": other_words(3, of=20)},
    ),
    "another word that moves exactly as much": (
        "writes", "specific", {"log_odds": ending_at(*[2.0] * 6), "unrelated_effects": np.full(UNRELATED, -1.999)},
        {"log_odds": ending_at(*[2.0] * 6), "unrelated_effects": np.full(UNRELATED, -2.0)},
    ),
    "KL at the highest dose": ("writes", "specific", {"kl": LOUD_ONE}, {"kl": LOUD_ONE + 1e-3}),
    "KL at the lowest dose": ("writes", "specific", {"kl": LOUD_ONE[::-1]}, {"kl": LOUD_ONE[::-1] + 1e-3}),
    "KL is a mean over texts": (
        "writes", "specific", {"kl": np.array([[0.0] * 4, [0.39, 0.0, 0.0, 0.0]])},
        {"kl": np.array([[0.0] * 4, [0.41, 0.0, 0.0, 0.0]])},
    ),
    "alive": ("reads", "alive", {"relative_scale": DEAD_SCALE}, {"relative_scale": 0.999 * DEAD_SCALE}),
    "AUC": (
        "reads", "separates", {**above(6, 6, 6, 6, 6, 6, 6, 6), **QUIET}, {**above(6, 6, 6, 6, 6, 6, 6, 5), **QUIET},
    ),
    "AUC over contexts": (
        "reads", "separates", {**above(8, 8, 8, 8, 8, 8, 0, 0), **QUIET}, {**above(8, 8, 8, 8, 8, 7, 0, 0), **QUIET},
    ),
    "Mann-Whitney": ("reads", "test and rank", {**above(7, 7, 7, 7), **QUIET}, {**above(6, 6, 6, 6), **QUIET}),
    "rank of the separation": (
        "reads", "test and rank", {"control_separations": beaten(9, 50.0)}, {"control_separations": beaten(10, 50.0)},
    ),
    **{
        f"{name} of {ratio}, {side}": (
            side, "controls match", {f"control_{name}_ratio": ratio}, {f"control_{name}_ratio": beyond},
        )
        for side in ("writes", "reads")
        for name in ("scale", "norm")
        for ratio, beyond in ((5.0, 5.001), (0.2, 0.1999))
    },
}  # fmt: skip


@pytest.mark.parametrize("border", BORDERS)
def test_a_condition_alone_decides_between_yes_and_not_yes(border: str) -> None:
    side, check, meets, fails = BORDERS[border]

    def answer(changes: dict[str, Any]) -> SideResult:
        result = getattr(judged({}, changes), side)
        assert isinstance(result, SideResult)
        return result

    met, unmet = answer(meets), answer(fails)
    assert all(met.checks.values()), met
    assert met.answer == "yes"
    assert [name for name, ok in unmet.checks.items() if not ok] == [check], unmet
    assert unmet.answer != "yes"


@pytest.mark.parametrize("border", BORDERS)
def test_a_condition_alone_decides_whether_it_is_validated(border: str) -> None:
    _, check, meets, fails = BORDERS[border]
    assert judged({}, meets).verdict == "validated"
    verdict = judged({}, fails)
    assert verdict.verdict != "validated"
    assert check in verdict.lacking


def test_every_condition_has_a_border() -> None:
    verdict = judged({}, {})
    assert verdict.writes is not None
    assert verdict.reads is not None
    every = {("writes", c) for c in verdict.writes.checks} | {("reads", c) for c in verdict.reads.checks}
    assert {(side, check) for side, check, *_ in BORDERS.values()} == every


@pytest.mark.parametrize("size", [10, 20, 30, 40, 70, 100])
def test_nine_of_ten_other_words_must_move_less_in_every_profile(size: int) -> None:
    share = size // 10
    assert checks(unrelated_effects=other_words(share, of=size))["specific"]
    assert not checks(unrelated_effects=other_words(share + 1, of=size))["specific"]


@pytest.mark.parametrize(
    ("threshold", "value", "case"),
    [
        ("min_effect", 2.5, {}),
        ("max_violation", 0.01, {"log_odds": dipping(0.1)}),
        ("min_specificity", 1.0, {"unrelated_effects": other_words(1, of=100)}),
        ("max_kl", 1e-4, {}),
        ("min_auc", 0.95, {**above(7, 7, 7, 7), **QUIET}),
        ("max_mismatch", 1.05, {}),
        ("alpha", 0.001, {}),
        ("identity_slack", 0.0, {"identity_error": 3e-6}),
    ],
)
def test_each_threshold_of_the_rule_is_the_one_that_counts(threshold: str, value: float, case: dict[str, Any]) -> None:
    stricter = replace(RULE, **{threshold: value})
    verdicts = [judge([CLAIM], [evidence(**case)], rule=rule, seed=0)[0].verdict for rule in (RULE, stricter)]
    assert verdicts[0] == "validated"
    assert verdicts[1] != "validated"
