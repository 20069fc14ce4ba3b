"""A strong case with one thing broken at a time, and the verdict that is right for each."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from flashinterp.evaluation.matched_controls import DEAD_SCALE
from flashinterp.evaluation.verdict import Rule, Verdict, judge
from tests.evidence_by_hand import (
    ABSENT,
    CLAIM,
    CONTEXTS,
    CONTROLS,
    DOSES,
    FLAT,
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


def checks(**changes: Any) -> dict[str, bool]:
    verdict = judged({}, changes)
    assert verdict.writes is not None
    assert verdict.reads is not None
    return {**verdict.writes.checks, **verdict.reads.checks}


# --- curves and controls just on either side of a threshold ----------------------------------------------


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
