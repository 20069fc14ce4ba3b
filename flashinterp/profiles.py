"""How much is measured: the sizes behind ``--profile``, resolved once and recorded."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Profile:
    """The sizes of one audit.

    Attributes:
        prompts: held-out prompts per claim; the resampling unit.
        contexts: held-out contexts on the reading side.
        absent: other words per context that stand where the concept's token stood.
        doses: clamp values per curve, from the 1st to the 99th percentile of the neuron's own activation.
        controls: matched neurons per claim, as far as the layer has them.
        unrelated: other tokens whose movement is measured beside the target's.
        stress_doses: points of the paper's -500…500 curve, drawn but not judged.
        answers: steered answers per question.
        examples: hypothesis examples per property.
        speed_shape: d and V of the random head that a decode is timed on.
    """

    name: str
    prompts: int
    contexts: int
    absent: int
    doses: int
    controls: int
    unrelated: int
    stress_doses: int
    answers: int
    examples: int
    speed_shape: tuple[int, int]


PROFILES = {
    p.name: p
    for p in (
        Profile("smoke", prompts=6, contexts=4, absent=8, doses=5, controls=239, unrelated=10, stress_doses=11,
                answers=4, examples=10, speed_shape=(256, 16_384)),
        Profile("standard", prompts=12, contexts=8, absent=16, doses=7, controls=239, unrelated=20, stress_doses=21,
                answers=10, examples=30, speed_shape=(1024, 65_536)),
        Profile("audit", prompts=24, contexts=8, absent=32, doses=11, controls=999, unrelated=50, stress_doses=41,
                answers=30, examples=100, speed_shape=(4096, 128_256)),
    )
}  # fmt: skip
