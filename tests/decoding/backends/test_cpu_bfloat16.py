"""Candidates by a bfloat16 product against the float32 product: the same ids and logits, or the row whole."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from flashinterp.decoding.backends import cpu_bfloat16
from flashinterp.decoding.backends.cpu_bfloat16 import bfloat16, choose, multiply_bfloat16
from flashinterp.decoding.backends.plain_torch import multiply
from flashinterp.decoding.backends.top_tokens import Pole
from flashinterp.errors import CheckpointError
from tests.examples import examples

VOCABS = (12_800, 12_801, 13_000, 16_384)  # at least two blocks of 64 for each of 100 tokens

HEADS = {
    "plain": lambda rng, head: head,
    "three rows, repeated": lambda rng, head: head[rng.integers(0, 3, len(head))],
    "half the rows zero": lambda rng, head: head * (rng.random(len(head)) < 0.5)[:, None],
    "neighbours alike": lambda rng, head: np.repeat(head[: -(-len(head) // 50)], 50, axis=0)[: len(head)],
    "a few far above": lambda rng, head: head * np.where(rng.random(len(head)) < 0.002, 30, 1)[:, None],
    "tiny": lambda rng, head: head * 1e-20,
    "subnormal": lambda rng, head: head * 1e-39,
}


@st.composite
def cases(draw: st.DrawFn) -> tuple[Tensor, Tensor, int]:
    """bfloat16 rows and a head, and how many tokens to keep."""
    vocab, d = draw(st.sampled_from(VOCABS)), draw(st.sampled_from((8, 37, 128)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    integers = draw(st.booleans())
    make = (lambda *s: rng.integers(-2, 3, s).astype(float)) if integers else (lambda *s: rng.standard_normal(s))
    rows, head = make(draw(st.sampled_from((1, 9))), d), make(vocab, d)
    head = HEADS[draw(st.sampled_from(sorted(HEADS)))](rng, head)
    rows *= draw(st.sampled_from((1.0, 0.02, 1e-3)))
    if draw(st.booleans()):
        rows[0] = 0
    return torch.tensor(rows).bfloat16(), torch.tensor(head).bfloat16(), draw(st.sampled_from((1, 10, 100)))


def _assert_same(got: tuple[Pole, ...], rows: Tensor, head: Tensor, top_k: int) -> None:
    """Bit for bit what float32 gives, computed for at least 8 rows: for fewer the library adds in another order."""
    several = rows.float().repeat(8, 1)
    for ours, wide in zip(got, multiply(several, head.float(), top_k, "both"), strict=False):
        n = len(rows)
        # torch's float32 product need not give the same bits at every small shape; a different bit may swap a near tie.
        torch.testing.assert_close(ours.logits, wide.logits[:n], rtol=2e-6, atol=1e-37)
        at = {i: dict(zip(wide.ids[i].tolist(), wide.logits[i].tolist(), strict=True)) for i in range(n)}
        for i in range(n):
            kth = float(wide.logits[i, -1])
            for token, logit in zip(ours.ids[i].tolist(), ours.logits[i].tolist(), strict=True):
                want = at[i].get(token, kth)
                assert abs(logit - want) <= 2e-6 * abs(want) + 1e-37
        torch.testing.assert_close(ours.log_mean_top, wide.log_mean_top[:n], rtol=2e-6, atol=2e-6)
        torch.testing.assert_close(ours.logsumexp, wide.logsumexp[:n], rtol=0, atol=cpu_bfloat16._LSE_ROUNDING)


@examples(60)
@given(cases())
def test_candidates_hold_the_best_of_the_float32_product(case: tuple[Tensor, Tensor, int]) -> None:
    rows, head, top_k = case
    _assert_same(multiply_bfloat16(rows, head, top_k, "both"), rows, head, top_k)


@examples(20)
@given(st.integers(0, 2**32 - 1), st.sampled_from((10, 100, 150)))
def test_small_integers_give_the_full_stable_sort(seed: int, top_k: int) -> None:
    """Every logit is exact in both products, and most tie: the lower id comes first."""
    rng = np.random.default_rng(seed)
    rows, head = (torch.tensor(rng.integers(-2, 3, (n, 12))).bfloat16() for n in (9, 20_000))
    z = rows.float() @ head.float().T
    for pole, exact in zip(multiply_bfloat16(rows, head, top_k, "both"), (z, -z), strict=True):
        order = exact.argsort(dim=1, descending=True, stable=True)[:, :top_k]
        assert torch.equal(pole.ids.long(), order)
        assert torch.equal(pole.logits + 0.0, exact.gather(1, order) + 0.0)


@pytest.mark.parametrize("n", [1, 7, 130])
def test_at_a_real_width_the_bits_are_those_of_float32(n: int) -> None:
    """The shapes at which this way is taken by itself; skipped only where it never is."""
    if not bfloat16().holds:
        pytest.skip(bfloat16().reason)
    generator = torch.Generator().manual_seed(n)
    rows, head = (torch.randn(size, 1024, generator=generator).mul_(0.02).bfloat16() for size in (n, 30_000))
    got = multiply_bfloat16(rows, head, 100, "both")
    padded = torch.cat([rows, rows[:1].expand(8, -1)]).float()
    for ours, want in zip(got, multiply(padded, head.float(), 100, "both"), strict=True):
        assert torch.equal(ours.ids, want.ids[:n])
        assert torch.equal(ours.logits, want.logits[:n])
        assert float((ours.logsumexp - want.logsumexp[:n]).abs().max()) < 1e-5


def _whole_rows(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows are multiplied whole, call by call."""
    seen: list[int] = []

    def spy(rows: Tensor, *rest: Any) -> Any:
        seen.append(len(rows))
        return multiply(rows, *rest)

    monkeypatch.setattr(cpu_bfloat16, "multiply", spy)
    return seen


