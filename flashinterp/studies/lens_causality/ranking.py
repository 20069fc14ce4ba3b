"""Does a lens rank neurons by what they cause? The arithmetic from measured effects to figures (METHOD 4).

Arrays in, figures out: no model is needed. What is undefined is NaN within an array of one value per word, and None
with a reason in a figure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from flashinterp.neurons import Lens, get_lens
from flashinterp.stats import Interval, bootstrap_mean, wilson

Floats = NDArray[np.float64]
Kind = Literal["permuted", "random"]
Measure = Literal["top 5 %", "top 1 %", "percentile", "direction", "rank correlation"]
ATTRIBUTION = "attribution"
"""The name of the first-order attribution beside the lenses."""
TOPS: dict[Measure, float] = {"top 5 %": 0.05, "top 1 %": 0.01}
MEASURES: tuple[Measure, ...] = (*TOPS, "percentile", "direction", "rank correlation")
SHARES: tuple[Measure, ...] = (*TOPS, "direction")
"""Measures that are right or wrong for each word, and get a Wilson interval; the others a bootstrap one."""
_CHANCE: dict[Measure, float] = {"percentile": 0.5, "direction": 0.5, "rank correlation": 0.0}
_PICK = ("scores", "found", "signs")
_WORLD = ("neurons", "layers", "drawn", "measured", "effects")
_LEAST_WORDS = 3  # of fewer no interval is made
_ROUNDING = 1e-12  # of a mean of values up to 1


@dataclass(frozen=True)
class Pick:
    """What one lens makes of the neurons, for T words in R regions (the whole model, then its parts).

    Attributes:
        scores: [D, T] of the drawn neurons, the higher the more the neuron is the word's.
        found: [R, T] position in the roster of the neuron with the highest score; -1 for none.
        signs: [R, T] +1 where it is the word's neuron on the positive pole, -1 on the negative one.
    """

    scores: NDArray[np.float32]
    found: NDArray[np.int64]
    signs: NDArray[np.int8]


@dataclass(frozen=True)
class World:
    """One model, as it is or with other pairs of vectors: what driving its neurons does, and what lenses find in it.

    Attributes:
        neurons: [M] positions in the roster, ascending: those drawn and those found.
        layers: [M] the layer of each.
        drawn: [M] whether it is one of the D drawn ones, among which ranks are taken.
        measured: [M] whether it has an effect: enough tokens reach its expert for it to have a natural range.
        effects: [M, T] mean change of the word's log-odds over the neuron's natural range; 0 where not measured.
        picks: by lens.
    """

    neurons: NDArray[np.int64]
    layers: NDArray[np.int64]
    drawn: NDArray[np.bool_]
    measured: NDArray[np.bool_]
    effects: NDArray[np.float32]
    picks: Mapping[str, Pick] = field(default_factory=dict)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Everything, to be kept; `from_arrays` makes it a world again."""
        own: dict[str, NDArray[Any]] = {name: getattr(self, name) for name in _WORLD}
        for lens, pick in self.picks.items():
            own |= {f"{lens}.{name}": getattr(pick, name) for name in _PICK}
        return own

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> World:
        """The inverse of `arrays`."""
        lenses = [name.removesuffix(".scores") for name in arrays if name.endswith(".scores")]
        picks = {lens: Pick(*(arrays[f"{lens}.{name}"] for name in _PICK)) for lens in lenses}
        return cls(**{name: arrays[name] for name in _WORLD}, picks=picks)


