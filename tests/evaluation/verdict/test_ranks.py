"""The rank is of effects per unit of what is written."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from tests.evaluation.verdict.broken_cases import ending_at, judged, some
from tests.evidence_by_hand import CONTROLS, FLAT, RISING


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
