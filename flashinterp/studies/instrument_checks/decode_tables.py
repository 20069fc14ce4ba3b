"""The tables of a decode's errors and of its speed: made from what was measured, by the eval and again by `verify`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flashinterp.evaluation.evidence import Floats
from flashinterp.provenance.registry import derivation, record
from flashinterp.report.table import Told

BARE = "bare"
"""The way of which the other ways' times are multiples: the matrix product alone."""
WAYS = ("both poles", "one pole", "bfloat16 weights, both poles", "naive, one pole", "faiss.knn, one pole")
"""What is timed besides."""


@record("decoding.reference_comparison", version=1)
@dataclass(frozen=True)
class Compared:
    """Decodes of one kind against float64; m of them, each of some neurons on one pole.

    Attributes:
        kind: two words for what they have in common: the stored dtype and the pattern of the weights, or the lens and
            the side of a neuron that it looks at.
        ids: [m] how many ids were compared.
        swapped: [m] how many of these float64 ranks elsewhere.
        errors: [m] the largest error of any logit, absolute.
        plain: [m] the same of the plain float32 product.
    """

    kind: tuple[str, str]
    ids: NDArray[np.int64]
    swapped: NDArray[np.int64]
    errors: Floats
    plain: Floats


@record("decoding.decode_times", version=1)
@dataclass(frozen=True)
class Timed:
    """The times of decodes of one set of weights, and of the bare product.

    Attributes:
        weights: whose.
        rows, d, vocabulary: how many neurons, the hidden size, how many tokens.
        seconds: by way, [rounds]; the ways took turns in each round.
    """

    weights: str
    rows: int
    d: int
    vocabulary: int
    seconds: Mapping[str, Floats]


@derivation("decoding.random_weight_errors", version=1)
def random_weights_table(compared: Sequence[Compared]) -> Told:
    """Decodes of random weights against float64, by stored dtype and pattern."""
    rows = [
        [*c.kind, int(c.ids.sum()), int(c.swapped.sum()), float(c.errors.max()), float(c.plain.max())]
        for c in sorted(compared, key=lambda c: c.kind)
    ]
    return (
        ["stored dtype", "pattern", "ids compared", "swapped near-ties", "largest error", "plain product's error"],
        rows,
        "Errors are of logits, absolute. Swapped near-ties: ids that float64 ranks elsewhere by less than the error.",
    )


@derivation("decoding.lens_formula_errors", version=1)
def lens_formulas_table(compared: Sequence[Compared]) -> Told:
    """Each lens's decodes of the audited model against its formula in float64."""
    rows = [[*c.kind, int(c.ids.sum()), int(c.swapped.sum()), float(c.errors.max())] for c in compared]
    return (
        ["lens", "side", "ids compared", "swapped near-ties", "largest error"],
        rows,
        "Both poles. Errors are of logits, absolute.",
    )


@derivation("decoding.relative_times", version=1)
def speed_table(timed: Sequence[Timed], device: str, threads: int) -> Told:
    """The time of each way over that of the bare product, the median of the rounds.

    Args:
        timed: one for each set of weights, with as many rounds.
        device: what it ran on.
        threads: of the processor.
    """
    rows = []
    for t in timed:
        bare = t.seconds[BARE]
        ratios = [float(np.median(t.seconds[way] / bare)) if way in t.seconds else None for way in WAYS]
        rows.append([t.weights, t.rows, t.d, t.vocabulary, float(np.median(bare * 1e3)), *ratios])
    (rounds,) = {len(seconds) for t in timed for seconds in t.seconds.values()}
    return (
        ["weights", "rows", "d", "V", "bare product, ms", *WAYS],
        rows,
        f"Ratios to the bare product, medians of {rounds} interleaved rounds on {device}, {threads} "
        "threads. faiss.knn gives no logsumexp. An empty cell: no such way here, or none that is faster.",
    )
