"""What is on record of the small models that were trained to tell why a name has a neuron of its own (METHOD 7).

Each line of docs/limitations/models.csv is one trained model, each of names.csv where one name leads in it, each of
concentration.csv how many neurons share a word there.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from functools import cache
from typing import Any, Literal, Self, TypeVar, get_args

from flashinterp.provenance.registry import record

Condition = Literal["trained", "random", "permuted", "untrained"]
"""The trained model; with random directions of the same norms in W_up and W_down; with W_down's columns exchanged
within each layer; and the random model that the training began with."""
CONDITIONS: tuple[Condition, ...] = get_args(Condition)
LENSES = ("paper", "write", "effect")
"""How a name's neuron is found: by a lens, or, with no lens, as the one that moves the name most of all."""
TOP = 0.95  # percentile: among the twentieth of its layer that move the word most
KEPT_LOSSES = (0, 1, 2, 5, 10, 20, 50, 100, 200, 400, 799)
"""Steps whose losses are kept: the first ones come out again on another machine, the last say what was learnt."""
T = TypeVar("T", bound="Line")


class Line:
    """A line of a CSV file: numbers in four digits, and back."""

    def cells(self) -> list[str]:
        """The values as texts."""
        return [f"{v:.4g}" if isinstance(v, float) else str(v) for v in astuple(self)]  # type: ignore[call-overload]

    @classmethod
    def parse(cls, cells: dict[str, str]) -> Self:
        """The inverse of `cells`."""
        return cls(**{name: read(cells[name]) for name, read in _columns(cls)})  # type: ignore[arg-type]


@cache
def _columns(kind: type[Line]) -> list[tuple[str, Callable[[str], Any]]]:
    """The names of a line's values, and what reads each."""
    read: dict[str, Callable[[str], Any]] = {"int": int, "float": float, "bool": "True".__eq__}
    return [(f.name, read.get(str(f.type), str)) for f in fields(kind)]  # type: ignore[arg-type]


@dataclass(frozen=True)
class TrainingOutcome(Line):
    """Where one name leads in one model, by one lens: one line of ``names.csv``.

    Attributes:
        model, condition: the model's number, and what was done to it.
        lens, name: who was looked for.
        count: how often the training text has the name.
        recall, nats: of three sentences from which it follows who it is, how many the model ends rightly, and -log p.
        neuron, pole, score: what `NeuronMap.find` gives; found by effect, the pole is the way that raises the name, and
            the score is the effect.
        best, kind: that neuron's best word by the lens, or that which it raises most, and what it is to the name: the
            name itself (``own``), its class's word or another of its group (``broader``), another name of its class
            (``sibling``), or ``noise``.
        effect: mean change of the name's log-odds when the neuron is driven over its natural range towards the pole.
        percentile: the share of the other neurons of its layer that move the name less, either way.
        brings, brought: of all names and class words the one that it raises most, and of what kind that is.
        shared_by: the effective number of neurons that move the name: the participation ratio of the
            squared effects on it.
        present, coming: the percentile, in its layer, of how well its output tells positions at the name from those at
            other names, and positions before which the name is due from those where others are.
    """

    model: int
    condition: Condition
    lens: str
    name: str
    count: int
    recall: int
    nats: float
    neuron: str
    pole: str
    score: float
    best: str
    kind: str
    effect: float
    percentile: float
    brings: str
    brought: str
    shared_by: float
    present: float
    coming: float

    @property
    def causal(self) -> bool:
        """It raises the name, and is among the twentieth of its layer that move it most."""
        return self.effect > 0 and self.percentile >= TOP

    @property
    def has_own(self) -> bool:
        """The name has a neuron of its own: it names it, moves it as few do, and raises nothing more than it."""
        return self.kind == "own" and self.causal and self.brought == "own"


@dataclass(frozen=True)
class Sharing(Line):
    """How many neurons share a word in one trained model: one line of ``concentration.csv``.

    Attributes:
        model, mass, word: the model's number, of what the number is taken, and whose it is.
        effective, null: the effective number of neurons, here and with random directions.
        top: the share of the first neuron.
    """

    model: int
    mass: str
    word: str
    effective: float
    null: float
    top: float


@dataclass(frozen=True)
class Model(Line):
    """One trained model: one line of ``models.csv``.

    Attributes:
        model: its number.
        arm, seed, hidden, layers, width, tied: the training.
        losses: of the steps in `KEPT_LOSSES`, nats a token, with a space between.
    """

    model: int
    arm: str
    seed: int
    hidden: int
    layers: int
    width: int
    tied: bool
    losses: str

    @property
    def neurons(self) -> int:
        return self.layers * self.width

    @property
    def loss_at(self) -> dict[int, float]:
        """The kept losses, by step."""
        return dict(zip(KEPT_LOSSES, map(float, self.losses.split()), strict=False))


def models_of(models: Iterable[Model], *arms: str) -> list[Model]:
    """Those of some arms."""
    return [model for model in models if model.arm in arms]


def read_sheet(text: str, kind: type[T]) -> list[T]:
    """The lines of a CSV file with a header."""
    return [kind.parse(cells) for cells in csv.DictReader(io.StringIO(text, newline=""))]


def sheet(lines: Sequence[Line], *, header: bool = True) -> str:
    """The text of such a file; nothing of no lines."""
    file = io.StringIO(newline="")
    writer = csv.writer(file, lineterminator="\n")
    if header and lines:
        writer.writerow([f.name for f in fields(lines[0])])  # type: ignore[arg-type]
    writer.writerows(line.cells() for line in lines)
    return file.getvalue()


Levels = Mapping[int, Mapping[str, int]]
"""By model and name: the level of its frequency in the training text, 0 the most frequent."""


@dataclass(frozen=True)
class Lines:
    """Lines on record: of models, of names in them, of words that neurons share; and how frequent the names are."""

    models: list[Model]
    names: list[TrainingOutcome]
    words: list[Sharing]
    levels: Levels

    def of(self, models: Sequence[Model], condition: str, lens: str) -> list[TrainingOutcome]:
        """The names of some models under one condition, by one lens."""
        wanted = {model.model for model in models}
        return [o for o in self.names if o.model in wanted and (o.condition, o.lens) == (condition, lens)]

    def part(self, arms: Sequence[str], lenses: Sequence[str], *, words: bool) -> Lines:
        """The models of some arms; their names by some lenses, and their words or none."""
        models = models_of(self.models, *arms)
        numbers = {model.model for model in models}
        return Lines(
            models,
            [o for o in self.names if o.model in numbers and o.lens in lenses],
            [w for w in self.words if w.model in numbers] if words else [],
            {number: self.levels[number] for number in sorted(numbers)} if lenses else {},
        )

    def sheets(self) -> Sheets:
        """As text."""
        return Sheets(sheet(self.models), sheet(self.names), sheet(self.words), self.levels)


@record("word_frequency.training_records", version=1)
@dataclass(frozen=True)
class Sheets:
    """Lines as they stand in the three files, each with its header; empty without lines."""

    models: str
    names: str
    words: str
    levels: Levels

    def lines(self) -> Lines:
        """Read."""
        return Lines(
            read_sheet(self.models, Model),
            read_sheet(self.names, TrainingOutcome),
            read_sheet(self.words, Sharing),
            self.levels,
        )
