"""A table is made from what is kept, not from what was handed in, and only by functions that are known."""

from __future__ import annotations

import ast
import functools
import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flashinterp.errors import RunError
from flashinterp.evaluation.tables import verdicts_counted
from flashinterp.models.checkpoint import Checkpoint
from flashinterp.provenance import derivation as derivation_module
from flashinterp.provenance.derivation import Derivation, keep, read
from flashinterp.provenance.recorded import Recorded
from flashinterp.provenance.registry import derivation, derivation_id
from flashinterp.report.charts.neurons import spikes
from flashinterp.runs.eval_recorder import EvalRecorder
from tests.helpers import assert_one_line_with_next_step
from tests.runs.finished_run import begun

ROOT = Path(__file__).parents[2]


@derivation("tests.mean_table", version=1)
def mean_table(values: Any, word: str = "mean") -> tuple[list[str], list[list[Any]], str]:
    return [word], [[float(np.mean(values))]], "The mean."


@derivation("tests.words_of", version=1)
def words_of(values: Any) -> tuple[str, None]:
    return f"{np.mean(values):.1f}", None


@pytest.fixture
def session(tmp_path: Path, planted: Checkpoint) -> Any:
    return begun(tmp_path / "run", planted, None)


@pytest.mark.parametrize("file", sorted((ROOT / "evals").glob("test_*.py")), ids=lambda file: file.stem)
def test_the_packages_own_evals_hand_in_nothing_that_cannot_be_made_again(file: Path) -> None:
    """Also where a table is rare: of what could not be measured, of a model without a fine-tune."""
    calls = [node for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    ours = [(c.func.attr, c.args) for c in calls if isinstance(c.func, ast.Attribute) and c.args]
    assert "table" not in {name for name, _ in ours}
    place = {"derived": 0, "figure": 0, "finding": 2}
    made = [args[place[name]] for name, args in ours if name in place and len(args) > 2]
    imported = importlib.import_module(f"evals.{file.stem}")
    named = [getattr(imported, make.id) for make in made if isinstance(make, ast.Name) and hasattr(imported, make.id)]
    assert all(map(derivation_id, named))
    assert named or any(isinstance(make, ast.Name) for make in made)


def test_values_come_back_as_a_reader_has_them() -> None:
    arrays, values = keep(("A title",), [np.float32([1, 2])], {"word": "x"})
    again = read(arrays)
    assert again.head == values.head == ("A title",)
    assert again.called(mean_table, lambda _: None) == (["x"], [[1.5]], "The mean.")


def test_what_was_recorded_is_looked_up_when_the_function_is_called() -> None:
    _, values = keep((), [Recorded("judgements", "claims", "verdicts")], {})
    asked: list[Recorded] = []

    def resolve(recorded: Recorded) -> Any:
        asked.append(recorded)
        return []

    assert values.called(verdicts_counted, resolve) == ("", None)
    assert asked == [Recorded("judgements", "claims", "verdicts")]


def test_a_table_a_figure_and_a_finding_are_kept_with_their_values(session: Any) -> None:
    evidence = EvalRecorder(session, "an_eval")
    evidence.derived(mean_table, "means", "Means", np.array([1.0, 3.0]), word="mean (nats)")
    evidence.figure(spikes, "s", "Spikes", np.ones((2, 4)))
    evidence.finding(7, "1.0 in the paper", words_of, [2.0, 4.0])
    assert evidence.recorded == 2
    (table,) = session.tables
    assert (table.name, table.headers, table.rows) == ("an_eval--means", ("mean (nats)",), ((2.0,),))
    assert session.figures[0].name == "an_eval--s"
    assert (session.findings[0].here, session.findings[0].planted) == ("3.0", None)
    assert [d.record() for d in session.derivations] == [
        {"kind": "table", "name": "an_eval--means", "make": "tests.mean_table/1", "raw": "an_eval--means--table"},
        {"kind": "figure", "name": "an_eval--s", "make": "charts.score_spikes/1", "raw": "an_eval--s--figure"},
        {"kind": "finding", "name": "an_eval--7", "make": "tests.words_of/1", "raw": "an_eval--7--finding"},
    ]
    raw = session.folder.path / "raw"
    assert all((raw / f"{d.raw}.npz").is_file() for d in session.derivations)
    assert (raw / "an_eval--s.npz").is_file()


def test_what_several_tables_rest_on_is_kept_once(session: Any) -> None:
    evidence = EvalRecorder(session, "an_eval")
    shared = evidence.value("samples", np.array([1.0, 3.0]))
    assert shared == Recorded("values", "an_eval--samples--values")
    evidence.derived(mean_table, "one", "One", shared)
    evidence.derived(mean_table, "two", "Two", shared, word="again")
    assert [t.rows for t in session.tables] == [((2.0,),), ((2.0,),)]
    raw = session.folder.path / "raw"
    assert sorted(p.name for p in raw.iterdir()) == [
        "an_eval--one--table.npz",
        "an_eval--samples--values.npz",
        "an_eval--two--table.npz",
    ]
    with pytest.raises(RunError, match="two sets of raw numbers are named 'an_eval--samples--values'"):
        evidence.value("samples", [1.0])


def test_a_table_without_rows_is_refused(session: Any) -> None:
    @derivation("tests.nothing", version=1)
    def nothing() -> Any:
        return ["word"], [], ""

    with pytest.raises(RunError, match="has no rows: record what was measured, or why nothing was"):
        EvalRecorder(session, "an_eval").derived(nothing, "means", "Means")


def test_the_table_is_made_from_what_came_back(session: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What packing loses would otherwise be found by `verify` only, when the run is over."""
    monkeypatch.setattr(derivation_module, "read", lambda _: derivation_module.CallValues(("T",), ([5.0],), {}))
    EvalRecorder(session, "an_eval").derived(mean_table, "means", "Means", [1.0])
    assert session.tables[0].rows == ((5.0,),)


@pytest.mark.parametrize("make", [lambda values: mean_table(values), functools.partial(mean_table, word="x"), {}.get])
def test_a_function_without_an_id_is_refused_where_it_is_handed_in(session: Any, make: Any) -> None:
    """Its table would be shown, and nobody could tell by what it was made."""
    evidence = EvalRecorder(session, "an_eval")
    for hand_in in (evidence.derived, evidence.figure):
        with pytest.raises(RunError, match=r"which has no id: give it one with @derivation") as caught:
            hand_in(make, "means", "Means", [1.0])
        assert_one_line_with_next_step(caught.value)
    with pytest.raises(RunError, match="the finding an_eval--7 is made by"):
        evidence.finding(7, "1.0 in the paper", make, [1.0])
    assert evidence.recorded == 0
    assert (session.tables, session.figures, session.findings, session.derivations) == ([], [], [], [])
    assert not list((session.folder.path / "raw").iterdir())


def test_values_that_cannot_be_kept_are_refused_before_the_table_is(session: Any) -> None:
    with pytest.raises(RunError, match="cannot be kept in raw/"):
        EvalRecorder(session, "an_eval").derived(mean_table, "means", "Means", object())
    assert session.tables == []


def test_a_derivations_file_has_a_name_that_a_folder_takes() -> None:
    with pytest.raises(RunError, match="cannot name a file"):
        _ = Derivation("table", "../x", "mean_table").raw
