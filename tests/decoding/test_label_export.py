"""Labels as files: every row is what `NeuronMap.words` says, in every format, and no cell is a formula."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flashinterp import Block, MapError, NeuronMap, decode
from flashinterp.decoding import label_export as catalogue_module
from flashinterp.decoding.label_export import COLUMNS, json_text, labels, write_labels
from flashinterp.models.checkpoint import Checkpoint
from flashinterp.neuron_index import NeuronIndex
from flashinterp.neurons import POLES
from flashinterp.tokens import Vocabulary
from tests.helpers import assert_one_line_with_next_step, map_by_hand

HOSTILE = ["=cmd|' /C calc'!A0", "@SUM(1)", "+1", "-1", "\t=1", "\r", 'a","b', "\u202etxt\u202c", " dog\n", "\u72ac"]
LISTS = ("token_ids", "words", "logits", "scores", "probabilities")


@pytest.fixture(scope="module")
def neurons(planted: Checkpoint) -> NeuronMap:
    return decode(planted)


def read_csv(path: Path) -> list[dict[str, Any]]:
    with open(path, encoding="utf-8", newline="") as file:
        rows: list[dict[str, Any]] = list(csv.DictReader(file))
    for row in rows:
        for key in (*LISTS, "word", "layer", "expert", "neuron", "token_id", "score", "probability"):
            row[key] = json.loads(row[key]) if row[key] else None
    return rows


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def read_parquet(path: Path) -> list[dict[str, Any]]:
    parquet = pytest.importorskip("pyarrow.parquet")
    rows: list[dict[str, Any]] = parquet.read_table(path).to_pylist()
    return rows


READERS = {"csv": read_csv, "jsonl": read_jsonl, "parquet": read_parquet}


@pytest.fixture(params=sorted(READERS))
def written(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., list[dict[str, Any]]]:
    """Writes a map in one of the formats and reads it back."""
    if request.param == "parquet":
        pytest.importorskip("pyarrow")

    def write(neurons: NeuronMap, **options: Any) -> list[dict[str, Any]]:
        path = tmp_path / f"labels.{request.param}"
        count = write_labels(neurons, path, **options)
        rows = READERS[request.param](path)
        assert len(rows) == count
        assert [p.name for p in tmp_path.iterdir()] == [path.name]  # nothing else is left
        return rows

    return write


def hostile_map(excluded: list[int] | None = None) -> NeuronMap:
    """Three neurons over tokens that a spreadsheet or a terminal would act on."""
    made = map_by_hand([list(range(10)), list(range(9, -1, -1)), [3, 1, 0, 2, 4, 5, 6, 7, 8, 9]])
    words = Vocabulary(HOSTILE, excluded or [], prefix_space=False)
    return NeuronMap(**{**vars(made), "vocabulary": words})


# --- what the rows say --------------------------------------------------------------------------------


def test_every_row_is_what_the_map_says(neurons: NeuronMap, written: Callable[..., Any]) -> None:
    rows = written(neurons, n=4)
    assert [(r["name"], r["pole"]) for r in rows] == [
        (str(neurons.neuron(i)), pole) for pole in POLES for i in range(len(neurons))
    ]
    for row in rows[:: len(rows) // 200]:
        wanted = neurons.words(row["name"], 4, row["pole"])
        assert tuple(row) == COLUMNS
        assert row["name"] == f"L{row['layer']}N{row['neuron']}"
        assert row["expert"] is None
        assert row["token_ids"] == [w.token.id for w in wanted]
        assert row["words"] == [w.token.text for w in wanted]
        for key, values in (("logits", "logit"), ("scores", "score"), ("probabilities", "probability")):
            np.testing.assert_allclose(row[key], [getattr(w, values) for w in wanted], rtol=5.1e-6)  # six digits
        best = (row["word"], row["token_id"], row["score"], row["probability"])
        assert best == (row["words"][0], row["token_ids"][0], row["scores"][0], row["probabilities"][0])


def test_the_planted_neuron_is_found_by_a_join(neurons: NeuronMap, written: Callable[..., Any]) -> None:
    (dog,) = [r for r in written(neurons) if (r["layer"], r["neuron"], r["pole"]) == (1, 17, "+")]
    assert dog["word"] == " dog"


def test_one_pole(neurons: NeuronMap, written: Callable[..., Any]) -> None:
    assert {r["pole"] for r in written(neurons, n=1, poles=("-",))} == {"-"}


def test_experts_have_their_column(written: Callable[..., Any]) -> None:
    made = map_by_hand([[1, 2], [3, 4], [5, 6]])
    roster = NeuronIndex((Block(0), Block(1, 0), Block(1, 5)), (1, 1, 1))
    rows = written(NeuronMap(**{**vars(made), "roster": roster}), poles=("+",))
    assert [(r["name"], r["layer"], r["expert"], r["neuron"]) for r in rows] == [
        ("L0N0", 0, None, 0),
        ("L1E0N0", 1, 0, 0),
        ("L1E5N0", 1, 5, 0),
    ]


def test_what_is_no_word_is_left_out(written: Callable[..., Any]) -> None:
    rows = written(hostile_map(excluded=[0, 1, 2, 3, 4, 5, 6, 7, 8]), n=3, poles=("+",))
    assert [r["token_ids"] for r in rows] == [[9]] * 3
    rows = written(hostile_map(excluded=list(range(10))), n=3, poles=("+",))
    assert [(r["word"], r["token_id"], r["words"]) for r in rows] == [(None, None, [])] * 3


def test_many_neurons_come_in_parts(neurons: NeuronMap, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = [part.ids for part in labels(neurons, 3, ("+",))]
    monkeypatch.setattr(catalogue_module, "_FEW_AT_A_TIME", 7)
    parts = list(labels(neurons, 3, ("+",)))
    assert max(len(p.ids) for p in parts) == 7
    first = [p for p in parts if p.block == parts[0].block]
    assert [p.first for p in first] == list(range(0, 7 * len(first), 7))
    np.testing.assert_array_equal(np.concatenate([p.ids for p in first]), whole[0])


# --- hostile words ------------------------------------------------------------------------------------


def test_hostile_words_come_back_as_they_were(written: Callable[..., Any]) -> None:
    rows = written(hostile_map(), n=10)
    assert {word for row in rows for word in row["words"]} == set(HOSTILE)
    assert rows[0]["words"] == HOSTILE


def test_no_cell_of_a_tokenizer_is_a_formula(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    write_labels(hostile_map(), path, n=10)
    with open(path, encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    words = [header.index(name) for name in ("word", "words")]
    ours = [header.index("pole"), header.index("name")]
    for row in rows:
        assert row[ours[0]] in POLES
        for at, cell in enumerate(row):
            assert not cell.startswith(("=", "@", "\t", "\r")), header[at]
            if at in words:
                assert cell[0] in '"['


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_hidden_characters_are_escapes(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"labels.{suffix}"
    write_labels(hostile_map(), path, n=10)
    text = path.read_text(encoding="utf-8")
    assert "\u72ac" in text  # a letter stays one
    assert not {"\u202e", "\u202c", "\t", "\r"} & set(text)


@pytest.mark.parametrize("text", ["", " dog", '"\\', "\U000e0041", "\ud800", "\u2028", "\x00\x7f\x9b"])
def test_json_text_is_json_of_the_same_text(text: str) -> None:
    assert json.loads(json_text(text)) == text
    assert "\u2028" not in json_text(text)
    json_text(text).encode()  # also a lone surrogate


# --- files --------------------------------------------------------------------------------------------


def test_progress_ends_at_the_end(neurons: NeuronMap, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    write_labels(neurons, tmp_path / "l.jsonl", n=1, progress=lambda *at: seen.append(at))
    assert seen[-1] == (2 * len(neurons), 2 * len(neurons))
    assert seen == sorted(seen)


def test_a_failed_write_leaves_the_former_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("former")

    def full(file: Path, *rest: object) -> None:
        file.write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(catalogue_module._WRITERS, "csv", full)
    with pytest.raises(MapError) as raised:
        write_labels(hostile_map(), path)
    assert_one_line_with_next_step(raised.value)
    assert path.read_text() == "former"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["labels.txt", "labels", "labels.csv.gz"])
def test_another_format_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(MapError, match=r"name it \.csv, \.jsonl or \.parquet") as raised:
        write_labels(hostile_map(), tmp_path / name)
    assert_one_line_with_next_step(raised.value)


def test_parquet_without_pyarrow_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(MapError, match=r"flashinterp\[parquet\]") as raised:
        write_labels(hostile_map(), tmp_path / "labels.parquet")
    assert_one_line_with_next_step(raised.value)
