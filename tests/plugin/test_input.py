"""Bad input is one line before anything is loaded, and good input reaches the results."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from flashinterp.models import checkpoint
from flashinterp.models.checkpoint import Checkpoint, open_checkpoint
from tests.helpers import edited_copy
from tests.plugin.dummies import PASSES, Evals
from tests.runs_by_hand import entry, finish

pytest_plugins = ["pytester"]


def make_truncated(planted: Path, folder: Path) -> None:
    edited_copy(planted, folder / "truncated")
    weights = folder / "truncated" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])


def make_foreign(planted: Path, folder: Path) -> None:
    (folder / "foreign").mkdir()
    (folder / "foreign" / "thesis.tex").write_text("mine")


def make_binary_claims(planted: Path, folder: Path) -> None:
    (folder / "claims.toml").write_bytes(b"\x80\x81")


def make_list_of_results(planted: Path, folder: Path) -> None:
    (folder / "old").mkdir()
    (folder / "old" / "results.json").write_text("[]")


def make_run(planted: Path, folder: Path, *verdicts: dict[str, Any]) -> None:
    finish(folder / "old", open_checkpoint(planted), *verdicts)


def make_killed(planted: Path, folder: Path) -> None:
    make_run(planted, folder, entry())
    (folder / "old" / "manifest.json").unlink()
    (folder / "old" / "results.json").unlink()


def make_prompts(folder: Path, **changes: Any) -> None:
    shipped = resources.files("flashinterp.evaluation").joinpath("prompts.json").read_text(encoding="utf-8")
    (folder / "prompts.json").write_text(json.dumps({**json.loads(shipped), **changes}))


def make_leaking_prompts(_: Path, folder: Path) -> None:
    make_prompts(folder, contexts={"selection": ["It was late. The"], "heldout": ["It was late. The second"]})


@pytest.mark.parametrize(
    ("make", "args", "told"),
    [
        pytest.param(None, ["--model", "no/such/folder"], "there is no folder no/such/folder", id="no model"),
        pytest.param(
            lambda planted, folder: edited_copy(planted, folder / "moon", config={"model_type": "moon"}),
            ["--model", "moon"],
            "architecture 'moon' is not known",
            id="architecture",
        ),
        pytest.param(make_truncated, ["--model", "truncated"], "is not a whole safetensors file", id="truncated"),
        pytest.param(make_truncated, ["--model", "{planted}", "--tuned", "truncated"], "safetensors", id="tuned"),
        pytest.param(None, ["--tuned", "{planted}"], "--tuned needs --model", id="tuned alone"),
        pytest.param(None, ["--claims", "absent.toml"], "claim file absent.toml cannot be read", id="no claims"),
        pytest.param(make_binary_claims, ["--claims", "claims.toml"], "claims.toml cannot be read", id="binary claims"),
        pytest.param(None, ["--tokens", " dog, archaeopteryx"], "␣archaeopteryx is not one token", id="token"),
        pytest.param(None, ["--baseline", "absent"], "absent is no run's folder", id="baseline"),
        pytest.param(make_list_of_results, ["--baseline", "old"], "old/results.json is JSON, but no object", id="list"),
        pytest.param(make_run, ["--baseline", "old"], "holds no verdicts", id="baseline without verdicts"),
        pytest.param(make_killed, ["--baseline", "old"], "the run is incomplete", id="killed baseline"),
        pytest.param(
            lambda planted, folder: make_run(planted, folder, entry()),
            ["--baseline", "old"],
            "cannot be compared with the baseline old: the set of neurons is layers 0 to",
            id="baseline of another model",
        ),
        pytest.param(None, ["--prompts", "absent.json"], "prompt file absent.json cannot be read", id="no prompts"),
        pytest.param(
            lambda _, folder: (folder / "prompts.json").write_bytes(b"\x80\x81"),
            ["--prompts", "prompts.json"],
            "prompts.json is no prompt file",
            id="binary prompts",
        ),
        pytest.param(
            lambda _, folder: make_prompts(folder, questions=[]),
            ["--prompts", "prompts.json"],
            "prompts.json is no prompt file (ValueError: no texts in questions)",
            id="prompts without questions",
        ),
        pytest.param(
            make_leaking_prompts, ["--prompts", "prompts.json"], "is not apart from the selection text", id="leak"
        ),
        pytest.param(None, ["--out", "/proc/run"], "cannot write /proc/run", id="read-only"),
        pytest.param(None, ["--out", "conftest.py/run"], "cannot write conftest.py/run", id="out under a file"),
        pytest.param(None, ["--out", "conftest.py"], "conftest.py is a file", id="out is a file"),
        pytest.param(make_foreign, ["--out", "foreign"], "foreign holds 'thesis.tex'", id="foreign files"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    evals: Evals, fixture_folder: Path, make: Any, args: list[str], told: str
) -> None:
    if make:
        make(fixture_folder / "planted", evals.pytester.path)
    given = [a.format(planted=fixture_folder / "planted") for a in args]
    line = evals.refused(PASSES, *given)
    assert told in line


def test_a_baseline_is_not_overwritten_by_the_run_that_reads_it(evals: Evals) -> None:
    first = evals(PASSES)
    before = {p: p.read_bytes() for p in first.out.rglob("*") if p.is_file()}
    line = evals.refused(PASSES, "--baseline", "run/../run")
    assert "--baseline and --out are the same folder" in line
    assert {p: p.read_bytes() for p in first.out.rglob("*") if p.is_file()} == before


def test_options_reach_the_results(evals: Evals) -> None:
    run = evals(PASSES, "--seed", "7", "--profile", "smoke", "--tokens", "dog, California,")
    results = run.results
    assert (results["seed"], results["profile"]) == (7, "smoke")
    assert results["options"]["passed"]["tokens"] == [" dog", " California"]


def test_a_baseline_of_the_same_model_is_taken(evals: Evals, planted: Checkpoint) -> None:
    assert planted.folder is not None
    finish(evals.pytester.path / "old", planted, entry())
    assert evals(PASSES, "--model", str(planted.folder), "--baseline", "old").result.ret == 0


def test_own_prompts_are_what_is_measured_on(evals: Evals) -> None:
    make_prompts(evals.pytester.path, questions=["Who is there?"])
    source = "def test_a(seen, audit): assert audit.prompts.questions == ('Who is there?',)"
    run = evals(source, "--prompts", "prompts.json")
    assert run.result.ret == 0
    assert run.results["options"]["passed"]["prompts"] == "prompts.json"


@pytest.mark.parametrize(("args", "model"), [([], "planted"), (["--bundled", "decoys"], "planted")])
def test_the_bundled_models_come_with_their_own_prompts(evals: Evals, args: list[str], model: str) -> None:
    run = evals("def test_a(seen, audit): assert bool(audit.prompts.digest) and audit.tuned", *args)
    name = args[-1] if args else "storybook"
    assert run.results["model"]["name"] == f"bundled {name}, {model}"
    assert run.results["options"]["passed"]["bundled"] == name
    assert f"flashinterp: model SELF-TEST on the bundled {name}, tuned -, " in run.text


def test_bundled_models_that_are_not_there_are_refused(evals: Evals) -> None:
    run = evals(PASSES, "--bundled", "moon")
    assert run.result.ret == pytest.ExitCode.USAGE_ERROR
    assert "argument --bundled: invalid choice: 'moon' (choose from" in str(run.result.stderr)
    assert not run.out.exists()


def test_a_named_model_is_no_bundled_one(evals: Evals, planted: Checkpoint) -> None:
    run = evals(PASSES, "--model", str(planted.folder), "--bundled", "decoys")
    assert run.results["options"]["passed"]["bundled"] is None
    assert run.results["self_test"] is False


def test_the_header_says_what_is_audited(evals: Evals, planted: Checkpoint, tuned: Checkpoint) -> None:
    given = ["--model", str(planted.folder), "--tuned", str(tuned.folder), "--seed", "3", "--dtype", "bfloat16"]
    run = evals("def test_a(seen, device): assert device", *given)
    (line,) = [line for line in run.text.splitlines() if line.startswith("flashinterp: ")]
    assert line == (
        f"flashinterp: model {planted.folder}, tuned {tuned.folder}, dtype bfloat16 (stored float32), device cpu, "
        "seed 3, profile standard, out run"
    )


def test_the_header_says_the_revision(evals: Evals, monkeypatch: pytest.MonkeyPatch, planted: Checkpoint) -> None:
    """Of a model from the Hub, where it is a commit."""
    monkeypatch.setattr(checkpoint, "_download", lambda name, revision: (planted.folder, "c0ffee"))
    run = evals(PASSES, "--model", "org/name")
    assert "flashinterp: model org/name at c0ffee, tuned -, dtype auto (stored float32), " in run.text
    assert run.results["model"]["revision"] == "c0ffee"
