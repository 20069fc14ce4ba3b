"""The hot path against an explicit product in float64: every id decided, every error within a budget."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from flashinterp.decoding.backends import plain_torch
from flashinterp.decoding.backends.choice import decode_rows
from flashinterp.decoding.backends.score import SCORE_TOKENS
from flashinterp.decoding.backends.top_tokens import Pole
from flashinterp.errors import CheckpointError, MapError
from tests.examples import examples
from tests.helpers import log_mean_top, log_sum_exp

# Around one block (64), one tile (1,024), the 100 tokens of a score, and their neighbours. Above 6,400 there are more
# than 100 blocks, so that some are left out.
VOCABS = (1, 2, 63, 64, 65, 99, 100, 101, 127, 128, 130, 1023, 1024, 1025, 1100, 2112, 6400, 6465, 13_001)
EXAMPLES = examples(60)


class Case(NamedTuple):
    """Rows [n, d] and head [V, d], and how many tokens to keep."""

    rows: Tensor
    head: Tensor
    top_k: int


def _duplicated(rng: np.random.Generator, head: NDArray[np.float64]) -> NDArray[np.float64]:
    return head[rng.integers(0, min(3, len(head)), len(head))]


HEADS = {
    "plain": lambda rng, head: head,
    "three rows, repeated": _duplicated,
    "all rows equal": lambda rng, head: np.repeat(head[:1], len(head), axis=0),
    "half the rows zero": lambda rng, head: head * (rng.random(len(head)) < 0.5)[:, None],
    "all rows zero": lambda rng, head: head * 0,
    "both zeros": lambda rng, head: np.where(rng.random(head.shape) < 0.5, -0.0, 0.0) * np.sign(head),
    "one high token a block": lambda rng, head: head * np.where(np.arange(len(head)) % 64 == 5, 8, 1)[:, None],
    "one token far above": lambda rng, head: head * np.where(np.arange(len(head)) == len(head) // 2, 8, 1)[:, None],
}


@st.composite
def cases(draw: st.DrawFn, *, integers: bool) -> Case:
    """Rows and a head of odd shapes; small integers make every product exact and ties frequent."""
    vocab, d = draw(st.sampled_from(VOCABS)), draw(st.sampled_from((1, 2, 5, 16)))
    n = draw(st.integers(1, 6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    make = (lambda *s: rng.integers(-2, 3, s).astype(float)) if integers else (lambda *s: rng.standard_normal(s))
    rows, head = make(n, d), make(vocab, d)
    head = HEADS[draw(st.sampled_from(sorted(HEADS)))](rng, head)
    if draw(st.booleans()):
        rows[0] = draw(st.sampled_from((0.0, -0.0)))
    stored = draw(st.sampled_from((torch.float32, torch.float16, torch.bfloat16)))
    top_k = draw(st.one_of(st.sampled_from((1, vocab)), st.integers(1, vocab)))
    return Case(torch.tensor(rows).to(stored).float(), torch.tensor(head).to(stored).float(), top_k)


def _product(case: Case) -> NDArray[np.float64]:
    plain_torch: NDArray[np.float64] = (case.rows.double() @ case.head.double().T).numpy()
    return plain_torch


def _ranked(z: NDArray[Any]) -> NDArray[np.int64]:
    """Ids from best to worst, equal logits (-0.0 and +0.0 among them) by lower id."""
    return np.argsort(-z, axis=1, kind="stable")


def _assert_same(a: Pole, b: Pole, *, logsumexp_atol: float = 0) -> None:
    for field in ("ids", "logits", "logsumexp", "log_mean_top"):
        atol = logsumexp_atol if field == "logsumexp" else 0
        torch.testing.assert_close(
            getattr(a, field), getattr(b, field), rtol=0, atol=atol, msg=lambda m, f=field: f + m
        )


def _assert_sums(pole: Pole, z: NDArray[np.float64]) -> None:
    """The two sums within float32 rounding of a sum over V terms; 1e-5 is 80 units in the last place of 1."""
    np.testing.assert_allclose(pole.logsumexp.numpy(), log_sum_exp(z), rtol=1e-6, atol=1e-5)
    np.testing.assert_allclose(pole.log_mean_top.numpy(), log_mean_top(z), rtol=1e-6, atol=1e-5)


# --- exact arithmetic: every id is decided ----------------------------------------------------------


@EXAMPLES
@given(cases(integers=True), st.sampled_from((torch.float32, torch.float64)))
def test_exact_logits_are_ranked_as_a_full_stable_sort_ranks_them(case: Case, dtype: torch.dtype) -> None:
    poles = decode_rows(case.rows.to(dtype), case.head.to(dtype), top_k=case.top_k)
    for pole, z in zip(poles, (_product(case), -_product(case)), strict=True):
        order = _ranked(z)[:, : case.top_k]
        np.testing.assert_array_equal(pole.ids.numpy(), order)
        np.testing.assert_array_equal(pole.logits.numpy(), np.take_along_axis(z, order, axis=1))
        assert pole.ids.dtype == torch.int32
        assert pole.logits.dtype == dtype
        _assert_sums(pole, z)


@EXAMPLES
@given(cases(integers=True), st.randoms(use_true_random=False))
def test_permuting_rows_permutes_the_results(case: Case, random: Any) -> None:
    order = list(range(len(case.rows)))
    random.shuffle(order)
    straight, mixed = (decode_rows(rows, case.head, top_k=case.top_k) for rows in (case.rows, case.rows[order]))
    for a, b in zip(straight, mixed, strict=True):
        _assert_same(Pole(a.ids[order], a.logits[order], a.logsumexp[order], a.log_mean_top[order]), b)


@pytest.mark.parametrize("top_k", [1, 30, 100, 150])
@pytest.mark.parametrize("spacing", [64, 65, 127, 1])
def test_the_best_tokens_are_found_wherever_they_lie(spacing: int, top_k: int) -> None:
    """150 tokens stand above the rest: each in a block of its own, or all of them in three."""
    head = torch.zeros(20_000, 1)
    best = 7 + spacing * torch.randperm(150, generator=torch.Generator().manual_seed(spacing))
    head[best, 0] = torch.arange(150.0, 0.0, -1.0)
    plus, minus = decode_rows(torch.tensor([[1.0], [-2.0]]), head, top_k=top_k)
    for pole, row in ((plus, 0), (minus, 1)):
        assert pole.ids[row].tolist() == best[:top_k].tolist()
    # On the other pole all that is left is zero, and the lowest ids are the first.
    zero = [i for i in range(400) if head[i] == 0][:top_k]
    assert minus.ids[0].tolist() == plus.ids[1].tolist() == zero


@pytest.mark.parametrize("n", [511, 512, 513, 1025])
@pytest.mark.parametrize("vocab", [70, 130])
def test_more_rows_than_a_chunk_change_nothing(n: int, vocab: int) -> None:
    rng = np.random.default_rng([n, vocab])
    case = Case(*(torch.tensor(rng.integers(-2, 3, (size, 3))).float() for size in (n, vocab)), top_k=7)
    for pole, z in zip(decode_rows(*case[:2], top_k=7), (_product(case), -_product(case)), strict=True):
        np.testing.assert_array_equal(pole.ids.numpy(), _ranked(z)[:, :7])
        _assert_sums(pole, z)


@pytest.mark.parametrize(("tile", "rows"), [(64, 512), (1024, 1), (128, 3), (1 << 20, 1 << 20)])
@pytest.mark.parametrize("vocab", [64, 100, 321, 1100])
def test_where_chunks_and_tiles_end_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, tile: int, rows: int, vocab: int
) -> None:
    rng = np.random.default_rng(vocab)
    w, head = (torch.tensor(rng.integers(-3, 4, (size, 4))).float() for size in (10, vocab))
    usual = decode_rows(w, head, top_k=vocab)
    monkeypatch.setattr(plain_torch, "TILE", tile)
    monkeypatch.setattr(plain_torch, "_ROWS", rows)
    monkeypatch.setattr(plain_torch, "_ROW_STEP", rows)
    for a, b in zip(usual, decode_rows(w, head, top_k=vocab), strict=True):
        assert torch.equal(a.ids, b.ids)
        assert torch.equal(a.logits, b.logits)
        torch.testing.assert_close(a.logsumexp, b.logsumexp, rtol=1e-6, atol=1e-6)  # another order of addition
        torch.testing.assert_close(a.log_mean_top, b.log_mean_top, rtol=0, atol=0)


# --- random floats: an error budget -----------------------------------------------------------------


@EXAMPLES
@given(cases(integers=False))
def test_random_logits_err_no_more_than_a_naive_float32_product_does(case: Case) -> None:
    z = _product(case)
    naive = (case.rows @ case.head.T).double().numpy()
    # A float32 sum of d products is within d * 2^-24 of the sum of their magnitudes, in whatever order.
    rounding = case.rows.shape[1] * 2.0**-24 * (case.rows.abs().double() @ case.head.abs().double().T).numpy()
    budget = np.abs(naive - z).max(axis=1, keepdims=True) + rounding.max(axis=1, keepdims=True)  # [n, 1]
    for pole, exact in zip(decode_rows(case.rows, case.head, top_k=case.top_k), (z, -z), strict=True):
        ids = pole.ids.numpy().astype(np.int64)
        assert all(len(set(row)) == case.top_k for row in ids), "an id is listed twice"
        chosen = np.take_along_axis(exact, ids, axis=1)
        assert (np.abs(pole.logits.numpy() - chosen) <= budget).all()
        # An id may differ from float64's only where float64 ties within the error of the two logits compared.
        best = -np.sort(-exact, axis=1)[:, : case.top_k]
        assert (np.abs(best - chosen) <= 2 * budget).all()
        _assert_sums(pole, exact)


@EXAMPLES
@given(cases(integers=False))
def test_a_shorter_list_is_the_beginning_of_the_whole_one(case: Case) -> None:
    vocab = len(case.head)
    whole, short = decode_rows(case.rows, case.head, top_k=vocab), decode_rows(*case[:2], top_k=case.top_k)
    for all_of, some in zip(whole, short, strict=True):
        assert torch.equal(some.ids, all_of.ids[:, : case.top_k])
        assert torch.equal(some.logits, all_of.logits[:, : case.top_k])
        assert torch.equal(some.log_mean_top, all_of.log_mean_top)
        # Our own float32 logits, in id order and sorted in full, give the same ranking.
        z = torch.empty_like(all_of.logits).scatter_(1, all_of.ids.long(), all_of.logits).numpy()
        np.testing.assert_array_equal(all_of.ids.numpy(), _ranked(z))


@EXAMPLES
@given(cases(integers=False))
def test_the_opposite_rows_swap_the_poles(case: Case) -> None:
    plus, minus = decode_rows(case.rows, case.head, top_k=case.top_k)
    other_minus, other_plus = decode_rows(-case.rows, case.head, top_k=case.top_k)
    # The sum over -z is made of the reciprocals of the exponentials of z: the last bits may differ.
    _assert_same(plus, other_plus, logsumexp_atol=1e-5)
    _assert_same(minus, other_minus, logsumexp_atol=1e-5)


@EXAMPLES
@given(cases(integers=False))
def test_doubling_a_row_doubles_its_logits_and_keeps_its_ranking(case: Case) -> None:
    for once, twice in zip(
        decode_rows(case.rows, case.head, top_k=case.top_k),
        decode_rows(2 * case.rows, case.head, top_k=case.top_k),
        strict=True,
    ):
        assert torch.equal(once.ids, twice.ids)
        assert torch.equal(2 * once.logits, twice.logits)


def test_float64_keeps_what_float32_rounds_away() -> None:
    rows = torch.tensor([[1.0, 2.0**-40]], dtype=torch.float64)
    head = torch.tensor([[1.0, 0.0], [1.0, 1.0]], dtype=torch.float64)
    assert decode_rows(rows, head, top_k=2)[0].ids.tolist() == [[1, 0]]
    assert decode_rows(rows.float(), head.float(), top_k=2)[0].ids.tolist() == [[0, 1]]


def test_wide_logits_do_not_overflow_the_sums() -> None:
    rows, head = torch.tensor([[1e4]]), torch.tensor([[1.0], [-1.0], [0.5]])
    for pole in decode_rows(rows, head, top_k=3):
        assert pole.logsumexp.tolist() == [1e4]
        torch.testing.assert_close(pole.log_mean_top, torch.tensor([1e4 - np.log(3)], dtype=torch.float32))


# --- refusals ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("top_k", [-1, 0, 6])
def test_a_top_k_outside_the_vocabulary_is_refused(top_k: int) -> None:
    with pytest.raises(MapError, match="choose 1 to 5"):
        decode_rows(torch.ones(2, 3), torch.ones(5, 3), top_k=top_k)


def test_no_rows_are_refused() -> None:
    with pytest.raises(MapError, match="no rows"):
        decode_rows(torch.ones(0, 3), torch.ones(5, 3), top_k=1)


@pytest.mark.parametrize(
    ("rows", "head"),
    [
        pytest.param([[1e30]], [[1e30], [1.0]], id="to infinity"),
        pytest.param([[1e30]], [[-1e30], [1.0]], id="to minus infinity"),
        pytest.param([[1e30, 1e30]], [[1e30, -1e30], [0.0, 0.0]], id="infinity less infinity"),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_logits_beyond_float32_are_refused(rows: Any, head: Any, dtype: torch.dtype) -> None:
    w, u = torch.tensor(rows, dtype=dtype), torch.tensor(head, dtype=dtype)
    if dtype == torch.float64 and w.shape[1] == 2:
        assert decode_rows(w, u, top_k=1)[0].logits.tolist() == [[0.0]]  # float64 holds it and the answer fits
        return
    with pytest.raises(CheckpointError, match="beyond float32"):
        decode_rows(w, u, top_k=1)


def test_one_overflow_in_the_middle_of_a_large_vocabulary_is_seen() -> None:
    head = torch.zeros(2000, 1)
    head[1500] = 3e38
    with pytest.raises(CheckpointError, match="beyond float32"):
        decode_rows(torch.tensor([[0.0], [2.0]]), head, top_k=1)


def test_a_score_compares_with_a_hundred_tokens() -> None:
    assert SCORE_TOKENS == 100


@EXAMPLES
@given(cases(integers=False))
def test_the_positive_pole_alone_is_the_first_of_both(case: Case) -> None:
    (alone,) = decode_rows(case.rows, case.head, top_k=case.top_k, poles="+")
    _assert_same(alone, decode_rows(case.rows, case.head, top_k=case.top_k)[0], logsumexp_atol=1e-5)


def test_the_positive_pole_alone_survives_logits_whose_exponentials_are_nothing() -> None:
    (alone,) = decode_rows(torch.tensor([[1.0]]), torch.tensor([[-200.0], [-210.0], [-200.0]]), top_k=3, poles="+")
    torch.testing.assert_close(alone.logsumexp, torch.tensor([-200.0 + np.log(2)], dtype=torch.float32))


@EXAMPLES
@given(st.lists(cases(integers=True), min_size=2, max_size=4))
def test_a_buffer_that_is_used_again_changes_nothing(several: list[Case]) -> None:
    scratch = plain_torch.Scratch()
    for case in several:
        kept, fresh = (decode_rows(case.rows, case.head, top_k=case.top_k, scratch=s) for s in (scratch, None))
        for a, b in zip(kept, fresh, strict=True):
            _assert_same(a, b)


def test_a_buffer_is_made_anew_only_where_it_does_not_do() -> None:
    scratch, like = plain_torch.Scratch(), torch.empty(0)
    first = scratch.take(4, 6, like)
    assert scratch.take(2, 12, like).data_ptr() == scratch.take(3, 5, like).data_ptr() == first.data_ptr()
    assert scratch.take(5, 6, like).shape == (5, 6)
    assert scratch.take(1, 1, like.double()).dtype == torch.float64
