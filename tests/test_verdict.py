"""The decision rule on evidence made by hand: a strong case, and one thing broken at a time."""

from __future__ import annotations

import io
import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flashinterp import NeuronId
from flashinterp.claims import Claim
from flashinterp.controls import DEAD_SCALE
from flashinterp.evidence import Evidence
from flashinterp.explain import explain
from flashinterp.verdict import Rule, SideResult, Verdict, judge
from tests.evidence_by_hand import (
    ABSENT,
    CLAIM,
    CONTEXTS,
    CONTROLS,
    DOSES,
    FLAT,
    PROMPTS,
    RISING,
    STRONG,
    TEXTS,
    UNRELATED,
    WORDS,
    beaten,
    evidence,
)

RULE = Rule()
COLLAPSING = RISING[:, :1] + np.array([0.0, 2.0, 4.0, 6.0, 2.5])  # still ends well above its beginning
WIGGLING = RISING + 0.5 * np.array([0, 1, -1, 1, 0])  # up and down by more than 5 % of its range
DEAD = {"relative_scale": 1e-6, "present": 1e-7 * STRONG.present, "absent": 1e-6 * ABSENT, "log_odds": FLAT}
MIRRORED = {
    "log_odds": RISING[:, ::-1], "present": -STRONG.present, "absent": -ABSENT, "z_read": -5.0, "z_write": -3.0,
    "control_effects": -STRONG.control_effects, "control_separations": -STRONG.control_separations,
}  # fmt: skip


