"""Evidence made by hand: a strong case, in which any field can be changed."""

from __future__ import annotations

from typing import Any

import numpy as np

from flashinterp.evaluation.claims import Claim
from flashinterp.evaluation.evidence import Evidence
from flashinterp.neurons import NeuronId

CLAIM = Claim("dog", " dog", NeuronId(1, 17), "+", "paper", None, "file")
PROMPTS, DOSES, CONTROLS, CONTEXTS, WORDS, UNRELATED, TEXTS = 6, 5, 199, 4, 8, 20, 4


def evidence(**changes: Any) -> Evidence:
    """A clean and strong case, with some fields changed."""
    draw = np.random.default_rng(20250105)
    doses = np.linspace(-2, 2, DOSES)
    slopes, start = 0.5 + 0.02 * np.arange(PROMPTS), draw.normal(-6, 1, PROMPTS)
    fields: dict[str, Any] = {
        "doses": doses,
        "log_odds": start[:, None] + slopes[:, None] * doses,
        "clean_log_odds": start,
        "control_effects": draw.uniform(-0.5, 0.5, CONTROLS),
        "written": 1.0,
        "control_written": np.ones(CONTROLS),
        "control_scales": draw.uniform(0.5, 2, CONTROLS),
        "unrelated_effects": draw.normal(0, 0.05, UNRELATED),
        "kl": draw.uniform(0.001, 0.01, (2, TEXTS)),
        "identity_error": 0.0,
        "noise_floor": 2e-6,
        "present": 3 + 0.1 * np.arange(CONTEXTS),
        "absent": draw.normal(0, 0.3, (CONTEXTS, WORDS)),
        "control_separations": draw.uniform(-2, 2, CONTROLS),
        "theme": 0.5 + 0.1 * np.arange(6),
        "other_themes": draw.normal(0, 0.3, 6),
        "activation_scale": 0.3,
        "relative_scale": 1.0,
        "gate": np.full(PROMPTS, 2.0),
        "act_gate": np.full(PROMPTS, 1.7),
        "z_read": 5.0,
        "z_write": 3.0,
        "z_write_unrelated": draw.normal(0, 0.5, UNRELATED),
        "own": np.full(PROMPTS, 0.1),
        "stress_doses": np.linspace(-500, 500, 11),
        "stress_log_odds": draw.normal(size=(4, 11)),
        "control_scale_ratio": 1.1,
        "control_norm_ratio": 1.0,
    }
    made = {**fields, **changes}
    if "control_written" not in changes:
        made["control_written"] = np.ones(len(made["control_effects"]))
    return Evidence(**made)


STRONG = evidence()
RISING = STRONG.log_odds
FALLING = RISING[:, ::-1]
FLAT = np.repeat(RISING[:, :1], DOSES, axis=1)
ABSENT = STRONG.absent


def beaten(by: int, strength: float, n: int = CONTROLS) -> np.ndarray:
    """n controls of no effect, but for some that do as much."""
    return np.where(np.arange(n) < by, strength, 0.0) + 1e-3 * np.arange(n)
