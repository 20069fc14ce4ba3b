"""The decision rule on evidence made by hand: a strong case, and one thing broken at a time."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flashinterp import NeuronId
from flashinterp.claims import Claim
from flashinterp.controls import DEAD_SCALE
from flashinterp.verdict import Evidence, Rule, Verdict, judge

RULE = Rule()
CLAIM = Claim("dog", " dog", NeuronId(1, 17), "+", "paper", None, "file")
PROMPTS, DOSES, CONTROLS, CONTEXTS, WORDS = 6, 5, 199, 4, 8


def evidence(**changes: Any) -> Evidence:
    """A clean and strong case, with some fields changed."""
    draw = np.random.default_rng(20250105)
    doses = np.linspace(-2, 2, DOSES)
    slopes, start = 0.5 + 0.02 * np.arange(PROMPTS), draw.normal(-6, 1, PROMPTS)
    fields: dict[str, Any] = {
        "doses": doses,
        "log_odds": start[:, None] + slopes[:, None] * doses,
        "clean_log_odds": start,
        "control_effects": draw.uniform(-0.5, 0.5, CONTROLS),
        "unrelated_effects": draw.normal(0, 0.05, 10),
        "identity_error": 0.0,
        "noise_floor": 2e-6,
        "present": 3 + 0.1 * np.arange(CONTEXTS),
        "absent": draw.normal(0, 0.3, (CONTEXTS, WORDS)),
        "control_separations": draw.uniform(-2, 2, CONTROLS),
        "relative_scale": 1.0,
        "gate": np.full(PROMPTS, 2.0),
        "act_gate": np.full(PROMPTS, 1.7),
        "z_read": 5.0,
        "z_write": 3.0,
        "own": np.full(PROMPTS, 0.1),
        "stress_doses": np.linspace(-500, 500, 11),
        "stress_log_odds": draw.normal(size=(4, 11)),
        "control_scale_ratio": 1.1,
        "control_norm_ratio": 1.0,
    }
    return Evidence(**{**fields, **changes})


STRONG = evidence()
RISING = STRONG.log_odds
FLAT = np.repeat(RISING[:, :1], DOSES, axis=1)
COLLAPSING = RISING[:, :1] + np.array([0.0, 2.0, 4.0, 6.0, 2.5])  # still ends well above its beginning
WIGGLING = RISING + 0.5 * np.array([0, 1, -1, 1, 0])  # up and down by more than 5 % of its range
ABSENT = STRONG.absent
DEAD = {"relative_scale": 1e-6, "present": 1e-7 * STRONG.present, "absent": 1e-6 * ABSENT, "log_odds": FLAT}
MIRRORED = {
    "log_odds": RISING[:, ::-1], "present": -STRONG.present, "absent": -ABSENT, "z_read": -5.0, "z_write": -3.0,
    "control_effects": -STRONG.control_effects, "control_separations": -STRONG.control_separations,
}  # fmt: skip


def beaten(by: int, strength: float, n: int = CONTROLS) -> np.ndarray:
    """n controls of no effect, but for some that do as much."""
    return np.where(np.arange(n) < by, strength, 0.0) + 1e-3 * np.arange(n)


# What is broken -> the claim's changes, the evidence's changes, the verdict, and words of the reason.
CASES: dict[str, tuple[dict[str, Any], dict[str, Any], str, str]] = {
    "nothing": ({}, {}, "validated", "fires where the token is"),
    # reading
    "reads nothing": ({}, {"present": ABSENT[:, 0]}, "lever", "does not fire"),
    "reads the opposite": ({}, {"present": -STRONG.present}, "lever", "does not fire"),
    "a constant output": ({}, {"present": np.ones(CONTEXTS), "absent": np.ones((CONTEXTS, WORDS))}, "lever", "fire"),
    "controls read as well": ({}, {"control_separations": beaten(60, 50.0)}, "lever", "does not fire"),
    "some controls read as well": ({}, {"control_separations": beaten(20, 50.0)}, "inconclusive", "neither way"),
    "output is dead": ({}, {"relative_scale": DEAD_SCALE / 2}, "lever", "dead"),
    "an infinite separation": ({}, {"absent": np.zeros((CONTEXTS, WORDS))}, "validated", "fires"),
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
    # both
    "controls far too quiet": ({}, {"control_scale_ratio": 50.0}, "inconclusive", "neither way"),
    "controls far too small": ({}, {"control_norm_ratio": 0.1}, "inconclusive", "neither way"),
    "a detector chosen by what it reads": ({}, {"log_odds": FLAT}, "detector", "mechanics, not a finding"),
    "a lever chosen by what it writes": ({"lens": "write"}, {"present": ABSENT[:, 0]}, "lever", "mechanics"),
    "neither side": ({}, {"log_odds": FLAT, "present": ABSENT[:, 0]}, "refuted", "neither fires"),
    "a dead neuron": ({}, DEAD, "refuted", "dead"),
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
    "no unrelated tokens": ({}, {"unrelated_effects": np.empty(0)}, "validated", "fires"),
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
def test_evidence_survives_its_arrays(case: str) -> None:
    claim_changes, changes, *_ = CASES[case]
    claim, found = replace(CLAIM, **claim_changes), evidence(**changes)
    file = io.BytesIO()
    np.savez(file, **found.arrays())
    file.seek(0)
    with np.load(file, allow_pickle=False) as loaded:
        again = Evidence.from_arrays(dict(loaded))
    first, second = (judge([claim], [e], rule=RULE, seed=3)[0] for e in (found, again))
    assert first.record() == second.record()
    assert again.control_scale_ratio == found.control_scale_ratio
    assert found.arrays().keys() == again.arrays().keys()


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
        ({"identity_error": 1.1e-5}, set()),  # the slack on top of the floor
        ({"identity_error": 1.3e-5}, {"identity"}),
        ({"identity_error": 1e-3, "noise_floor": 1e-2}, set()),
        ({"log_odds": COLLAPSING}, {"shape"}),
        ({"log_odds": WIGGLING}, {"shape"}),
        ({"log_odds": WIGGLING, "noise_floor": 0.5}, set()),  # the wiggle is noise there
        ({"log_odds": RISING[:, ::-1]}, {"shape", "trend and rank", "size"}),
        ({"log_odds": FLAT}, {"trend and rank", "size"}),
        ({"control_effects": beaten(20, 9.0)}, {"trend and rank"}),
        ({"control_separations": beaten(20, 50.0)}, {"test and rank"}),
        ({"relative_scale": DEAD_SCALE}, set()),
        ({"relative_scale": 0.99 * DEAD_SCALE}, {"alive"}),
        ({"present": -STRONG.present}, {"separates", "test and rank"}),
    ],
)
def test_one_condition_at_a_time(changes: dict[str, Any], unmet: set[str]) -> None:
    assert {name for name, met in checks(**changes).items() if not met} == unmet
    for name in unmet:
        assert name in judged({}, changes).lacking


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
    assert reads["separation"] == pytest.approx((STRONG.present.mean() - ABSENT.mean()) / ABSENT.std(ddof=1))
    assert verdict.explained["observed_direction"] == verdict.explained["predicted_direction"] == "+"


def test_auc_matches_each_context_with_itself() -> None:
    # A context that lifts every output alike says nothing: only words within a context are compared.
    lift = 100.0 * np.arange(CONTEXTS)
    verdict = judged({}, {"present": STRONG.present + lift, "absent": ABSENT + lift[:, None]})
    assert verdict.reads is not None
    assert verdict.reads.figures["auc"] == 1


@pytest.mark.parametrize(
    ("changes", "predicted", "observed"),
    [
        ({}, "+", "+"),
        ({"act_gate": np.full(PROMPTS, -0.2), "log_odds": RISING[:, ::-1]}, "-", "-"),
        ({"z_write": -3.0, "log_odds": RISING[:, ::-1]}, "-", "-"),
        ({"z_write": -3.0, "act_gate": np.full(PROMPTS, -0.2)}, "+", "+"),
        ({"act_gate": np.zeros(PROMPTS), "log_odds": FLAT}, "0", "0"),
        ({"log_odds": FLAT + 1e-7 * np.arange(DOSES)}, "+", "0"),  # within the noise floor
    ],
)
def test_the_direction_is_explained_by_gate_and_write(changes: dict[str, Any], predicted: str, observed: str) -> None:
    explained = judged({}, changes).explained
    assert (explained["predicted_direction"], explained["observed_direction"]) == (predicted, observed)


@pytest.mark.parametrize(("z_read", "z_write", "sign"), [(5, 3, "+"), (-5, -3, "+"), (5, -3, "-"), (-5, 3, "-")])
def test_reads_times_writes_does_not_change_under_the_gauge(z_read: float, z_write: float, sign: str) -> None:
    assert judged({}, {"z_read": z_read, "z_write": z_write}).explained["reads_times_writes"] == sign


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