# What is broken -> the claim's changes, the evidence's changes, the verdict, and words of the reason.
CASES: dict[str, tuple[dict[str, Any], dict[str, Any], str, str]] = {
    "nothing": ({}, {}, "validated", "fires where the token is"),
    # reading
    "reads nothing": ({}, {"present": ABSENT[:, 0]}, "lever", "does not fire"),
    "reads the opposite": ({}, {"present": -STRONG.present}, "lever", "does not fire"),
    "a constant output": ({}, {"present": np.ones(CONTEXTS), "absent": np.ones((CONTEXTS, WORDS))}, "lever", "fire"),
    "controls read as well": ({}, {"control_separations": beaten(60, 50.0)}, "lever", "does not fire"),
    "some controls read as well": ({}, {"control_separations": beaten(20, 50.0)}, "inconclusive", "neither way"),
    "output is dead": ({}, {"relative_scale": DEAD_SCALE / 2}, "lever", "does not fire"),
    "other words alike": ({}, {"absent": np.zeros((CONTEXTS, WORDS))}, "validated", "fires"),
    "an infinite separation": ({}, {"activation_scale": 0.0}, "validated", "fires"),
    "infinite controls": ({}, {"control_separations": np.full(CONTROLS, np.inf)}, "lever", "does not fire"),
    # writing
    "a flat curve": ({}, {"log_odds": FLAT}, "detector", "does not bring"),
    "the reversed direction": ({}, {"log_odds": RISING[:, ::-1]}, "detector", "does not bring"),
    "a tiny effect": ({}, {"log_odds": 0.01 * RISING}, "detector", "does not bring"),
    "an effect about the minimum": (
        {},
        {"log_odds": RISING * np.array([0, 0, 0, 0.1, 0.1, 0.1])[:, None], "control_effects": beaten(0, 0, 199) / 1e3},
        "inconclusive",
        "neither way",
    ),
    "a curve that collapses": ({}, {"log_odds": COLLAPSING}, "inconclusive", "neither way"),
    "a curve that wiggles": ({}, {"log_odds": WIGGLING}, "inconclusive", "neither way"),
    "controls write as well": ({}, {"control_effects": beaten(60, 9.0)}, "detector", "does not bring"),
    "some controls write as well": ({}, {"control_effects": beaten(20, 9.0)}, "inconclusive", "neither way"),
    "every word moves as much": ({}, {"unrelated_effects": np.full(UNRELATED, 9.0)}, "inconclusive", "neither way"),
    "all text is disturbed": ({}, {"kl": np.full((2, TEXTS), 3.0)}, "inconclusive", "neither way"),
    # both
    "controls far too quiet": ({}, {"control_scale_ratio": 50.0}, "inconclusive", "neither way"),
    "controls far too small": ({}, {"control_norm_ratio": 0.1}, "inconclusive", "neither way"),
    "a detector chosen by what it reads": ({}, {"log_odds": FLAT}, "detector", "mechanics, not a finding"),
    "a lever chosen by what it writes": ({"lens": "write"}, {"present": ABSENT[:, 0]}, "lever", "mechanics"),
    "neither side": ({}, {"log_odds": FLAT, "present": ABSENT[:, 0]}, "refuted", "neither fires"),
    "a dead neuron": ({}, DEAD, "refuted", "dead"),
    "a dead neuron without controls": (
        {},
        {**DEAD, "control_effects": np.empty(0), "control_separations": np.empty(0)},
        "refuted",
        "dead",
    ),
    "a dead neuron that may move the word": (
        {},
        {**DEAD, "log_odds": RISING, "control_effects": np.empty(0), "control_separations": np.empty(0)},
        "inconclusive",
        "only 0 live",
    ),
    # the means
    "identity": ({}, {"identity_error": 2e-5}, "not_measured", "cannot be trusted"),
    "identity of a dead neuron": ({}, {**DEAD, "identity_error": 1.0}, "not_measured", "cannot be trusted"),
    "no controls": ({}, {"control_effects": np.empty(0), "control_separations": np.empty(0)}, "inconclusive", "only 0"),
    "too few controls": (
        {},
        {"control_effects": np.zeros(18), "control_separations": np.zeros(18)},
        "inconclusive",
        "only 18 live",
    ),
    "just enough controls": (
        {},
        {"control_effects": np.zeros(19), "control_separations": np.zeros(19)},
        "validated",
        "fires",
    ),
    "no ratios": ({}, {"control_scale_ratio": None, "control_norm_ratio": None}, "validated", "fires"),
    "no unrelated tokens": ({}, {"unrelated_effects": np.empty(0)}, "not_measured", "nothing was measured for unrel"),
    "no text about something else": ({}, {"kl": np.empty((2, 0))}, "not_measured", "nothing was measured for kl"),
    "a theme that says the opposite": ({}, {"theme": -STRONG.theme}, "validated", "fires"),
    "a token of no theme": ({}, {"theme": np.empty(0), "other_themes": np.empty(0)}, "validated", "fires"),
    "a curve that is no number": (
        {},
        {"log_odds": np.full_like(RISING, np.nan)},
        "not_measured",
        "log_odds are not finite",
    ),
    "an output that overflows": ({}, {"present": np.full(CONTEXTS, np.inf)}, "not_measured", "present are not finite"),
    "an identity that is no number": ({}, {"identity_error": np.nan}, "not_measured", "identity_error are not finite"),
    "a control that is no number": (
        {},
        {"control_separations": np.full(CONTROLS, np.nan)},
        "not_measured",
        "control_sep",
    ),
    "no prompts": ({}, {"log_odds": np.empty((0, DOSES))}, "not_measured", "nothing was measured for log_odds"),
    "no contexts": (
        {},
        {"present": np.empty(0), "absent": np.empty((0, WORDS))},
        "not_measured",
        "nothing was measured",
    ),
    "a stress curve that is no number": ({}, {"stress_log_odds": np.full((4, 11), np.nan)}, "validated", "fires"),
    # poles and directions
    "nothing, on the negative pole": ({"pole": "-"}, MIRRORED, "validated", "fires where"),
    "the positive case claimed of the negative pole": ({"pole": "-"}, {}, "refuted", "neither"),
    "the negative case claimed of the positive pole": ({}, MIRRORED, "refuted", "neither"),
    "a negative pole that writes upwards": (
        {"pole": "-"},
        {**MIRRORED, "log_odds": RISING},
        "detector",
        "does not bring",
    ),
    "a negative pole stated to write upwards": (
        {"pole": "-", "direction": "+"},
        {**MIRRORED, "log_odds": RISING, "control_effects": STRONG.control_effects},
        "validated",
        "fires",
    ),
    "controls write downwards as well": (
        {"pole": "-"},
        {**MIRRORED, "control_effects": -beaten(60, 9.0)},
        "detector",
        "does not bring",
    ),
    "controls read the negative pole as well": (
        {"pole": "-"},
        {**MIRRORED, "control_separations": -beaten(60, 50.0)},
        "lever",
        "does not fire",
    ),
    "controls that go the other way": (
        {"pole": "-"},
        {**MIRRORED, "control_effects": beaten(60, 9.0), "control_separations": beaten(60, 50.0)},
        "validated",
        "fires",
    ),
    "a stated direction that is wrong": ({"direction": "-"}, {}, "detector", "does not bring"),
}


