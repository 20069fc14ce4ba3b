"""The tables of the small models that were trained to tell why a name has a neuron of its own (FI-L003 to FI-L005).

Made from the recorded lines alone: for docs/limitations, by the eval, and again by `verify`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from flashinterp.provenance.registry import derivation
from flashinterp.report.table import Told
from flashinterp.stats import Interval, bootstrap_mean, wilson
from flashinterp.studies.word_frequency.slopes import LEAST_TRAININGS, Floats, Slopes, linear_slope, logistic_slope
from flashinterp.studies.word_frequency.training_records import (
    CONDITIONS,
    LENSES,
    Lines,
    Model,
    Sharing,
    Sheets,
    TrainingOutcome,
    models_of,
)

OFTEN = 300  # mentions: between the levels of about 210 and 480
KINDS = ("own", "broader", "sibling", "noise")
Question = Callable[[TrainingOutcome], bool]
QUESTIONS: dict[str, Question] = {
    "names it": lambda o: o.kind == "own",
    "moves it": lambda o: o.causal,
    "brings it most": lambda o: o.brought == "own",
    "has its own": lambda o: o.has_own,
}
"""What a name's neuron can be: its best word is the name; it is among the 5 % of its layer that move the name most, and
raises it; of all names and class words it raises the name most; all of these."""
Table = tuple[list[str], list[list[Any]]]
"""Headers and rows."""


def by_frequency(lines: Lines, models: Sequence[Model], lens: str) -> Table:
    """A row for each frequency level: what the names' neurons are, and how many have their own, beside the nulls."""
    header = [
        "times in the text",
        "names",
        "recalled",
        *KINDS,
        "moves it",
        "brings it most",
        "has its own",
        "low",
        "high",
    ]
    header += [f"own, {condition}" for condition in CONDITIONS[1:]]
    by_level = {c: _by_level(lines, models, c, lens) for c in CONDITIONS}
    rows: list[list[Any]] = []
    for level in range(len(_levels(lines))):
        own = by_level["trained"][level]
        if not own:
            continue
        kinds = Counter(o.kind for o in own)
        middle = float(np.exp(np.mean([np.log(max(1, o.count)) for o in own])))
        share = wilson(sum(o.has_own for o in own), len(own))
        assert share is not None
        recalled = float(np.mean([o.recall for o in own])) / 3
        rows.append(
            [round(middle), len(own), recalled, *(kinds[kind] for kind in KINDS)]
            + [sum(map(QUESTIONS[q], own)) for q in ("moves it", "brings it most", "has its own")]
            + [share.low, share.high, *(sum(o.has_own for o in by_level[c][level]) for c in CONDITIONS[1:])]
        )
    return header, rows


def _by_level(lines: Lines, models: Sequence[Model], condition: str, lens: str) -> list[list[TrainingOutcome]]:
    found = lines.of(models, condition, lens)
    return [[o for o in found if lines.levels[o.model][o.name] == level] for level in _levels(lines)]


def _levels(lines: Lines) -> list[int]:
    return sorted({level for of_model in lines.levels.values() for level in of_model.values()})


def slopes(lines: Lines, arms: dict[str, Sequence[Model]]) -> Table:
    """A row for each head, lens, question and condition: log-odds for ten times the frequency.

    The last three columns are the trained model's slope less that with random directions, over the same resamples.
    """
    header = ["head", "lens", "question", "model", "yes", "of", "slope per tenfold", "low", "high"]
    header += ["less random's", "low", "high"]
    rows: list[list[Any]] = []
    for head, models in arms.items():
        for lens, question in (
            (lens, q) for lens in LENSES for q in QUESTIONS if lens != "effect" or q == "has its own"
        ):
            fits = {c: _fitted(lines.of(models, c, lens), QUESTIONS[question]) for c in CONDITIONS}
            for condition, (yes, n, fit) in fits.items():
                less = fit.less(fits["random"][2]) if fit and fits["random"][2] and condition == "trained" else None
                slope = fit.interval if fit else None
                rows.append([head, lens, question, condition, yes, n, *_ends(slope), *_ends(less)])
    return header, rows


def _fitted(own: Sequence[TrainingOutcome], asked: Question) -> tuple[int, int, Slopes | None]:
    yes = np.array([asked(o) for o in own], dtype=bool)
    return int(yes.sum()), len(own), logistic_slope(_log_counts(own), yes, [o.model for o in own])