@dataclass(frozen=True)
class WorldOutcome:
    """How one lens did in one region: for each word.

    Attributes:
        percentile: [T] share of the other drawn neurons of the found neuron's layer that have a smaller |effect|, ties
            half.
        pool: [T] how many these others are.
        direction: [T] 1 where the sign of the effect is the pole of the finding, 0 where it is the other one.
        rank_correlation: [T] Spearman's, of score and |effect| over a layer's drawn neurons, mean over the layers.
        found: [T] positions of the found neurons.
        effect: [T] of the found neuron.
    """

    percentile: Floats
    pool: NDArray[np.int64]
    direction: Floats
    rank_correlation: Floats
    found: NDArray[np.int64]
    effect: Floats

    def of(self, measure: Measure) -> Floats:
        """[T] of a measure; NaN where it is undefined."""
        if measure not in TOPS:
            values: Floats = getattr(self, measure.replace(" ", "_"))
            return values
        share = TOPS[measure]
        resolved = np.isfinite(self.percentile) & ((self.pool + 1) * share >= 1)  # 50 neurons have no top 1 %
        return np.where(resolved, self.percentile >= 1 - share, np.nan)

    def chance(self, measure: Measure) -> float | None:
        """What a neuron that is found at random reaches on average; None where the measure is undefined."""
        if measure not in TOPS:
            return _CHANCE[measure]
        n = self.pool[np.isfinite(self.of(measure))]
        if not n.size:
            return None
        # Among n others it has each percentile k / n, k = 0 to n, equally often.
        percentiles = [np.arange(others + 1) / others for others in n.tolist()]
        return float(np.mean([np.mean(p >= 1 - TOPS[measure]) for p in percentiles]))


def outcome(world: World, pick: Pick, region: int, layers: Sequence[int]) -> WorldOutcome:
    """Compare what a lens found in a region of these layers with what was measured in a world.

    The pick may be of another world with the same drawn neurons: that is the permuted null.
    """
    n_words = world.effects.shape[1]
    found, signs = pick.found[region], pick.signs[region]
    percentile, direction, effect = np.full((3, n_words), np.nan)
    pool = np.zeros(n_words, dtype=np.int64)
    size = np.abs(world.effects)
    rows = np.searchsorted(world.neurons, found)
    for word, (row, neuron) in enumerate(zip(rows.tolist(), found.tolist(), strict=True)):
        if row == len(world.neurons) or world.neurons[row] != neuron or not world.measured[row]:
            continue
        effect[word] = world.effects[row, word]
        if effect[word] != 0:  # an effect of exactly nothing has no direction
            direction[word] = float(np.sign(effect[word]) == signs[word])
        others = world.drawn & world.measured & (world.layers == world.layers[row])
        others[row] = False
        pool[word] = np.count_nonzero(others)
        if pool[word]:
            theirs = size[others, word]
            less, ties = np.count_nonzero(theirs < size[row, word]), np.count_nonzero(theirs == size[row, word])
            percentile[word] = (less + ties / 2) / pool[word]
    correlation = _mean([_correlations(world, pick.scores, layer) for layer in layers])
    return WorldOutcome(percentile, pool, direction, correlation, found, effect)


def _correlations(world: World, scores: NDArray[np.float32], layer: int) -> Floats:
    """[T] Spearman's correlation of score and |effect| over a layer's drawn neurons; NaN where either is constant."""
    from scipy import stats

    within = (world.layers == layer)[world.drawn] & world.measured[world.drawn]
    if np.count_nonzero(within) < 3:
        return np.full(scores.shape[1], np.nan)
    a, b = (stats.rankdata(x[within], axis=0) for x in (scores, np.abs(world.effects[world.drawn])))
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    norm = np.sqrt((a * a).sum(axis=0) * (b * b).sum(axis=0))
    result: Floats = np.divide((a * b).sum(axis=0), norm, out=np.full(norm.shape, np.nan), where=norm > 0)
    return result


def _mean(parts: Sequence[Floats]) -> Floats:
    """The mean of those parts [T] that are defined."""
    values = np.stack(parts)
    known = np.isfinite(values)
    total, count = np.where(known, values, 0).sum(axis=0), known.sum(axis=0)
    result: Floats = np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
    return result


@dataclass(frozen=True)
class RankStatistic:
    """One figure with its interval over words; None, with the reason, where there is none.

    Attributes:
        value: the estimate and its interval.
        words: how many it is of.
        reason: why there is no value, or no interval.
    """

    value: Interval | None
    words: int
    reason: str = ""

    @property
    def cells(self) -> tuple[float | None, float | None, float | None]:
        """Estimate, low, high."""
        return (None, None, None) if self.value is None else (self.value.estimate, self.value.low, self.value.high)


def figure(values: Floats, measure: Measure, rng: np.random.Generator) -> RankStatistic:
    """The mean of one value per word [T]: a share with its Wilson interval, or a mean with its bootstrap one."""
    known = values[np.isfinite(values)]
    if not known.size:
        few = f"the layers have fewer than {round(1 / TOPS[measure])} measured neurons" if measure in TOPS else ""
        return RankStatistic(None, 0, few or "no found neuron has an effect that was measured")
    if measure in SHARES:
        return RankStatistic(wilson(int(known.sum()), known.size), known.size)
    return _bootstrapped(known, rng)


