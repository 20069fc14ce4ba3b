"""Effective numbers with their nulls and trainings done again, by hand; the recorded lines' tables, from their part."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from benchmarks.frequency import load
from flashinterp.studies.word_frequency.concentration_records import Concentration, Spread
from flashinterp.studies.word_frequency.concentration_tables import (
    NOT_MEASURED,
    WordGroup,
    again_table,
    needs_known_text,
    repeated,
    spread_table,
)
from flashinterp.studies.word_frequency.training_records import Lines
from flashinterp.studies.word_frequency.training_tables import TABLES, all_tables, recorded_table
from tests.runs.made_again import cells, made_again

PUBLISHED = Path(__file__).parents[3] / "docs" / "limitations"

# --- how many neurons share a word ----------------------------------------------------------------------


def _spread(*participation: float) -> Spread:
    numbers = np.array(participation)
    return Spread(numbers, numbers * 2, 1 / numbers)


KIND = Concentration(
    "score, paper", 64, ("a", "b", "c", "d"), _spread(2, 8, 4, 16), (_spread(4, 4, 4, 4), _spread(16, 16, 16, 16))
)
GROUP = WordGroup("drawn words", 4, 64, [KIND], [replace(KIND, mass="effect, attribution")])


def test_effective_numbers_are_geometric_means_over_words_and_nulls() -> None:
    made = made_again(spread_table, [GROUP, replace(GROUP, name="words asked for")], 3)
    assert cells(made, "words") == ["drawn words (4)"] * 2 + ["words asked for (4)"] * 2
    assert cells(made, "mass") == ["score, paper", "effect, attribution"] * 2
    whole = stats.gmean([2, 8, 4, 16])
    assert cells(made, "effective") == pytest.approx([whole] * 4)
    assert cells(made, "null's") == pytest.approx([8] * 4)
    assert cells(made, "times null's") == pytest.approx([whole / 8] * 4)
    assert cells(made, "by entropy") == pytest.approx([2 * whole] * 4)
    assert cells(made, "first neuron's share") == pytest.approx([np.mean([1 / 2, 1 / 8, 1 / 4, 1 / 16])] * 4)
    assert all(low < here < high for _, _, _, here, low, high, *_ in made[1])


def test_intervals_are_drawn_from_the_seed() -> None:
    one, again, other = (spread_table([GROUP], seed) for seed in (3, 3, 4))
    assert one == again
    assert cells(one, "low") != cells(other, "low")


def test_effects_that_cannot_be_had_are_told() -> None:
    made = made_again(spread_table, [replace(GROUP, by_effect="the weights are quantised")], 3)
    assert made[1][1] == ["drawn words (4)", 64, "effect: the weights are quantised", *[None] * 9]


def test_a_word_without_mass_is_left_out() -> None:
    gap = replace(KIND, here=_spread(2, 8, 4, np.nan))
    made = made_again(spread_table, [replace(GROUP, by_score=[gap], by_effect=[])], 3)
    assert cells(made, "effective") == pytest.approx([stats.gmean([2, 8, 4])])


def test_a_changed_number_makes_another_table() -> None:
    for forged in (replace(KIND, here=_spread(2, 8, 4, 15)), replace(KIND, nulls=KIND.nulls[:1])):
        assert made_again(spread_table, [replace(GROUP, by_score=[forged])], 3) != spread_table([GROUP], 3)


# --- trainings that were done again ---------------------------------------------------------------------

LOSSES = {0: 5.0, 20: 4.0, 50: 2.0, 100: 1.0, 799: 0.5}


def test_losses_are_compared_as_far_as_the_training_went() -> None:
    now = np.full(101, 9.0)
    now[[0, 20, 50, 100]] = 5.0, 4.004, 2.02, 1.5
    made = made_again(again_table, LOSSES, now)
    assert cells(made, "step") == [0, 20, 50, 100]
    assert cells(made, "apart") == pytest.approx([0, 0.001, 0.01, 0.5])
    assert cells(made, "allowed") == [0.002, 0.002, 0.02, 0.02]
    assert [one.apart <= one.allowed for one in repeated(LOSSES, now)] == [True, True, True, False]
    assert len(repeated(LOSSES, np.ones(800))) == 5
    assert made_again(again_table, {**LOSSES, 20: 4.125}, now) != again_table(LOSSES, now)


def test_what_needs_a_known_text_says_so() -> None:
    assert made_again(needs_known_text)[1] == [[NOT_MEASURED]]


# --- the recorded lines -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lines() -> Lines:
    return load(PUBLISHED)


@pytest.fixture(scope="module")
def whole(lines: Lines) -> dict[str, object]:
    return dict(all_tables(lines))


@pytest.mark.parametrize("title", TABLES)
def test_a_tables_part_of_the_lines_makes_the_same_table(
    title: str, lines: Lines, whole: dict[str, tuple[object, object]]
) -> None:
    part = TABLES[title].of(lines)
    made = made_again(recorded_table, title, part.sheets())
    assert made[:2] == whole[title]
    assert made[2] == f"See docs/limitations/{title[:7]}.md."
    assert part.sheets().lines() == part


@pytest.mark.parametrize("title", TABLES)
def test_other_lines_make_another_table(title: str, lines: Lines, whole: dict[str, tuple[object, object]]) -> None:
    part = TABLES[title].of(lines)
    words = [replace(word, effective=word.effective * 2) for word in part.words]
    names = [replace(o, brought="own", effect=1.0, percentile=1.0, present=0.75) for o in part.names]
    names = [replace(o, shared_by=o.shared_by * (1 + o.count)) for o in names]
    assert made_again(recorded_table, title, replace(part, names=names, words=words).sheets())[:2] != whole[title]


def test_one_changed_line_makes_another_table(lines: Lines, whole: dict[str, tuple[object, object]]) -> None:
    title = "FI-L003: beyond the nulls"
    part = TABLES[title].of(lines)
    at = next(i for i, o in enumerate(part.names) if o.has_own and o.condition == "trained")
    names = [replace(o, kind="broader") if i == at else o for i, o in enumerate(part.names)]
    assert made_again(recorded_table, title, replace(part, names=names).sheets())[:2] != whole[title]


def test_the_sheets_are_the_published_files(lines: Lines) -> None:
    sheets = lines.sheets()
    for name, text in (("models", sheets.models), ("names", sheets.names), ("concentration", sheets.words)):
        assert text == (PUBLISHED / f"{name}.csv").read_text(encoding="utf-8")


def test_have_their_own_by_level_counted_from_the_file(lines: Lines) -> None:
    """The first table's counts, by csv alone."""
    made = made_again(recorded_table, next(iter(TABLES)), TABLES[next(iter(TABLES))].of(lines).sheets())
    base = [m.model for m in lines.models if m.arm == "frequency"]
    rows = [line.split(",") for line in (PUBLISHED / "names.csv").read_text().splitlines()[1:]]
    own = [
        (int(row[0]), row[3])
        for row in rows
        if int(row[0]) in base and row[1:3] == ["trained", "paper"] and row[11] == row[15] == "own"
        and float(row[12]) > 0 and float(row[13]) >= 0.95
    ]  # fmt: skip
    assert cells(made, "has its own") == [
        sum(lines.levels[model][name] == level for model, name in own) for level in range(8)
    ]
    assert cells(made, "names") == [3 * len(base)] * 8