def test_ordinary_rows_are_proved_and_not_multiplied_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = _whole_rows(monkeypatch)
    rows, head = torch.randn(64, 256).mul_(0.02).bfloat16(), torch.randn(30_000, 256).mul_(0.5).bfloat16()
    multiply_bfloat16(rows, head, 100, "both")
    assert seen == []


@pytest.mark.parametrize(
    ("row", "why"), [(torch.zeros(32), "every logit ties"), (torch.full((32,), 40.0), "rounding exceeds 0.01")]
)
def test_a_row_that_cannot_be_proved_is_multiplied_whole(
    monkeypatch: pytest.MonkeyPatch, row: Tensor, why: str
) -> None:
    seen = _whole_rows(monkeypatch)
    rows, head = torch.randn(9, 32).mul_(0.01), torch.randn(20_000, 32).mul_(0.5).bfloat16()
    rows[4] = row
    got = multiply_bfloat16(rows.bfloat16(), head, 20, "both")
    assert seen == [8], why
    for ours, want in zip(got, multiply(rows.bfloat16().float(), head.float(), 20, "both"), strict=True):
        assert torch.equal(ours.ids[4], want.ids[4])
        torch.testing.assert_close(ours.logsumexp[4], want.logsumexp[4])


def test_a_product_that_is_off_by_more_than_its_bound_is_not_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The proof on this machine must see what a faulty bfloat16 product would do."""
    monkeypatch.setattr(cpu_bfloat16, "_has", lambda flag: True)
    real = torch.mm

    def faulty(a: Tensor, b: Tensor, *, out: Tensor | None = None) -> Tensor:
        if a.dtype != torch.bfloat16:
            return real(a, b, out=out) if out is not None else real(a, b)
        assert out is not None
        return out.copy_(real(a.float(), b.float()) * torch.linspace(0.9, 1.1, b.shape[1]))

    monkeypatch.setattr(torch, "mm", faulty)
    bfloat16.cache_clear()
    assert not bfloat16().holds
    assert "do not agree" in bfloat16().reason
    bfloat16.cache_clear()


def test_logits_beyond_float32_are_refused() -> None:
    rows, head = torch.full((1, 8), 1e30).bfloat16(), torch.full((13_000, 8), 1e30).bfloat16()
    with pytest.raises(CheckpointError, match="beyond float32"):
        multiply_bfloat16(rows, head, 5, "both")


@pytest.mark.parametrize(("d", "vocab", "top_k"), [(64, 512, 100), (256, 32_000, 100), (4096, 12_000, 100)])
def test_small_products_stay_in_float32(d: int, vocab: int, top_k: int) -> None:
    name, reason = choose(d, vocab, top_k)
    assert name == "plain"
    assert f"{d} x {vocab}" in reason