def _bootstrapped(known: Floats, rng: np.random.Generator) -> RankStatistic:
    value = bootstrap_mean(known, rng)
    why = f"fewer than {_LEAST_WORDS} words" if known.size < _LEAST_WORDS else "the same for every word"
    return RankStatistic(value, known.size, why if value.low is None else "")


@dataclass(frozen=True)
class Excess:
    """What a lens has beyond a null.

    Attributes:
        null: the null's mean over its repetitions and the words.
        means: the mean of each repetition.
        as_high: in how many repetitions it is as high as in the model.
        excess: per word, real minus the mean of its nulls; the interval is the wider one, at each end, of two: the
            bootstrap over words, and that of the model as one more repetition of the null.
    """

    null: float | None
    means: tuple[float, ...]
    as_high: int | None
    excess: RankStatistic

    @classmethod
    def undefined(cls, reason: str) -> Excess:
        return cls(None, (), None, RankStatistic(None, 0, reason))

    @property
    def answer(self) -> Literal["more", "less", "no more"] | None:
        """More than mechanics, less, or no more; None where there is no interval."""
        value = self.excess.value
        if value is None or value.low is None or value.high is None:
            return None
        return "more" if value.low > 0 else "less" if value.high < 0 else "no more"


def excess(real: Floats, nulls: Sequence[Floats], measure: Measure, rng: np.random.Generator) -> Excess:
    """Compare one value per word [T] with the same in each repetition of a null.

    Words count that are defined in the model and in one repetition at least.

    The words of one model share its neurons: one strong neuron that is dealt another column changes what is found for
    many of them together, and the bootstrap over words does not see this. Measured with each of 24 repetitions in turn
    in the model's place, and 5 others as its null, on a trained Llama of 5 layers: of 20 excesses that are none, the
    bootstrap calls 0 to 50 % real (29 to 50 % of the rank correlations), the interval over repetitions 0 to 12 %, both
    together 0 to 4 % (12 % for one, the logit lens's top 5 %). 2.5 % are meant to be.
    """
    if not nulls:
        return Excess.undefined("the null has no repetition")
    differences = real - _mean(nulls)
    known = np.isfinite(differences)
    if not known.any():
        return Excess.undefined("undefined in the model, or in every repetition of the null")
    rows = [null[known & np.isfinite(null)] for null in nulls]
    means = tuple(float(row.mean()) for row in rows if row.size)
    as_high = int(np.count_nonzero(np.array(means) >= real[known].mean() - _ROUNDING))
    over_words = _bootstrapped(differences[known], rng)
    far = 2.0 if measure == "rank correlation" else 1.0  # two values from 0 to 1 differ by 1 at most
    return Excess(float(np.mean(means)), means, as_high, _with_repetitions(over_words, means, far))


def _with_repetitions(over_words: RankStatistic, means: Sequence[float], far: float) -> RankStatistic:
    """The figure with an interval that holds the one over words and the one over repetitions, or with none."""
    from scipy import stats

    value, k = over_words.value, len(means)
    if value is None or value.low is None or value.high is None:
        return over_words
    if k < 2:
        why = "one repetition of the null shows no spread"
        return RankStatistic(Interval(value.estimate, None, None), over_words.words, why)
    # The model's mean is one more draw from the null: it differs from the mean of k by the spread of both.
    half = float(stats.t.ppf(0.975, k - 1) * np.std(means, ddof=1) * np.sqrt(1 + 1 / k))
    low, high = min(value.low, value.estimate - half), max(value.high, value.estimate + half)
    return RankStatistic(Interval(value.estimate, max(low, -far), min(high, far)), over_words.words)


@dataclass(frozen=True)
class Result:
    """One lens, one region, one measure.

    Attributes:
        lens: its name, or ``attribution``.
        region: 0 for the whole model, then its parts.
        measure: which.
        here: in the model.
        chance: of a neuron that is found at random.
        neurons: how many different neurons were found for the words.
        kind: which null; None for none.
        beyond: what there is beyond it.
    """

    lens: str
    region: int
    measure: Measure
    here: RankStatistic
    chance: float | None
    neurons: int
    kind: Kind | None
    beyond: Excess