def judged(claim_changes: dict[str, Any], changes: dict[str, Any], seed: int = 0) -> Verdict:
    (verdict,) = judge([replace(CLAIM, **claim_changes)], [evidence(**changes)], rule=RULE, seed=seed)
    return verdict


@pytest.mark.parametrize("case", CASES)
def test_the_rule_table(case: str) -> None:
    claim_changes, changes, wanted, reason = CASES[case]
    verdict = judged(claim_changes, changes)
    assert verdict.verdict == wanted, verdict.record()
    assert reason in verdict.reason


@pytest.mark.parametrize("case", CASES)
def test_every_record_can_be_written_and_holds_no_nan(case: str) -> None:
    record = judged(*CASES[case][:2]).record()
    text = json.dumps(record, allow_nan=False)
    assert json.loads(text) == record


@pytest.mark.parametrize("case", CASES)
def test_a_verdict_can_be_computed_again_from_the_file(case: str) -> None:
    claim_changes, changes, *_ = CASES[case]
    claim, found = replace(CLAIM, **claim_changes), evidence(**changes)
    file = io.BytesIO()
    np.savez(file, **found.arrays())
    file.seek(0)
    with np.load(file, allow_pickle=False) as loaded:
        again = Evidence.from_arrays(dict(loaded))
    first, second = (judge([claim], [e], rule=RULE, seed=3)[0] for e in (found, again))
    assert first.record() == second.record()


# --- one condition each -----------------------------------------------------------------------------


def checks(**changes: Any) -> dict[str, bool]:
    verdict = judged({}, changes)
    assert verdict.writes is not None
    assert verdict.reads is not None
    return {**verdict.writes.checks, **verdict.reads.checks}


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


# --- each threshold on both sides: one condition alone decides ----------------------------------------


def dipping(by: float) -> np.ndarray:
    """Curves with a range of 4 whose distance from their isotonic fit is ``by``."""
    return RISING[:, :1] + np.array([0.0, 1.0, 2.0, 2.0 - 2 * by, 4.0])


def tangled(prompts: int) -> np.ndarray:
    """Curves [prompts, doses] that end 3 above their beginning, and in between are all above or all below both.

    Their mean is a straight line. Page's L of such a curve is 49, whichever way it goes; 45 is chance, and 55 a curve
    in order.
    """
    between = np.array([0, 20.0, 20.0, 20.0, 0]) * np.resize([1, -1], prompts)[:, None]
    return np.linspace(0, 3, DOSES) + between


def ending_at(*effects: float) -> np.ndarray:
    """Straight curves with these effects."""
    return np.array(effects)[:, None] * np.linspace(0, 1, DOSES)


def other_words(moving: int, of: int) -> np.ndarray:
    """Effects on unrelated tokens, of which some move more than any target."""
    return np.where(np.arange(of) < moving, 99.0, 0.0)


