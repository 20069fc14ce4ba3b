"""Tables of labels, roles and gained words, from values by hand with known answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from flashinterp.evaluation.verdict import Rule, judge
from flashinterp.neuron_index import NeuronIndex
from flashinterp.neurons import Block
from flashinterp.provenance.derivation import keep, read
from flashinterp.provenance.recorded import Recorded
from flashinterp.provenance.registry import derivation_id
from flashinterp.studies.finetuning.gained_words import GAIN
from flashinterp.studies.finetuning.label_changes import Labels, ShownWords
from flashinterp.studies.finetuning.label_tables import (
    FineTune,
    causes_table,
    changed_table,
    fine_tune_roles_table,
    fine_tunes_table,
    gained_table,
    layer_shares,
    roles_counted,
    share_said,
    shares_table,
    uncompared_table,
)
from flashinterp.studies.finetuning.roles import Role, RoleEvidence, judge_roles
from tests.runs.finished_run import CLAIMS, EVIDENCE, HEIR, SEED, role_evidence
from tests.runs.made_again import cells, made_again
from tests.studies.finetuning.test_label_changes import gains_by_hand

KEPT, TIE, SWAPPED, CHANGED, NONE = 0, 1, 2, 3, -1
ROSTER = NeuronIndex((Block(0), Block(2)), (3, 4))


def array(values: Any, dtype: Any = np.float32) -> Any:
    return np.array(values, dtype=dtype)


CHANGE = array([KEPT, KEPT, CHANGED, KEPT, TIE, SWAPPED, NONE], np.int8)
LABELS = Labels(
    ROSTER,
    CHANGE,
    array([True, False, False, False, True, False, False], bool),
    array([1, 0.5, 0, 1, 0.5, 0.25, 0], float),
    array([1, 2, 3, 4, 5, 6, 7]),
    4,
)
BASE_HEAD = array([KEPT, KEPT, KEPT, KEPT, KEPT, CHANGED, NONE], np.int8)
TUNED_HEAD = array([KEPT, CHANGED, CHANGED, KEPT, KEPT, KEPT, NONE], np.int8)
COSINES = array([1, 1, 0.5, 1, 0.75, 0.25, 0.5])
NORMS = array([1, 2, 3, 1, 1, 1, 1])
BEST = ShownWords(
    {2: [1, 2, 3], 4: [4, 5], 5: [6, 7]},
    {2: [9, 2, 8], 4: [4, 5], 5: [7, 6]},
    {1: " one", 2: " two", 3: "\u202e", 4: " four", 5: " five", 6: " six", 7: " seven", 8: " eight", 9: " nine"},
)


def wilson(successes: int, n: int) -> list[float]:
    ci = stats.binomtest(successes, n).proportion_ci(method="wilson")
    return [successes / n, ci.low, ci.high]


# --- labels -------------------------------------------------------------------------------------------


def test_shares_are_those_of_the_labels() -> None:
    made = made_again(shares_table, LABELS, BASE_HEAD, COSINES)
    assert made[0][7] == "Jaccard@4"
    assert cells(made, "") == ["layer 0", "layer 2", "all layers"]
    assert cells(made, "neurons") == [3, 3, 6]  # one has no label
    assert [row[2:5] for row in made[1]] == [pytest.approx(wilson(*w)) for w in ((2, 3), (1, 3), (3, 6))]
    assert cells(made, "clear labels") == [1 / 2, 1 / 2, 2 / 4]
    assert cells(made, "base head") == [1, 2 / 3, 5 / 6]
    assert cells(made, "Jaccard@4") == pytest.approx([1.5 / 3, 1.75 / 4, 3.25 / 7])
    assert cells(made, "cosine") == pytest.approx([2.5 / 3, 2.5 / 4, 5 / 7])


def test_shares_of_nothing_are_not_zero() -> None:
    none = replace(LABELS, change=np.full(7, NONE, dtype=np.int8))
    (first, *_) = made_again(shares_table, none, none.change, COSINES)[1]
    assert first[1:7] == [0, None, None, None, None, None]
    assert made_again(causes_table, ROSTER, *[none.change] * 3)[1][0][5:] == [None] * 5


def test_causes_are_counted_and_add_up() -> None:
    made = made_again(causes_table, ROSTER, CHANGE, BASE_HEAD, TUNED_HEAD)
    assert [cells(made, kind) for kind in ("kept", "near tie", "swapped", "changed")] == [
        [2, 1, 3],
        [0, 1, 1],
        [0, 1, 1],
        [1, 0, 1],
    ]
    assert cells(made, "lost") == pytest.approx([1 / 3, 2 / 3, 3 / 6])
    assert cells(made, "rows alone") == pytest.approx([0, 1 / 3, 1 / 6])
    assert cells(made, "head alone") == pytest.approx([2 / 3, 0, 2 / 6])
    # (rows alone + lost - head alone) / 2, and the rest.
    assert cells(made, "by the rows") == pytest.approx([-1 / 6, 1 / 2, 1 / 6])
    assert cells(made, "by the head") == pytest.approx([1 / 2, 1 / 6, 1 / 3])


def test_the_most_changed_are_told_with_their_words() -> None:
    made = made_again(changed_table, LABELS, COSINES, NORMS, BEST)
    assert cells(made, "neuron") == ["L0N2", "L2N2", "L2N1"]
    assert cells(made, "change") == ["changed", "swapped", "near tie"]
    assert cells(made, "words lost") == ["␣one, \\u{202e}", None, None]
    assert cells(made, "words gained") == ["␣nine, ␣eight", None, None]
    assert cells(made, "Jaccard") == [0, 0.25, 0.5]
    assert cells(made, "cosine") == [0.5, 0.25, 0.75]
    # Of the neurons of its MLP, those that turned further: none of 2; none of 3; 2 of 3.
    assert cells(made, "cosine, percentile") == pytest.approx([0, 0, 200 / 3])


def test_where_nothing_changed_that_is_said() -> None:
    same = replace(LABELS, change=np.zeros(7, dtype=np.int8))
    assert made_again(changed_table, same, COSINES, NORMS, ShownWords({}, {}, {}))[1] == [["none", *[None] * 6]]


def test_the_figure_shows_each_layers_share() -> None:
    assert derivation_id(layer_shares)
    arrays, _ = keep(("A title",), (ROSTER, CHANGE), {})
    made = read(arrays).called(layer_shares, lambda _: None, "a", "A title")
    assert made.data["layer"].tolist() == [0, 2]
    for at, wanted in enumerate((wilson(2, 3), wilson(1, 3))):
        assert [made.data[end][at] for end in ("share", "lo", "hi")] == pytest.approx(wanted)
    assert "50.0 % over the whole model" in made.alt


def test_a_layer_without_labels_is_not_drawn() -> None:
    only = array([KEPT, CHANGED, KEPT, NONE, NONE, NONE, NONE], np.int8)
    assert layer_shares("a", "A title", ROSTER, only).data["layer"].tolist() == [0]


def test_the_share_in_words() -> None:
    low, high = wilson(3, 6)[1:]
    here = f"50.0% [{100 * low:.1f}%, {100 * high:.1f}%] keep it"
    assert made_again(share_said, CHANGE, None) == (here, None)
    assert made_again(share_said, CHANGE, {}) == (here, "not known")
    assert made_again(share_said, CHANGE, {"kept_share": 0.75}) == (here, "75.0%")
    assert made_again(share_said, np.full(7, NONE, dtype=np.int8), None)[0] == "no neuron has a label"


def test_why_nothing_was_compared() -> None:
    assert made_again(uncompared_table, "not_measured", "no time") == (
        ["verdict", "reason"],
        [["not_measured", "no time"]],
        "",
    )


# --- words that gained a neuron -------------------------------------------------------------------------

NEW = replace(
    gains_by_hand((5, 1.4, 1.0), (3, 8.0, 2.0), (2, 9.0, 2.0), own_before={3: " own", 2: None}),
    poles=array([1, 1, -1], np.int8),
)
GONE = gains_by_hand((7, 3.0, 1.0))


def test_gained_words_are_told_clearest_first() -> None:
    headers, rows, caption = made_again(gained_table, NEW, GONE, ROSTER)
    assert rows == [["␣w2", "L0N2", "-", 9.0, 2.0, None], ["␣w3", "L0N1", "+", 8.0, 2.0, "␣own"]]
    assert len(headers) == 6
    assert caption.endswith("2 words; 1 lost theirs: ␣w7.")
    assert f"above {GAIN:g} times" in caption


def test_at_most_ten_are_shown_and_all_are_counted() -> None:
    many = gains_by_hand(*((i, 100.0 - i, 1.0) for i in range(14)))
    headers, rows, caption = made_again(gained_table, many, many, NeuronIndex((Block(0),), (14,)))
    assert [row[0] for row in rows] == [f"␣w{i}" for i in range(10)]
    assert "14 words; 14 lost theirs: ␣w0, " in caption
    assert "␣w9." in caption
    none = gains_by_hand((5, 1.0, 1.0))
    headers, rows, caption = made_again(gained_table, none, none, ROSTER)
    assert rows == [["none", *[None] * (len(headers) - 1)]]
    assert caption.endswith("0 words; 0 lost theirs: none.")


# --- roles ----------------------------------------------------------------------------------------------

FOUND: list[RoleEvidence | str] = [role_evidence(), "refuted in the base", role_evidence(0.0, HEIR), "none"]
ROLES = judge_roles(judge(CLAIMS, EVIDENCE, rule=Rule(), seed=SEED), FOUND)
TUNED = [FineTune("light", CHANGE, NEW), FineTune("heavy", BASE_HEAD, gains_by_hand((5, 1.0, 1.0)))]
RECORDED = Recorded("roles", "roles-light", "roles"), Recorded("roles", "roles-heavy", "roles")
BOTH: dict[str, list[Role]] = {"roles-light": ROLES, "roles-heavy": ROLES[:2]}


def with_roles(make: Callable[..., Any], *values: Any) -> Any:
    """The outcome where roles are recorded, as the run and `verify` look them up."""
    assert derivation_id(make)
    arrays, _ = keep(("A title",), values, {})
    return read(arrays).called(make, lambda recorded: recorded.of(_Held(BOTH[recorded.name])))


class _Held:
    def __init__(self, roles: list[Role]) -> None:
        self.roles = roles


def test_roles_are_counted() -> None:
    assert [r.role for r in ROLES] == ["role kept", None, "moved", None]
    here = "1 role kept, 1 moved"
    assert with_roles(roles_counted, RECORDED[0], None) == (here, None)
    assert with_roles(roles_counted, RECORDED[0], []) == (here, "not known")
    assert with_roles(roles_counted, RECORDED[0], ["lost", "moved", "lost"]) == (here, "2 lost, 1 moved")
    assert roles_counted([ROLES[1]], None) == ("no claim was validated on the base", None)


def test_fine_tunes_are_told_side_by_side() -> None:
    made = with_roles(fine_tunes_table, TUNED, *RECORDED)
    assert cells(made, "fine-tune") == ["light", "heavy"]
    assert [row[1:4] for row in made[1]] == [pytest.approx(wilson(*w)) for w in ((3, 6), (5, 6))]
    assert [cells(made, kind) for kind in ("near tie", "swapped", "changed")] == [[1, 0], [1, 0], [1, 1]]
    assert [cells(made, role) for role in ("role kept", "moved", "lost")] == [[1, 1], [1, 0], [0, 0]]
    assert cells(made, "words gained") == ["␣w2, ␣w3", "none"]
    many = gains_by_hand(*((i, 100.0 - i, 1.0) for i in range(7)))
    (row,) = fine_tunes_table([FineTune("x", CHANGE, many)], ROLES)[1]
    assert row[-1] == "␣w0, ␣w1, ␣w2, ␣w3, ␣w4 and 2 more"


def test_each_neuron_stands_beside_what_was_done_to_it() -> None:
    planted = {"light": {"dog": "role kept", "a-b": "lost"}, "heavy": {}}
    made = with_roles(fine_tune_roles_table, planted, *RECORDED)
    assert [row[:6] for row in made[1]] == [
        ["light", "dog", "L1N17", "role kept", "role kept", None],
        ["light", "a-b", "L1N19", "lost", "moved", "L2N4"],
        ["heavy", "dog", "L1N17", None, "role kept", None],
    ]
    effect = ROLES[0].effect
    assert effect is not None
    assert made[1][0][6:] == [effect.estimate, effect.low, effect.high, effect.margin]


# --- a value that was changed ---------------------------------------------------------------------------


def other(values: Any, at: int, value: Any) -> Any:
    changed = values.copy()
    changed[at] = value
    return changed


@pytest.mark.parametrize(
    ("make", "values", "forged"),
    [
        (shares_table, (LABELS, BASE_HEAD, COSINES), (LABELS, BASE_HEAD, other(COSINES, 3, 0.99))),
        (
            shares_table,
            (LABELS, BASE_HEAD, COSINES),
            (replace(LABELS, change=other(CHANGE, 2, KEPT)), BASE_HEAD, COSINES),
        ),
        (
            causes_table,
            (ROSTER, CHANGE, BASE_HEAD, TUNED_HEAD),
            (ROSTER, CHANGE, BASE_HEAD, other(TUNED_HEAD, 0, CHANGED)),
        ),
        (
            changed_table,
            (LABELS, COSINES, NORMS, BEST),
            (replace(LABELS, jaccard=other(LABELS.jaccard, 4, 0.125)), COSINES, NORMS, BEST),
        ),
        (share_said, (CHANGE, None), (other(CHANGE, 5, KEPT), None)),
        (gained_table, (NEW, GONE, ROSTER), (replace(NEW, before=other(NEW.before, 1, 7.0)), GONE, ROSTER)),
    ],
)
def test_one_changed_number_changes_the_outcome(make: Any, values: Any, forged: Any) -> None:
    assert made_again(make, *values) != made_again(make, *forged)