@dataclass(frozen=True)
class Study:
    """One model's lenses put to the test.

    Attributes:
        words: T token ids: those drawn, then those asked for that are not among them.
        n_drawn: how many of them are drawn. Shares and means are over these.
        regions: the layers of the whole model, then of each part of it.
        real: the model as it is, with a pick for each lens, and one for the attribution where it could be made.
        nulls: by kind, one world a repetition; a random one has the picks that were made in it.
        missing: what could not be made, and why: the attribution, or a kind of null.
    """

    words: tuple[int, ...]
    n_drawn: int
    regions: tuple[tuple[int, ...], ...]
    real: World
    nulls: Mapping[str, tuple[World, ...]] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)

    def arrays(self) -> dict[str, dict[str, NDArray[Any]]]:
        """Everything but the reasons, one set of arrays a world; `from_arrays` makes it a study again."""
        part = {layer: i for i, layers in enumerate(self.regions) for layer in layers}  # the last: the smallest
        about: dict[str, NDArray[Any]] = {
            "words": np.array(self.words, dtype=np.int64),
            "n_drawn": np.array(self.n_drawn, dtype=np.int64),
            "part_of_layer": np.array(sorted(part.items()), dtype=np.int64),
        }
        worlds = {f"{kind}-{i}": world.arrays() for kind, made in self.nulls.items() for i, world in enumerate(made)}
        return {"real": {**about, **self.real.arrays()}, **worlds}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Mapping[str, NDArray[Any]]]) -> Study:
        """The inverse of `arrays`."""
        about = arrays["real"]
        nulls: dict[str, list[World]] = {}
        for name in sorted(set(arrays) - {"real"}, key=lambda name: int(name.partition("-")[2])):
            nulls.setdefault(name.partition("-")[0], []).append(World.from_arrays(arrays[name]))
        layers, parts = about["part_of_layer"].T.tolist()
        of_part = (tuple(n for n, own in zip(layers, parts, strict=True) if own == i) for i in range(1, max(parts) + 1))
        return cls(
            tuple(about["words"].tolist()),
            int(about["n_drawn"]),
            (tuple(layers), *of_part),
            World.from_arrays(about),
            {kind: tuple(made) for kind, made in nulls.items()},
        )

    def outcome(self, lens: str, region: int, world: World | None = None) -> WorldOutcome:
        """How a lens did in the model; or in a null, where it finds the same neurons, or its own."""
        world = world or self.real
        return outcome(world, world.picks.get(lens, self.real.picks[lens]), region, self.regions[region])

    def results(self, rng: Callable[[str], np.random.Generator]) -> list[Result]:
        """Every figure, by region, then lens, then measure; rng gives the random stream of a name."""
        whole = range(len(self.regions))
        return [r for region in whole for lens in self.real.picks for r in self._results(lens, region, rng)]

    def _results(self, lens: str, region: int, rng: Callable[[str], np.random.Generator]) -> Iterator[Result]:
        real, some = self.outcome(lens, region), slice(self.n_drawn)
        kind = None if lens == ATTRIBUTION else null_of(lens)
        nulls = [self.outcome(lens, region, world) for world in self.nulls.get(kind or "", ())]
        neurons = len(set(real.found[some].tolist()) - {-1})
        absent = "the attribution has no null" if kind is None else self.missing.get(kind)
        for measure in MEASURES:
            of, values = f"{lens}, region {region}, {measure}", real.of(measure)[some]
            theirs = [null.of(measure)[some] for null in nulls]
            beyond = Excess.undefined(absent) if absent else excess(values, theirs, measure, rng(f"excess: {of}"))
            here = figure(values, measure, rng(of))
            yield Result(lens, region, measure, here, real.chance(measure), neurons, kind, beyond)


def null_of(lens: str | Lens) -> Kind:
    """The null that leaves a lens the mechanics it has: what it looks at stays as it is, or is drawn anew."""
    return "permuted" if get_lens(lens).side == "read" else "random"


def regions_of(layers: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """The whole model, then its layers in three parts as equal as can be; two of two layers, none of one."""
    parts = np.array_split(np.array(layers), min(3, len(layers))) if len(layers) > 1 else []
    return tuple(layers), *(tuple(int(layer) for layer in part) for part in parts)