def above(*others: int, words: int = WORDS) -> dict[str, np.ndarray]:
    """Contexts in each of which the word's output is above so many of the other words' outputs."""
    absent = np.arange(words) + 0.001 * np.arange(len(others))[:, None]
    return {"absent": absent, "present": np.array(others) - 0.5}


def some(n: int, value: float, rest: float = 1.0) -> np.ndarray:
    """A number for n of the controls, and another for the rest."""
    return np.where(np.arange(CONTROLS) < n, value, rest)


TINY = {"control_effects": np.zeros(CONTROLS), "unrelated_effects": np.zeros(UNRELATED)}  # for effects of 0.1
QUIET = {"control_separations": np.zeros(CONTROLS)}
LOUD_ONE = np.array([[0.02] * TEXTS, [0.1] * TEXTS])

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


# --- the rank is of effects per unit of what is written -------------------------------------------------


def rank_of(claim_changes: dict[str, Any] | None = None, **changes: Any) -> float | None:
    verdict = judged(claim_changes or {}, changes)
    assert verdict.writes is not None
    return verdict.writes.figures["rank_p"]


def rank(above: int) -> Any:
    return pytest.approx((1 + above) / (1 + CONTROLS))


EFFECT = float((RISING[:, -1] - RISING[:, 0]).mean())


def test_a_wide_neuron_that_does_no_more_per_unit_is_not_remarkable() -> None:
    """Its effect is far above any control's, as is what it writes: by the effect alone it would be the first."""
    changes = {"control_effects": np.full(CONTROLS, EFFECT / 4), "written": 5.0}
    assert rank_of(**{**changes, "written": 1.0}) == rank(0)
    assert rank_of(**changes) == rank(CONTROLS)
    assert judged({}, changes).verdict == "detector"


def test_a_narrow_neuron_that_does_more_per_unit_is_remarkable() -> None:
    """Every control moves the word further, by writing ten times as much: by the effect alone it would be the last."""
    changes = {"control_effects": np.full(CONTROLS, 4 * EFFECT), "control_written": np.full(CONTROLS, 10.0)}
    assert rank_of(**{**changes, "control_written": np.ones(CONTROLS)}) == rank(CONTROLS)
    assert rank_of(**changes) == rank(0)
    assert judged({}, changes).verdict == "validated"


@pytest.mark.parametrize("factor", [1e-3, 0.5, 7.0])
def test_the_unit_of_what_is_written_does_not_matter(factor: float) -> None:
    written = np.linspace(0.1, 3, CONTROLS)
    effects = {"control_effects": np.linspace(-3, 3, CONTROLS)}
    plain = rank_of(**effects, control_written=written)
    assert plain == rank(int((effects["control_effects"] / written >= EFFECT).sum()))
    assert rank_of(**effects, control_written=factor * written, written=factor) == plain


@pytest.mark.parametrize("pole", ["+", "-"])
def test_what_is_written_has_no_direction(pole: str) -> None:
    sign = 1 if pole == "+" else -1
    curve = RISING if pole == "+" else RISING[:, ::-1]
    effects = sign * some(7, EFFECT, 0.0)
    for written, above in ((0.5, 7), (2.0, 0)):
        got = rank_of({"pole": pole}, log_odds=curve, control_effects=effects, control_written=some(7, written))
        assert got == rank(above)


def test_a_control_that_writes_nothing_does_nothing() -> None:
    for effect in (9.0, -9.0, 0.0):  # noise over nothing is no number, and none that counts
        changes = {"control_effects": some(5, effect, 0.0), "control_written": some(5, 0.0)}
        assert rank_of(**changes) == rank(0)
        assert judged({}, changes).verdict == "validated"
        json.dumps(judged({}, changes).record(), allow_nan=False)


def test_a_target_that_writes_nothing_is_not_above_its_controls() -> None:
    half = np.where(np.arange(CONTROLS) < 100, -0.1, 0.1)
    assert rank_of(written=0.0, control_effects=half) == rank(99)
    assert rank_of(written=0.0, control_effects=np.zeros(CONTROLS)) == rank(CONTROLS)  # a tie
    assert rank_of(written=0.0, log_odds=FLAT, control_effects=np.zeros(CONTROLS)) == rank(CONTROLS)


