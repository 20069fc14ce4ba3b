"""The published calibration is what the code computes, and the judge keeps to its level and finds what is planted."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from benchmarks import calibration
from benchmarks.calibration import COLUMNS, KINDS, SIZES, VERDICTS, Outcome, load, outcomes, power_figure, run, tables
from fixtures.build import PLANTS, built
from fixtures.random_models import STRENGTHS, draw_plants, draw_words, write_model
from flashinterp.errors import RunError
from flashinterp.evaluation.profiles import PROFILES
from flashinterp.evaluation.prompts import shipped
from flashinterp.evaluation.verdict import Rule
from flashinterp.models.checkpoint import open_checkpoint
from flashinterp.neurons import LENSES
from flashinterp.stats import wilson

ROOT = Path(__file__).parents[2]
PUBLISHED, PAGE = ROOT / "docs" / "calibration", ROOT / "docs" / "CALIBRATION.md"
TINY = replace(
    PROFILES["smoke"],
    selection=2,
    prompts=3,
    contexts=3,
    absent=3,
    doses=3,
    controls=4,
    unrelated=2,
    unrelated_texts=1,
    stress_doses=2,
)
MODELS = 200  # of each kind, as published
MOST_FALSE = 0.05
LEAST_POWER = 0.95


@pytest.fixture(scope="module")
def null() -> list[Outcome]:
    return load(PUBLISHED, "null")


@pytest.fixture(scope="module")
def power() -> list[Outcome]:
    return load(PUBLISHED, "power")


# --- what is published ------------------------------------------------------------------------------


def test_it_was_published_for_this_rule_and_these_texts() -> None:
    design = json.loads((PUBLISHED / "design.json").read_text())
    assert design["rule"] == vars(Rule())
    assert design["prompts"] == shipped().digest
    assert design["sizes"] == {name: getattr(PROFILES["smoke"], name) for name in SIZES}


@pytest.mark.slow  # a simulation
@pytest.mark.parametrize(("kind", "number"), [("null", 0), ("null", 1), ("power", 0)])
def test_a_model_comes_out_again_as_published(kind: str, number: int) -> None:
    design = json.loads((PUBLISHED / "design.json").read_text())
    again = outcomes(kind, design["seed"], PROFILES["smoke"], number)
    published = [o for o in load(PUBLISHED, kind) if o.model == number]
    assert len(again) == len(published) == KINDS[kind]
    for ours, theirs in zip(again, published, strict=True):
        for name in COLUMNS:
            a, b = getattr(ours, name), getattr(theirs, name)
            assert a == pytest.approx(b, rel=1e-3, abs=1e-5) if isinstance(b, float) else a == b, (ours, name)


def test_it_is_whole(null: list[Outcome], power: list[Outcome]) -> None:
    for kind, found in (("null", null), ("power", power)):
        assert [o.model for o in found] == [n for n in range(MODELS) for _ in range(KINDS[kind])]
    assert {(o.lens, o.tied) for o in null} == {(lens, tied) for lens in LENSES for tied in (False, True)}
    assert {o.strength for o in power if o.planted == "both"} == set(STRENGTHS)
    # Nothing is missing from the tables.
    assert {o.verdict for o in [*null, *power]} <= {"validated", *VERDICTS}


def test_the_pages_tables_are_made_of_it(null: list[Outcome], power: list[Outcome]) -> None:
    (shown,) = re.findall(r"<!-- tables -->\n(.*?)\n<!-- end -->", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert shown == tables(null, power), "print them with python -m benchmarks.calibration"


def test_the_pages_figure_is_made_of_it(power: list[Outcome]) -> None:
    assert (PUBLISHED / "power.svg").read_text(encoding="utf-8") == power_figure(power)


def test_the_page_describes_its_figure() -> None:
    assert re.search(r"!\[[^\]]{80,}\]\(calibration/power\.svg\)", PAGE.read_text(encoding="utf-8"))


# --- what it shows ----------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("lens", LENSES)
def test_where_nothing_is_planted_no_more_than_the_level_is_validated(
    null: list[Outcome], lens: str, tied: bool
) -> None:
    own = [o for o in null if (o.lens, o.tied) == (lens, tied)]
    interval = wilson(sum(o.verdict == "validated" for o in own), len(own))
    assert interval is not None
    assert interval.high is not None
    assert interval.high <= MOST_FALSE


def test_what_is_planted_as_in_the_fixtures_is_found(power: list[Outcome]) -> None:
    """In families like the fixtures', whose true claims are alike; the page shows the mixed ones beside."""
    own = [o for o in power if o.family == "alike" and o.strength == 1]
    assert len(own) == MODELS
    assert sum(o.verdict == "validated" for o in own) / len(own) >= LEAST_POWER


@pytest.mark.parametrize("family", ["alike", "mixed"])
def test_more_strength_is_found_more_often(power: list[Outcome], family: str) -> None:
    counts = [sum(o.verdict == "validated" for o in power if (o.family, o.strength) == (family, s)) for s in STRENGTHS]
    noise = 2 * np.sqrt(MODELS)  # about two standard deviations of a difference of two counts, at the most
    assert all(b >= a - noise for a, b in pairwise(counts))
    assert counts[-1] > counts[0] + noise


# --- the run ----------------------------------------------------------------------------------------


def _fake(kind: str, seed: int, profile: object, number: int) -> list[Outcome]:
    line = Outcome(
        number, False, "paper", " a, b", "L0N0", "+", "", "", None, "no", "no", "refuted", None, 0.1, 1.0, 1.0, -2.0
    )
    return [replace(line, effect=i / 3) for i in range(KINDS[kind])]


