"""Folders that an earlier release wrote verify with this one, whatever its functions and classes are called now."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flashinterp.provenance.packing import VALUE
from flashinterp.report.paper_answers import NAME as ANSWERS
from flashinterp.runs.folder.run_folder import RunFolder, read_arrays
from flashinterp.runs.verify.verify import verify
from tests.runs.finished_run import copied, edit_json, list_anew
from tests.runs.verify.told import first

RUNS = Path(__file__).parents[3] / "fixtures" / "runs"
SHARES, SPIKES = "finetune_preservation--shares", "specialised_neurons--spikes-269"


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A copy, to damage. Most of it is not to be made again, for the sake of time."""
    run = copied(RUNS / "v1-decoys", tmp_path / "run")

    def few(results: Any) -> None:
        kept = [e for e in results["derivations"] if e["kind"] == "finding" or e["name"] in (SHARES, SPIKES)]
        results["derivations"] = kept

    edit_json(run / "results.json", few)
    list_anew(run)
    return run


@pytest.mark.parametrize("name", ["v1-decoys", "v1-storybook"])
def test_an_old_folder_verifies_and_all_of_it_is_made_again(name: str) -> None:
    """They were written before there were ids. Their answers are words, which a later release may word otherwise."""
    found = verify(RUNS / name)
    assert found.first is None
    assert found.not_checked == ()
    assert set(found.covered) <= {ANSWERS}
    results = json.loads((RUNS / name / "results.json").read_text(encoding="utf-8"))
    assert len(found.derived) >= len(results["tables"]) - 1 > 70
    assert len(found.drawn) == len(results["figures"]) == 12


def raw_changed(run: Path, name: str, key: str, change: Any) -> str:
    arrays = read_arrays(run / "raw" / f"{name}.npz")
    RunFolder(run).write_arrays(name, arrays | {key: np.asarray(change(arrays[key]))})
    list_anew(run)
    return first(run)


def flipped(array: Any) -> Any:
    """Another number in the first place."""
    changed = array.copy()
    changed.flat[0] = not changed.flat[0] if changed.dtype == bool else changed.flat[0] + 1
    return changed


@pytest.mark.parametrize(
    ("name", "key", "told"),
    [
        (f"{SHARES}--table", "a0", f"the table {SHARES} is not what raw/ gives"),
        (SPIKES, "score", f"raw/{SPIKES}.npz: the points of score"),
    ],
)
def test_another_number_is_noticed_though_other_code_wrote_it(old: Path, name: str, key: str, told: str) -> None:
    assert told in raw_changed(old, name, key, flipped)


def test_what_this_release_cannot_make_of_the_values_is_a_difference(old: Path) -> None:
    """The function is known: an error in it is no reason to leave the table out."""
    told = raw_changed(old, f"{SHARES}--table", VALUE, lambda text: text[:-1])
    assert f"the table {SHARES} cannot be made from raw/{SHARES}--table.npz" in told


def made_by(run: Path, **changes: str) -> None:
    def change(results: Any) -> None:
        for entry in results["derivations"]:
            entry["make"] = changes.get(f"{entry['name']}__{entry['kind']}", entry["make"])

    edit_json(run / "results.json", change)
    list_anew(run)


@pytest.mark.parametrize("make", ["finetuning.label_shares/2", "shares_of_old", "mylab.shares/1"])
def test_a_function_of_another_release_is_reported_by_name(old: Path, make: str) -> None:
    made_by(old, **{f"{SHARES}__table": make})
    found = verify(old)
    assert found.ok
    assert SHARES in found.covered
    (left,) = found.not_checked
    assert left.startswith(f"{SHARES}: made by {make}, ")
    assert f"Not checked, 1: {left}." in found.said()
    assert left in json.dumps(found.record())
    (tables,) = (c for c in found.checks if c.name == "tables")
    assert tables.told.endswith("; 1 not checked")


def test_the_version_that_is_there_is_told(old: Path) -> None:
    made_by(old, **{f"{SHARES}__table": "finetuning.label_shares/2"})
    assert verify(old).not_checked == (
        f"{SHARES}: made by finetuning.label_shares/2, this release has /1: verify it with the flashinterp that wrote "
        "it (environment.json)",
    )


def test_a_record_of_another_release_is_reported_by_name(old: Path) -> None:
    name = f"{SHARES}--table"
    arrays = read_arrays(old / "raw" / f"{name}.npz")
    text = bytes(arrays[VALUE]).replace(b'["Labels",', b'["finetuning.labels/2",')
    RunFolder(old).write_arrays(name, arrays | {VALUE: np.frombuffer(text, np.uint8)})
    list_anew(old)
    found = verify(old)
    assert found.ok
    (left,) = found.not_checked
    assert left.startswith(f"{SHARES}: made of finetuning.labels/2, this release has /1: ")


def test_of_answers_with_one_left_out_nothing_is_called_made_again(old: Path) -> None:
    made_by(old, **{"clamp_causality--2__finding": "evaluation.verdict_counts/2"})
    found = verify(old)
    assert found.ok
    assert ANSWERS in found.covered
    assert found.not_checked[0].startswith("clamp_causality--2: made by evaluation.verdict_counts/2, ")