def test_a_flat_layer_in_its_noise_has_no_first() -> None:
    noise = {"log_odds": ending_at(*[1e-6] * 6), "control_effects": np.zeros(CONTROLS)}
    assert rank_of(**noise, noise_floor=0.0) == rank(0)
    assert rank_of(**noise, noise_floor=2e-6) == rank(CONTROLS)


def test_the_readings_rank_knows_nothing_of_what_is_written() -> None:
    for written in (0.0, 1e-3, 1e3):
        verdict = judged({}, {"written": written, "noise_floor": 5e-6})
        assert verdict.reads is not None
        assert verdict.reads.figures["rank_p"] == rank(0)


# --- no, or only not yes -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "writes", "reads"),
    [
        # 39 of 199 above it: p = 0.2, which is still something; 40: it does what others do.
        ({"control_effects": beaten(39, 9.0)}, "unclear", "yes"),
        ({"control_effects": beaten(40, 9.0)}, "no", "yes"),
        ({"control_separations": beaten(39, 50.0)}, "yes", "unclear"),
        ({"control_separations": beaten(40, 50.0)}, "yes", "no"),
        # The interval reaches above the least effect that counts, or stays below it.
        ({"log_odds": ending_at(-0.3, 0.01, 0.3, 0.4, 0.5, 0.6), **TINY}, "unclear", "yes"),
        ({"log_odds": ending_at(-0.3, 0.01, 0.05, 0.1, 0.15, 0.4), **TINY}, "unclear", "yes"),
        ({"log_odds": ending_at(0.01, 0.02, 0.03, 0.04, 0.05, 0.06), **TINY}, "no", "yes"),
        ({"log_odds": FLAT}, "no", "yes"),
        # A strong effect that lacks something else is no absence of an effect.
        ({"log_odds": COLLAPSING}, "unclear", "yes"),
        ({"log_odds": tangled(4)}, "unclear", "yes"),
        ({"unrelated_effects": other_words(11, of=100)}, "unclear", "yes"),
        ({"kl": LOUD_ONE + 1e-3}, "unclear", "yes"),
        ({"control_scale_ratio": 50.0}, "unclear", "unclear"),
        # What does not tell the word apart, or is dead, reads nothing.
        ({"relative_scale": 0.0}, "yes", "no"),
        ({**above(6, 6, 6, 6, 6, 6, 6, 5), **QUIET}, "yes", "no"),
        ({**above(6, 6, 6, 6), **QUIET}, "yes", "unclear"),
        ({"control_effects": np.empty(0), "control_separations": np.empty(0)}, "no", "no"),
    ],
)
def test_a_side_says_no_only_where_there_is_nothing(changes: dict[str, Any], writes: str, reads: str) -> None:
    verdict = judged({}, changes)
    assert verdict.writes is not None
    assert verdict.reads is not None
    assert (verdict.writes.answer, verdict.reads.answer) == (writes, reads)


def test_the_figures_are_those_of_the_evidence() -> None:
    verdict = judged({}, {})
    assert verdict.writes is not None
    assert verdict.reads is not None
    effects = RISING[:, -1] - RISING[:, 0]
    writes, reads = verdict.writes.figures, verdict.reads.figures
    assert writes["effect"] == pytest.approx(effects.mean())
    assert writes["effect_low"] < effects.mean() < writes["effect_high"]  # type: ignore[operator]
    assert writes["rank_p"] == reads["rank_p"] == pytest.approx(1 / (1 + CONTROLS))
    assert writes["n_controls"] == CONTROLS
    assert writes["specificity"] == 1
    assert reads["auc"] == 1
    assert reads["separation"] == pytest.approx((STRONG.present.mean() - ABSENT.mean()) / 0.3)
    assert writes["trend_p"] < 1e-6  # type: ignore[operator]
    assert reads["auc_p"] == pytest.approx(1 / math.comb(CONTEXTS * (1 + WORDS), CONTEXTS))
    assert verdict.explained == explain(CLAIM, STRONG)


