"""What a decode costs beside the bare matrix product. A benchmark table, with no timed pass or fail.

The bare product is the floor: whoever wants logits must compute it. The ratios are measured side by side in
one run, interleaved, because a machine's speed drifts.
"""

from __future__ import annotations

import torch

from flashinterp import Checkpoint
from flashinterp.evaluation.profiles import Profile
from flashinterp.runs.eval_recorder import EvalRecorder
from flashinterp.studies.instrument_checks.decode_speed import (
    logits_found,
    time_interleaved,
    timed_weights,
    ways_to_decode,
)
from flashinterp.studies.instrument_checks.decode_tables import Timed, speed_table


def test_ratio_to_the_bare_product(base: Checkpoint, profile: Profile, device: str, evidence: EvalRecorder) -> None:
    """Time of a decode over the time of the bare product, on the model's own weights and on a larger random head.

    Implementation: the bare product in tiles of 1,024 tokens; ours, for both poles and for one, with the top 100,
    logsumexp and the mean of the top 100; ours on the same weights in bfloat16, where this processor has a faster
    exact way for them; the naive way, full logits with softmax, topk and logsumexp; faiss.knn on a CPU where it is
    installed, which gives no logsumexp. All work on float32 weights but for the bfloat16 column, and are run in turn
    several times; the table gives the median of the per-round ratios, and none where a way does not exist here.
    The results are also compared: all of ours must find the logits that the naive way finds.
    """
    timed = []
    for name, (w, u) in timed_weights(base, profile.speed_shape, device).items():
        ways = ways_to_decode(w, u, device)
        timed.append(Timed(name, len(w), w.shape[1], len(u), time_interleaved(ways, device)))
        for ours, naive, apart in logits_found(w, u, ways):
            torch.testing.assert_close(ours, naive, rtol=apart, atol=1e-5)
    title = "Decode against the bare matrix product"
    evidence.derived(speed_table, "ratios", title, timed, device, torch.get_num_threads())
