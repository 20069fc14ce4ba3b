"""A decode against float64: random weights of awkward shapes, and each lens's formula written out (METHOD 2).

Nothing here asks the library's own decode how a lens or a norm is computed: the formulas are written a second time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flashinterp.decoding.backends.choice import decode_rows
from flashinterp.decoding.backends.score import SCORE_TOKENS
from flashinterp.decoding.backends.top_tokens import Pole
from flashinterp.decoding.neuron_map import LensMaps, NeuronMap
from flashinterp.models.checkpoint import Checkpoint
from flashinterp.neurons import Block, Lens
from flashinterp.studies.instrument_checks.decode_tables import Compared

MOST_EXPERTS = 64
SAMPLE = 64
"""Neurons per block and lens that are compared on the model under audit."""
# Float32 sums over d terms in another order differ by a few units in the last place; this many, at most.
_ULPS = 8

DTYPES = ("float32", "float16", "bfloat16")
PATTERNS = ("random", "repeated head rows", "small integers", "zero rows")
"""Of random weights; small integers make exact ties common."""


class Comparison(NamedTuple):
    """One pole's decode against float64.

    Attributes:
        ids: how many were compared.
        swapped: how many of these float64 ranks elsewhere.
        error: the largest of any logit, absolute.
        plain: the same of the plain float32 product.
        wrong: what rounding does not explain, in words; empty where it explains all.
    """

    ids: int
    swapped: int
    error: float
    plain: float
    wrong: str


def joined(kind: tuple[str, str], found: Sequence[Comparison]) -> Compared:
    """Comparisons of one kind, as they are kept."""
    ids, swapped, errors, plain = (np.array(column) for column in list(zip(*found, strict=True))[:4])
    return Compared(kind, ids, swapped, errors, plain)


def compare_random(
    n: int, d: int, vocab: int, *, top_k: int, dtype: str, pattern: str, seed: int, device: str
) -> list[Comparison]:
    """Decode random weights, stored in a dtype, and compare both poles with the float64 ranking.

    Args:
        n, d, vocab: rows, hidden size, tokens.
        top_k: tokens to keep, if there are as many.
        dtype, pattern: one of `DTYPES`, and of `PATTERNS`.
        seed: of the weights.
        device: what decodes.
    """
    rows, head = random_weights(n, d, vocab, getattr(torch, dtype), pattern, seed)
    result = decode_rows(rows.float().to(device), head.float().to(device), top_k=min(top_k, vocab))
    exact = rows.double() @ head.double().T
    plain = float((rows.float() @ head.float().T).double().sub(exact).abs().max())
    return [compare_pole(pole, z, plain) for pole, z in zip(result, (exact, -exact), strict=True)]


def random_weights(n: int, d: int, vocab: int, dtype: torch.dtype, pattern: str, seed: int) -> tuple[Tensor, Tensor]:
    """Rows [n, d] and a head [vocab, d]."""
    generator = torch.Generator().manual_seed(seed)
    if pattern == "small integers":
        rows = torch.randint(-2, 3, (n, d), generator=generator).to(dtype)
        return rows, torch.randint(-2, 3, (vocab, d), generator=generator).to(dtype)
    rows, head = (torch.randn(size, d, generator=generator).to(dtype) for size in (n, vocab))
    if pattern == "repeated head rows":
        head = head[torch.randint(0, vocab, (vocab,), generator=generator)]
    if pattern == "zero rows":
        rows[::2] = 0
    return rows, head


def compare_pole(pole: Pole, exact: Tensor, plain: float) -> Comparison:
    """Whether one pole is the ranking of exact logits, up to what the plain product's error allows.

    Args:
        pole: of n rows, the k best tokens.
        exact: [n, V] float64.
        plain: the largest error of any logit of the plain float32 product.
    """
    k = pole.ids.shape[1]
    ids, logits = pole.ids.cpu().long(), pole.logits.cpu()
    error = float((logits.double() - exact.gather(1, ids)).abs().max())
    allowed = plain + _ULPS * torch.finfo(torch.float32).eps * float(exact.abs().max())
    best = exact.sort(dim=1, descending=True, stable=True)
    differ = ids != best.indices[:, :k]
    gap = (exact.gather(1, ids) - best.values[:, :k]).abs()
    worst = float(gap[differ].max()) if bool(differ.any()) else 0.0
    tied = logits.diff(dim=1) == 0
    total = float((pole.logsumexp.cpu().double() - exact.logsumexp(1)).abs().max())
    count = min(SCORE_TOKENS, exact.shape[1])
    mean = best.values[:, :count].logsumexp(1) - np.log(count)
    off_mean = float((pole.log_mean_top.cpu().double() - mean).abs().max())
    bound = 2 * allowed + 1e-5
    ordered = bool((ids.diff(dim=1)[tied] > 0).all())
    exact_product = error == plain == 0  # as those of small integers: so are the ties
    wrong = (
        (not error <= allowed, f"our logits are off by {error:.3g}, the plain product by {plain:.3g}"),
        (
            not worst <= 2 * allowed,
            f"an id is wrong: float64 separates it by {worst:.3g}, more than {2 * allowed:.3g}",
        ),
        (not bool((ids.sort(1).values.diff(dim=1) > 0).all()), "a token is listed twice"),
        (not ordered, "tokens with equal logits are not in the order of their ids"),
        (
            exact_product and bool(differ.any()),
            "of tokens with equal logits, not those with the lower ids were kept",
        ),
        (not total <= bound, f"logsumexp is off by {total:.3g}, more than {bound:.3g}"),
        (not off_mean <= bound, f"the mean of the 100 highest is off by {off_mean:.3g}, more than {bound:.3g}"),
    )
    told = next((text for so, text in wrong if so), "")
    return Comparison(ids.numel(), int(differ.sum()), error, plain, told)


# --- the lenses of a model ------------------------------------------------------------------------------


def compare_lens(
    checkpoint: Checkpoint, maps: LensMaps, lens: Lens, head: Tensor, rng: np.random.Generator
) -> list[Comparison]:
    """A lens's map against its formula in float64: a sample of neurons of every block (of up to 64 experts).

    Args:
        checkpoint: the model.
        maps: its maps.
        lens: which.
        head: [V, d] float64.
        rng: what draws experts and neurons.
    """
    blocks = _sample(checkpoint.layout.roster.blocks, rng)
    return [one for block in blocks for one in _compare_block(checkpoint, maps[lens.name], lens, block, head, rng)]


def _sample(blocks: tuple[Block, ...], rng: np.random.Generator) -> list[Block]:
    """All dense blocks, and up to 64 of the experts."""
    experts = [block for block in blocks if block.expert is not None]
    dense = [block for block in blocks if block.expert is None]
    if not experts:
        return dense
    some = rng.choice(len(experts), min(MOST_EXPERTS, len(experts)), replace=False)
    return dense + [experts[i] for i in sorted(some)]


def _compare_block(
    checkpoint: Checkpoint, m: NeuronMap, lens: Lens, block: Block, head: Tensor, rng: np.random.Generator
) -> Iterator[Comparison]:
    """A sample of a block's neurons in the map, against the lens's formula; both poles."""
    width = checkpoint.layout.roster.width(block)
    chosen = np.sort(rng.choice(width, min(SAMPLE, width), replace=False))
    vectors = lens_formula(checkpoint, lens, block)[chosen]
    exact = _capped(checkpoint, vectors @ head.T)
    plain = float(_capped(checkpoint, vectors.float() @ head.float().T).double().sub(exact).abs().max())
    # The vectors themselves were rounded to float32 by a norm: one more rounding of the inputs.
    plain += torch.finfo(torch.float32).eps * float((vectors.abs() @ head.abs().T).max())
    yield compare_pole(_of_map(m, "+", block, chosen), exact, plain)
    yield compare_pole(_of_map(m, "-", block, chosen), -exact, plain)


def _capped(checkpoint: Checkpoint, z: Tensor) -> Tensor:
    softcap = checkpoint.layout.softcap
    return z if softcap is None else softcap * torch.tanh(z / softcap)


def lens_formula(checkpoint: Checkpoint, lens: Lens, block: Block) -> Tensor:
    """The lens's vectors [F, d] in float64, as METHOD 2 writes them."""
    w = checkpoint.rows(lens.weight, block).double()
    if lens.name in ("paper", "logit-lens"):
        return w
    passed = checkpoint.norm("pre" if lens.name in ("read", "gate") else "post", block.layer)
    if passed is not None and passed.weight is not None and checkpoint.layout.family.stream != "added, then normed":
        w = w * passed.weight.double()
    final = checkpoint.norm("final")
    if final is None:
        return w
    if final.centred:
        w = w - w.mean(1, keepdim=True)
    w = w / (w.square().mean(1, keepdim=True) + final.eps).sqrt()
    return w if final.weight is None else w * final.weight.double()


def _of_map(m: NeuronMap, pole: Any, block: Block, chosen: NDArray[np.int64]) -> Pole:
    first = m.roster.span(block).start
    ids, logits, total, mean = (a[first + chosen] for a in m.pole_arrays(pole))
    return Pole(*(torch.from_numpy(np.ascontiguousarray(a)) for a in (ids, logits, total, mean)))
