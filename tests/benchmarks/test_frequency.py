"""The small world says what it claims, the published lines come out again, and the pages' tables are made of them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize

from benchmarks import frequency
from benchmarks.frequency import DESIGN, STEPS, Training, load, run
from benchmarks.frequency_outcomes import SHARED, changed, kind_of, outcomes
from benchmarks.frequency_tables import tables
from benchmarks.small_training import Shape, Trained, train, untrained
from benchmarks.small_world import (
    CLASS_OF,
    CLASSES,
    DECADES,
    FORMS,
    IDS,
    LEVELS,
    NAMES,
    WORDS,
    about_name,
    counts_of,
    levels_of,
    prompts,
    rows_of_text,
    sentences,
    shares_of,
    tokenizer,
)
from flashinterp.errors import RunError
from flashinterp.studies.word_frequency.slopes import LEAST, RIDGE, linear_slope, logistic_slope
from flashinterp.studies.word_frequency.training_records import (
    CONDITIONS,
    KEPT_LOSSES,
    LENSES,
    Lines,
    Model,
    Sharing,
    TrainingOutcome,
)
from flashinterp.studies.word_frequency.training_tables import all_tables
from tests.examples import examples
from tests.helpers import assert_one_line_with_next_step

ROOT = Path(__file__).parents[2]
PUBLISHED = ROOT / "docs" / "limitations"
MEASURED = ("FI-L003", "FI-L004", "FI-L005")


@pytest.fixture(scope="module")
def lines() -> Lines:
    return load(PUBLISHED)


# --- what is published ------------------------------------------------------------------------------


def test_it_was_published_for_this_world() -> None:
    design = json.loads((PUBLISHED / "design.json").read_text())
    assert design == json.loads(json.dumps(frequency.design_of(STEPS)))


def test_it_is_whole(lines: Lines) -> None:
    assert [model.model for model in lines.models] == list(range(len(DESIGN)))
    for model, training in zip(lines.models, DESIGN, strict=True):
        shape = training.shape
        assert (model.arm, model.seed) == (training.arm, training.seed)
        assert (model.hidden, model.layers, model.width, model.tied) == (
            *(shape.hidden, shape.layers, shape.width),
            shape.tied,
        )
        assert tuple(model.loss_at) == KEPT_LOSSES
        own = [(o.condition, o.lens, o.name) for o in lines.names if o.model == model.model]
        assert own == [(c, lens, name) for c in training.conditions for lens in LENSES for name in NAMES]
        assert {word.word for word in lines.words if word.model == model.model} == set(SHARED)


@pytest.mark.parametrize("limit", MEASURED)
def test_the_pages_tables_are_made_of_it(limit: str, lines: Lines) -> None:
    page = (PUBLISHED / f"{limit}.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"<!-- tables -->\n(.*?)\n<!-- end -->", page, re.DOTALL)
    made = {title.removeprefix(f"{limit}: "): table for title, table in tables(lines).items() if limit in title}
    assert shown == "\n\n".join(f"### {title.capitalize()}\n\n{table}" for title, table in made.items())


@pytest.mark.nightly  # trains
def test_a_training_begins_again_as_published(lines: Lines) -> None:
    """Its first losses to a part in 500: processors round sums of thousands of float32 in their own ways."""
    for model in (lines.models[0], next(m for m in lines.models if m.arm == "size")):
        shape = Shape(model.hidden, model.layers, model.width, model.tied)
        again = train(shape, model.seed, STEPS, until=21)
        for step in (0, 1, 2, 5, 10, 20):
            assert again.losses[step] == pytest.approx(model.loss_at[step], rel=0.002)
        published = {o.name: o.count for o in lines.names if o.model == model.model}
        assert again.counts == published


@pytest.mark.slow  # measures models
def test_what_does_not_depend_on_training_comes_out_again(lines: Lines) -> None:
    """Where names lead in the model that a training began with: the same neurons, and effects to their digits."""
    model = lines.models[0]
    shape = Shape(model.hidden, model.layers, model.width, model.tied)
    published = [o for o in lines.names if (o.model, o.condition) == (0, "untrained")]
    counts = {o.name: o.count for o in published}
    again = outcomes(0, "untrained", Trained(None, {}, counts, ()), untrained(shape, model.seed), model.seed)
    for ours, theirs in zip(again, published, strict=True):
        assert (ours.neuron, ours.pole, ours.kind, ours.brought) == (
            *(theirs.neuron, theirs.pole),
            *(theirs.kind, theirs.brought),
        )
        assert ours.effect == pytest.approx(theirs.effect, rel=0.02, abs=1e-4)


def test_the_models_have_learnt_the_frequent_names(lines: Lines) -> None:
    """Otherwise nothing could be said of where they are."""
    base = [
        o
        for o in lines.names
        if (o.condition, o.lens) == ("trained", "paper") and lines.models[o.model].arm == "frequency"
    ]
    often = [o.recall for o in base if o.count > 1000]
    assert np.mean(often) / 3 > 0.95
    assert all(model.loss_at[STEPS - 1] < 1.1 < model.loss_at[0] for model in lines.models)


# --- the small world ----------------------------------------------------------------------------------


def test_levels_are_three_names_each_and_other_ones_for_each_seed() -> None:
    one, other = (levels_of(np.random.default_rng(seed)) for seed in (1, 2))
    assert sorted(one.values()) == sorted(other.values()) == [level for level in range(LEVELS) for _ in range(3)]
    assert one != other


def test_shares_go_over_two_and_a_half_decades_in_equal_steps() -> None:
    levels = levels_of(np.random.default_rng(1))
    shares = dict(zip(NAMES, shares_of(levels), strict=True))
    by_level = [{round(float(shares[n]), 12) for n in NAMES if levels[n] == level} for level in range(LEVELS)]
    assert all(len(level) == 1 for level in by_level)
    each = [level.pop() for level in by_level]
    assert each[0] / each[-1] == pytest.approx(10**DECADES, rel=1e-6)
    assert [a / b for a, b in pairwise(each)] == pytest.approx([10 ** (DECADES / 7)] * 7, rel=1e-6)
    assert sum(shares.values()) == pytest.approx(1)


def test_names_come_as_often_as_they_are_told_to() -> None:
    shares = shares_of(levels_of(np.random.default_rng(1)))
    counts = counts_of(rows_of_text(shares, 4000, 24, np.random.default_rng(3)))
    total = sum(counts.values())
    for name, share in zip(NAMES, shares, strict=True):
        assert abs(counts[name] - total * share) < 5 * np.sqrt(total * share) + 0.03 * total * share


@given(st.integers(0, len(NAMES) - 1), st.integers(0, FORMS - 1))
def test_a_sentence_about_someone_names_no_one_else(person: int, form: int) -> None:
    words = about_name(person, form)
    assert [w for w in words if w in NAMES] == [NAMES[person]]
    assert set(words) <= set(WORDS)


def test_before_the_name_it_follows_who_it_is() -> None:
    for form in (0, 3, 4):
        before = set()
        for person, name in enumerate(NAMES):
            words = about_name(person, form)
            before.add(tuple(words[: words.index(name)]))
        assert len(before) == len(NAMES)


def test_all_words_are_known_and_each_class_has_four_names() -> None:
    text: Iterator[list[str]] = sentences(np.full(24, 1 / 24), np.random.default_rng(0))
    assert {w for words, _ in zip(text, range(3000), strict=False) for w in words} <= set(IDS)
    assert [len(names) for names, _ in CLASSES.values()] == [4] * 6
    assert len(set(WORDS)) == len(WORDS)


def test_rows_begin_with_a_sentence() -> None:
    rows = rows_of_text(np.full(24, 1 / 24), 50, 12, np.random.default_rng(0))
    assert (rows[:, 0] == 0).all()
    assert (rows[:, 1:] > 0).all()


def test_the_tokenizer_and_the_rows_agree() -> None:
    words = about_name(3, 4)
    assert tokenizer()(" ".join(words))["input_ids"] == [0, *(IDS[w] for w in words)]


def test_no_prompt_to_test_on_names_anyone_and_all_are_named_equally_often_in_the_others() -> None:
    assert not any(set(text.split()) & set(NAMES) for text in prompts().heldout)
    for name in NAMES:
        assert sum(name in text.split() for text in prompts().selection) == FORMS


# --- what is made of a model --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "kind"),
    [
        ("Merlin", "own"),
        ("wizard", "broader"),
        ("wand", "broader"),
        ("Gandalf", "sibling"),
        ("Sherlock", "noise"),
        ("cat", "noise"),
    ],
)
def test_what_a_word_is_to_a_name(word: str, kind: str) -> None:
    assert kind_of("Merlin", word) == kind


@pytest.mark.slow  # measures models
def test_a_planted_neuron_is_found_to_be_the_names_own() -> None:
    """One neuron of an untrained model is given a name to read and write, loudly; another name is left alone."""
    model = untrained(Shape(), 1)
    mlp, head = model.model.layers[0].mlp, model.lm_head.weight  # the first: no neuron before it can move it
    named = head[IDS["Merlin"]] / head[IDS["Merlin"]].norm()
    mlp.up_proj.weight[7] = 3 * named
    mlp.down_proj.weight[:, 7] = 0.3 * named
    counts = dict.fromkeys(NAMES, 10)
    found = {(o.lens, o.name): o for o in outcomes(0, "trained", Trained(model, {}, counts, ()), model, 1)}
    for lens in LENSES:
        merlin = found[lens, "Merlin"]
        assert merlin.neuron == "L0N7"
        assert merlin.kind == "own"
        assert merlin.percentile == 1
        assert abs(merlin.effect) > 0.1
        assert not found[lens, "Tosca"].has_own or found[lens, "Tosca"].neuron != "L0N7"
    assert found["effect", "Merlin"].has_own
    assert found["effect", "Merlin"].shared_by < 3


def test_what_is_taken_away_and_what_stays() -> None:
    model = untrained(Shape(), 1)
    before = {n: p.clone() for n, p in model.named_parameters()}
    for condition in ("random", "permuted"):
        other = dict(changed(model, condition, 1).named_parameters())  # type: ignore[arg-type]
        for name, own in before.items():
            if "down_proj" in name or (condition == "random" and "up_proj" in name):
                dim = 0 if "down_proj" in name else 1
                assert not torch.equal(other[name], own)
                norms, theirs = own.norm(dim=dim), other[name].norm(dim=dim)
                if condition == "permuted":
                    norms, theirs = norms.sort().values, theirs.sort().values
                assert torch.allclose(norms, theirs, rtol=1e-5)
            else:
                assert torch.equal(other[name], own), name
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())


@pytest.mark.slow  # trains
def test_training_learns_and_touches_no_global_random_stream() -> None:
    state = torch.random.get_rng_state()
    shape = Shape(16, 1, 16)
    one, again = train(shape, 3, 40), train(shape, 3, 40)
    assert one.losses == again.losses
    assert one.losses[-1] < one.losses[0] - 0.5
    assert train(shape, 3, 40, until=5).losses == one.losses[:5]
    assert train(shape, 4, 40, until=5).losses != one.losses[:5]
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not one.model.training
    assert not any(p.requires_grad for p in one.model.parameters())


# --- slopes -------------------------------------------------------------------------------------------


@given(st.integers(0, 2**32 - 1))
@examples(20)
def test_a_logistic_slope_is_the_maximum_of_its_likelihood(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.normal(3, 1, 120)
    yes = rng.random(120) < 1 / (1 + np.exp(-(x - 3)))
    centred = x - x.mean()

    def loss(beta: Any) -> float:
        z = beta[0] + beta[1] * centred
        return float(np.logaddexp(0, z).sum() - (yes * z).sum() + 0.5 * RIDGE * (beta @ beta))

    best = optimize.minimize(loss, [0, 0], tol=1e-10).x[1]
    slopes = logistic_slope(x, yes, list(np.arange(120) // 20))
    assert slopes is not None
    found = slopes.interval
    assert found.estimate == pytest.approx(best, abs=1e-3)
    assert found.low is not None
    assert found.low < found.estimate < found.high  # type: ignore[operator]


def test_too_few_successes_give_no_slope_and_too_few_trainings_no_interval() -> None:
    x, groups = np.linspace(1, 4, 40), [0] * 20 + [1] * 20
    assert logistic_slope(x, np.arange(40) < LEAST - 1, groups) is None
    found = logistic_slope(x, np.arange(40) % 3 == 0, groups)
    assert found is not None
    assert (found.interval.low, found.interval.high) == (None, None)
    assert (found.less(found).estimate, found.less(found).low) == (0, None)


def test_a_straight_line_has_its_slope_in_every_resample() -> None:
    x = np.linspace(0, 3, 60)
    line = linear_slope(x, 2 - 0.5 * x, list(np.arange(60) % 6))
    found, less = line.interval, line.less(linear_slope(x, x, list(np.arange(60) % 6)))
    assert (found.estimate, found.low, found.high) == pytest.approx((-0.5, -0.5, -0.5))
    assert (less.estimate, less.low, less.high) == pytest.approx((-1.5, -1.5, -1.5))


# --- the run --------------------------------------------------------------------------------------------


TWO = tuple(Training("frequency", Shape(8, 1, 8), seed, ("trained",)) for seed in (1, 2, 3))


def _fake_lines(number: int, *_: Any) -> list[TrainingOutcome]:
    one = TrainingOutcome(number, "trained", "paper", "Tosca", 7, 1, 0.5, "L0N1", "+", 1.5, "cat", "noise", -0.25, 0.5,
                  "cat", "noise", 3.0, 0.5, 0.25)  # fmt: skip
    return [one, replace(one, name="Elvis")]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frequency, "train", lambda *_: Trained(None, {}, {}, (2.0, 1.5)))
    monkeypatch.setattr(frequency, "names_of", _fake_lines)
    monkeypatch.setattr(frequency, "sharings", lambda n, *_: [Sharing(n, "score, paper", "cat", 3.0, 4.0, 0.5)])


@pytest.mark.usefixtures("fake")
def test_a_killed_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    run(tmp_path / "whole", TWO, 2)
    files = ("models.csv", "names.csv", "concentration.csv")
    whole = {name: (tmp_path / "whole" / name).read_bytes() for name in files}
    for n, cut in ((1, 1), (1, 2), (2, 0), (2, 1)):  # models that are whole, and lines of the next one
        part = tmp_path / f"{n}{cut}"
        run(part, TWO[:n], 2)
        with (part / "names.csv").open("a") as file:
            file.writelines(",".join(line.cells()) + "\n" for line in _fake_lines(n)[:cut])
            file.write("2,tra")
        run(part, TWO, 2)
        assert {name: (part / name).read_bytes() for name in files} == whole


@pytest.mark.usefixtures("fake")
def test_another_design_is_refused_in_the_same_folder(tmp_path: Path) -> None:
    run(tmp_path, TWO, 2)
    with pytest.raises(RunError, match="another design") as error:
        run(tmp_path, TWO, 3)
    assert_one_line_with_next_step(error.value)


@pytest.mark.usefixtures("fake")
def test_lines_are_read_as_they_were_written(tmp_path: Path) -> None:
    run(tmp_path, TWO, 2)
    found = load(tmp_path)
    models, names, words = found.models, found.names, found.words
    assert models[1] == Model(1, "frequency", 2, 8, 1, 8, False, "2.00000 1.50000")
    assert models[1].loss_at == {0: 2.0, 1: 1.5}
    assert names == [line for n in range(3) for line in _fake_lines(n)]
    assert words == [Sharing(n, "score, paper", "cat", 3.0, 4.0, 0.5) for n in range(3)]


def test_a_name_has_its_own_only_if_all_of_it_holds() -> None:
    own = replace(_fake_lines(0)[0], kind="own", brought="own", effect=0.5, percentile=0.95)
    assert own.has_own
    for wrong in ({"kind": "broader"}, {"brought": "sibling"}, {"effect": -0.5}, {"percentile": 0.94}):
        assert not replace(own, **wrong).has_own


def test_every_table_has_rows_of_its_width(lines: Lines) -> None:
    for title, (header, rows) in all_tables(lines).items():
        assert rows, title
        assert all(len(row) == len(header) for row in rows), title


def test_what_is_beyond_the_nulls_is_the_difference_of_shares(lines: Lines) -> None:
    header, rows = all_tables(lines)["FI-L003: beyond the nulls"]
    for row in (dict(zip(header, row, strict=True)) for row in rows):
        share = (row["have their own"] - row["in the null"]) / row["names"]
        # The mean over trainings, which have about as many names each.
        assert row["difference"] == pytest.approx(share, abs=0.02)
        assert row["low"] is None or row["low"] < row["difference"] < row["high"]
    assert sum(row[3] for row in rows) == 2 * len(LENSES) * 24 * 6


def test_every_class_word_is_a_class(lines: Lines) -> None:
    assert set(CLASS_OF.values()) == set(CLASSES)
    assert {o.condition for o in lines.names} == set(CONDITIONS)
