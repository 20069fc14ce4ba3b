"""The figures of a verdict are those of its evidence."""

from __future__ import annotations

import math

import numpy as np
import pytest

from flashinterp.evaluation.explanation import explain
from flashinterp.evaluation.verdict import judge
from tests.evaluation.verdict.broken_cases import RULE, judged
from tests.evidence_by_hand import ABSENT, CLAIM, CONTEXTS, CONTROLS, RISING, STRONG, WORDS, evidence


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
