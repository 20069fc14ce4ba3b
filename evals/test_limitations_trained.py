"""Why a concept has a neuron of its own, or none: frequency, room and size, on models that were trained to tell.

Sherlock has a neuron of his own in the model of arXiv 2501.02688, and Dumbledore has none. The paper guesses that
frequency in the training text decides, and asks what becomes of single neurons as models grow. The first cannot be
answered on a model whose training text nobody has, so it is asked of small models that were trained on text of known
frequencies: docs/limitations holds what every one of them came to, made by ``python -m benchmarks.frequency``. Here the
tables are made again from those lines, and one training is done again, so that a reader sees that it is as it says. The
second is measured on the model at hand, too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flashinterp import Checkpoint, FlashinterpError
from flashinterp.audit.session import AuditSession
from flashinterp.bench import Bench
from flashinterp.concentration import CAPTION, HEADERS, concentration, rows_of
from flashinterp.pytest_plugin import Evidence

RECORDED = Path(__file__).parent.parent / "docs" / "limitations"
FIRST_STEPS = 51  # of a training that is begun again
WORDS = 32
NULLS = 3

# How far a loss may be from the recorded one, as a share of it: on another processor sums are rounded otherwise, and
# hundreds of steps make more of it.
TOLERANCE = {20: 0.002, 100: 0.02, 799: 0.05}

NOT_MEASURED = (
    "not measured: it needs a training text of known frequencies, which is there for the small models that the project "
    "trains itself; run without --model"
)


@pytest.mark.limitation
def test_frequency_in_the_training_text(audit: AuditSession, evidence: Evidence) -> None:
    """Does a name get a neuron of its own because the training text has it often?

    Implementation: small Llamas are trained on text in which 24 names have frequencies over 2.5 orders of magnitude,
    drawn anew for each. A name's neuron is found by the paper lens, by the write lens, and with no lens as the one that
    moves it most. It is the name's *own* if its best word is the name, it is among the 5 % of its layer that move the
    name most, raises it, and raises no other of 30 watched words more. The same is asked of the model with random
    directions in place of what was learnt, with W_down's columns exchanged, and before training. Slopes are log-odds
    for ten times the frequency, their intervals from resampling trainings. Here the recorded lines are tabled
    again, and the first steps of the first training are repeated. Limit FI-L003.
    """
    lines = _recorded(audit, evidence, "frequency", "FI-L003")
    _table_all(lines, "FI-L003", evidence)
    again = _repeat(lines.models[0], FIRST_STEPS)
    _compare(lines.models[0].loss_at, again.losses, "frequency", evidence)


@pytest.mark.limitation
def test_capacity(audit: AuditSession, evidence: Evidence) -> None:
    """Does a name get a neuron of its own because there is room?

    Implementation: the same trainings with MLPs of 16 to 256 neurons a layer, over the same text; asked as above. The
    first steps of the first of them are repeated. Limit FI-L004.
    """
    lines = _recorded(audit, evidence, "capacity", "FI-L004")
    _table_all(lines, "FI-L004", evidence)
    first = next(model for model in lines.models if model.arm == "capacity")
    _compare(first.loss_at, _repeat(first, FIRST_STEPS).losses, "capacity", evidence)


@pytest.mark.limitation
def test_size(audit: AuditSession, base: Checkpoint, bench: Bench, tokens: tuple[str, ...], evidence: Evidence) -> None:
    """Over how many neurons is a word spread: in this model, and in three sizes that were trained alike.

    Implementation: the effective number of neurons of a word is the participation ratio of its scores over all neurons
    (by lens), or of the squared effects of all neurons on it, each driven over its own natural range (first order, one
    backward pass for each prompt). Each stands beside that of the same model with random directions in place of
    what was learnt, because it grows with a model by itself. The words are drawn from the vocabulary; those that were
    asked for are told apart. For a family of checkpoints: ``python -m flashinterp.concentration``. On the bundled
    models one whole training of the smallest size is repeated. Limit FI-L005.
    """
    drawn = sorted(bench.draw_words("spread words", WORDS, set()))
    asked = [base.vocabulary.resolve(text).id for text in tokens]
    rows: list[list[Any]] = []
    for which, ids in (("drawn words", drawn), ("words asked for", list(dict.fromkeys(asked)))):
        rows += _spread(bench, f"{which} ({len(ids)})", ids)
    evidence.table("spread", "How many neurons share a word (FI-L005)", ["words", *HEADERS[1:]], rows, CAPTION)
    if audit.truth:
        lines = _read()
        _table_all(lines, "FI-L005", evidence)
        smallest = min(lines.models, key=lambda model: model.hidden)
        again = _repeat(smallest, None)
        _compare(smallest.loss_at, again.losses, "size", evidence)


def _spread(bench: Bench, which: str, ids: list[int]) -> list[list[Any]]:
    """The rows of some words; a row that says why for effects that cannot be had."""
    rng = bench.rng("intervals of the spread")
    kinds = concentration(bench, ids, lenses=("paper", "read", "write"), how=(), nulls=NULLS)
    rows = rows_of(which, kinds, rng)
    try:
        return rows + rows_of(which, concentration(bench, ids, lenses=(), nulls=NULLS), rng)
    except FlashinterpError as error:  # quantised or offloaded weights: the rest stands
        return [*rows, [which, len(bench.checkpoint.layout.roster), f"effect: {error}", *[None] * (len(HEADERS) - 3)]]


# --- what was recorded, and doing it again --------------------------------------------------------------


def _read() -> Any:
    from benchmarks.frequency import load
    from benchmarks.frequency_tables import Lines

    return Lines(*load(RECORDED))


def _recorded(audit: AuditSession, evidence: Evidence, name: str, limit: str) -> Any:
    """The recorded lines; for any other than the bundled models a row that says why not, and a skip."""
    if not audit.truth:
        evidence.table(name, f"Not measured ({limit})", ["remark"], [[NOT_MEASURED]])
        pytest.skip(NOT_MEASURED)
    return _read()


def _table_all(lines: Any, limit: str, evidence: Evidence) -> None:
    """Every table of a limit, made from its lines."""
    from benchmarks.frequency_tables import all_tables

    for number, (title, (header, rows)) in enumerate(all_tables(lines).items()):
        if title.startswith(limit):
            named = title.removeprefix(f"{limit}: ")
            evidence.table(
                f"{limit}-{number}", f"Recorded: {named} ({limit})", header, rows, f"See docs/limitations/{limit}.md."
            )


def _repeat(model: Any, steps: int | None) -> Any:
    """Train one of the recorded models again, for some steps or to the end."""
    from benchmarks.frequency import STEPS
    from benchmarks.small_training import Shape, train

    return train(Shape(model.hidden, model.layers, model.width, model.tied), model.seed, STEPS, until=steps)


def _compare(recorded: dict[int, float], again: tuple[float, ...], name: str, evidence: Evidence) -> None:
    """The recorded losses beside those of now, which must agree."""
    rows: list[list[Any]] = []
    for step, loss in recorded.items():
        if step < len(again):
            allowed = next(share for last, share in TOLERANCE.items() if step <= last)
            rows.append([step, loss, again[step], abs(again[step] / loss - 1), allowed])
    evidence.table(
        f"{name}-again",
        "A training that was done again",
        ["step", "loss, recorded", "loss, now", "apart", "allowed"],
        rows,
        "Nats a token. Apart, and what is allowed of it, are shares of the recorded loss.",
    )
    assert len(rows) >= 5
    for step, loss, now, apart, allowed in rows:
        assert apart <= allowed, f"step {step}: {now} and not {loss}"
