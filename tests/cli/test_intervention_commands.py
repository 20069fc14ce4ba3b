"""The commands that run a model: what they print is what the library measures."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from flashinterp import Checkpoint, open_checkpoint, steer, sweep
from flashinterp.cli import inputs, main
from flashinterp.evaluation.experiment import Experiment
from flashinterp.evaluation.natural_range import natural_range
from flashinterp.evaluation.profiles import PROFILES
from flashinterp.evaluation.prompts import shipped
from flashinterp.neurons import NeuronId

Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command with --json and reads what it prints."""

    def run(*args: object) -> dict[str, Any]:
        assert main([str(arg) for arg in (*args, "--json")]) == 0
        record: dict[str, Any] = json.loads(capsys.readouterr().out)
        return record

    return run


@pytest.fixture(scope="module")
def model(fixture_folder: Path) -> Path:
    return fixture_folder / "planted"


# --- sweep --------------------------------------------------------------------------------------------


def test_sweep_is_the_librarys(run: Run, model: Path, planted: Checkpoint, planted_model: Any) -> None:
    texts = ["I took a walk with my", "It was a"]
    inputs = [part for text in texts for part in ("--prompt", text)]
    told = run("sweep", model, "L1N17", " dog", " cat", *inputs, "--values=-2:4:3", "--site", "gate")
    wanted = sweep(planted_model, planted.tokenizer, texts, ["L1N17"], [-2, 1, 4], [" dog", " cat"], site="gate")
    assert told["values"] == [-2, 1, 4]
    for i, token in enumerate(told["tokens"]):
        np.testing.assert_array_equal(np.float32(token["log_probs"]), wanted.log_probs[0, :, :, i])
        np.testing.assert_array_equal(np.float32(token["clean"]), wanted.clean[:, i])


def test_sweep_over_the_natural_range(run: Run, model: Path, planted: Checkpoint, planted_model: Any) -> None:
    told = run("sweep", model, "L1N17", " dog")
    bench = Experiment(planted_model, planted, shipped(), PROFILES["standard"], 0)
    assert told["prompts"] == list(bench.heldout)
    assert len(told["values"]) == bench.profile.doses
    assert told["values"] == sorted(told["values"])
    low, high = natural_range(bench, NeuronId.parse("L1N17"))  # without the concept's own contexts
    assert told["values"][0] < high
    assert told["values"][-1] > low


