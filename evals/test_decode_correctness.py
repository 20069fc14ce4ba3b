"""Is a decode exactly what an explicit matrix product says it is?

Everything else in this report rests on token rankings that were computed in tiles, in float32, without ever
holding the full matrix of logits. Here they are compared with the plain formula in float64.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from flashinterp import Checkpoint
from flashinterp.decoding.backends.choice import decode_rows
from flashinterp.decoding.lens_rows import Pole
from flashinterp.decoding.neuron_map import LensMaps
from flashinterp.evaluation.profiles import Profile
from flashinterp.neurons import Block, Lens
from flashinterp.runs.eval_recorder import EvalRecorder
from flashinterp.studies.instrument_checks.decode_tables import Compared, lens_formulas_table, random_weights_table

MOST_EXPERTS = 64
SAMPLE = 64  # neurons per block and lens that are compared on the model under audit
# Float32 sums over d terms in another order differ by a few units in the last place; this many, at most.
ULPS = 8


class Comparison(NamedTuple):
    """One pole's decode against float64: ids compared, ids elsewhere in float64, our largest error, the plain one's."""

    ids: int
    swapped: int
    error: float
    plain: float


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
        k=st.integers(1, 120),
        dtype=st.sampled_from(["float32", "float16", "bfloat16"]),
        pattern=st.sampled_from(["random", "repeated head rows", "small integers", "zero rows"]),
        seed=st.integers(0, 2**16),
    )
    def check(n: int, d: int, vocab: int, k: int, dtype: str, pattern: str, seed: int) -> None:
        rows, head = _draw(n, d, vocab, getattr(torch, dtype), pattern, seed)
        k = min(k, vocab)
        result = decode_rows(rows.float().to(device), head.float().to(device), top_k=k)
        exact = rows.double() @ head.double().T
        naive = float((rows.float() @ head.float().T).double().sub(exact).abs().max())
        both = [_compare(pole, z, naive) for pole, z in zip(result, (exact, -exact), strict=True)]
        seen.setdefault((dtype, pattern), []).extend(both)

    check()
    compared = [_together(kind, found) for kind, found in seen.items()]
    evidence.derived(random_weights_table, "random", "Decode against float64 on random weights", compared)


def _together(kind: tuple[str, str], found: Sequence[Comparison]) -> Compared:
    ids, swapped, errors, plain = map(np.array, zip(*found, strict=True))
    return Compared(kind, ids, swapped, errors, plain)


def _draw(n: int, d: int, vocab: int, dtype: torch.dtype, pattern: str, seed: int) -> tuple[Tensor, Tensor]:
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


def _compare(pole: Pole, exact: Tensor, naive: float) -> Comparison:
    """Assert that one pole is the ranking of exact [n, V], up to what the plain product's error ``naive`` allows."""
    k = pole.ids.shape[1]
    ids = pole.ids.cpu().long()
    error = float((pole.logits.cpu().double() - exact.gather(1, ids)).abs().max())
    allowed = naive + ULPS * torch.finfo(torch.float32).eps * float(exact.abs().max())
    assert error <= allowed, f"our logits are off by {error:.3g}, the plain product by {naive:.3g}"
    best = exact.sort(dim=1, descending=True, stable=True)
    differ = ids != best.indices[:, :k]
    gap = (exact.gather(1, ids) - best.values[:, :k]).abs()
    worst = float(gap[differ].max()) if bool(differ.any()) else 0.0
    assert worst <= 2 * allowed, f"an id is wrong: float64 separates it by {worst:.3g}, more than {2 * allowed:.3g}"
    assert bool((ids.sort(1).values.diff(dim=1) > 0).all()), "a token is listed twice"
    tied = pole.logits.cpu().diff(dim=1) == 0
    assert bool((ids.diff(dim=1)[tied] > 0).all()), "tokens with equal logits are not in the order of their ids"
    if error == naive == 0:  # all products are exact, as those of small integers: so are the ties
        assert not bool(differ.any()), "of tokens with equal logits, not those with the lower ids were kept"
    lse = (pole.logsumexp.cpu().double() - exact.logsumexp(1)).abs()
    count = min(100, exact.shape[1])
    mean = best.values[:, :count].logsumexp(1) - np.log(count)
    bound = 2 * allowed + 1e-5
    assert float(lse.max()) <= bound
    assert float((pole.log_mean_top.cpu().double() - mean).abs().max()) <= bound
    return Comparison(ids.numel(), int(differ.sum()), error, naive)


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
        found = [
            comparison
            for block in _sample(base.layout.roster.blocks, rng)
            for comparison in _lens_compared(base, maps, lens, block, head, rng)
        ]
        compared.append(_together((lens.name, lens.side), found))
    title = "Each lens against its formula in float64, on the audited model"
    evidence.derived(lens_formulas_table, "lenses", title, compared)


def _lens_compared(
    base: Checkpoint, maps: LensMaps, lens: Lens, block: Block, head: Tensor, rng: np.random.Generator
) -> Iterator[Comparison]:
    """A sample of a block's neurons in the map, against the lens's formula; both poles."""
    width = base.layout.roster.width(block)
    chosen = np.sort(rng.choice(width, min(SAMPLE, width), replace=False))
    vectors = _formula(base, lens, block)[chosen]
    exact = _capped(base, vectors @ head.T)
    naive = float(_capped(base, vectors.float() @ head.float().T).double().sub(exact).abs().max())
    # The vectors themselves were rounded to float32 by a norm: one more rounding of the inputs.
    naive += torch.finfo(torch.float32).eps * float((vectors.abs() @ head.abs().T).max())
    yield _compare(_of_map(maps, lens, "+", block, chosen), exact, naive)
    yield _compare(_of_map(maps, lens, "-", block, chosen), -exact, naive)


def _sample(blocks: tuple[Block, ...], rng: np.random.Generator) -> list[Block]:
    """All dense blocks, and up to 64 of the experts."""
    experts = [block for block in blocks if block.expert is not None]
    some = rng.choice(len(experts), min(MOST_EXPERTS, len(experts)), replace=False) if experts else []
    return [block for block in blocks if block.expert is None] + [experts[i] for i in sorted(some)]


def _capped(base: Checkpoint, z: Tensor) -> Tensor:
    softcap = base.layout.softcap
    return z if softcap is None else softcap * torch.tanh(z / softcap)


def _formula(base: Checkpoint, lens: Lens, block: Block) -> Tensor:
    """The lens's vectors [F, d] in float64, as METHOD 2 writes them."""
    w = base.rows(lens.weight, block).double()  # type: ignore[arg-type]
    if lens.name in ("paper", "logit-lens"):
        return w
    passed = base.norm("pre" if lens.name in ("read", "gate") else "post", block.layer)
    if passed is not None and passed.weight is not None and base.layout.family.stream != "added, then normed":
        w = w * passed.weight.double()
    final = base.norm("final")
    if final is None:
        return w
    if final.centred:
        w = w - w.mean(1, keepdim=True)
    w = w / (w.square().mean(1, keepdim=True) + final.eps).sqrt()
    return w if final.weight is None else w * final.weight.double()


def _of_map(maps: LensMaps, lens: Lens, pole: Any, block: Block, chosen: np.ndarray) -> Pole:
    m = maps[lens.name]
    first = m.roster.span(block).start
    ids, logits, lse, mean = (a[first + chosen] for a in m.pole_arrays(pole))
    return Pole(*(torch.from_numpy(np.ascontiguousarray(a)) for a in (ids, logits, lse, mean)))
