"""What was measured for one claim: every number that its verdict rests on (METHOD 4)."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Evidence:
    """What was measured for one claim; every number that its verdict rests on.

    Attributes:
        doses: [D] clamp values at site up, ascending, from the neuron's own quantiles.
        log_odds: [P, D] the token's log-odds over held-out prompts.
        clean_log_odds: [P] without a clamp.
        control_effects: [N] each control's change of the same token's log-odds over its own natural range.
        written, control_written: how much the neuron, and each control [N], writes from one end of its range to the
            other: the width of u's range times ‖W_down[:, n]‖. Ranks are of effects per unit of it.
        control_scales: [N] each control's output over its layer's median on natural text.
        unrelated_effects: [T] the target's effect on other tokens.
        kl: [2, X] KL(clean || clamped) over all tokens but the claim's, nats a token, over X held-out texts about
            something else, clamped at the lowest and at the highest dose.
        identity_error: nats, the largest change of any log-probability under a clamp to the own values.
        noise_floor: nats, the largest difference between a prompt run alone and in batches, one unit in the last place
            of the largest log-probability at least.
        present: [C] the neuron's output u · act(g) where the token stands, over held-out contexts.
        absent: [C, K] the same with K other words in its place.
        control_separations: [N] each control's separation of the same two sets.
        theme, other_themes: the output at the end of held-out texts after which a word of the token's concept group
            may come, and of texts of other groups; empty for a token of no group. Told, and not judged.
        activation_scale: the standard deviation of the neuron's output on natural text, the unit of separations.
        relative_scale: the neuron's output over its layer's median on natural text; near 0 is dead.
        gate, act_gate: [P] g and act(g) at the measured position, unclamped.
        z_read, z_write: the token's logit by the paper lens and by the write lens.
        z_write_unrelated: [T] the write lens's logits of the unrelated tokens, to measure z_write against.
        own: [P] u at the measured position, unclamped.
        stress_doses, stress_log_odds: [S], [P', S] the paper's -500…500, drawn and not judged.
        control_scale_ratio, control_norm_ratio: how well the controls match.
    """

    doses: Floats
    log_odds: Floats
    clean_log_odds: Floats
    control_effects: Floats
    written: float
    control_written: Floats
    control_scales: Floats
    unrelated_effects: Floats
    kl: Floats
    identity_error: float
    noise_floor: float
    present: Floats
    absent: Floats
    control_separations: Floats
    theme: Floats
    other_themes: Floats
    activation_scale: float
    relative_scale: float
    gate: Floats
    act_gate: Floats
    z_read: float
    z_write: float
    z_write_unrelated: Floats
    own: Floats
    stress_doses: Floats
    stress_log_odds: Floats
    control_scale_ratio: float | None = None
    control_norm_ratio: float | None = None

    def arrays(self) -> dict[str, Floats]:
        """Every field as an array, for ``raw/*.npz``; an unknown ratio is left out."""
        return {k: np.asarray(v, dtype=np.float64) for k, v in vars(self).items() if v is not None}

    @classmethod
    def from_arrays(cls, arrays: dict[str, Floats]) -> Evidence:
        """The inverse of `arrays`."""
        values: dict[str, Any] = {f.name: arrays[f.name] for f in fields(cls) if f.name in arrays}
        scalars: dict[str, Any] = {k: v if np.ndim(v) else float(v) for k, v in values.items()}
        return cls(**scalars)

    def unfit(self) -> str | None:
        """Why evidence cannot be judged at all: a measurement that is empty or not a number. None where it can be."""
        for name, values in self.arrays().items():
            if name.startswith("stress") or name in ("theme", "other_themes"):
                continue  # drawn or told, not judged
            if values.size == 0 and name in ("doses", "log_odds", "unrelated_effects", "kl", "present", "absent"):
                return f"nothing was measured for {name}: give more texts and doses"
            # A separation is infinite where the control does not vary without the concept.
            wrong = np.isnan(values) if name == "control_separations" else ~np.isfinite(values)
            if wrong.any():
                return (
                    f"{int(wrong.sum())} of {wrong.size} {name} are not finite numbers: run the model in a wider dtype"
                )
        return None
