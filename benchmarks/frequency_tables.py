"""The tables of docs/limitations/FI-L003.md to FI-L005.md, from the lines that `benchmarks.frequency` wrote.

The resampling unit of an interval is the training: names of one model share its text and its neurons.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from tabulate import tabulate

from benchmarks.frequency import Model, models_of
from benchmarks.frequency_outcomes import CONDITIONS, LENSES, Outcome, Sharing
from benchmarks.small_world import LEVELS, levels_of
from fixtures.build import stream
from flashinterp.stats import Interval, bootstrap_mean, wilson

Floats = NDArray[np.float64]

RESAMPLES = 1000
RIDGE = 0.1  # on the slope and the intercept: of a resample without a single success the likelihood has no maximum
LEAST_TRAININGS = 5  # of fewer no interval is made: three have ten resamples
LEAST = 5  # fewer successes or failures than this give no slope
OFTEN = 300  # mentions: between the levels of about 210 and 480
KINDS = ("own", "broader", "sibling", "noise")

Question = Callable[[Outcome], bool]
QUESTIONS: dict[str, Question] = {
    "names it": lambda o: o.kind == "own",
    "moves it": lambda o: o.causal,
    "brings it most": lambda o: o.brought == "own",
    "has its own": lambda o: o.has_own,
}
"""What a name's neuron can be: its best word is the name; it is among the 5 % of its layer that move the name most, and
raises it; of all names and class words it raises the name most; all of these."""


@dataclass(frozen=True)
class Lines:
    """All that was recorded."""

    models: list[Model]
    names: list[Outcome]
    words: list[Sharing]

    def of(self, models: Sequence[Model], condition: str, lens: str) -> list[Outcome]:
        """The names of some models under one condition, by one lens."""
        wanted = {model.model for model in models}
        return [o for o in self.names if o.model in wanted and (o.condition, o.lens) == (condition, lens)]


def tables(models: list[Model], names: list[Outcome], words: list[Sharing]) -> dict[str, str]:
    """Title to table, in Markdown."""
    lines = Lines(models, names, words)
    made = {}
    for title, (header, rows) in all_tables(lines).items():
        made[title] = tabulate(
            [[_shown(cell) for cell in row] for row in rows], header, "github", disable_numparse=True
        )
    return made


Table = tuple[list[str], list[list[Any]]]


def all_tables(lines: Lines) -> dict[str, Table]:
    """Title to header and rows, numbers as numbers; None where nothing can be given."""
    frequency, tied = (models_of(lines.models, arm) for arm in ("frequency", "tied"))
    return {
        "FI-L003: by frequency, paper lens": by_frequency(lines, frequency, "paper"),
        "FI-L003: by frequency, write lens": by_frequency(lines, frequency, "write"),
        "FI-L003: by frequency, the neuron that moves the name most": by_frequency(lines, frequency, "effect"),
        "FI-L003: by frequency, paper lens, tied heads": by_frequency(lines, tied, "paper"),
        "FI-L003: slopes over frequency": slopes(lines, {"untied": frequency, "tied": tied}),
        "FI-L003: beyond the nulls": beyond_nulls(lines, frequency),
        "FI-L003: where the write lens's neurons fire": where_they_fire(lines, frequency),
        "FI-L003: neurons that share a name": sharing_by_frequency(lines, {"untied": frequency, "tied": tied}),
        "FI-L004: by width": by_width(lines),
        "FI-L005: by size": by_size(lines),
    }


# --- frequency ----------------------------------------------------------------------------------------


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
    for level in range(LEVELS):
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


def _by_level(lines: Lines, models: Sequence[Model], condition: str, lens: str) -> list[list[Outcome]]:
    levels = {model.model: levels_of(stream("levels", seed=(model.seed,))) for model in models}
    found = lines.of(models, condition, lens)
    return [[o for o in found if levels[o.model][o.name] == level] for level in range(LEVELS)]


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
                slope = fit and fit.interval
                rows.append([head, lens, question, condition, yes, n, *_ends(slope), *_ends(less)])
    return header, rows


def _fitted(own: Sequence[Outcome], asked: Question) -> tuple[int, int, Slopes | None]:
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


def _readings(group: Sequence[Outcome]) -> list[float | None]:
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


# --- capacity and size --------------------------------------------------------------------------------


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


# --- slopes -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Slopes:
    """A slope, and the slopes of resampled trainings; None of these with fewer than 5 trainings.

    Two of the same trainings were resampled alike, so that their difference has an interval, too.
    """

    estimate: float
    resampled: Floats | None

    @property
    def interval(self) -> Interval:
        """With the 2.5th and the 97.5th percentile of the resamples."""
        if self.resampled is None:
            return Interval(self.estimate, None, None)
        low, high = np.quantile(self.resampled, [0.025, 0.975])
        return Interval(self.estimate, float(low), float(high))

    def less(self, other: Slopes) -> Interval:
        """The difference."""
        both = self.resampled is not None and other.resampled is not None
        resampled = self.resampled - other.resampled if both else None  # type: ignore[operator]
        return Slopes(self.estimate - other.estimate, resampled).interval


def logistic_slope(x: Floats, yes: NDArray[np.bool_], groups: Sequence[int]) -> Slopes | None:
    """The slope of a logistic regression; None with fewer than 5 successes or failures."""
    if min(yes.sum(), (~yes).sum()) < LEAST:
        return None
    return _resampled(lambda weights: _logistic(x, yes, weights), groups)


def linear_slope(x: Floats, y: Floats, groups: Sequence[int]) -> Slopes:
    """The slope of a straight line."""

    def fit(weights: Floats) -> Floats:
        total = weights.sum(axis=1)
        mean_x, mean_y = (weights @ v / total for v in (x, y))
        dx, dy = x[None] - mean_x[:, None], y[None] - mean_y[:, None]
        result: Floats = (weights * dx * dy).sum(axis=1) / (weights * dx * dx).sum(axis=1)
        return result

    return _resampled(fit, groups)


def _resampled(fit: Callable[[Floats], Floats], groups: Sequence[int]) -> Slopes:
    """The fit of all lines, each once, and of resampled groups."""
    names, group = np.unique(np.asarray(groups), return_inverse=True)
    estimate = float(fit(np.ones((1, len(group))))[0])
    if len(names) < LEAST_TRAININGS:
        return Slopes(estimate, None)
    drawn = stream("resampled trainings").integers(len(names), size=(RESAMPLES, len(names)))
    times = np.stack([(drawn == g).sum(axis=1) for g in range(len(names))], axis=1)  # [resamples, groups]
    return Slopes(estimate, fit(times[:, group].astype(np.float64)))


def _logistic(x: Floats, yes: NDArray[np.bool_], weights: Floats) -> Floats:
    """[resamples] slopes by Newton's method, with weights [resamples, lines] and a small ridge; x is centred for it."""
    design = np.stack([np.ones_like(x), x - x.mean()], axis=1)  # [lines, 2]
    beta = np.zeros((len(weights), 2))
    for _ in range(50):
        p = 1 / (1 + np.exp(-np.clip(beta @ design.T, -30, 30)))
        gradient = (weights * (yes - p)) @ design - RIDGE * beta
        curvature = np.einsum("bn,ni,nj->bij", weights * p * (1 - p), design, design) + RIDGE * np.eye(2)
        step = np.linalg.solve(curvature, gradient[..., None])[..., 0]
        beta += step
        if np.abs(step).max() < 1e-9:
            break
    slope: Floats = beta[:, 1]
    return slope


def _log_counts(own: Sequence[Outcome]) -> Floats:
    """log10 of how often each name is in the text, 1 at the least."""
    return np.log10([max(1, o.count) for o in own])


def _ends(interval: Interval | None) -> list[float | None]:
    return [None] * 3 if interval is None else [interval.estimate, interval.low, interval.high]


def _shown(cell: Any) -> str:
    """Three digits for what was computed; a dash for nothing."""
    return "–" if cell is None else f"{cell:.3g}" if isinstance(cell, float) else str(cell)