def beyond_nulls(lines: Lines, models: Sequence[Model]) -> Table:
    """How many names have their own, less how many in each null, with Student's interval over trainings."""
    header = [
        "times in the text",
        "lens",
        "null",
        "names",
        "have their own",
        "in the null",
        "difference",
        "low",
        "high",
    ]
    rows: list[list[Any]] = []
    for label, wanted in ((f"over {OFTEN}", True), (f"{OFTEN} at the most", False)):
        for lens in LENSES:
            for null in ("random", "untrained"):
                pairs = [
                    [
                        [o.has_own for o in lines.of([m], c, lens) if (o.count > OFTEN) == wanted]
                        for c in ("trained", null)
                    ]
                    for m in models
                ]
                apart = np.array([np.mean(here) - np.mean(there) for here, there in pairs])
                own, others = (sum(sum(pair[i]) for pair in pairs) for i in (0, 1))
                n = sum(len(pair[0]) for pair in pairs)
                rows.append([label, lens, null, n, own, others, float(apart.mean()), *_student(apart)])
    return header, rows


def _student(values: Floats) -> list[float | None]:
    """The 95 % interval of a mean by Student's t; of equal values none."""
    from scipy import stats

    if len(values) < LEAST_TRAININGS or np.ptp(values) == 0:
        return [None, None]
    low, high = stats.t.interval(0.95, len(values) - 1, values.mean(), stats.sem(values))
    return [float(low), float(high)]


def where_they_fire(lines: Lines, models: Sequence[Model]) -> Table:
    """How well outputs tell a name, and the place before it, from others: mean percentiles; 0.5 is chance."""
    header = ["model", "names", "at the name", "before it is due", "with their own", "at the name", "before it is due"]
    rows: list[list[Any]] = []
    for condition in CONDITIONS:
        every = lines.of(models, condition, "write")
        own = [o for o in every if o.has_own]
        cells = [[len(group), *_readings(group)] for group in (every, own)]
        rows.append([condition, *cells[0], *cells[1]])
    return header, rows


def _readings(group: Sequence[TrainingOutcome]) -> list[float | None]:
    if not group:
        return [None, None]
    return [float(np.mean([o.present for o in group])), float(np.mean([o.coming for o in group]))]


def sharing_by_frequency(lines: Lines, arms: dict[str, Sequence[Model]]) -> Table:
    """How many neurons move a name, over its frequency: by how much for ten times as often, in per cent."""
    header = [
        "head",
        "model",
        "rarest third",
        "middle third",
        "most frequent third",
        "change per tenfold",
        "low",
        "high",
    ]
    rows: list[list[Any]] = []
    for head, models in arms.items():
        for condition in CONDITIONS:
            own = lines.of(models, condition, LENSES[0])  # the same for each lens: no lens has a part in it
            if not own:
                continue
            x, y = _log_counts(own), np.log([o.shared_by for o in own])
            order = np.array_split(np.argsort(x, kind="stable"), 3)
            found = linear_slope(x, y, [o.model for o in own]).interval
            change = [None if end is None else float(np.expm1(end)) for end in _ends(found)]
            rows.append([head, condition, *(float(np.exp(y[third].mean())) for third in order), *change])
    return header, rows


def by_width(lines: Lines) -> Table:
    """A row for each MLP width and lens, over the same seeds."""
    header = ["width", "lens", "trainings", "last loss", "recalled", *QUESTIONS, "of", "low", "high"]
    header += ["own, untrained", "frequent half", "rare half"]
    models = models_of(lines.models, "capacity", "frequency")
    seeds = {model.seed for model in models_of(lines.models, "capacity")}
    rows: list[list[Any]] = []
    for lens in LENSES:
        for width in sorted({model.width for model in models}):
            of_width = [model for model in models if model.width == width and model.seed in seeds]
            own = lines.of(of_width, "trained", lens)
            share = wilson(sum(o.has_own for o in own), len(own))
            assert share is not None
            middle = float(np.median(_log_counts(own)))
            halves = [
                sum(o.has_own for o in own if (np.log10(max(1, o.count)) > middle) == high) for high in (True, False)
            ]
            loss = float(np.mean([list(model.loss_at.values())[-1] for model in of_width]))
            rows.append(
                [width, lens, len(of_width), loss, float(np.mean([o.recall for o in own])) / 3]
                + [sum(map(asked, own)) for asked in QUESTIONS.values()]
                + [len(own), share.low, share.high]
                + [sum(o.has_own for o in lines.of(of_width, "untrained", lens)), *halves]
            )
    return header, rows


