"""Where doses end: clamps that the norm takes away, steps that rounding takes away, and neurons that never fire.

Each is a limit of what a curve of doses can show, is measured on every model, and has a page in docs/limitations.
"""

from __future__ import annotations

from typing import Any

import pytest

from flashinterp import Checkpoint
from flashinterp.decoding.neuron_map import LensMaps
from flashinterp.evaluation.claims import Claim
from flashinterp.evaluation.experiment import Experiment
from flashinterp.evaluation.judgement import Judged
from flashinterp.provenance.recorded import Recorded
from flashinterp.runs.eval_recorder import EvalRecorder
from flashinterp.runs.session import AuditSession
from flashinterp.studies.limitations.dead_neuron_words import best_words, output_scales
from flashinterp.studies.limitations.dose_curves import in_two_dtypes
from flashinterp.studies.limitations.dose_tables import (
    DTYPES,
    all_steps,
    dead_neurons,
    dead_table,
    rounding_not_measured,
    rounding_table,
    saturation_table,
    slope,
    too_large,
)

MOST_LEFT = 0.1  # of a slope within the natural range, at 500: a planted neuron's u is some tens at the most
MOST_CLAIMS = 8


@pytest.mark.limitation
def test_saturation_at_high_dose(audit: AuditSession, judged: Judged, evidence: EvalRecorder) -> None:
    """Far outside the natural range a higher dose does little more: the final norm takes the neuron's growth away.

    Implementation: for each claim, the change of log-odds per unit of clamp value within the natural range and
    over the last step of the -500…500 curve in the claimed direction. A doubling of the dose near 500 says
    little about doses that occur. Limit FI-L002.
    """
    title = "What a unit of clamp value does, near and far (FI-L002)"
    evidence.derived(saturation_table, "saturation", title, Recorded("judgements", "claims"))
    slopes = {claim.id: slope(claim, found) for claim, found in judged.measured}
    for plant in (audit.truth or {}).get("plants", []):
        if plant["verdict"] == "validated":
            share = slopes[plant["id"]].left
            assert share is not None
            assert abs(share) < MOST_LEFT, f"{plant['id']}: {share:.1%} of its slope is left at 500"


# --- rounding ---------------------------------------------------------------------------------------------


@pytest.mark.limitation
def test_rounding_at_low_doses(
    audit: AuditSession,
    claims: tuple[Claim, ...],
    model: Any,
    bench: Experiment,
    evidence: EvalRecorder,
) -> None:
    """The same doses in float32 and in bfloat16: how many steps of the curve go the wrong way, or nowhere.

    Implementation: each claim's neuron is clamped at 12 values over the whole natural range, and at 12 over its first
    fiftieth, on held-out prompts, in both dtypes. A step is *reversed* if the token's log-odds move against the
    direction of the whole float32 curve on that prompt, and *level* if they do not move. bfloat16 keeps 8 bits: what a
    small step adds to the residual stream may be below its last place. Claims whose neurons cannot be swept, and
    models that would not fit twice, are told. Limit FI-L009.
    """
    if reason := too_large(size := sum(p.numel() for p in model.parameters())):
        evidence.derived(rounding_not_measured, "rounding", "Steps in two dtypes (FI-L009)", size)
        pytest.skip(reason)
    chosen = [claim for claim in claims if claim.neuron is not None][:MOST_CLAIMS]
    found = in_two_dtypes(bench, chosen)
    evidence.derived(rounding_table, "rounding", "Steps in two dtypes (FI-L009)", found)
    if audit.truth:
        both = {dtype: all_steps(found, "first fiftieth", dtype) for dtype in DTYPES}
        lost = {dtype: (steps.reversed + steps.level) / steps.n for dtype, steps in both.items()}
        assert lost["bfloat16"] > lost["float32"] + 0.1, lost


# --- dead neurons -----------------------------------------------------------------------------------------


@pytest.mark.limitation
def test_dead_neurons(
    audit: AuditSession, base: Checkpoint, maps: LensMaps, bench: Experiment, evidence: EvalRecorder
) -> None:
    """How many neurons of each layer do nothing on natural text, and what the lens names them nevertheless.

    Implementation: a neuron is dead if the standard deviation of its output u · act(g) on the selection texts, times
    the norm of its column of W_down, is below 1 % of its MLP's median. The lens does not know: the dead neuron
    with the highest score for its own best word is named, with that word. Of a model with experts, dead includes
    those whose expert no text reaches. Limit FI-L010.
    """
    roster, scales = base.layout.roster, output_scales(bench)
    dead = dead_neurons(roster, scales)
    evidence.derived(dead_table, "dead", "Dead neurons (FI-L010)", roster, scales, *best_words(maps["paper"], dead))
    for plant in (audit.truth or {}).get("plants", []):
        if plant["verdict"] == "validated" or not plant["alive"]:
            is_dead = bool(dead[roster.index(plant["name"])])
            assert is_dead != plant["alive"], f"{plant['name']} ({plant['id']})"
