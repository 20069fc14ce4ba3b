"""Is a decode exactly what an explicit matrix product says it is?

Everything else in this report rests on token rankings that were computed in tiles, in float32, without ever
holding the full matrix of logits. Here they are compared with the plain formula in float64.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from evals.conftest import Maps
from flashinterp import Checkpoint
from flashinterp.decode import Pole, decode_rows
from flashinterp.neuron import Block, Lens
from flashinterp.profiles import Profile
from flashinterp.pytest_plugin import Evidence

MOST_EXPERTS = 64
SAMPLE = 64  # neurons per block and lens that are compared on the model under audit
# Float32 sums over d terms in another order differ by a few units in the last place; this many, at most.
ULPS = 8


def test_random_weights(profile: Profile, device: str, evidence: Evidence) -> None:
    """On random weights of awkward shapes and every stored dtype, the ids are the float64 ranking's.

    Implementation: hypothesis draws numbers of rows, hidden sizes and vocabularies (none a multiple of the
    tiles), k, float32, float16 or bfloat16 weights, and tie patterns (repeated head rows, zero rows, small
    integers, which make exact ties common). The error of our logits against float64 may not exceed that of the
    plain float32 product by more than a few units in the last place, and an id may differ from the float64
    ranking only where float64 itself separates the two tokens by less than that error.
    """
    seen: dict[tuple[str, str], list[float]] = {}

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
        for pole, logits in zip(result, (exact, -exact), strict=True):
            error, swapped = _compare(pole, logits, naive)
            record = seen.setdefault((dtype, pattern), [0, 0, 0.0, 0.0])
            record[0] += n * k
            record[1] += swapped
            record[2], record[3] = max(record[2], error), max(record[3], naive)

    check()
    rows = [[*key, int(v[0]), int(v[1]), v[2], v[3]] for key, v in sorted(seen.items())]
    evidence.table(
        "random",
        "Decode against float64 on random weights",
        ["stored dtype", "pattern", "ids compared", "swapped near-ties", "largest error", "plain product's error"],
        rows,
        "Errors are of logits, absolute. Swapped near-ties: ids that float64 ranks elsewhere by less than the error.",
    )


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


def _compare(pole: Pole, exact: Tensor, naive: float) -> tuple[float, int]:
    """Assert that one pole is the ranking of exact [n, V]; returns our error and the number of swapped near-ties."""
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
    return error, int(differ.sum())


def test_every_lens_on_the_model(base: Checkpoint, maps: Maps, evidence: Evidence) -> None:
    """On the audited model's own weights, each lens gives what its formula gives in float64.

    Implementation: for a sample of neurons of every layer (of up to 64 experts), the formula of each lens (METHOD 2)
    is written out in float64 from the checkpoint's tensors, independently of the library's decode, and compared with
    the saved map on both poles: ids, logits, logsumexp and the mean of the 100 highest.
    """
    head = base.head().double()
    rng = np.random.default_rng(0)
    rows: list[list[Any]] = []
    for lens in base.layout.lenses:
        checked, swapped, error = 0, 0, 0.0
        for block in _sample(base.layout.roster.blocks, rng):
            width = base.layout.roster.width(block)
            chosen = np.sort(rng.choice(width, min(SAMPLE, width), replace=False))
            vectors = _formula(base, lens, block)[chosen]
            exact = _capped(base, vectors @ head.T)
            naive = float(_capped(base, vectors.float() @ head.float().T).double().sub(exact).abs().max())
            # The vectors themselves were rounded to float32 by a norm: one more rounding of the inputs.
            naive += torch.finfo(torch.float32).eps * float((vectors.abs() @ head.abs().T).max())
            for pole, logits in (
                (_of_map(maps, lens, "+", block, chosen), exact),
                (_of_map(maps, lens, "-", block, chosen), -exact),
            ):
                worse, swaps = _compare(pole, logits, naive)
                error, swapped, checked = max(error, worse), swapped + swaps, checked + pole.ids.numel()
        rows.append([lens.name, lens.side, checked, swapped, error])
    evidence.table(
        "lenses",
        "Each lens against its formula in float64, on the audited model",
        ["lens", "side", "ids compared", "swapped near-ties", "largest error"],
        rows,
        "Both poles. Errors are of logits, absolute.",
    )


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


def _of_map(maps: Maps, lens: Lens, pole: Any, block: Block, chosen: np.ndarray) -> Pole:
    m = maps[lens.name]
    first = m.roster.span(block).start
    ids, logits, lse, mean = (a[first + chosen] for a in m.pole_arrays(pole))
    return Pole(*(torch.from_numpy(np.ascontiguousarray(a)) for a in (ids, logits, lse, mean)))
