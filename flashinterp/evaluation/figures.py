"""The figures of claims and of studies of the lenses, drawn from the recorded evidence itself."""

from __future__ import annotations

import numpy as np

from flashinterp.evaluation.claims import Claim
from flashinterp.evaluation.evidence import Evidence, Floats
from flashinterp.evaluation.judgement import Judged
from flashinterp.evaluation.tables import claim_word
from flashinterp.provenance.registry import derivation
from flashinterp.report.charts.dose_response import DosePanel, dose_response
from flashinterp.report.figure import Figure

PANELS = 12
"""Claims that are drawn; all are in the tables and in ``raw/``."""


@derivation("evaluation.natural_dose_response", version=1)
def natural_doses(name: str, title: str, judged: Judged) -> Figure:
    """The first measured claims over their natural ranges, with their controls: the evidence of the writing side."""
    panels = [_natural(claim, found) for claim, found in judged.measured[:PANELS]]
    return dose_response(name, title, panels, "change of log-odds (nats)")


@derivation("evaluation.stress_dose_response", version=1)
def stress_doses(name: str, title: str, judged: Judged) -> Figure:
    """The same over the paper's -500 to 500, which no verdict rests on."""
    return dose_response(name, title, [_stress(claim, found) for claim, found in judged.measured[:PANELS]])


def _natural(claim: Claim, e: Evidence) -> DosePanel:
    """Each prompt's log-odds less those at the lowest dose: the right end is the effect that is judged."""
    gated = np.isfinite(e.gate).all() and e.gate.size > 0
    return DosePanel(
        label=f"{claim_word(claim)} {claim.neuron}",
        values=e.doses,
        curves=e.log_odds - e.log_odds[:, :1],
        own=float(e.own.mean()),
        natural=(float(e.doses[0]), float(e.doses[-1])),
        control_changes=e.control_effects if e.control_effects.size else None,
        gate=(float(e.gate.mean()), float(e.act_gate.mean())) if gated else None,
    )


def _stress(claim: Claim, e: Evidence) -> DosePanel:
    return DosePanel(
        label=f"{claim_word(claim)} {claim.neuron}",
        values=e.stress_doses,
        curves=_log_p(e.stress_log_odds),
        natural=(float(e.doses[0]), float(e.doses[-1])),
    )


def _log_p(odds: Floats) -> Floats:
    """The log-probability of log-odds."""
    return -np.logaddexp(0, -odds)