def by_size(lines: Lines) -> Table:
    """A row for each size and mass: the effective number of neurons per word, and times that of the null."""
    header = ["hidden, layers, width", "neurons", "trainings", "mass", "effective", "low", "high", "null's",
              "times null's", "low", "high", "first neuron's share"]  # fmt: skip
    models = models_of(lines.models, "size", "frequency")
    seeds = {model.seed for model in models_of(lines.models, "size")}
    shapes = sorted({(m.neurons, m.hidden, m.layers, m.width) for m in models})
    rows: list[list[Any]] = []
    for mass in dict.fromkeys(word.mass for word in lines.words):
        for neurons, *shape in shapes:
            of_size = [m.model for m in models if [m.hidden, m.layers, m.width] == shape and m.seed in seeds]
            own = [word for word in lines.words if word.model in of_size and word.mass == mass]
            here, null, top = _over_trainings(own)
            effective, against = _geometric(here), _geometric(here - null)
            rows.append(
                [", ".join(map(str, shape)), neurons, len(of_size), mass, *_ends(effective)]
                + [float(np.exp(null.mean())), *_ends(against), float(top.mean())]
            )
    return header, rows


def _over_trainings(own: Sequence[Sharing]) -> tuple[Floats, Floats, Floats]:
    """[words] three times: the mean over trainings of log effective, log null and first share."""
    words = list(dict.fromkeys(one.word for one in own))
    parts = [[one for one in own if one.word == word] for word in words]
    here, null = (np.array([np.mean([np.log(getattr(o, f)) for o in p]) for p in parts]) for f in ("effective", "null"))
    return here, null, np.array([np.mean([o.top for o in p]) for p in parts])


def _geometric(logs: Floats) -> Interval:
    """exp of a mean over words, with its bootstrap interval."""
    mean = bootstrap_mean(logs, np.random.default_rng(1))
    low, high = (None if end is None else float(np.exp(end)) for end in (mean.low, mean.high))
    return Interval(float(np.exp(mean.estimate)), low, high)


def _log_counts(own: Sequence[TrainingOutcome]) -> Floats:
    """log10 of how often each name is in the text, 1 at the least."""
    return np.log10([max(1, o.count) for o in own])


def _ends(interval: Interval | None) -> list[float | None]:
    return [None] * 3 if interval is None else [interval.estimate, interval.low, interval.high]


def _by_arm(lines: Lines) -> dict[str, Sequence[Model]]:
    """The trainings on one text, with a head of its own and with a tied one."""
    return {"untied": models_of(lines.models, "frequency"), "tied": models_of(lines.models, "tied")}


class Asked(NamedTuple):
    """One table, and the lines that it is made of.

    Attributes:
        make: the table from lines.
        arms: of the models.
        lenses: of the names' lines.
        words: whether the words' lines are in it.
    """

    make: Callable[[Lines], Table]
    arms: tuple[str, ...]
    lenses: tuple[str, ...] = LENSES
    words: bool = False

    def of(self, lines: Lines) -> Lines:
        """The lines that it is made of."""
        return lines.part(self.arms, self.lenses, words=self.words)


def _by_lens(lens: str, arm: str = "frequency") -> Asked:
    return Asked(lambda lines: by_frequency(lines, models_of(lines.models, arm), lens), (arm,), (lens,))


def _of_one_text(make: Callable[[Lines, Sequence[Model]], Table], *lenses: str) -> Asked:
    return Asked(lambda lines: make(lines, models_of(lines.models, "frequency")), ("frequency",), lenses)


TABLES: Mapping[str, Asked] = {
    "FI-L003: by frequency, paper lens": _by_lens("paper"),
    "FI-L003: by frequency, write lens": _by_lens("write"),
    "FI-L003: by frequency, the neuron that moves the name most": _by_lens("effect"),
    "FI-L003: by frequency, paper lens, tied heads": _by_lens("paper", "tied"),
    "FI-L003: slopes over frequency": Asked(lambda lines: slopes(lines, _by_arm(lines)), ("frequency", "tied")),
    "FI-L003: beyond the nulls": _of_one_text(beyond_nulls, *LENSES),
    "FI-L003: where the write lens's neurons fire": _of_one_text(where_they_fire, "write"),
    "FI-L003: neurons that share a name": Asked(
        lambda lines: sharing_by_frequency(lines, _by_arm(lines)), ("frequency", "tied"), LENSES[:1]
    ),
    "FI-L004: by width": Asked(by_width, ("capacity", "frequency")),
    "FI-L005: by size": Asked(by_size, ("size", "frequency"), (), words=True),
}
"""By limit and title."""


def all_tables(lines: Lines) -> dict[str, Table]:
    """Title to header and rows, numbers as numbers; None where nothing can be given."""
    return {title: asked.make(lines) for title, asked in TABLES.items()}


@derivation("word_frequency.training_measurement", version=1)
def recorded_table(title: str, sheets: Sheets) -> Told:
    """One of `TABLES`, from its lines."""
    headers, rows = TABLES[title].make(sheets.lines())
    return headers, rows, f"See docs/limitations/{title.partition(':')[0]}.md."
