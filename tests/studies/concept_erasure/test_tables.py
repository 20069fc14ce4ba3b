"""Tables of removals say what the passes gave: computed by hand, after packing, and otherwise once a number is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from flashinterp.interventions.row_place import RowPlace
from flashinterp.neurons import NeuronId
from flashinterp.provenance.derivation import keep
from flashinterp.stats import rank_p
from flashinterp.studies.concept_erasure.concept_vector import ConceptVector
from flashinterp.studies.concept_erasure.measure import Measured
from flashinterp.studies.concept_erasure.records import ClampKept, Removed
from flashinterp.studies.concept_erasure.removal import ErasureControls, Point, RankedRow, change
from flashinterp.studies.concept_erasure.reverse import Reversal, reversed_rows
from flashinterp.studies.concept_erasure.tables import (
    LISTED,
    export_table,
    not_exported_table,
    not_reversed_table,
    reading_rows_table,
    removal_controls_table,
    removal_curve_table,
    removal_directions_table,
    removal_table,
)
from flashinterp.tokens import Token

V = 50
KL = np.array([0.01, 0.05, 0.02, 0.4])
BEFORE = {"theme": np.log([0.4, 0.6]), "anything": np.log([0.1, 0.2, 0.3, 0.4])}  # mean 1/3
AFTER = {"theme": np.log([0.01, 0.03]), "anything": np.log([0.02, 0.02, 0.02, 0.02])}  # mean 0.02, less than a tenth
RANKED = tuple(
    RankedRow(RowPlace(NeuronId(1, n), kind), 0.9 - n / 10, 2.0) for n in range(3) for kind in ("up", "gate")
)


def curve(*found: tuple[int, float, float]) -> tuple[Point, ...]:
    return tuple(Point(m, p, float(np.log(p / found[0][1])), kl) for m, p, kl in found)


DOG = Removed(
    token=Token(7, " dog", "as written"),
    p_approximate=0.5,
    p_refined=0.99,
    ranked=RANKED,
    selection=curve((0, 0.3, 0.0), (1, 0.2, 0.001), (2, 0.02, 0.01), (4, 0.01, 0.02), (8, 0.001, 0.3)),
    heldout=curve((0, 1 / 3, 0.0), (1, 0.25, 0.002), (2, 0.02, 0.035), (4, 0.01, 0.06), (8, 0.001, 0.5)),
    before=BEFORE,
    after=AFTER,
    kl=KL,
    vocabulary=V,
    rows=np.linspace(-1, 0.8, 19),
    directions=np.linspace(-4, -1, 19),
    rows_kl=np.linspace(0, 0.18, 19),
    directions_kl=np.zeros(19),
)
VECTORS = [np.array([[3, 4, 0], [0, 5, 0]], dtype=np.float32)]  # cosine 4/5

EPS = float(np.finfo(np.float32).eps)
ONE, BOTH = (NeuronId(1, 3),), (NeuronId(1, 3), NeuronId(2, 5))
CLAMPS = [
    ClampKept("up", ONE, "mlp_bias", "bfloat16", np.array([2.0, 1.0]), np.array([1e-6, 2e-6]), np.array([10.0, 30.0])),
    ClampKept("post", BOTH, None, "bfloat16", np.array([2.0, 3.0]), np.array([0.01, 0.1]), np.array([20.0, 16.0])),
    ClampKept("gate", ONE, None, "float32", np.array([2.0, 3.0]), np.array([0.01, 0.1]), np.array([20.0, 16.0])),
    ClampKept("gate", ONE, None, "float32", np.zeros(2), np.zeros(2), np.array([20.0, 16.0])),
]

MADE: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
    "rows": (reading_rows_table, ([DOG], VECTORS)),
    "removal": (removal_table, ([DOG],)),
    "controls": (removal_controls_table, ([DOG],)),
    "directions": (removal_directions_table, ([DOG],)),
    "curve": (removal_curve_table, ([DOG],)),
    "unmeasured": (not_reversed_table, ([(" dog", "it has no dense MLP")],)),
    "export": (export_table, (CLAMPS,)),
    "not exported": (not_exported_table, ("its neurons are in experts",)),
}


def made(name: str, *changed: Any) -> Any:
    """What the function of a name makes of its values, or of others."""
    make, args = MADE[name]
    return make(*(changed or args))


def row(name: str, *changed: Any) -> dict[str, Any]:
    """The first row, by its headers."""
    headers, rows, _ = made(name, *changed)
    return dict(zip(headers, rows[0], strict=True))


# --- the arithmetic -----------------------------------------------------------------------------------


def test_the_rows_are_listed_with_those_that_were_reversed() -> None:
    headers, rows, _ = made("rows")
    assert len(rows) == LISTED
    assert all(len(row) == len(headers) for row in rows)
    assert [row[1:5] for row in rows] == [
        [1, "L1N0 up", 0.9, "yes"],
        [2, "L1N0 gate", 0.9, "yes"],
        [3, "L1N1 up", 0.8, "no"],
        [4, "L1N1 gate", 0.8, "no"],
    ]
    assert rows[0][5:7] == [0.5, 0.99]
    assert rows[0][7] == pytest.approx(0.8)


def test_the_removal_is_judged_again() -> None:
    told = row("removal")
    assert told["edits"] == 2
    assert told["number of edits"] == "the smallest number after which the concept is gone"
    assert told["p before"] == pytest.approx(1 / 3)
    assert told["p after"] == pytest.approx(0.02)
    assert told["median KL"] == pytest.approx(0.035)
    assert told["95 % KL"] == pytest.approx(np.quantile(KL, 0.95))
    assert told["verdict"] == "removed"


def test_the_change_is_ranked_among_its_controls_again() -> None:
    told = row("controls")
    assert told["change"] == pytest.approx(np.log(0.02 * 3))  # -2.8 nats
    assert told["other rows"] == pytest.approx(-0.1)
    assert told["lowest row"] == -1
    assert told["p"] == pytest.approx(1 / 20)
    assert told["random directions"] == pytest.approx(-2.5)
    assert told["lowest direction"] == -4
    lower = sum(change <= np.log(0.06) for change in np.linspace(-4, -1, 19))
    assert told["p, directions"] == pytest.approx((1 + lower) / 20)
    assert told["KL, other rows"] == pytest.approx(0.09)


def test_each_direction_has_its_probabilities_and_its_log_odds() -> None:
    (theme, anything) = made("directions")[1]
    assert theme[1:3] == ["theme", 2]
    assert theme[3:6] == pytest.approx([0.5, 0.02, 0.03])
    odds = [np.log(q / (1 - q)) - np.log(p / (1 - p)) for p, q in ((0.4, 0.01), (0.6, 0.03))]
    assert theme[6] == pytest.approx(np.mean(odds), rel=1e-5)  # log-odds are float32
    assert anything[1:3] == ["anything", 4]


def test_the_curve_marks_the_number_that_selection_texts_choose() -> None:
    rows = made("curve")[1]
    assert [r[1] for r in rows] == [0, 1, 2, 4, 8]
    assert [r[-1] for r in rows] == ["no", "no", "yes", "no", "no"]
    assert rows[2][2:6] == [0.02, 0.02, 0.01, 0.035]


def test_concepts_and_clamps_that_were_not_measured_have_their_reason() -> None:
    assert made("unmeasured")[1] == [[" dog", "not_measured", "it has no dense MLP"]]
    assert made("not exported") == (["verdict", "reason"], [["not_measured", "its neurons are in experts"]], "")


def test_an_exported_clamp_may_be_off_by_rounding() -> None:
    rows = made("export")[1]
    assert [row[:4] for row in rows[:2]] == [
        ["up", "L1N3", "mlp_bias", "bfloat16"],
        ["post", "L1N3, L2N5", "nothing", "bfloat16"],
    ]
    assert [row[4:6] for row in rows] == [[2, 2e-6], [3, 0.1], [3, 0.1], [0, 0]]
    allowed = [64 * EPS * 30, (64 * EPS + 2**-7) * 20, 64 * EPS * 20, 64 * EPS * 20]
    assert [row[6] for row in rows] == pytest.approx(allowed)
    assert [row[7] for row in rows] == ["yes", "yes", "no", "the clamp moves nothing"]


def test_logits_that_are_no_numbers_are_not_the_same() -> None:
    assert replace(CLAMPS[0], off=np.array([0.0, np.nan])).reading == "no"


# --- what is kept -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MADE)
def test_the_same_comes_of_what_was_packed(name: str) -> None:
    make, args = MADE[name]
    _, values = keep(("A title",), args, {})
    assert values.called(make, lambda _: None) == made(name)


def test_a_removal_comes_back_with_its_verdict() -> None:
    """Of a removal with its logits, what is kept gives the same as it does itself."""
    draw = np.random.default_rng(3)
    logits = torch.tensor(draw.standard_normal((2, 9, V)), dtype=torch.float32)
    logits[1] = logits[0] + 0.1 * logits[1]
    before, after = (Measured(found, one.log_softmax(-1)) for found, one in zip((BEFORE, AFTER), logits, strict=True))
    approximate, refined = torch.tensor(VECTORS[0])
    concept = ConceptVector(DOG.token, approximate, refined, DOG.p_approximate, DOG.p_refined, steps=9, texts=5)
    moved = change(BEFORE, AFTER)
    whole = Reversal(
        concept=concept,
        ranked=RANKED,
        edits=tuple(reversed_rows(concept, RANKED[:2])),
        selection=DOG.selection,
        heldout=DOG.heldout,
        reason="the smallest number after which the concept is gone",
        before=before,
        after=after,
        controls=ErasureControls(DOG.rows, DOG.directions, DOG.rows_kl, DOG.directions_kl),
        p_rows=rank_p(-moved, -DOG.rows),
        p_directions=rank_p(-moved, -DOG.directions),
        folder=None,
    )
    again = Removed.of(whole)
    for name in ("verdict", "reason", "change", "p_rows", "p_directions"):
        assert getattr(again, name) == getattr(whole, name)
    assert again.verdict == "removed"
    np.testing.assert_array_equal(again.kl, whole.kl)
    assert again.edits == len(whole.edits)


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({"kl": KL + 0.1}, "kept"),
        ({"rows": np.linspace(-3, 0, 19)}, "kept"),
        ({"after": {name: values - 2 for name, values in BEFORE.items()}}, "lowered"),
        ({"vocabulary": 6}, "not_measured"),  # twice chance is as much as it was
        ({"vocabulary": 7}, "removed"),
    ],
)
def test_every_verdict_is_reached_from_what_is_kept(changes: dict[str, Any], verdict: str) -> None:
    assert replace(DOG, **changes).verdict == verdict


# --- one thing changed --------------------------------------------------------------------------------

LESS = replace(DOG, after={**AFTER, "theme": np.log([0.01, 0.02])})
FORGERIES: dict[str, tuple[str, tuple[Any, ...]]] = {
    "a row's cosine": ("rows", ([replace(DOG, ranked=(replace(RANKED[0], cosine=0.95), *RANKED[1:]))], VECTORS)),
    "a vector": ("rows", ([DOG], [VECTORS[0] + np.array([1, 0, 0], dtype=np.float32)])),
    "a text's probability": ("removal", ([LESS],)),
    "the KL at a position": ("removal", ([replace(DOG, kl=KL * [1, 1, 1, 2])],)),
    "a selection text's outcome": (
        "curve",
        ([replace(DOG, selection=curve((0, 0.3, 0.0), (1, 0.02, 0.0), (2, 0.02, 0), (4, 0.01, 0), (8, 0.001, 0.3)))],),
    ),
    "one control": ("controls", ([replace(DOG, rows=np.append(DOG.rows[:-1], -3))],)),
    "a text of a direction": ("directions", ([LESS],)),
    "a difference of logits": ("export", ([replace(CLAMPS[0], off=np.array([1e-6, 0.5])), *CLAMPS[1:]],)),
    "a largest logit": ("export", ([replace(CLAMPS[0], largest=np.array([10.0, 1e6])), *CLAMPS[1:]],)),
    "a reason": ("unmeasured", ([(" dog", "no number of edits spares other text")],)),
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_one_raw_value_changed_makes_another_table(forgery: str) -> None:
    name, args = FORGERIES[forgery]
    assert made(name, *args) != made(name)