def test_sweep_draws_and_prints(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plot = tmp_path / "dog.svg"
    args = ["sweep", str(model), "L1N17", " dog", "--values", "4,-2,0,4", "--prompt", "A", "--plot", str(plot)]
    assert main(args) == 0
    drawn = ElementTree.parse(plot).getroot()
    assert drawn.tag.endswith("svg")
    rows = [line.split("│")[1].strip() for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    assert rows == ["clamp", "none", "-2", "0", "4"]


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["sweep", "{}", "L1N99999", " dog", "--values", "0"], "out of range"),
        (["sweep", "{}", "L1N17", "xyzzyx", "--values", "0"], "not one token"),
        (["sweep", "{}", "L1N17", " dog", "--values", "0", "--device", "nowhere"], "there is no device"),
        (["sweep", "{}", "L1N17", " dog", "--prompts", "nowhere.json"], "name one that is there"),
        (["steer", "{}", "A", "--clamp", "L1N99999=1"], "out of range"),
        (["steer", "{}", "A", "--clamp", "L1N17=1", "--chat"], "chat template"),
        (["export-clamp", "{}", "--clamp", "L1N17=1", "-o", "{}"], "{}"),
    ],
)
def test_what_cannot_be_run(args: list[str], told: str, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([a.format(model) for a in args]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert told.format(model) in line


# --- steer --------------------------------------------------------------------------------------------


def test_steer_is_the_librarys(run: Run, model: Path, planted: Checkpoint, planted_model: Any) -> None:
    told = run(
        "steer", model, "It was a", "--clamp", "L1N17=9", "-n", 3, "--seed", 5, "--new-tokens", 6, "--word", "dog"
    )
    wanted = steer(
        planted_model,
        planted.tokenizer,
        "It was a",
        {"L1N17": 9.0},
        n=3,
        rng=np.random.default_rng(5),
        max_new_tokens=6,
    )
    assert (told["clean"], told["clamped"]) == (list(wanted.clean), list(wanted.clamped))
    says = sum("dog" in text.lower().split() for text in wanted.clamped)
    assert told["rates"]["dog"]["clamped"]["estimate"] >= says / 3
    assert told["settings"]["do_sample"] is True


def test_steer_greedily_prints_both_sides(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(["steer", str(model), "It was a", "--clamp", "L1N17=9", "-n", "2", "--greedy", "--new-tokens", "4"]) == 0
    )
    out = capsys.readouterr().out
    assert "unclamped" in out
    assert "L1N17=9" in out


# --- export-clamp, reverse ----------------------------------------------------------------------------


def test_an_exported_clamp_is_a_checkpoint(run: Run, model: Path, tmp_path: Path) -> None:
    told = run("export-clamp", model, "--clamp", "L1N17=4.5", "--clamp", "L3N31=-2", "-o", tmp_path / "fixed")
    assert [(c["neuron"], c["stored"]) for c in told["clamps"]] == [("L1N17", 4.5), ("L3N31", -2.0)]
    copy = open_checkpoint(tmp_path / "fixed")
    bias = copy.bias("up", 1)
    assert bias is not None
    assert float(bias[17]) == 4.5


def test_reverse_writes_a_copy(run: Run, model: Path, tmp_path: Path) -> None:
    told = run("reverse", model, " dog", "--edits", 2, "--controls", 2, "-o", tmp_path / "none")
    assert (told["token"], told["edits"], len(told["rows"])) == (" dog", 2, 2)
    assert open_checkpoint(told["folder"]).layout.n_layers > 0


# --- progress -----------------------------------------------------------------------------------------

LONG = {
    "sweep": (["sweep", "{}", "L1N17", " dog", "--prompt", "A", "--values", "0,1,2"], "sweeping L1N17", "3.00/3.00"),
    "steer": (
        ["steer", "{}", "It was a", "--clamp", "L1N17=9", "-n", "2", "--new-tokens", "3"],
        "answering",
        "4.00/4.00",
    ),
    "reverse": (["reverse", "{}", " dog", "--edits", "1", "--controls", "1"], "reversing ' dog'", "6.00/6.00"),
}


@pytest.mark.parametrize("command", LONG)
@pytest.mark.parametrize("as_json", [False, True], ids=["table", "json"])
def test_a_bar_is_drawn_on_a_terminal_and_nowhere_else(
    command: str, as_json: bool, model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    args, what, end = LONG[command]
    given_ = [arg.format(model) for arg in args] + ["--json"] * as_json
    clock = count(step=3)
    monkeypatch.setattr("tqdm.std.time", lambda: float(next(clock)))  # a bar waits for the second second

    assert main(given_) == 0
    silent = capsys.readouterr()
    assert silent.err == ""

    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert main(given_) == 0
    told = capsys.readouterr()
    assert told.out == silent.out
    last = told.err.rstrip().rpartition("\r")[2]
    assert last.startswith(f"{what}: 100%")
    assert end in last


def test_a_bar_is_not_drawn_for_what_is_quick(
    model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    args, what, _ = LONG["sweep"]
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr("tqdm.std.time", lambda: 0.0)
    assert main([arg.format(model) for arg in args]) == 0
    assert f"{what}: 100%" not in capsys.readouterr().err


# --- what is given ------------------------------------------------------------------------------------


def test_ranges_and_lists() -> None:
    assert inputs.values("3,-1, 2,3") == [-1, 2, 3]
    assert inputs.values("-500:500:5") == [-500, -250, 0, 250, 500]
    assert inputs.layers("0-2,7,2") == [0, 1, 2, 7]
    assert inputs.clamps(("L1N17=10.3", "L2E4N5=-1e2")) == {"L1N17": 10.3, "L2E4N5": -100.0}
    assert (inputs.token("id:12"), inputs.token(" dog"), inputs.token("id:x")) == (12, " dog", "id:x")
