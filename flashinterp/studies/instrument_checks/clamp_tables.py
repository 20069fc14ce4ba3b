"""The tables that show whether the instrument is sound: made from what was measured, by the eval and again by `verify`.

Each record holds one measurement and says what comes of it; the eval asserts the same figures that its table shows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flashinterp.evaluation.claims import Claim
from flashinterp.evaluation.evidence import Evidence, Floats
from flashinterp.evaluation.judgement import Judged
from flashinterp.evaluation.prompts import Group
from flashinterp.neurons import NeuronId, Site
from flashinterp.provenance.registry import derivation, record
from flashinterp.report.table import Told

STEPS = 64
"""How many steps of the model's dtype two ways to one number may differ by."""
NATURAL = (0.01, 0.99)
"""The quantiles of a neuron's own values between which it is driven."""


@record("instrument_checks.clamp_check", version=1)
@dataclass(frozen=True)
class ClampCheck:
    """One clamp's change of an MLP's output, beside the same change by the weights' own arithmetic.

    Attributes:
        neuron, site: what was clamped, and where.
        step: the spacing of the model's dtype at 1.
        off: [T] at each position, the largest difference of any coordinate between the two changes.
        changes: [T] the largest change of any coordinate, by the weights.
        outputs: [T] the largest coordinate of the MLP's output, clean or clamped.
    """

    neuron: NeuronId
    site: Site
    step: float
    off: Floats
    changes: Floats
    outputs: Floats

    @property
    def error(self) -> float:
        """The largest difference, over the largest output."""
        return float(self.off.max()) / float(self.outputs.max())

    @property
    def allowed(self) -> float:
        """The most that rounding explains."""
        return STEPS * self.step


@record("instrument_checks.noise_check", version=1)
@dataclass(frozen=True)
class NoiseCheck:
    """The last position's log-probabilities, come by in several ways that should make no difference.

    Attributes:
        state: clean, or what is clamped.
        step: the spacing of the model's dtype at 1.
        whole: [V] by one whole forward pass.
        ways: by name, [V] by other ways.
    """

    state: str
    step: float
    whole: NDArray[np.float32]
    ways: Mapping[str, NDArray[np.float32]]

    @property
    def errors(self) -> dict[str, float]:
        """By way, the largest difference from the whole pass, nats."""
        return {way: float(np.abs(other - self.whole).max()) for way, other in self.ways.items()}

    @property
    def allowed(self) -> float:
        """The most that rounding explains, nats."""
        return STEPS * self.step * float(np.abs(self.whole).max())


@record("instrument_checks.single_pass_check", version=1)
@dataclass(frozen=True)
class SinglePasses:
    """What one measured claim's curve must show, by plain passes one at a time.

    Attributes:
        step: the spacing of the model's dtype at 1.
        clean, high: [P] the token's log-odds on the held-out prompts, clean and with the neuron at the highest dose.
        natural: [n] the neuron's own values on the selection texts.
    """

    step: float
    clean: Floats
    high: Floats
    natural: NDArray[np.float32]

    def errors(self, judged: Evidence) -> tuple[float, float]:
        """Largest difference from the arrays that were judged, nats: clean, and at the highest dose."""
        clean, high = self.clean - judged.clean_log_odds, self.high - judged.log_odds[:, -1]
        return float(np.abs(clean).max()), float(np.abs(high).max())

    def error_of_doses(self, judged: Evidence) -> float:
        """By how much the ends of the judged doses differ from the neuron's natural range, relative."""
        low, top = map(float, np.quantile(self.natural.astype(np.float64), NATURAL))
        off = max(abs(low - judged.doses[0]), abs(top - judged.doses[-1]))
        return float(off) / max(abs(low), abs(top), 1e-9)

    @property
    def allowed(self) -> float:
        """The most that rounding explains, nats."""
        return STEPS * self.step * max(float(np.abs(self.high).max()), float(np.abs(self.clean).max()))


@record("instrument_checks.continued_text", version=1)
@dataclass(frozen=True)
class Continued:
    """One prompt continued greedily under a clamp, in two ways.

    Attributes:
        claim: which of the measured claims, counted from 0, is clamped.
        tokens: ids that whole passes without a cache give, one at a time.
        by_passes: their text.
        generated: as many tokens' text, by generation with a cache.
        unclamped: the same without the clamp.
    """

    claim: int
    tokens: tuple[int, ...]
    by_passes: str
    generated: str
    unclamped: str


def far_dose(claim: Claim, found: Evidence) -> float:
    """The end of the stress doses on the claimed side: where a neuron is clamped while text is generated."""
    return float(found.stress_doses[-1 if claim.drive == "+" else 0])


