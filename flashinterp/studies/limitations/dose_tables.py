"""The tables of where doses end (FI-L002, FI-L009, FI-L010): made from measured values, by the eval and again by
`verify`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flashinterp.evaluation.claims import Claim
from flashinterp.evaluation.evidence import Evidence
from flashinterp.evaluation.judgement import Judged
from flashinterp.evaluation.matched_controls import DEAD_SCALE
from flashinterp.neuron_index import NeuronIndex
from flashinterp.neurons import NeuronId
from flashinterp.provenance.registry import derivation, record
from flashinterp.report.table import Told
from flashinterp.stats import wilson
from flashinterp.studies.limitations.dose_steps import Steps, count_steps


class Slope(NamedTuple):
    """What a unit of clamp value does to a word's log-odds, nats: within the natural range, and at 500.

    Attributes:
        natural: None where the range has no width.
        far: over the last step in the claimed direction.
    """

    natural: float | None
    far: float

    @property
    def left(self) -> float | None:
        """The share of the slope that is left."""
        return self.far / self.natural if self.natural else None


def slope(claim: Claim, e: Evidence) -> Slope:
    """The two slopes of a claim's neuron, over prompts."""
    rises, width = (e.log_odds[:, -1] - e.log_odds[:, 0]).mean(), e.doses[-1] - e.doses[0]
    mean = e.stress_log_odds.mean(axis=0)
    last = slice(-2, None) if claim.drive == "+" else slice(None, 2)
    far = float(np.diff(mean[last])[0] / np.diff(e.stress_doses[last])[0])
    return Slope(float(rises / width) if width > 0 else None, far)


@derivation("limitations.saturation", version=1)
def saturation_table(judged: Judged) -> Told:
    """What a unit of clamp value does, near and far, for each claim that was measured."""
    rows: list[list[Any]] = []
    for claim, found in judged.measured:
        one = slope(claim, found)
        rows.append([claim.id, str(claim.neuron), one.natural, one.far, one.left])
    return (
        ["claim", "neuron", "per unit, natural range", "per unit, at 500", "share left"],
        rows or [["none", None, None, None, None]],
        "Change of the token's log-odds (nats) per unit of clamp value.",
    )


PARTS = {"whole range": 1.0, "first fiftieth": 0.02}
"""Over which share of the natural range the doses of a curve go."""
DTYPES = ("float32", "bfloat16")
MOST_PARAMETERS = 3e9
"""Of a model that is loaded a second time, in another dtype: 12 GB."""


@record("limitations.dtype_curves", version=1)
@dataclass(frozen=True)
class DtypeCurves:
    """The same doses in two dtypes.

    Attributes:
        claim: its id.
        neuron: that is clamped.
        curves: by part of the natural range, then by dtype: [prompts, doses] log-odds of the claim's word, nats.
    """

    claim: str
    neuron: NeuronId
    curves: Mapping[str, Mapping[str, NDArray[np.float32]]]

    def steps(self, part: str, dtype: str) -> Steps:
        """Those against the direction of the whole range in float32 on the same prompt, and those to nowhere."""
        whole = self.curves["whole range"]["float32"]
        return count_steps(self.curves[part][dtype], np.sign(whole[:, -1] - whole[:, 0]))


def all_steps(found: Sequence[DtypeCurves], part: str, dtype: str) -> Steps:
    """The steps of all neurons."""
    return sum((one.steps(part, dtype) for one in found), Steps(0, 0, 0))


@derivation("limitations.rounding_steps", version=1)
def rounding_table(found: Sequence[DtypeCurves]) -> Told:
    """How many steps go the wrong way, or nowhere, in each dtype."""
    rows: list[list[Any]] = []
    for one in found:
        for part in PARTS:
            rows.append([one.claim, str(one.neuron), part, *_counts([one.steps(part, dtype) for dtype in DTYPES])])
    for part in PARTS:
        rows.append(["all", None, part, *_counts([all_steps(found, part, dtype) for dtype in DTYPES])])
    return (
        ["claim", "neuron", "doses", "float32: reversed", "level", "bfloat16: reversed", "level", "steps"],
        rows,
        "Steps between neighbouring doses, over all prompts. Reversed: against the direction of the whole range in "
        "float32 on the same prompt. A curve's last digits say nothing where many steps are level or reversed.",
    )


def _counts(both: Sequence[Steps]) -> list[int]:
    return [*(n for one in both for n in (one.reversed, one.level)), both[0].n]


@derivation("limitations.rounding_not_measured", version=1)
def rounding_not_measured(parameters: int) -> Told:
    """The row of a model that would not fit twice."""
    return ["remark"], [[too_large(parameters)]], ""


def too_large(parameters: int) -> str:
    """Why a model of so many parameters is not loaded a second time; empty where it can be."""
    return f"not measured: {parameters:,} parameters in a second dtype" if parameters > MOST_PARAMETERS else ""


def dead_neurons(roster: NeuronIndex, scales: NDArray[np.float32]) -> NDArray[np.bool_]:
    """[N] whether each neuron's scale is below a hundredth of its MLP's median; all of an MLP that is silent.

    Args:
        roster: the model's MLPs.
        scales: [N] standard deviation of the output on natural text, times the norm of the column of W_down.
    """
    dead = np.zeros(len(roster), dtype=bool)
    for block in roster.blocks:
        own = scales[roster.span(block)]
        dead[roster.span(block)] = ~(own > DEAD_SCALE * np.median(own))
    return dead


@derivation("limitations.dead_neurons", version=1)
def dead_table(
    roster: NeuronIndex,
    scales: NDArray[np.float32],
    words: NDArray[np.int32],
    scores: NDArray[np.float64],
    shown: Mapping[int, str],
) -> Told:
    """How many neurons of each layer are dead, and the one of them that the lens names best.

    Args:
        roster: the model's MLPs.
        scales: [N] as in `dead_neurons`.
        words: [D] the best word of each of the D dead neurons by the paper lens, in the roster's order.
        scores: [D] its score.
        shown: how these words' tokens are shown, as far as they are.
    """
    dead, layer_of = dead_neurons(roster, scales), roster.layer_of()
    places = np.flatnonzero(dead)
    if not len(places) == len(words) == len(scores):
        raise ValueError(f"{len(places)} neurons are dead, and {len(words)} have a best word")
    rows: list[list[Any]] = []
    for layer in roster.layers:
        own, total = np.flatnonzero(layer_of[places] == layer), int((layer_of == layer).sum())
        share = wilson(len(own), total)
        assert share is not None
        told: list[Any] = [None, None, None]
        if len(own):
            best = own[scores[own].argmax()]
            told = [str(roster.neuron(int(places[best]))), shown[int(words[best])], float(scores[best])]
        rows.append([layer, total, len(own), share.estimate, share.low, share.high, *told])
    return (
        ["layer", "neurons", "dead", "share", "low", "high", "one of them", "its best word", "score"],
        rows,
        "Dead on these texts: on others they may live. Intervals: Wilson's. The word is the paper lens's, as sure "
        "as a living neuron's.",
    )
