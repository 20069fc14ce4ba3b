"""Selection against a full stable sort of the same float32 logits: exact ids and values, garbage everywhere else.

On the CPU the kernels run under Triton's interpreter, in one child process for the whole module. Triton reads
TRITON_INTERPRET when a kernel is decorated, and its own library (sort, cumsum) is decorated when triton is imported,
so the variable must be set before that import and would then rule every later import in the process: other tests
compile kernels, and transformers and torch import triton when they like. A child that is spawned with the variable
set has neither problem. On a GPU (``-m gpu``) the same bodies run in this process.
"""

from __future__ import annotations

import dataclasses
import math
import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any, Literal, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from tests.decoding.backends.kernels import require_triton
from tests.examples import examples

Pole = tuple[NDArray[Any], ...]  # ids, logits, logsumexp, log_mean_top
Poles = Literal["both", "+"]
Run = Callable[..., tuple[Pole, Pole | None]]

# The interpreter takes about 0.1 s per row and pole, most of it in the sort.
interpreted = pytest.mark.slow
EXAMPLES = examples(15)
# Around one block (32), the 100 tokens of a score, one program of the statistics pass (4,096), which is also where
# choosing among blocks begins (128), and one column more or less of what is searched then.
VOCABS = (1, 2, 31, 32, 33, 64, 99, 100, 101, 130, 1000, 4095, 4096, 4097, 4100, 4129, 5000, 8192, 8200)


class Case(NamedTuple):
    """Logits [R, Vpad], of which the first ``vocab`` columns count, and how many tokens to keep."""

    z: NDArray[np.float32]
    vocab: int
    keep: int

    def __repr__(self) -> str:
        return f"Case({self.z.shape}, vocab {self.vocab}, keep {self.keep}: {self.z[:, : min(self.vocab, 6)]}...)"


# --- running ----------------------------------------------------------------------------------------


def run_select(
    z: NDArray[np.float32], vocab: int, keep: int, poles: Poles = "both", spare: int = 1, device: str = "cpu"
) -> tuple[Pole, Pole | None]:
    """Select twice with one workspace, garbage in every buffer before each call; both must agree."""
    from flashinterp.decoding.backends.triton_select import Plan, Workspace, select

    logits = torch.from_numpy(z).to(device)
    workspace = Workspace.allocate(len(z) + spare, Plan(vocab, keep, 2 if poles == "both" else 1), device)
    runs = []
    for garbage in (math.nan, -1):
        _poison(workspace, garbage)
        found = select(logits, vocab, keep, poles=poles, workspace=workspace)
        runs.append([None if pole is None else _arrays(pole) for pole in found])
    for first, second in zip(*runs, strict=True):
        assert (first is None) == (second is None)
        for one, other in zip(first or (), second or (), strict=True):
            np.testing.assert_array_equal(one, other)
    assert np.array_equal(logits.cpu().numpy(), z, equal_nan=True), "the logits were written to"
    plus, minus = runs[0]
    assert plus is not None
    return plus, minus


def run_without_workspace(z: NDArray[np.float32], vocab: int, keep: int, device: str = "cpu") -> tuple[Pole, Pole]:
    """The same through a workspace of its own, after whose release memory is reused."""
    from flashinterp.decoding.backends.triton_select import select

    plus, minus = select(torch.from_numpy(z).to(device), vocab, keep)
    return _arrays(plus), _arrays(minus)


def _poison(workspace: Any, garbage: float) -> None:
    for field in dataclasses.fields(workspace):
        buffer = getattr(workspace, field.name)
        if isinstance(buffer, Tensor):
            whole = -1 if math.isnan(garbage) else torch.iinfo(torch.int32).max
            buffer.fill_(garbage if buffer.is_floating_point() else whole)


def _arrays(pole: Any) -> Pole:
    return tuple(getattr(pole, field.name).cpu().numpy().copy() for field in dataclasses.fields(pole))


@pytest.fixture(scope="module")
def interpreter() -> Iterator[ProcessPoolExecutor]:
    """One child process in which triton was imported under TRITON_INTERPRET=1."""
    require_triton()
    with pytest.MonkeyPatch.context() as patch, ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        patch.setenv("TRITON_INTERPRET", "1")
        assert pool.submit(_interprets).result()
        patch.undo()
        yield pool


def _interprets() -> bool:
    torch.set_num_threads(1)
    from triton import JITFunction

    from flashinterp.decoding.backends.triton_stats import stats

    return os.environ["TRITON_INTERPRET"] == "1" and not isinstance(stats, JITFunction)


@pytest.fixture(scope="module")
def run(device: str, request: pytest.FixtureRequest) -> Run:
    """`run_select` on the device, or under the interpreter for the CPU."""
    return _caller(run_select, device, request)


