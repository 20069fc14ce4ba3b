"""The tables of two runs, made from what is kept of both, are those of the whole runs."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashinterp.errors import RunError
from flashinterp.evaluation.claims import Claim
from flashinterp.evaluation.evidence import Evidence
from flashinterp.evaluation.judgement import Judged
from flashinterp.neuron_index import NeuronIndex
from flashinterp.neurons import Block, NeuronId
from flashinterp.provenance.derivation import keep, read
from flashinterp.provenance.recorded import Recorded
from flashinterp.provenance.registry import derivation_id
from flashinterp.runs.compare.baseline import FinishedRun
from flashinterp.runs.compare.conditions import _COMPARED
from flashinterp.runs.compare.diff import diff
from flashinterp.runs.compare.diff_tables import diff_tables
from flashinterp.runs.compare.regression_tables import OF_ALL, compared, reference_table, since_table
from flashinterp.runs.compare.snapshot import WORDS, Words
from tests.evidence_by_hand import evidence
from tests.helpers import assert_one_line_with_next_step
from tests.runs.made_again import cells
from tests.runs_by_hand import CLEAN, LOCK, NEURONS, SURFACES, entry, reference, run, words

OFF = CLEAN - 1.9  # an effect that is nearly gone


class Told(NamedTuple):
    """A verdict, as far as the tables ask of one."""

    told: dict[str, Any]

    @property
    def verdict(self) -> str:
        return str(self.told["verdict"])

    def record(self) -> dict[str, Any]:
        return self.told


def judged(later: FinishedRun) -> Judged:
    """What the later run judged: of each verdict the claim, and evidence with the effects of the run's reference."""
    claims, found = [], list[Evidence | str]()
    for at, told in enumerate(later.verdicts):
        neuron = NeuronId.parse(told["neuron"]) if told["neuron"] else None
        claims.append(Claim(told["id"], told["token"], neuron, told["pole"], told["lens"], told["direction"], "file"))
        if later.reference is None or not later.reference.measured[at]:
            found.append("no time was left")
            continue
        rise = later.reference.effects[at] * (1 if claims[-1].drive == "+" else -1)
        found.append(evidence(doses=np.array([-1.0, 1.0]), log_odds=np.stack([0 * rise, rise], axis=1)))
    return Judged(tuple(claims), tuple(found), tuple(map(Told, later.verdicts)))  # type: ignore[arg-type]


def made(name: str, before: FinishedRun, after: FinishedRun, of_it: Judged) -> Any:
    """A table from the values as a reader of ``raw/`` has them."""
    assert derivation_id(since_table)
    values = (name, *compared(before, after, of_all=name in OF_ALL), Recorded("judgements", "claims"))
    arrays, _ = keep(("A title",), values, {})
    return read(arrays).called(since_table, lambda _: of_it)


def assert_same(before: FinishedRun, after: FinishedRun) -> None:
    whole = diff(before, after)
    for table in diff_tables(whole):
        headers, rows, caption = made(table.name, before, after, judged(after))
        assert (tuple(headers), tuple(map(tuple, rows)), caption) == (table.headers, table.rows, table.note), table.name


HEIR = entry(id="dog-now", neuron="L0N0")
TURNED = entry(id="down", direction="-", pole="-", lens="write")
PAIRS: dict[str, tuple[FinishedRun, FinishedRun]] = {
    "the same": (run(entry()), run(entry())),
    "lost": (run(entry()), run(entry("refuted"), said=reference([entry()], effects=[OFF]))),
    "gained": (run(entry("refuted")), run(entry())),
    "another claim": (run(entry()), run(entry(id="cat", token=" cat", neuron="L0N1"))),
    "by id": (run(entry(token=7)), run(entry(token=7))),
    "driven down": (run(TURNED), run(TURNED, said=reference([TURNED], effects=[CLEAN / 2]))),
    "not measured": (run(entry()), run(entry(), said=reference([entry()], measured=np.array([False])))),
    "no neuron": (
        run(entry("not_measured", neuron=None), said=reference([entry()])),
        run(entry(), said=reference([entry()])),
    ),
    "moved": (
        run(entry(), said=reference([entry()], (0, 1, 2, 3, 4, 7))),
        run(entry("refuted", auc=0.5), HEIR, said=reference([entry(), HEIR], (7, 1, 2, 3, 4, 5), [OFF, CLEAN])),
    ),
    "a twin": (
        run(entry(), said=reference([entry()], (7, 1, 2, 3, 4, 7))),
        run(entry("refuted", auc=0.5), HEIR, said=reference([entry(), HEIR], (7, 1, 2, 3, 4, 5), [OFF, CLEAN])),
    ),
    "the word moved": (run(entry()), run(entry(), said=reference([entry()], (7, 1, 2, 7, 4, 6)))),
    "by another lens": (
        run(entry(lens="write"), said=reference([entry()], (0, 1, 2, 3, 4, 7))),
        run(entry(lens="write"), said=reference([entry()], (7, 1, 2, 3, 4, 6))),
    ),
    "no words before": (run(entry(), without=True), run(entry())),
    "no words at all": (run(entry(), said=reference([entry()], (-1,) * 6)),) * 2,
}


@pytest.mark.parametrize("name", PAIRS)
def test_what_is_kept_gives_the_tables_of_the_whole_runs(name: str) -> None:
    assert_same(*PAIRS[name])


