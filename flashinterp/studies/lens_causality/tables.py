"""The tables that show how causal the neurons are that a lens names: made from a study alone, by the eval and again by
`verify`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from flashinterp.neuron_index import NeuronIndex, span
from flashinterp.provenance.registry import derivation
from flashinterp.report.table import Told
from flashinterp.studies.lens_causality.ranking import ATTRIBUTION, Result, Study

SHOWN = "top 5 %"
"""The measure of the figure and of the table by parts."""
PERCENTILE = "Percentile: the share of the other neurons of its layer whose |effect| is smaller."


def of(results: Sequence[Result], measure: str, region: int = 0) -> list[Result]:
    """The results of one measure in one region of the model."""
    return [r for r in results if r.measure == measure and r.region == region]


@derivation("lens_causality.measures_by_lens", version=1)
def lenses_table(found: Study, results: Sequence[Result]) -> Told:
    """What each lens's neurons do, by measure."""
    rows: list[list[Any]] = []
    for measure in dict.fromkeys(r.measure for r in results):
        for r in of(results, measure):
            rows.append([measure, r.lens, *r.here.cells, r.chance, r.here.words, r.neurons, r.here.reason])
        if ATTRIBUTION in found.missing:
            rows.append([measure, ATTRIBUTION, None, None, None, None, 0, 0, found.missing[ATTRIBUTION]])
    measured, drawn = int(found.real.measured[found.real.drawn].sum()), int(found.real.drawn.sum())
    unreached = "" if measured == drawn else ", the others being in experts that natural text hardly reaches"
    return _remarked(
        ["measure", "lens", "here", "low", "high", "chance", "words", "neurons"],
        rows,
        f"Over {found.n_drawn} drawn words and {measured} of {drawn} drawn neurons{unreached}. Top 5 % and 1 %: the "
        "share of the words whose found neuron is among those of its layer with the largest |effect| on the word. "
        f"{PERCENTILE} Direction: the share of the words that move to the side of the pole. Rank correlation: "
        "Spearman's, of score and |effect| over a layer's neurons, mean over layers and words. Intervals, 95 %: "
        "Wilson's for shares, else a bootstrap over words. Chance: of a neuron found at random. Neurons: how many "
        "different ones were found. Attribution: no lens, but one backward pass for each prompt.",
    )


@derivation("lens_causality.measures_against_nulls", version=1)
def nulls_table(results: Sequence[Result]) -> Told:
    """Each figure beside that of the lens's null."""
    rows: list[list[Any]] = []
    for r in (r for r in results if r.kind and r.region == 0):
        b = r.beyond
        as_high = None if b.as_high is None else f"{b.as_high} of {len(b.means)}"
        cells = [r.here.cells[0], b.null, as_high, *b.excess.cells, b.answer, b.excess.reason]
        rows.append([r.lens, r.kind, r.measure, *cells])
    return _remarked(
        ["lens", "null", "measure", "here", "null's", "as high", "excess", "low", "high", "than mechanics"],
        rows,
        "Permuted: W_down's columns exchanged among the neurons of an MLP; the lens, which looks at W_up or W_gate, "
        "finds the same neurons. Random: columns of the same norms and random directions; the lens finds its neurons "
        "in that model. Null's: the mean over its repetitions. As high: how many of these reach the model's figure. "
        "Excess: the mean over words of the model's value less the nulls'; its interval is the wider, at each end, of "
        "a bootstrap over words and of what the spread of the repetitions allows (Student's t). Than mechanics: more "
        "where it lies above 0, less where below.",
    )


@derivation("lens_causality.share_by_part", version=1)
def parts_table(found: Study, results: Sequence[Result]) -> Told:
    """The share among the most causal, part by part of the model."""
    rows: list[list[Any]] = []
    for r in (r for r in results if r.measure == SHOWN and r.region > 0):
        b = r.beyond
        rows.append([part_name(found, r.region), r.lens, *r.here.cells, b.null, *b.excess.cells, b.answer])
    return (
        ["part", "lens", SHOWN, "low", "high", "null's", "excess", "low", "high", "than mechanics"],
        rows,
        "The found neuron of a word is the best of that part. The first interval is Wilson's, the second is that of "
        "the excess, as above.",
    )


@derivation("lens_causality.other_measures_by_part", version=1)
def parts_rest_table(found: Study, results: Sequence[Result]) -> Told:
    """The other measures, part by part."""
    by_row: dict[tuple[int, str], list[Result]] = {}
    for r in (r for r in results if r.measure != SHOWN and r.region > 0):
        by_row.setdefault((r.region, r.lens), []).append(r)
    rows: list[list[Any]] = [
        [part_name(found, region), lens, *(r.here.cells[0] for r in row), row[0].neurons]
        for (region, lens), row in by_row.items()
    ]
    measures = [r.measure for r in next(iter(by_row.values()))]
    return ["part", "lens", *measures, "neurons"], rows, "As above."


def _remarked(headers: list[str], rows: list[list[Any]], caption: str) -> Told:
    """A table whose last column, the remarks, is left out where there are none."""
    if any(row[-1] for row in rows):
        return [*headers, "remark"], rows, caption
    return headers, [row[:-1] for row in rows], caption


def part_name(found: Study, region: int) -> str:
    """A part of the model, by its layers."""
    layers = found.regions[region]
    return f"layer{'s' if len(layers) > 1 else ''} {span(layers)}"


@derivation("lens_causality.words", version=1)
def study_words_table(found: Study, words: Sequence[tuple[int, str]], roster: NeuronIndex) -> Told:
    """Each word's found neuron for each lens; as text, since the numbers are in the raw arrays.

    Args:
        found: the study.
        words: the token ids of the words asked for, and how they are shown.
        roster: the model's MLPs.
    """
    outcomes = {lens: (pick, found.outcome(lens, 0)) for lens, pick in found.real.picks.items()}
    rows: list[list[Any]] = []
    for token_id, shown in words:
        at, row = found.words.index(token_id), list[Any]([shown])
        for pick, outcome in outcomes.values():
            percentile = outcome.percentile[at]
            neuron = f"{roster.neuron(int(outcome.found[at]))}{'+' if pick.signs[0, at] > 0 else '-'}"
            told = f"{neuron} {100 * percentile:.1f} ({outcome.effect[at]:+.2f})"
            row.append(told if np.isfinite(percentile) else None)
        rows.append(row)
    return (
        ["word", *outcomes],
        rows,
        "The found neuron and its pole, its percentile (%) in its layer by |effect| on the word, and the effect (nats "
        f"of log-odds from low to high). {PERCENTILE}",
    )
