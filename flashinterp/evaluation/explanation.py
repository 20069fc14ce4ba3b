"""Why a dose-response curve goes the way it goes: the gate's sign times what the neuron writes (METHOD 3)."""

from __future__ import annotations

from typing import Any

import numpy as np

from flashinterp.evaluation.claims import Claim
from flashinterp.evaluation.evidence import Evidence
from flashinterp.neurons import LENSES

_HARDLY = 1.0
"""Standard deviations over other words within which a neuron hardly writes a word: what it writes more decides then."""
_SHUT = 0.01
"""act(g) below which a gate is shut: a dose of 10 then writes no more than a dose of 0.1 does through an open one."""


def explain(claim: Claim, e: Evidence) -> dict[str, Any]:
    """Why the curve goes the way it goes: the gate's sign times what the neuron writes (METHOD 3)."""
    act = float(e.act_gate.mean())
    observed = float((e.log_odds[:, -1] - e.log_odds[:, 0]).mean())
    # A logit that all words share cancels in the softmax: what counts is how far the word's is from theirs.
    spread = float(e.z_write_unrelated.std(ddof=1)) if e.z_write_unrelated.size > 1 else 0.0
    written = (e.z_write - float(e.z_write_unrelated.mean())) / spread if spread > 0 else None
    predicted = 0.0 if written is None or abs(written) < _HARDLY else np.sign(act) * np.sign(written)
    seen = 0.0 if abs(observed) <= e.noise_floor else np.sign(observed)
    return {
        "gate": float(e.gate.mean()),
        "act_gate": act,
        "own_value": float(e.own.mean()),
        "z_read": e.z_read,
        "z_write": e.z_write,
        "z_write_deviations": written,
        "predicted_direction": sign_name(predicted),
        "observed_direction": sign_name(seen),
        "why": _why(claim, act, written, seen, predicted),
        "dose_low": float(e.doses[0]),
        "dose_high": float(e.doses[-1]),
        # What no gauge can change: whether the neuron writes what it reads, or its opposite.
        "reads_times_writes": sign_name(np.sign(e.z_read * e.z_write)),
        "selected_by": LENSES[claim.lens].side,
        "control_scale_ratio": e.control_scale_ratio,
        "control_norm_ratio": e.control_norm_ratio,
    }


def sign_name(value: float) -> str:
    """A direction as it is written in tables: "+", "-" or "0"."""
    return "+" if value > 0 else "-" if value < 0 else "0"


def _why(claim: Claim, act: float, written: float | None, seen: float, predicted: float) -> str:
    """The direction of a curve in words: the paper's puzzle of a neuron whose negative values bring its word."""
    if abs(act) < _SHUT:
        return f"its gate is shut (act(g) {act:.1g}): whatever its value is, it writes next to nothing"
    if seen == 0:
        return "no value of it moves the word beyond the noise"
    values = "higher" if seen > 0 else "lower"
    if written is None or predicted == 0:
        return f"{values} values raise the word, which it hardly writes: what it writes of other words decides"
    gate = "open" if act > 0 else "negative, which turns it round"
    pushes = "for" if written > 0 else "against"
    told = f"{values} values raise the word: it writes {pushes} it ({written:+.1f} s.d.) and its gate is {gate}"
    if predicted != seen:
        return f"{told}, which by itself goes the other way: later layers turn it round"
    if claim.pole == "-":
        told += "; its negative pole names the word, so that negative values stand for it"
    return told