@st.composite
def _words(draw: st.DrawFn) -> Words:
    """Of six neurons; where a neuron has no first word it has none."""
    ids = np.array(draw(st.lists(st.permutations(range(len(SURFACES))), min_size=NEURONS, max_size=NEURONS)))
    none = np.array(draw(st.lists(st.booleans(), min_size=NEURONS, max_size=NEURONS)))
    lead = np.array(draw(st.lists(st.sampled_from([0.0, 0.001, 0.5, 1.0]), min_size=NEURONS, max_size=NEURONS)))
    ids = np.where(none[:, None], -1, ids[:, :WORDS]).astype(np.int32)
    return Words(ids, lead.astype(np.float32), lead < 0.01)


@given(_words(), _words(), st.permutations(range(NEURONS)), st.sampled_from(["validated", "refuted"]))
def test_whatever_the_words(then: Words, now: Words, places: list[int], verdict: str) -> None:
    roster = NeuronIndex((Block(0), Block(1)), (3, 3))
    claimed = [(str(roster.neuron(place)), place) for place in places[:2]]
    told = [[entry(v, neuron, id=neuron) for neuron, _ in claimed] for v in ("validated", verdict)]
    sides = []
    for said, verdicts in zip((then, now), told, strict=True):
        rows = [place for _, place in claimed]
        own = Words(said.ids[rows], said.lead[rows], said.near_tie[rows])
        sides.append(run(*verdicts, said=replace(reference(verdicts), words=said, claim_words=own)))
    assert_same(*sides)


def _with(value: FinishedRun, path: str, leaf: Any) -> FinishedRun:
    """A run with another value at a path of `diff_conditions`."""
    changed = copy.deepcopy(value)
    head, *keys, last = path.replace("\\.", "\0").split(".")
    at = getattr(changed, head)
    for key in keys:
        at = at[key]
    at[last.replace("\0", ".")] = leaf
    return changed


@pytest.mark.parametrize("path", [path for _, path, _ in _COMPARED])
def test_every_condition_that_is_compared_is_kept(path: str) -> None:
    before, after = run(entry()), _with(run(entry()), path, "other")
    assert_same(before, after)
    (what,) = (what for what, where, _ in _COMPARED if where == path)
    assert what in cells(made("conditions", before, after, judged(after)), "what")


def test_no_more_is_kept_than_the_tables_rest_on() -> None:
    before = run(entry(), said=replace(reference([entry()]), words=words((0, 1, 2, 3, 4, 7), seconds=(5,) * 6)))
    after = run(entry(), said=reference([entry()], (6, 1, 2, 3, 4, 7)), tables=["x"], docs=["y"])
    few, later = compared(before, after, of_all=False)
    assert few.reference is not None
    assert later.reference is not None
    assert few.reference.words.ids[:, :2].tolist() == [[-1, -1]] * 5 + [[7, 5]]
    assert [text for text in few.reference.surfaces if text] == [" f", " dog"]
    assert few.reference.surfaces == later.reference.surfaces
    all_of_it, _ = compared(before, after, of_all=True)
    assert all_of_it.reference is not None
    assert all_of_it.reference.words.ids[:, :2].tolist() == [[i, 5] for i in (0, 1, 2, 3, 4, 7)]
    assert set(later.results) == {
        *("model", "verdicts", "self_test", "partial", "profile", "seed", "options", "environment")
    }
    assert set(few.lock) == set(LOCK)
    # What comes of this run's evidence is taken from there.
    assert later.results["verdicts"] == []
    assert not later.reference.effects.any()
    assert not later.reference.measured.any()


# --- a value that was changed ---------------------------------------------------------------------------


def test_a_changed_effect_word_or_verdict_changes_its_table() -> None:
    before, after = run(entry()), run(entry())
    true = {name: made(name, before, after, judged(after)) for name in ("roles", "change", "words", "labels")}
    weaker = judged(run(entry(), said=reference([entry()], effects=[0.9 * CLEAN])))
    assert made("change", before, after, weaker) != true["change"]
    assert (
        made("roles", before, after, judged(run(entry("refuted"), said=reference([entry()], effects=[OFF]))))
        != (true["roles"])
    )
    named = run(entry(), said=reference([entry()], (0, 1, 2, 3, 5, 6)))
    for name in ("words", "labels"):
        assert made(name, named, after, judged(after)) != true[name]
    assert made("roles", run(entry("refuted")), after, judged(after)) != true["roles"]


def test_a_table_that_the_comparison_has_not_is_refused() -> None:
    with pytest.raises(RunError, match="has no table 'x'") as caught:
        made("x", run(entry()), run(entry()), judged(run(entry())))
    assert_one_line_with_next_step(caught.value)


# --- this run's own ---------------------------------------------------------------------------------------


def test_each_claimed_neurons_words_are_told() -> None:
    claims = [entry(), entry("refuted", "L0N1", " cat", id="cat", pole="-", lens="write")]
    said = reference(claims, (0, 9, 2, 3, 4, 7))
    assert derivation_id(reference_table)
    of_words = replace(said.claim_words, lead=np.array([1.5, 0.25], dtype=np.float32))
    values = (Recorded("judgements", "claims"), of_words, said.best, said.roster, said.texts(of_words))
    arrays, _ = keep(("A title",), values, {})
    assert said.texts(of_words) == {7: " dog", 9: "\u202e"}
    table = read(arrays).called(reference_table, lambda _: judged(run(*claims, said=said)))
    assert table[1] == [
        ["dog", "L1N2", "paper", "+", "␣dog", 1.5, "L1N2", "validated"],
        ["cat", "L0N1", "write", "-", "\\u{202e}", 0.25, None, "refuted"],
    ]
    assert cells(table, "verdict") == ["validated", "refuted"]
