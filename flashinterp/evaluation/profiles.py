"""How much is measured: the sizes behind ``--profile``, resolved once and recorded."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Profile:
    """The sizes of one audit.

    Attributes:
        selection: texts on which doses and activation scales are measured.
        prompts: held-out prompts per claim; the resampling unit.
        contexts: held-out contexts on the reading side.
        absent: other words per context that stand where the concept's token stood.
        doses: clamp values per curve, from the 1st to the 99th percentile of the neuron's own activation.
        controls: matched neurons per claim, as far as the layer has them.
        unrelated: other tokens whose movement is measured beside the target's.
        unrelated_texts: held-out texts about something else, on which the clamp's KL is measured.
        stress_doses: points of the paper's -500…500 curve, drawn but not judged.
        answers: steered answers per question.
        examples: hypothesis examples per property.
        speed_shape: d and V of the random head that a decode is timed on.
        rank_tokens: words over which a lens's ranking of the neurons is compared with their measured effects.
        rank_neurons: neurons of each block whose effect is measured for that, all of them where there are no more.
        rank_prompts: held-out prompts for it.
        nulls: pairing nulls of each kind.
    """

    name: str
    selection: int
    prompts: int
    contexts: int
    absent: int
    doses: int
    controls: int
    unrelated: int
    unrelated_texts: int
    stress_doses: int
    answers: int
    examples: int
    speed_shape: tuple[int, int]
    rank_tokens: int
    rank_neurons: int
    rank_prompts: int
    nulls: int


PROFILES = {
    p.name: p
    for p in (
        Profile("smoke", selection=32, prompts=6, contexts=4, absent=16, doses=5, controls=239, unrelated=20,
                unrelated_texts=4, stress_doses=11, answers=8, examples=10, speed_shape=(256, 16_384),
                rank_tokens=16, rank_neurons=128, rank_prompts=2, nulls=3),
        Profile("standard", selection=96, prompts=12, contexts=8, absent=24, doses=7, controls=239, unrelated=40,
                unrelated_texts=12, stress_doses=21, answers=12, examples=30, speed_shape=(1024, 65_536),
                rank_tokens=64, rank_neurons=512, rank_prompts=6, nulls=10),
        Profile("audit", selection=192, prompts=24, contexts=8, absent=32, doses=11, controls=999, unrelated=100,
                unrelated_texts=48, stress_doses=41, answers=30, examples=100, speed_shape=(4096, 128_256),
                rank_tokens=256, rank_neurons=2048, rank_prompts=12, nulls=20),
    )
}  # fmt: skip