def test_specificity_and_kl_are_told_by_number() -> None:
    kl = np.array([[0.01, 0.03, 0.0, 0.0], [0.02, 0.02, 0.03, 0.01]])
    verdict = judged({}, {"unrelated_effects": np.array([0.1, -0.2, 9.0, -9.0]), "kl": kl})
    assert verdict.writes is not None
    assert verdict.writes.figures["specificity"] == 0.5
    assert verdict.writes.figures["kl"] == pytest.approx(0.02)


@pytest.mark.parametrize(
    ("pole", "theme", "others", "wanted"),
    [
        ("+", [3.0, 1.0], [2.0, 0.0], 0.75),
        ("-", [3.0, 1.0], [2.0, 0.0], 0.25),
        ("+", [1.0], [1.0], 0.5),
        ("+", [], [1.0], None),
        ("+", [1.0], [], None),
    ],
)
def test_the_theme_is_told_by_its_auc(pole: str, theme: list[float], others: list[float], wanted: float | None) -> None:
    verdict = judged({"pole": pole}, {"theme": np.array(theme), "other_themes": np.array(others)})
    assert verdict.reads is not None
    assert verdict.reads.figures["theme_auc"] == wanted


def test_the_separation_is_in_units_of_natural_text() -> None:
    # The words without the concept may lie as close together as they like: luck is no evidence.
    for scale in (0.3, 3.0):
        close = evidence(absent=1e-3 * ABSENT, activation_scale=scale)
        (verdict,) = judge([CLAIM], [close], rule=RULE, seed=0)
        assert verdict.reads is not None
        gap = (STRONG.present.mean() - 1e-3 * ABSENT.mean()) / scale
        assert verdict.reads.figures["separation"] == pytest.approx(gap)


def test_an_infinite_separation_is_told_as_none() -> None:
    verdict = judged({}, {"activation_scale": 0.0})
    assert verdict.reads is not None
    assert verdict.reads.figures["separation"] is None


def test_auc_matches_each_context_with_itself() -> None:
    # A context that lifts every output alike says nothing: only words within a context are compared.
    lift = 100.0 * np.arange(CONTEXTS)
    verdict = judged({}, {"present": STRONG.present + lift, "absent": ABSENT + lift[:, None]})
    assert verdict.reads is not None
    assert verdict.reads.figures["auc"] == 1


@pytest.mark.parametrize(
    "case", ["nothing", "reads nothing", "a flat curve", "a dead neuron", "a curve that collapses"]
)
def test_the_whole_rule_is_symmetric_under_the_gauge(case: str) -> None:
    _, changes, wanted, _ = CASES[case]
    e = evidence(**changes)
    turned = replace(
        e, doses=-e.doses[::-1], log_odds=e.log_odds[:, ::-1], control_effects=-e.control_effects, present=-e.present,
        absent=-e.absent, control_separations=-e.control_separations, z_read=-e.z_read, z_write=-e.z_write,
    )  # fmt: skip
    (verdict,) = judge([replace(CLAIM, pole="-")], [turned], rule=RULE, seed=0)
    assert verdict.verdict == wanted


# --- a family ---------------------------------------------------------------------------------------


def test_what_was_not_measured_says_why_and_does_not_count() -> None:
    claims = [replace(CLAIM, id=f"c{i}") for i in range(12)]
    verdicts = judge(claims, [evidence(), *["no such token"] * 11], rule=RULE, seed=0)
    assert [v.verdict for v in verdicts] == ["validated"] + ["not_measured"] * 11
    assert verdicts[1].reason == "no such token"
    assert (verdicts[1].writes, verdicts[1].reads) == (None, None)
    json.dumps([v.record() for v in verdicts], allow_nan=False)