@derivation("instrument_checks.clamp_mechanics", version=1)
def mechanics_table(checks: Sequence[ClampCheck]) -> Told:
    """The clamp against the weights' own arithmetic."""
    rows = [[str(c.neuron), c.site, float(c.changes.max()), c.error, c.allowed] for c in checks]
    return (
        ["neuron", "site", "largest change", "relative error", "allowed"],
        rows,
        "Largest change: of any coordinate of the MLP's output, when the neuron is clamped at 7. Relative error: of "
        "that change against float64, over the largest MLP output.",
    )


@derivation("instrument_checks.noise", version=1)
def noise_table(checks: Sequence[NoiseCheck]) -> Told:
    """How far log-probabilities move when nothing is done."""
    rows = [[c.state, way, error, c.allowed] for c in checks for way, error in c.errors.items()]
    return (
        ["state", "way", "largest difference", "allowed"],
        rows,
        "Largest difference of any log-probability (nats) from one whole forward pass.",
    )


@derivation("instrument_checks.single_passes", version=1)
def single_passes_table(checks: Sequence[SinglePasses], judged: Judged) -> Told:
    """The judged curves beside single passes.

    Args:
        checks: one for each measured claim.
        judged: the claims with what was measured for them.
    """
    rows = [
        [claim.id, len(c.clean), *c.errors(e), c.allowed, c.error_of_doses(e)]
        for c, (claim, e) in zip(checks, judged.measured, strict=True)
    ]
    return (
        ["claim", "prompts", "error, clean", "error, highest dose", "allowed", "error of the doses"],
        rows or [["none", 0, None, None, None, None]],
        "Errors: largest difference of the word's log-odds (nats) over the held-out prompts. Error of the doses: of "
        "the ends of the natural range, relative.",
    )


@derivation("instrument_checks.generated_text", version=1)
def generated_table(texts: Sequence[Continued], judged: Judged) -> Told:
    """Generated text beside that of single passes."""
    rows: list[list[Any]] = []
    for t in texts:
        claim, e = judged.measured[t.claim]
        rows.append([claim.id, far_dose(claim, e), len(t.tokens), t.by_passes, t.generated, t.unclamped])
    return (
        ["claim", "clamped at", "tokens", "by passes without a cache", "generated", "generated, unclamped"],
        rows or [["none", *[None] * 5]],
        "Greedy continuations of one held-out prompt.",
    )


Ids = Sequence[int]
"""The token ids of one text, as it is given to the model."""


def shared_texts(selection: Sequence[Ids], tested: Sequence[Ids]) -> list[int]:
    """Which of the tested texts are a text of the selection, its beginning or its continuation."""
    chosen = list(map(tuple, selection))
    return [
        at
        for at, ids in enumerate(map(tuple, tested))
        if any(other[: len(ids)] == ids or ids[: len(other)] == other for other in chosen)
    ]


@derivation("instrument_checks.text_groups", version=1)
def texts_table(groups: Sequence[Group], selection: Sequence[Ids], tested: Sequence[Ids]) -> Told:
    """The texts by theme, and how many of each kind were used.

    Args:
        groups: the prompt set's themes.
        selection, tested: the texts that this run chose by, and those that it tested on.
    """
    rows: list[list[Any]] = [[g.name, len(g.words), len(g.selection), len(g.heldout)] for g in groups]
    return (
        ["group", "words", "selection", "held out"],
        [*rows, ["used in this profile", None, len(selection), len(tested)]],
        "Texts that were written for this project, split once. Selection: doses, scales, controls. Held out: effects, "
        "readings, and the text about something else. Contexts are counted in the last line. Held-out texts that are "
        f"a text of the selection, its beginning or its continuation: {len(shared_texts(selection, tested))}.",
    )


@derivation("instrument_checks.matched_controls", version=1)
def controls_table(judged: Judged) -> Told:
    """What each neuron is compared with."""
    rows: list[list[Any]] = []
    for claim, e in judged.measured:
        scales = e.control_scales
        ends = [float(f(scales)) for f in (np.min, np.median, np.max)] if scales.size else [None] * 3
        rows.append([claim.id, len(scales), e.relative_scale, *ends, e.control_scale_ratio, e.control_norm_ratio])
    return (
        ["claim", "controls", "its loudness", "least", "median", "most", "activation over theirs", "norm over theirs"],
        rows or [["none", 0, *[None] * 6]],
        "Loudness: standard deviation of u·act(g) times the norm of the column of W_down, over the layer's median. "
        "Activation, norm: the neuron's over its controls' median; beyond a factor of 5 either way no side can be a "
        "yes.",
    )