def _caller(function: Callable[..., Any], device: str, request: pytest.FixtureRequest) -> Run:
    if device.startswith("cuda"):
        require_triton()
        return lambda *args, **options: function(*args, **options, device=device)
    pool = request.getfixturevalue("interpreter")
    return lambda *args, **options: pool.submit(function, *args, **options).result()


# --- the oracle -------------------------------------------------------------------------------------


def assert_best_of(z: NDArray[np.float32], keep: int, found: Pole) -> None:
    """Exactly the full stable sort of z [R, vocab], with both log-sums near their float64 values."""
    z = z + np.float32(0)  # -0 is +0
    order = np.argsort(-z, axis=1, kind="stable")
    best = np.take_along_axis(z, order, 1)
    ids, logits, logsumexp, log_mean_top = found
    np.testing.assert_array_equal(ids, order[:, :keep])
    np.testing.assert_array_equal(logits, best[:, :keep])
    assert ids.dtype == np.int32
    assert logits.dtype == np.float32
    n = min(100, z.shape[1])
    assert_near(logsumexp, _log_sum_exp(z))
    assert_near(log_mean_top, _log_sum_exp(best[:, :n]) - math.log(n))


def _log_sum_exp(z: NDArray[np.float32]) -> NDArray[np.float64]:
    wide = z.astype(np.float64)
    top = wide.max(1, keepdims=True)
    return np.asarray((top + np.log(np.exp(wide - top).sum(1, keepdims=True)))[:, 0])


def assert_near(found: NDArray[np.float32], true: NDArray[np.float64]) -> None:
    """Within 2 units in the last place, and 2e-6.

    The rounding of base * log2(e) and of the result account for 0.85 units, those of exp2 (2 units of the sum, as
    approximated by the GPU), of its argument and of summation in float32 for the rest.
    """
    assert found.dtype == np.float32
    allowed = 2 * np.spacing(np.abs(true).astype(np.float32)).astype(np.float64) + 2e-6
    np.testing.assert_array_less(np.abs(found - true), allowed)


def assert_case(case: Case, found: tuple[Pole, Pole | None]) -> None:
    z = case.z[:, : case.vocab]
    plus, minus = found
    assert minus is not None
    assert_best_of(z, case.keep, plus)
    assert_best_of(-z, case.keep, minus)


# --- cases ------------------------------------------------------------------------------------------


def _clustered(rng: np.random.Generator, shape: tuple[int, int]) -> NDArray[Any]:
    """All the best in one block or two: the other blocks that are chosen give nothing."""
    z = rng.standard_normal(shape)
    start = int(rng.integers(0, shape[1]))
    z[:, start : start + 40] += 50
    z[:, : min(start, 33)] -= 50
    return z


def _equal_maxima(rng: np.random.Generator, shape: tuple[int, int]) -> NDArray[Any]:
    """One best token in each block, all equal: which blocks are chosen decides everything."""
    place = np.arange(shape[1]) % 32
    return np.broadcast_to((place == rng.integers(0, 16)) * 1.0 - (place == rng.integers(16, 32)), shape)


KINDS: dict[str, Callable[[np.random.Generator, tuple[int, int]], NDArray[Any]]] = {
    "plain": lambda rng, shape: rng.standard_normal(shape),
    "small integers": lambda rng, shape: rng.integers(-2, 3, shape),
    "two values": lambda rng, shape: rng.integers(0, 2, shape) * -0.5,
    "all equal": lambda rng, shape: np.full(shape, rng.standard_normal()),
    "all negative": lambda rng, shape: -1 - rng.random(shape),
    "zeros of both signs": lambda rng, shape: np.where(rng.random(shape) < 0.5, -0.0, 0.0),
    "zeros and a few others": lambda rng, shape: np.where(rng.random(shape) < 0.01, rng.standard_normal(shape), -0.0),
    "clustered": _clustered,
    "equal maxima": _equal_maxima,
    "ascending": lambda rng, shape: np.broadcast_to(np.arange(shape[1]), shape),
    "up to 1e4": lambda rng, shape: rng.uniform(-1e4, 1e4, shape),
    "tiny": lambda rng, shape: rng.standard_normal(shape) * 1e-41,
    "all magnitudes": lambda rng, shape: rng.standard_normal(shape) * 10.0 ** rng.integers(-30, 5, shape),
}
PADDING = (math.nan, math.inf, -math.inf, 1e30, 0.0)


