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

import numpy as np
import pytest

from flashinterp import Checkpoint
from flashinterp.evaluation.experiment import Experiment
from flashinterp.runs.eval_recorder import EvalRecorder
from flashinterp.runs.session import AuditSession
from flashinterp.studies.word_frequency.concentration_tables import (
    NOT_MEASURED,
    again_table,
    needs_known_text,
    repeated,
    spread_table,
)
from flashinterp.studies.word_frequency.training_records import Lines, Model
from flashinterp.studies.word_frequency.training_tables import TABLES, recorded_table
from flashinterp.studies.word_frequency.word_spread import drawn_words, word_spread

RECORDED = Path(__file__).parent.parent / "docs" / "limitations"
FIRST_STEPS = 51  # of a training that is begun again


@pytest.mark.limitation
def test_frequency_in_the_training_text(audit: AuditSession, evidence: EvalRecorder) -> None:
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
def test_capacity(audit: AuditSession, evidence: EvalRecorder) -> None:
    """Does a name get a neuron of its own because there is room?

    Implementation: the same trainings with MLPs of 16 to 256 neurons a layer, over the same text; asked as above. The
    first steps of the first of them are repeated. Limit FI-L004.
    """
    lines = _recorded(audit, evidence, "capacity", "FI-L004")
    _table_all(lines, "FI-L004", evidence)
    first = next(model for model in lines.models if model.arm == "capacity")
    _compare(first.loss_at, _repeat(first, FIRST_STEPS).losses, "capacity", evidence)


@pytest.mark.limitation
def test_size(
    audit: AuditSession, base: Checkpoint, bench: Experiment, tokens: tuple[str, ...], evidence: EvalRecorder
) -> None:
    """Over how many neurons is a word spread: in this model, and in three sizes that were trained alike.

    Implementation: the effective number of neurons of a word is the participation ratio of its scores over all neurons
    (by lens), or of the squared effects of all neurons on it, each driven over its own natural range (first order, one
    backward pass for each prompt). Each stands beside that of the same model with random directions in place of
    what was learnt, because it grows with a model by itself. The words are drawn from the vocabulary; those that were
    asked for are told apart. For a family of checkpoints: ``python -m
    flashinterp.studies.word_frequency.concentration``. On the bundled models one whole training of the smallest size
    is repeated. Limit FI-L005.
    """
    asked = list(dict.fromkeys(base.vocabulary.resolve(text).id for text in tokens))
    groups = [
        word_spread(bench, "drawn words", drawn_words(bench)),
        word_spread(bench, "words asked for", asked),
    ]
    evidence.derived(spread_table, "spread", "How many neurons share a word (FI-L005)", groups, bench.seed)
    if audit.truth:
        lines = _read()
        _table_all(lines, "FI-L005", evidence)
        smallest = min(lines.models, key=lambda model: model.hidden)
        again = _repeat(smallest, None)
        _compare(smallest.loss_at, again.losses, "size", evidence)


# --- what was recorded, and doing it again --------------------------------------------------------------


def _read() -> Lines:
    from benchmarks.frequency import load  # in the checkout only, as the recorded lines are

    return load(RECORDED)


def _recorded(audit: AuditSession, evidence: EvalRecorder, name: str, limit: str) -> Lines:
    """The recorded lines; for any other than the bundled models a row that says why not, and a skip."""
    if not audit.truth:
        evidence.derived(needs_known_text, name, f"Not measured ({limit})")
        pytest.skip(NOT_MEASURED)
    return _read()


def _table_all(lines: Lines, limit: str, evidence: EvalRecorder) -> None:
    """Every table of a limit, made from its lines."""
    for number, (title, asked) in enumerate(TABLES.items()):
        if title.startswith(limit):
            named = f"Recorded: {title.removeprefix(f'{limit}: ')} ({limit})"
            evidence.derived(recorded_table, f"{limit}-{number}", named, title, asked.of(lines).sheets())


def _repeat(model: Model, steps: int | None) -> Any:
    """Train one of the recorded models again, for some steps or to the end."""
    from benchmarks.frequency import STEPS
    from benchmarks.small_training import Shape, train

    return train(Shape(model.hidden, model.layers, model.width, model.tied), model.seed, STEPS, until=steps)


def _compare(recorded: dict[int, float], again: tuple[float, ...], name: str, evidence: EvalRecorder) -> None:
    """The recorded losses beside those of now, which must agree."""
    now = np.array(again)
    evidence.derived(again_table, f"{name}-again", "A training that was done again", recorded, now)
    found = repeated(recorded, now)
    assert len(found) >= 5
    for step, loss, ours, apart, allowed in found:
        assert apart <= allowed, f"step {step}: {ours} and not {loss}"
