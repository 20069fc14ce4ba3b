"""The commands that read weights: what they print is what the library says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from flashinterp import NeuronMap, alignment, compare, decode, find_each
from flashinterp.cli import main
from flashinterp.decoding import decode as decode_module
from flashinterp.models.checkpoint import Checkpoint

Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command with --json and reads what it prints; nothing else may be on stdout or stderr."""

    def run(*args: object) -> dict[str, Any]:
        assert main([str(arg) for arg in (*args, "--json")]) == 0
        out, err = capsys.readouterr()
        assert err == ""
        record: dict[str, Any] = json.loads(out)
        assert record["command"] == args[0]
        return record

    return run


@pytest.fixture
def table(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command and returns the table that it prints."""

    def table(*args: object) -> str:
        assert main([str(arg) for arg in args]) == 0
        return capsys.readouterr().out

    return table


@pytest.fixture(scope="module")
def model(fixture_folder: Path) -> Path:
    return fixture_folder / "planted"


@pytest.fixture(scope="module")
def saved(planted: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return decode(planted).save(tmp_path_factory.mktemp("maps") / "map.safetensors")


# --- map ----------------------------------------------------------------------------------------------


def test_map_writes_what_decode_makes(run: Run, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "late.safetensors"
    told = run("map", model, "-o", out, "--lens", "write", "--layers", "1-2", "--top-k", 20)
    made = NeuronMap.load(out)
    assert (made.layers, made.meta["lens"], made.top_ids.shape[1]) == ((1, 2), "write", 20)
    assert (told["layers"], told["neurons"], told["bytes"]) == ([1, 2], len(made), out.stat().st_size)


def test_map_with_another_head(run: Run, fixture_folder: Path, model: Path, tmp_path: Path) -> None:
    told = run("map", model, "-o", tmp_path / "m.safetensors", "--head-of", fixture_folder / "tuned")
    assert told["meta"]["head_of"] == str(fixture_folder / "tuned")


# --- find, neuron -------------------------------------------------------------------------------------


def test_find_in_a_model_is_the_search_by_contrast(run: Run, model: Path, planted: Checkpoint) -> None:
    told = run("find", model, " dog", "California", "-n", 2, "--lens", "all", "--no-cache")
    assert (told["lens"], told["searched"]) == ("all", 1024)
    wanted = [m for found in find_each(planted, [" dog", "California"], lens="all", n=2, cache=False) for m in found]
    assert [(f["neuron"], f["pole"], f["lens"], f["place"]) for f in told["found"]] == [
        (str(m.neuron), m.pole, m.lens, m.rank) for m in wanted
    ]
    assert [f["p"] for f in told["found"]] == pytest.approx([m.p for m in wanted], rel=1e-3)
    assert told["found"][0]["words"] == list(wanted[0].words)


def test_find_in_a_model_prints_how_surely_and_what_else_it_says(table: Callable[..., str], model: Path) -> None:
    shown = " ".join(table("find", model, " dog", "-n", 1, "--no-cache").split())
    assert "L1N17" in shown
    assert "␣dog" in shown
    assert "best of all 1,024 neurons" in shown


def test_find_by_word(run: Run, saved: Path) -> None:
    found = run("find", saved, " dog", "California", "-n", 2)["found"]
    assert [(f["token"], f["rank"]) for f in found] == [
        (" dog", 1),
        (" dog", 2),
        (" California", 1),
        (" California", 2),
    ]
    assert (found[0]["neuron"], found[0]["pole"], found[0]["certain"]) == ("L1N17", "+", True)
    assert (found[2]["layer"], found[2]["index"], found[2]["pole"], found[2]["expert"]) == (3, 31, "-", None)


def test_find_by_id_and_pole(run: Run, saved: Path) -> None:
    neurons = NeuronMap.load(saved)
    token = neurons.vocabulary.resolve(" dog").id
    found = run("find", saved, f"id:{token}", "--pole", "-", "-n", 3)["found"]
    wanted = neurons.find(token, 3, "-")
    assert [(f["neuron"], f["score"]) for f in found] == [(str(w.neuron), w.score) for w in wanted]


def test_find_prints_a_table(table: Callable[..., str], saved: Path) -> None:
    shown = table("find", saved, " dog", "-n", 1)
    assert "L1N17" in shown
    assert "␣dog" in shown


def test_neuron_shows_both_poles(run: Run, saved: Path) -> None:
    neurons = NeuronMap.load(saved)
    words = run("neuron", saved, "L1N17", "L3N31", "-n", 3)["words"]
    assert [(w["neuron"], w["pole"], w["rank"]) for w in words] == [
        (name, pole, rank) for name in ("L1N17", "L3N31") for pole in "+-" for rank in (1, 2, 3)
    ]
    assert [w["token"] for w in words[:3]] == [w.token.text for w in neurons.words("L1N17", 3)]


def test_neuron_of_a_model_decodes_its_layer_only(run: Run, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layers: list[Any] = []
    original = decode_module.decode
    monkeypatch.setattr(decode_module, "decode", lambda *a, **k: layers.append(k["layers"]) or original(*a, **k))  # type: ignore[func-returns-value]
    assert run("neuron", model, "L1N17", "--pole", "+", "-n", 1)["words"][0]["token"] == " dog"
    assert layers == [[1]]


def test_a_neuron_that_is_not_there(model: Path, saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for place in (model, saved):
        assert main(["neuron", str(place), "L99N0"]) == 2
        assert "out of range" in capsys.readouterr().err


def test_a_map_of_another_lens_is_not_taken(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["find", str(saved), " dog", "--lens", "write"]) == 2
    assert "is a map of the paper lens" in capsys.readouterr().err


def test_a_map_is_no_model(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["align", str(saved)]) == 2
    assert main(["map", str(saved), "-o", str(saved.with_name("other.safetensors"))]) == 2
    assert "a model is wanted" in capsys.readouterr().err


# --- compare, align -----------------------------------------------------------------------------------


def test_compare_counts_what_the_library_counts(run: Run, saved: Path, fixture_folder: Path, tuned: Checkpoint) -> None:
    told = run("compare", saved, fixture_folder / "tuned", "-n", 2)
    wanted = compare(NeuronMap.load(saved), decode(tuned))
    assert wanted.share is not None
    assert told["all"]["kept_share"] == wanted.share.estimate
    assert [r["kept"] for r in told["per_layer"]] == [wanted.changes(layer)["kept"] for layer in wanted.map_a.layers]
    assert [c["neuron"] for c in told["most_changed"]] == list(map(str, wanted.most_changed(2)))
    first = told["most_changed"][0]
    assert first["was"] != first["is"]


def test_compare_with_itself_lists_no_change(table: Callable[..., str], saved: Path) -> None:
    shown = table("compare", saved, saved)
    assert "100" in shown
    assert "were lost" not in shown


def test_what_cannot_be_compared(saved: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "write.safetensors"
    assert main(["map", str(model), "-o", str(other), "--lens", "write"]) == 0
    capsys.readouterr()
    assert main(["compare", str(saved), str(other)]) == 2
    assert "are not comparable: lens is paper" in capsys.readouterr().err


def test_align_and_its_figure(run: Run, model: Path, planted: Checkpoint, tmp_path: Path) -> None:
    told = run("align", model, "-n", 3, "--plot", tmp_path / "a.svg")
    wanted = alignment(planted)
    assert [layer["maximum"] for layer in told["per_layer"]] == [layer.maximum for layer in wanted.per_layer]
    assert told["best"][0]["alignment"] == float(wanted.max_abs.max())
    assert ElementTree.parse(tmp_path / "a.svg").getroot().tag.endswith("svg")


# --- export -------------------------------------------------------------------------------------------


def test_export(run: Run, saved: Path, tmp_path: Path) -> None:
    out = tmp_path / "labels.jsonl"
    told = run("export", saved, "-o", out, "-n", 2, "--pole", "+")
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert told["rows"] == len(rows) == len(NeuronMap.load(saved))
    assert told["format"] == "jsonl"
    assert next(r for r in rows if r["name"] == "L1N17")["words"][0] == " dog"


def test_a_long_table_is_whole(table: Callable[..., str], saved: Path) -> None:
    shown = table("neuron", saved, "L1N17", "-n", 45)
    assert shown.count("L1N17") == 90
    assert "more rows" not in shown
