"""Does a name get a neuron of its own because it is frequent, because there is room, or neither?

``python -m benchmarks.frequency --out docs/limitations`` trains small Llamas on text in which 24 names have frequencies
that are known, over 2.5 orders of magnitude, and asks each model where each name leads. One line a model goes into
``models.csv``, one a name into ``names.csv`` and one a word into ``concentration.csv``, so that a run that was killed
goes on where it stopped. At the end it prints the tables of docs/limitations/FI-L003.md to FI-L005.md. It takes about
15 minutes on one core.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks.frequency_outcomes import changed, outcomes, sharings
from benchmarks.small_training import LENGTH, RATE, ROWS, Shape, Trained, one_thread, train, untrained
from benchmarks.small_world import DECADES, LEVELS, WORDS, levels_of, prompts
from fixtures.build import stream
from flashinterp.errors import FlashinterpError, RunError
from flashinterp.studies.word_frequency.training_records import (
    CONDITIONS,
    KEPT_LOSSES,
    Condition,
    Line,
    Lines,
    Model,
    Sharing,
    T,
    TrainingOutcome,
    read_sheet,
    sheet,
)

STEPS = 800


@dataclass(frozen=True)
class Training:
    """One training of the design.

    Attributes:
        arm: what it is for: ``frequency``, ``tied``, ``capacity`` or ``size``.
        shape, seed: of the model.
        conditions: under which it is asked where names lead.
    """

    arm: str
    shape: Shape
    seed: int
    conditions: tuple[Condition, ...] = ("trained", "untrained")


BASE = Shape()


def _of_other_shapes(seed: int) -> tuple[Training, ...]:
    """Other widths of the MLP, and other sizes of everything."""
    return (
        *(Training("capacity", Shape(width=width), seed) for width in (16, 32, 64, 256)),
        *(Training("size", shape, seed) for shape in (Shape(32, 2, 64), Shape(96, 3, 256))),
    )


DESIGN = (
    *(Training("frequency", BASE, seed, CONDITIONS) for seed in range(1, 7)),
    *(training for seed in range(1, 4) for training in _of_other_shapes(seed)),
    *(Training("tied", Shape(tied=True), seed, CONDITIONS) for seed in range(1, 4)),
)
"""Every training; the base shape of the first three seeds also stands for its width and its size."""


def model_line(number: int, training: Training, trained: Trained) -> Model:
    """The line of a training."""
    s = training.shape
    kept = " ".join(f"{trained.losses[step]:.5f}" for step in KEPT_LOSSES if step < len(trained.losses))
    return Model(number, training.arm, training.seed, s.hidden, s.layers, s.width, s.tied, kept)


def main() -> None:
    """Train what is missing, then print."""
    from benchmarks.frequency_tables import tables

    parser = argparse.ArgumentParser(prog="python -m benchmarks.frequency", description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=int, default=len(DESIGN), help="how many of the design's trainings")
    parser.add_argument("--out", type=Path, default=Path("docs/limitations"))
    options = parser.parse_args()
    try:
        run(options.out, DESIGN[: options.models])
        found = load(options.out)
    except (FlashinterpError, OSError) as error:
        sys.exit(str(error))
    print("\n\n".join(f"### {title}\n\n{table}" for title, table in tables(found).items()))


def run(out: Path, design: Sequence[Training] = DESIGN, steps: int = STEPS) -> None:
    """Append the lines of the trainings that a folder lacks, in the design's order.

    Raises:
        RunError: the folder holds the outcomes of another design.
    """
    _check_design(out, steps)
    done = _forget_half_done(out)
    for number in tqdm(range(done, len(design)), desc="models", initial=done, total=len(design), unit="model"):
        training = design[number]
        trained = train(training.shape, training.seed, steps)
        with one_thread():
            _append(out / "names.csv", names_of(number, training, trained))
            _append(out / "concentration.csv", sharings(number, trained.model, training.seed))
        _append(out / "models.csv", [model_line(number, training, trained)])  # last: what is in it is whole


def names_of(number: int, training: Training, trained: Trained) -> list[TrainingOutcome]:
    """Where names lead under each of a training's conditions."""

    def model(condition: Condition) -> Any:
        if condition == "trained":
            return trained.model
        if condition == "untrained":
            return untrained(training.shape, training.seed)
        return changed(trained.model, condition, training.seed)

    return [one for c in training.conditions for one in outcomes(number, c, trained, model(c), training.seed)]


def load(out: Path) -> Lines:
    """What a folder holds."""
    models = _read(out / "models.csv", Model)
    levels = {model.model: levels_of(stream("levels", seed=(model.seed,))) for model in models}
    return Lines(models, _read(out / "names.csv", TrainingOutcome), _read(out / "concentration.csv", Sharing), levels)


def _read(path: Path, kind: type[T]) -> list[T]:
    return read_sheet(path.read_text(encoding="utf-8"), kind)


def _append(path: Path, lines: Sequence[Line]) -> None:
    new = not path.exists()
    with path.open("a", encoding="utf-8", newline="") as file:
        file.write(sheet(lines, header=new))


def _forget_half_done(out: Path) -> int:
    """How many models are whole; what a killed run left of another one is taken out."""
    path = out / "models.csv"
    done = len(_read(path, Model)) if path.exists() else 0
    for name in ("names.csv", "concentration.csv"):
        if (file := out / name).exists():
            header, *lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = [line for line in lines if line.endswith("\n") and int(line.partition(",")[0]) < done]
            file.write_text("".join([header, *kept]), encoding="utf-8")
    return done


def _check_design(out: Path, steps: int) -> None:
    """Write down what the outcomes rest on; a folder holds those of one design."""
    text, path = json.dumps(design_of(steps), indent=1) + "\n", out / "design.json"
    out.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        path.write_text(text, encoding="utf-8")
    elif path.read_text(encoding="utf-8") != text:
        raise RunError(f"{path} is of another design: name another folder with --out, or remove it")


def design_of(steps: int) -> dict[str, Any]:
    """What the outcomes rest on, beside the code."""
    return {
        "steps": steps, "rows": ROWS, "length": LENGTH, "rate": RATE, "levels": LEVELS, "decades": DECADES,
        "words": sha256("\n".join(WORDS).encode()).hexdigest(), "prompts": prompts().digest,
    }  # fmt: skip


if __name__ == "__main__":
    main()
