"""Roles judged by hand: equivalence has to be shown, a kept label is no kept role, nothing known is nothing kept."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashinterp.evaluation.claims import Claim, VerdictName
from flashinterp.evaluation.verdict import Verdict
from flashinterp.neurons import NeuronId
from flashinterp.studies.finetuning.roles import Heir, Role, RoleEvidence, RoleRule, judge_roles

CLAIM = Claim("dog", " dog", NeuronId(1, 17), "+", "paper", None, "file")
PROMPTS, DOSES, CONTEXTS, WORDS = 12, 5, 6, 8
SLOPE = 0.5  # nats a dose: an effect of 2
EFFECT = SLOPE * (DOSES - 1)


def curves(scale: float = 1.0, noise: float = 0.05, start: float = -6.0, seed: int = 0) -> np.ndarray:
    """[P, D] curves that rise by SLOPE a dose, with noise at each point."""
    draw = np.random.default_rng(seed)
    return start + scale * SLOPE * np.arange(DOSES) + noise * draw.standard_normal((PROMPTS, DOSES))


def found(**changes: Any) -> RoleEvidence:
    """A role that is kept, with some fields changed."""
    draw = np.random.default_rng(7)
    fields: dict[str, Any] = {
        "doses": np.linspace(-2, 2, DOSES),
        "before": curves(seed=1),
        "after": curves(seed=2, start=-4.0),  # the word is likelier anyway: not the neuron's doing
        "noise_floor": 1e-6,
        "present_before": 3 + 0.1 * np.arange(CONTEXTS),
        "absent_before": draw.normal(0, 0.3, (CONTEXTS, WORDS)),
        "present_after": 2.9 + 0.1 * np.arange(CONTEXTS),
        "absent_after": draw.normal(0, 0.3, (CONTEXTS, WORDS)),
        "label_before": 5,
        "label_after": 5,
        "heir": None,
    }
    return RoleEvidence(**{**fields, **changes})


def heir(effect: float = EFFECT, former: float = 0.0, named_before: bool = False) -> Heir:
    draw = np.random.default_rng(3)
    before, after = (value + 0.05 * draw.standard_normal(PROMPTS) for value in (former, effect))
    return Heir(NeuronId(2, 4), named_before, 0.1, 30.0, np.array([-1.0, 1.0]), before, after)


def judged(evidence: RoleEvidence | str, claim: Claim = CLAIM, verdict: VerdictName = "validated") -> Role:
    (role,) = judge_roles([Verdict(claim, verdict, "")], [evidence])
    return role


FLIPPED = curves(scale=-1, seed=2)
GONE = curves(scale=0, seed=2)
DEAF = {"present_after": np.zeros(CONTEXTS)}


# --- the verdicts -------------------------------------------------------------------------------------


def test_an_equal_curve_of_a_neuron_that_still_reads_is_a_kept_role() -> None:
    role = judged(found())
    assert role.role == "role kept"
    assert role.label_kept
    assert role.effect is not None
    assert role.effect.shown
    assert role.effect.margin == pytest.approx(0.25 * 2, rel=0.05)
    assert role.effect_before is not None
    assert role.effect_before.estimate == pytest.approx(EFFECT, abs=0.1)
    assert (role.auc_before, role.auc_after) == (1, 1)
    assert role.drive == pytest.approx(0.97, abs=0.1)


def test_a_role_is_kept_whatever_its_label() -> None:
    role = judged(found(label_after=6, heir=heir()))
    assert (role.role, role.label_kept) == ("role kept", False)
    assert role.heir == NeuronId(2, 4)  # told, although the role did not move


def test_a_flipped_curve_keeps_its_label_at_most() -> None:
    role = judged(found(after=FLIPPED))
    assert role.role == "label kept"
    assert role.effect is not None
    assert role.effect.estimate == pytest.approx(-2 * EFFECT, abs=0.1)
    assert "differs (by -4" in role.reason
    assert judged(found(after=FLIPPED, label_after=6)).role == "lost"


def test_noise_in_which_nothing_is_known_keeps_no_role() -> None:
    for seed in range(20):
        role = judged(found(after=curves(noise=8, seed=seed)))
        assert role.role == "label kept", seed
    unknown = judged(found(after=curves(noise=2.0, seed=3)))
    assert unknown.effect is not None
    assert unknown.effect.low is not None
    assert unknown.effect.high is not None
    assert unknown.effect.low < 0 < unknown.effect.high  # no difference was found, which is not equivalence
    assert "not shown to be the same" in unknown.reason


def test_what_the_measurement_cannot_tell_apart_is_not_shown_to_be_equal() -> None:
    assert judged(found(noise_floor=1.0)).role == "label kept"


def test_an_equal_effect_with_another_curve_in_between_is_no_kept_role() -> None:
    bent = curves(seed=2)
    bent[:, 2] += 1.0
    role = judged(found(after=bent))
    assert role.role == "label kept"
    assert role.effect is not None
    assert role.effect.shown
    assert role.deviation is not None
    assert role.deviation.estimate == pytest.approx(1.0, abs=0.1)
    assert not role.deviation.shown


def test_a_neuron_that_no_longer_fires_at_its_word_has_lost_its_role_however_it_writes() -> None:
    deaf = judged(found(present_after=np.linspace(-0.1, 0.1, CONTEXTS), label_after=6))
    assert deaf.role == "lost"
    assert "no longer fires" in deaf.reason
    assert deaf.effect is not None
    assert deaf.effect.shown


def test_a_row_scaled_to_a_hundredth_keeps_its_label_and_not_its_role() -> None:
    e = found()
    quiet = judged(replace(e, present_after=e.present_before / 100, absent_after=e.absent_before / 100))
    assert (quiet.role, quiet.auc_after) == ("label kept", 1)
    assert quiet.drive == pytest.approx(0.01)
    assert "1% of before" in quiet.reason


@pytest.mark.parametrize(("part", "role"), [(0.9, "role kept"), (0.4, "label kept"), (1.6, "label kept")])
def test_the_margin_is_a_quarter_of_the_effect(part: float, role: str) -> None:
    assert judged(found(after=curves(scale=part, seed=2))).role == role


def test_the_margin_never_forgives_half_of_a_small_effect() -> None:
    rule = RoleRule()
    assert rule.margin(2.0) == 0.5
    assert rule.margin(-0.3) == 0.1
    assert rule.margin(0.12) == 0.06
    small = {"before": curves(scale=0.06, noise=1e-3, seed=1), "after": curves(scale=0.03, noise=1e-3, seed=2)}
    assert judged(found(**small)).role == "label kept"  # 0.12 nats became 0.06: a difference below 0.1 nats


def test_a_label_on_another_neuron_that_brings_the_word_has_moved() -> None:
    role = judged(found(after=GONE, label_after=6, heir=heir()))
    assert role.role == "moved"
    assert role.heir == NeuronId(2, 4)
    assert role.heir_effect is not None
    assert role.heir_effect.estimate == pytest.approx(EFFECT, abs=0.1)
    assert "L2N4 names the word best now and carries the effect" in role.reason


@pytest.mark.parametrize(
    ("successor", "told"),
    [
        (heir(named_before=True), "named it before"),
        (heir(effect=0.1), "not shown to carry 50% of the old effect"),
        (heir(effect=-EFFECT), "not shown to carry"),
        (heir(former=EFFECT), "+0.0"),  # it always did
        (heir(effect=EFFECT / 2), "not shown to carry"),  # at the bar is not above it
    ],
    ids=["owned it before", "does nothing", "does the opposite", "always did", "at the bar"],
)
def test_a_label_that_sits_elsewhere_without_the_effect_has_not_moved(successor: Heir, told: str) -> None:
    role = judged(found(after=GONE, label_after=6, heir=successor))
    assert role.role == "lost"
    assert told in role.reason


def test_nothing_left_is_lost() -> None:
    role = judged(found(after=GONE, label_after=6, **DEAF))
    assert role.role == "lost"
    assert judged(found(after=GONE, label_before=-1, label_after=-1)).role == "lost"  # no label is no kept label


@pytest.mark.parametrize("sign", [1, -1])
def test_the_negative_pole_is_the_same_turned_round(sign: int) -> None:
    claim = CLAIM if sign > 0 else replace(CLAIM, pole="-")
    e = found()
    turned = replace(
        e,
        before=sign * (e.before + 6) - 6,
        after=sign * (e.after + 6) - 6,
        present_before=sign * e.present_before,
        absent_before=sign * e.absent_before,
        present_after=sign * e.present_after,
        absent_after=sign * e.absent_after,
    )
    role = judged(turned, claim)
    assert role.role == "role kept"
    assert role.effect_before is not None
    assert role.effect_before.estimate == pytest.approx(EFFECT, abs=0.1)
    moved = judged(replace(turned, after=GONE, heir=heir(effect=sign * EFFECT), label_after=6), claim)
    assert moved.role == "moved"


# --- what cannot be judged ------------------------------------------------------------------------------


@pytest.mark.parametrize("verdict", ["lever", "detector", "refuted", "inconclusive", "not_measured"])
def test_what_was_not_validated_has_no_role_to_keep(verdict: VerdictName) -> None:
    role = judged(found(), verdict=verdict)
    assert role.role is None
    assert verdict in role.reason


@pytest.mark.parametrize(
    ("evidence", "told"),
    [
        ("their tokenizers differ", "their tokenizers differ"),
        (found(after=np.full((PROMPTS, DOSES), np.nan)), "60 of 60 after are not finite"),
        (found(present_after=np.full(CONTEXTS, np.inf)), "present_after are not finite"),
        (found(heir=replace(heir(), after=np.full(PROMPTS, np.nan))), "heir_after are not finite"),
        (found(before=curves()[:2], after=curves()[:2]), "fewer than 3 prompts"),
        (found(before=curves()[:0], after=curves()[:0]), "nothing was measured for before"),
        (found(doses=np.zeros(1), before=curves()[:, :1], after=curves()[:, :1]), "2 doses"),
    ],
    ids=["tokenizers", "nan", "infinite", "heir", "two prompts", "no prompts", "one dose"],
)
def test_what_cannot_be_measured_is_not_comparable_with_the_reason(evidence: RoleEvidence | str, told: str) -> None:
    role = judged(evidence)
    assert role.role == "not comparable"
    assert told in role.reason


@pytest.mark.parametrize("successor", [None, heir(), replace(heir(), neuron=NeuronId(3, 9, 2))])
def test_a_verdict_can_be_computed_again_from_the_arrays(successor: Heir | None) -> None:
    e = found(after=GONE, heir=successor)
    again = RoleEvidence.from_arrays(e.arrays())
    assert judged(again) == judged(e)
    assert (again.heir is None) == (successor is None)
    if successor is not None and again.heir is not None:
        assert again.heir.neuron == successor.neuron
        assert again.heir.named_before is False


@given(st.floats(-2, 3), st.floats(0.01, 3), st.integers(0, 5))
def test_a_kept_role_means_that_every_interval_lies_within_the_margin(scale: float, noise: float, seed: int) -> None:
    e = found(after=curves(scale=scale, noise=noise, seed=seed))
    role = judged(e)
    rise = (e.after - e.after[:, :1]) - (e.before - e.before[:, :1])
    t = 1.7958848187036696  # Student's, 95 %, 11 degrees of freedom
    half = t * rise.std(axis=0, ddof=1) / np.sqrt(PROMPTS) + e.noise_floor
    margin = max(0.25 * (e.before[:, -1] - e.before[:, 0]).mean(), 0.1)
    inside = (np.abs(rise.mean(axis=0)) + half < margin)[1:].all()
    assert role.role == ("role kept" if inside else "label kept")