def test_q_is_over_the_family() -> None:
    # 3 of 199 controls do as much: p = 4/200 on each side, enough alone, not beside nine claims of nothing.
    middling = evidence(control_effects=beaten(3, 9.0), control_separations=beaten(3, 50.0))
    nothing = evidence(log_odds=RISING[:, ::-1], present=-STRONG.present)

    def first(others: list[Evidence]) -> Verdict:
        claims = [replace(CLAIM, id=f"c{i}") for i in range(1 + len(others))]
        return judge(claims, [middling, *others], rule=RULE, seed=0)[0]

    alone, among_true, among_null = first([]), first([middling] * 9), first([nothing] * 9)
    assert [v.verdict for v in (alone, among_true, among_null)] == ["validated", "validated", "inconclusive"]
    assert [v.writes.q for v in (alone, among_true, among_null) if v.writes] == pytest.approx([0.02, 0.02, 0.2])
    assert [v.writes.p for v in (alone, among_true, among_null) if v.writes] == pytest.approx([0.02] * 3)


@settings(max_examples=8)
@given(order=st.permutations(sorted(CASES)))
def test_the_order_of_the_claims_does_not_matter(order: list[str]) -> None:
    def family(names: list[str]) -> dict[str, Any]:
        claims = [replace(CLAIM, id=name, **CASES[name][0]) for name in names]
        found = [evidence(**CASES[name][1]) for name in names]
        return {v.claim.id: v.record() for v in judge(claims, found, rule=RULE, seed=1)}

    assert family(order) == family(sorted(CASES))


def test_the_seed_moves_the_interval_and_nothing_else() -> None:
    first, same, other = (judged({}, {}, seed).record() for seed in (0, 0, 1))
    assert first == same
    assert first != other
    for record in (first, other):
        for side in ("writes", "reads"):
            for name in [k for k in record["figures"][side]["figures"] if k.endswith(("_low", "_high"))]:
                del record["figures"][side]["figures"][name]
    assert first == other


def test_an_undefined_test_stays_in_the_family_as_one() -> None:
    claims = [Claim(f"c{i}", "x", NeuronId(0, i), "+", "paper", None, "file") for i in range(2)]
    alone, beside = (judge(claims[:n], [STRONG, evidence(log_odds=FLAT)][:n], rule=Rule(), seed=0)[0] for n in (1, 2))
    assert alone.writes is not None
    assert beside.writes is not None
    assert alone.writes.q is not None
    assert beside.writes.q == pytest.approx(2 * alone.writes.q)


def test_nothing_at_all_is_no_verdict() -> None:
    assert judge([], [], rule=RULE, seed=0) == []


def test_claims_and_evidence_must_pair() -> None:
    with pytest.raises(ValueError, match="zip"):
        judge([CLAIM], [], rule=RULE, seed=0)


def test_a_family_of_noise_gives_no_more_validated_than_the_level() -> None:
    # Targets drawn like their controls, on both sides: the false discovery rate is the chance of any.
    draw, runs, wrong = np.random.default_rng(20250105), 60, 0
    for _ in range(runs):
        found = []
        for _ in range(5):
            slope, separations = draw.normal(0, 1, CONTROLS + 1), draw.normal(0, 1, (CONTEXTS, WORDS + 1))
            curve = draw.normal(size=(PROMPTS, 1)) + slope[0] * np.linspace(0, 1, DOSES)
            found.append(
                evidence(
                    log_odds=curve + 1e-3 * draw.normal(size=(PROMPTS, DOSES)),
                    control_effects=slope[1:],
                    present=separations[:, 0],
                    absent=separations[:, 1:],
                    control_separations=0.5 * draw.normal(size=CONTROLS),
                )
            )
        claims = [replace(CLAIM, id=f"c{i}") for i in range(5)]
        wrong += any(v.verdict == "validated" for v in judge(claims, found, rule=RULE, seed=0))
    assert wrong / runs <= 0.05