def test_a_killed_run_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "outcomes", _fake)
    run("power", 5, 1, tmp_path / "whole", TINY)
    whole = (tmp_path / "whole" / "power.csv").read_bytes()
    (tmp_path / "cut").mkdir()
    cut = tmp_path / "cut" / "power.csv"
    for length in (0, 7, len(whole) // 3, len(whole) // 2, len(whole) - 1, len(whole)):
        cut.write_bytes(whole[:length])
        run("power", 5, 1, tmp_path / "cut", TINY)
        assert cut.read_bytes() == whole, length


def test_models_that_are_done_are_not_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "outcomes", _fake)
    run("null", 2, 1, tmp_path, TINY)
    before = (tmp_path / "null.csv").read_bytes()
    monkeypatch.setattr(calibration, "outcomes", lambda *_: pytest.fail("measured again"))
    run("null", 1, 1, tmp_path, TINY)
    run("null", 2, 1, tmp_path, TINY)
    assert (tmp_path / "null.csv").read_bytes() == before


def test_another_seed_is_refused_in_the_same_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "outcomes", _fake)
    run("null", 1, 1, tmp_path, TINY)
    with pytest.raises(RunError, match="name another folder"):
        run("null", 1, 2, tmp_path, TINY)


def test_outcomes_are_read_as_they_were_written() -> None:
    (line, *_) = _fake("null", 1, None, 3)
    assert Outcome.parse(dict(zip(COLUMNS, line.cells(), strict=True))) == replace(line, effect=0.0)


@pytest.mark.slow  # other processes import torch
def test_one_process_and_two_write_the_same_bytes(tmp_path: Path) -> None:
    for processes in (1, 2):
        run("power", 2, 7, tmp_path / str(processes), TINY, processes)
    one, two = ((tmp_path / name / "power.csv").read_bytes() for name in "12")
    assert one == two
    assert one.count(b"\n") == 1 + 2 * KINDS["power"]


# --- the models -------------------------------------------------------------------------------------


def test_a_tied_model_has_one_matrix_and_names_what_it_reads(tmp_path: Path) -> None:
    write_model(tmp_path, 1, 0, tied=True)
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.tied
    tensors = load_file(tmp_path / "model.safetensors")
    embedding = tensors["model.embed_tokens.weight"]
    assert "lm_head.weight" not in tensors
    assert np.array_equal(checkpoint.head().numpy(), embedding)
    known = ~checkpoint.vocabulary.excluded
    assert np.ptp(embedding[known, -1]) == 0  # what all tokens share tells nothing apart
    assert (embedding[known, -1] > 0).all()


def test_models_differ_and_do_not_depend_on_each_other(tmp_path: Path) -> None:
    made = []
    for name, seed, number in (("a", 1, 3), ("b", 1, 4), ("c", 2, 3), ("again", 1, 3)):
        (tmp_path / name).mkdir()
        write_model(tmp_path / name, seed, number)
        made.append((tmp_path / name / "model.safetensors").read_bytes())
    assert made[0] == made[3]
    assert len(set(made)) == 3
    assert draw_words(1, 3, 8)[:4] != draw_words(1, 4, 8)[:4]


def test_at_full_strength_a_neuron_is_planted_as_in_the_fixtures(tmp_path: Path) -> None:
    plants = draw_plants(1, len(STRENGTHS) - 1)  # whose one-sided ones have full strength, too
    write_model(tmp_path, 1, len(STRENGTHS) - 1, plants=plants)
    tensors = load_file(tmp_path / "model.safetensors")
    vocabulary = open_checkpoint(tmp_path).vocabulary
    fixture = load_file(built() / "planted" / "model.safetensors")
    like = next(p for p in PLANTS if p.verdict == "validated" and p.pole == "+")
    for plant in (p for p in plants if p.strength == 1):
        mlp = f"model.layers.{plant.layer}.mlp."
        sign = -1 if plant.pole == "-" else 1
        named = tensors["lm_head.weight"][vocabulary.resolve(plant.token).id]
        named = sign * named / np.linalg.norm(named)
        up, down = tensors[mlp + "up_proj.weight"][plant.neuron], tensors[mlp + "down_proj.weight"][:, plant.neuron]
        theirs = f"model.layers.{like.layer}.mlp."
        assert np.linalg.norm(up) == pytest.approx(
            np.linalg.norm(fixture[theirs + "up_proj.weight"][like.neuron]), rel=1e-5
        )
        assert np.linalg.norm(down) == pytest.approx(
            np.linalg.norm(fixture[theirs + "down_proj.weight"][:, like.neuron]), rel=1e-5
        )
        assert (down @ named / np.linalg.norm(down) > 0.999) == plant.writes
        assert (up @ named / np.linalg.norm(up) > 0.6) == plant.reads


def test_strength_is_how_much_of_a_direction_is_planted(tmp_path: Path) -> None:
    plants = [plant for plant in draw_plants(1, 0) if plant.family == "mixed"]
    write_model(tmp_path, 1, 0, plants=plants)
    tensors = load_file(tmp_path / "model.safetensors")
    vocabulary = open_checkpoint(tmp_path).vocabulary
    for plant in plants:
        down = tensors[f"model.layers.{plant.layer}.mlp.down_proj.weight"][:, plant.neuron]
        named = tensors["lm_head.weight"][vocabulary.resolve(plant.token).id]
        cosine = down @ named / np.linalg.norm(down) / np.linalg.norm(named)
        assert (-cosine if plant.pole == "-" else cosine) == pytest.approx(plant.strength, abs=0.4)
        assert np.linalg.norm(down) == pytest.approx(0.01, rel=1e-5)
