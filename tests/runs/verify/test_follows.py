"""Tables, figures and reports that do not follow from what was measured are named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flashinterp.runs.folder.rendered_files import rendered
from flashinterp.runs.folder.run_folder import RunFolder, read_arrays
from flashinterp.runs.verify.verify import verify
from tests.runs.finished_run import edit_json, list_anew
from tests.runs.verify.told import DERIVED, drawn, first


@pytest.mark.parametrize(
    "name", ["report.html", "report.md", "junit.xml", "environment.json", "tables/answers--paper.md"]
)
def test_what_follows_from_results_follows_byte_for_byte(run: Path, name: str) -> None:
    file = run / name
    file.write_bytes(file.read_bytes()[:-1] + b" ")
    list_anew(run)
    assert f"{name} is not what results.json gives" in first(run)


def test_a_figure_that_shows_something_else_is_noticed(run: Path) -> None:
    drawing = run / "figures" / "specialised_neurons--s.svg"
    drawing.write_text(drawing.read_text().replace("#0072b2", "#d55e00"))
    list_anew(run)
    assert "figures/specialised_neurons--s.svg does not show the points that raw/ gives" in first(run)


def test_a_figure_whose_values_are_not_kept_is_held_to_the_report(run: Path) -> None:
    drawing = run / "figures" / "specialised_neurons--own.svg"
    drawing.write_text(drawing.read_text().replace("#0072b2", "#d55e00"))
    list_anew(run)
    assert "report.html is not what results.json gives" in first(run)


def test_a_figure_of_its_own_is_noticed(run: Path) -> None:
    shutil.copy(run / "figures" / "specialised_neurons--s.svg", run / "figures" / "more.svg")
    list_anew(run)
    assert "figures/more.svg is in the folder" in first(run)


def test_another_matplotlib_draws_other_strokes_through_the_same_points(run: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("matplotlib.__version__", "0.0")
    drawing = run / "figures" / "specialised_neurons--s.svg"
    drawing.write_text(drawing.read_text().replace("#0072b2", "#d55e00"))
    for path, text in rendered(json.loads((run / "results.json").read_text()), drawn(run)).items():
        RunFolder(run).write_at(path, text)
    list_anew(run)
    found = verify(run)
    assert found.ok
    (figures,) = (c for c in found.checks if c.name == "figures")
    assert "point by point" in figures.told


def test_a_table_whose_derivation_was_dropped_is_not_called_derived(run: Path) -> None:
    """What a forger can do: the reader is told what rests on nothing but digests."""
    edit_json(run / "results.json", lambda r: r.update(derivations=[]))
    list_anew(run)
    found = verify(run)
    assert found.derived == found.drawn == ()
    assert set(DERIVED) <= set(found.covered)
    assert {c.state for c in found.checks if c.name in ("tables", "figures")} == {"not checked"}


def raw_changed(run: Path, name: str, **changes: Any) -> str:
    arrays = read_arrays(run / "raw" / f"{name}.npz")
    RunFolder(run).write_arrays(name, arrays | {k: np.asarray(v(arrays[k])) for k, v in changes.items()})
    list_anew(run)
    return first(run)


@pytest.mark.parametrize(
    ("name", "changes", "told"),
    [
        ("claims--dog", {"log_odds": lambda a: a[:, ::-1]}, "by its evidence it is"),
        ("claims--dog", {"present": lambda a: -a}, "by its evidence it is"),
        ("claims--dog", {"log_odds": lambda a: a * 1.001}, "differs from its evidence"),
        ("claims--a-b-2", {"kl": lambda a: a + 9}, "by its evidence it is"),
        ("roles--dog", {"after": lambda a: 0 * a}, "by its evidence it is"),
        ("roles--dog", {"before": lambda a: a * 1.001}, "differs from its evidence"),
        ("lens_predicts_causality--real", {"effects": lambda a: a[::-1]}, "the table lens_predicts_causality--lenses"),
        ("clamp_causality--natural", {"panel0_curves": lambda a: a + 1}, "the points of panel0_curves are not those"),
        ("specialised_neurons--s", {"score": lambda a: a[:-1]}, "the points of score are not those"),
        ("specialised_neurons--s--figure", {"a0": lambda a: a + 1}, "the points of score are not those"),
        ("specialised_neurons--s--figure", {"value": lambda a: a[:-1]}, "cannot be made from raw/specialised_neurons"),
        ("clamp_causality--2--finding", {"value": lambda a: a[1:]}, "the finding clamp_causality--2 cannot be made"),
        ("lens_predicts_causality--permuted-1", {"effects": lambda a: a[::-1]}, "the table lens_predicts_causality--n"),
    ],
)
def test_raw_numbers_are_held_against_the_verdicts(
    run: Path, name: str, changes: dict[str, Callable[[Any], Any]], told: str
) -> None:
    assert told in raw_changed(run, name, **changes)


def test_evidence_that_is_not_there_is_named(run: Path) -> None:
    (run / "raw" / "claims--dog.npz").unlink()
    list_anew(run)
    assert "raw/claims--dog.npz is what a verdict, table or figure rests on, and is not there" in first(run)


def test_a_damaged_or_dangerous_file_of_numbers_is_named(run: Path) -> None:
    file = run / "raw" / "own--raw.npz"
    for content in (b"", b"PK\x03\x04", file.read_bytes()[:-40]):
        file.write_bytes(content)
        list_anew(run)
        assert "own--raw.npz cannot be read as arrays" in first(run)
    np.savez(file, x=np.array([{}], dtype=object))
    list_anew(run)
    assert "own--raw.npz cannot be read as arrays" in first(run)