def make_case(kind: str, rows: int, vocab: int, keep: int, *, padding: float, extra: int, seed: int) -> Case:
    """Rows of one kind, then a padding that must not be seen, to a multiple of 32 and ``extra`` blocks more."""
    z = np.full((rows, -(-vocab // 32) * 32 + 32 * extra), padding, np.float32)
    z[:, :vocab] = KINDS[kind](np.random.default_rng(seed), (rows, vocab))
    return Case(z, vocab, keep)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    vocab = draw(st.sampled_from(VOCABS))
    keep = draw(st.sampled_from(sorted({1, min(100, vocab), min(128, vocab)})) | st.integers(1, min(vocab, 128)))
    return make_case(
        draw(st.sampled_from(sorted(KINDS))),
        draw(st.integers(1, 2)),
        vocab,
        keep,
        padding=draw(st.sampled_from(PADDING)),
        extra=draw(st.sampled_from((0, 0, 1, 3))),
        seed=draw(st.integers(0, 2**32 - 1)),
    )


# --- tests ------------------------------------------------------------------------------------------


@interpreted
@EXAMPLES
@given(case=cases())
@example(case=make_case("small integers", 2, 8200, 100, padding=math.nan, extra=1, seed=0))
@example(case=make_case("all equal", 1, 5000, 100, padding=math.inf, extra=0, seed=0))
@example(case=make_case("zeros of both signs", 1, 4129, 128, padding=-math.inf, extra=0, seed=0))
@example(case=make_case("clustered", 2, 5000, 100, padding=math.nan, extra=3, seed=1))
@example(case=make_case("up to 1e4", 1, 4100, 1, padding=math.nan, extra=0, seed=0))
def test_selection_is_a_full_stable_sort(run: Run, case: Case) -> None:
    assert_case(case, run(case.z, case.vocab, case.keep))


@interpreted
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_kind_of_row_where_blocks_are_chosen(run: Run, kind: str) -> None:
    case = make_case(kind, 1, 4400, 128, padding=math.nan, extra=0, seed=3)  # 138 blocks, of which 128 fit, no slack
    assert_case(case, run(*case))


@interpreted
@pytest.mark.parametrize("kind", ["plain", "two values", "all equal", "equal maxima", "zeros and a few others"])
@pytest.mark.parametrize("keep", [100, 128])
def test_enough_blocks_that_the_search_starts_from_the_columns(run: Run, kind: str, keep: int) -> None:
    """From 2,049 blocks on there are at least as many columns as tokens are wanted, as in production."""
    case = make_case(kind, 1, 65_700, keep, padding=math.nan, extra=0, seed=17)
    assert_case(case, run(*case))


@interpreted
@pytest.mark.parametrize(("vocab", "keep"), [(3, 3), (100, 100), (300, 300), (600, 520), (4500, 257)])
def test_keep_up_to_the_whole_vocabulary(run: Run, vocab: int, keep: int) -> None:
    case = make_case("small integers", 1, vocab, keep, padding=math.nan, extra=0, seed=5)
    assert_case(case, run(*case))


@interpreted
@pytest.mark.parametrize("vocab", [40, 4200])
def test_one_pole_is_the_same_as_that_of_both(run: Run, vocab: int) -> None:
    case = make_case("plain", 1, vocab, 10, padding=math.nan, extra=0, seed=7)
    both, (plus, minus) = run(*case), run(*case, poles="+")
    assert minus is None
    for one, other in zip(plus, both[0], strict=True):
        np.testing.assert_array_equal(one, other)


@interpreted
def test_a_row_does_not_depend_on_its_neighbours(run: Run) -> None:
    case = make_case("plain", 3, 70, 20, padding=math.nan, extra=0, seed=9)
    together, _ = run(*case, spare=0)
    alone, _ = run(case.z[1:2], case.vocab, case.keep, spare=5)
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_array_equal(one[1:2], other)


@interpreted
def test_minus_z_exchanges_the_poles(run: Run) -> None:
    case = make_case("small integers", 1, 4200, 100, padding=math.nan, extra=0, seed=11)
    forward, backward = run(*case), run(-case.z, case.vocab, case.keep)
    for pole, other in zip(forward, reversed(backward), strict=True):
        assert pole is not None
        assert other is not None
        for one, two in zip(pole, other, strict=True):
            np.testing.assert_array_equal(one, two)


@interpreted
def test_without_a_workspace(device: str, request: pytest.FixtureRequest) -> None:
    case = make_case("plain", 2, 130, 100, padding=math.nan, extra=1, seed=13)
    assert_case(case, _caller(run_without_workspace, device, request)(*case))


@interpreted
def test_no_rows(run: Run) -> None:
    plus, minus = run(np.empty((0, 64), np.float32), 50, 5)
    assert minus is not None
    assert [part.shape for part in plus] == [part.shape for part in minus] == [(0, 5), (0, 5), (0,), (0,)]


@interpreted
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_shows_in_logsumexp(run: Run, bad: float) -> None:
    case = make_case("plain", 1, 4200, 100, padding=0, extra=0, seed=15)
    case.z[0, 4150] = bad
    plus, minus = run(*case)
    assert minus is not None
    assert not np.isfinite([plus[2][0], minus[2][0]]).all()


# --- what is refused --------------------------------------------------------------------------------


def assert_refused(match: str, z: Tensor, vocab: int, keep: int, **options: Any) -> None:
    require_triton()
    from flashinterp.decoding.backends.triton_select import select

    with pytest.raises(ValueError, match=match) as caught:
        select(z, vocab, keep, **options)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("keep", [0, 65, 5000])
def test_an_impossible_keep_is_refused(keep: int) -> None:
    require_triton()
    from flashinterp.decoding.backends.triton_select import Plan

    with pytest.raises(ValueError, match="choose 1 to 64"):
        Plan(64, keep)


def test_more_than_one_program_can_hold_is_refused() -> None:
    require_triton()
    from flashinterp.decoding.backends.triton_select import Plan

    with pytest.raises(ValueError, match="choose 1 to 1024"):
        Plan(5000, 1025)
    with pytest.raises(ValueError, match="up to 1048576 tokens"):
        Plan(2**20 + 1, 1)


def test_logits_of_another_kind_are_refused() -> None:
    assert_refused("contiguous", torch.zeros(2, 64, dtype=torch.bfloat16), 64, 1)
    assert_refused("contiguous", torch.zeros(64, 64)[:, ::2], 32, 1)
    assert_refused("contiguous", torch.zeros(64), 64, 1)


def test_columns_that_are_no_whole_blocks_are_refused() -> None:
    assert_refused("next multiple of 32", torch.zeros(2, 70), 70, 1)
    assert_refused("next multiple of 32", torch.zeros(2, 64), 65, 1)


def test_an_unknown_pole_is_refused() -> None:
    assert_refused("choose 'both' or", torch.zeros(2, 64), 64, 1, poles="-")


def test_the_cpu_is_refused_outside_the_interpreter() -> None:
    if os.environ.get("TRITON_INTERPRET") == "1":
        pytest.skip("this process interprets kernels")
    assert_refused("TRITON_INTERPRET=1", torch.zeros(2, 64), 64, 1)


@pytest.mark.parametrize("plan", [(64, 2, 2), (64, 1, 1), (50, 1, 2), (64, 1, 2)])
def test_a_workspace_for_something_else_is_refused(plan: tuple[int, int, int]) -> None:
    require_triton()
    from flashinterp.decoding.backends.triton_select import Plan, Workspace, _check_workspace

    workspace = Workspace.allocate(1, Plan(*plan), "cpu")  # for one row
    with pytest.raises(ValueError, match=r"use Workspace.allocate"):
        _check_workspace(workspace, Plan(64, 1), torch.zeros(2, 64))


# --- at production size, on a GPU -------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("rows", "vocab", "keep"),
    [(3584, 128_256, 100), (1000, 32_000, 10), (513, 50_257, 100), (130, 262_144, 128), (65, 151_936, 1000)],
)
@pytest.mark.parametrize("kind", ["normal", "bfloat16 ties", "neighbours alike"])
def test_at_production_size(rows: int, vocab: int, keep: int, kind: str) -> None:
    require_triton()
    from flashinterp.decoding.backends.triton_select import select

    generator = torch.Generator("cuda").manual_seed(vocab)
    z = torch.full((rows, -(-vocab // 32) * 32), math.nan, device="cuda")
    for part in z[:, :vocab].split(256):
        part.normal_(generator=generator)
        if kind == "bfloat16 ties":
            part.copy_(part.bfloat16())
        if kind == "neighbours alike":
            part.copy_(part.cumsum(1) / 50)
    plus, minus = select(z, vocab, keep)
    for start in range(0, rows, 256):  # a full sort of all rows at once would take 12 bytes a logit
        at = slice(start, start + 256)
        for sign, pole in ((1, plus), (-1, minus)):
            best = (z[at, :vocab] * sign).sort(dim=1, descending=True, stable=True)
            torch.testing.assert_close(pole.logits[at], best.values[:, :keep], rtol=0, atol=0)
            torch.testing.assert_close(pole.ids[at], best.indices[:, :keep].int(), rtol=0, atol=0)
            wide = best.values.double()
            assert_near(pole.logsumexp[at].cpu().numpy(), wide.logsumexp(1).cpu().numpy())
            mean = wide[:, :100].logsumexp(1) - math.log(100)
            assert_near(pole.log_mean_top[at].cpu().numpy(), mean.cpu().numpy())
