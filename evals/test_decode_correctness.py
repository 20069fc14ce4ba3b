"""Is a decode exactly what an explicit matrix product says it is?

Everything else in this report rests on token rankings that were computed in tiles, in float32, without ever
holding the full matrix of logits. Here they are compared with the plain formula in float64.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flashinterp import Checkpoint
from flashinterp.decoding.neuron_map import LensMaps
from flashinterp.evaluation.profiles import Profile
from flashinterp.runs.eval_recorder import EvalRecorder
from flashinterp.studies.instrument_checks.decode_check import (
    DTYPES,
    PATTERNS,
    Comparison,
    compare_lens,
    compare_random,
    joined,
)
from flashinterp.studies.instrument_checks.decode_tables import lens_formulas_table, random_weights_table


def test_random_weights(profile: Profile, device: str, evidence: EvalRecorder) -> None:
    """On random weights of awkward shapes and every stored dtype, the ids are the float64 ranking's.

    Implementation: hypothesis draws numbers of rows, hidden sizes and vocabularies (none a multiple of the
    tiles), k, float32, float16 or bfloat16 weights, and tie patterns (repeated head rows, zero rows, small
    integers, which make exact ties common). The error of our logits against float64 may not exceed that of the
    plain float32 product by more than a few units in the last place, and an id may differ from the float64
    ranking only where float64 itself separates the two tokens by less than that error.
    """
    seen: dict[tuple[str, str], list[Comparison]] = {}

    @settings(
        max_examples=profile.examples, deadline=None, derandomize=True, database=None,
        suppress_health_check=[HealthCheck.too_slow],
    )  # fmt: skip
    @given(
        n=st.sampled_from([1, 3, 511, 513]),
        d=st.integers(1, 48),
        vocab=st.sampled_from([1, 2, 63, 65, 99, 101, 1023, 1025, 2100]),
        top_k=st.integers(1, 120),
        dtype=st.sampled_from(DTYPES),
        pattern=st.sampled_from(PATTERNS),
        seed=st.integers(0, 2**16),
    )
    def check(n: int, d: int, vocab: int, dtype: str, pattern: str, **drawn: Any) -> None:
        both = compare_random(n, d, vocab, dtype=dtype, pattern=pattern, device=device, **drawn)
        _all_right(both)
        seen.setdefault((dtype, pattern), []).extend(both)

    check()
    compared = [joined(kind, found) for kind, found in seen.items()]
    evidence.derived(random_weights_table, "random", "Decode against float64 on random weights", compared)


def _all_right(found: list[Comparison]) -> None:
    for one in found:
        assert not one.wrong, one.wrong


def test_every_lens_on_the_model(base: Checkpoint, maps: LensMaps, evidence: EvalRecorder) -> None:
    """On the audited model's own weights, each lens gives what its formula gives in float64.

    Implementation: for a sample of neurons of every layer (of up to 64 experts), the formula of each lens (METHOD 2)
    is written out in float64 from the checkpoint's tensors, independently of the library's decode, and compared with
    the saved map on both poles: ids, logits, logsumexp and the mean of the 100 highest.
    """
    head = base.head().double()
    rng = np.random.default_rng(0)
    compared = []
    for lens in base.layout.lenses:
        found = compare_lens(base, maps, lens, head, rng)
        _all_right(found)
        compared.append(joined((lens.name, lens.side), found))
    title = "Each lens against its formula in float64, on the audited model"
    evidence.derived(lens_formulas_table, "lenses", title, compared)
