"""The decode on a GPU, as far as it can be shown without one: the proof of the kernels, and the glue around them."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from flashinterp.decoding.backends import cuda, topk
from flashinterp.decoding.backends.top_tokens import Proof
from flashinterp.decoding.decode import decode


def _plain(z: torch.Tensor, vocab: int, keep: int) -> tuple[Any, Any]:
    """What the kernels should give, by plain torch."""
    found = []
    for negate in (False, True):
        maxima = z.new_empty(len(z), z.shape[1] // topk.BLOCK)
        topk.block_maxima(z, 0, vocab, maxima, negate=negate)
        ids, values = topk.select(z, maxima, keep, vocab, negate=negate)
        found.append(SimpleNamespace(ids=ids.int(), logits=values + 0.0))
    return found[0], found[1]


def _swapped(z: torch.Tensor, vocab: int, keep: int) -> tuple[Any, Any]:
    """One near-tie the wrong way round."""
    plus, minus = _plain(z, vocab, keep)
    plus.ids[3, [0, 1]] = plus.ids[3, [1, 0]]
    return plus, minus


def _broken(z: torch.Tensor, vocab: int, keep: int) -> tuple[Any, Any]:
    raise RuntimeError("no kernel image is available for execution on the device")


@pytest.mark.parametrize(
    ("kernels", "trusted", "reason"),
    [
        (_plain, True, "agree with"),
        (_swapped, False, "do not agree"),
        (_broken, False, "do not run here"),
    ],
)
def test_kernels_are_trusted_only_where_they_agree_with_plain_torch(
    monkeypatch: pytest.MonkeyPatch, kernels: Any, trusted: bool, reason: str
) -> None:
    monkeypatch.setattr(cuda, "select", kernels)
    assert cuda.prove("cpu").holds is trusted
    assert reason in cuda.prove("cpu").reason


def test_a_gpu_without_triton_takes_plain_torch_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda.importlib.util, "find_spec", lambda name: None)
    cuda.selection.cache_clear()
    assert cuda.selection("cuda:7") == Proof(False, "triton is not installed")
    cuda.selection.cache_clear()


@pytest.mark.parametrize("vocab", [64, 70, 768])
def test_chunks_hold_every_rows_logits(monkeypatch: pytest.MonkeyPatch, vocab: int) -> None:
    monkeypatch.setattr(cuda, "_BUFFER_BYTES", 4 * 128 * 96)
    rows, head = torch.randn(300, 5), torch.randn(vocab, 5)
    seen = [(len(chunk), z[:, :vocab].clone()) for chunk, z in cuda.logit_chunks(rows, head)]
    assert sum(n for n, _ in seen) == 300
    torch.testing.assert_close(torch.cat([z for _, z in seen]), rows @ head.T)


def test_precision_settings_are_put_back() -> None:
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_bf16_reduced_precision_reduction
    seen = []

    def fail() -> None:
        with cuda._full_precision():
            seen.append(matmul.allow_bf16_reduced_precision_reduction)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert not seen[0]
    assert matmul.allow_bf16_reduced_precision_reduction == before


_INTERPRETED = """
import torch
torch.set_num_threads(1)
from flashinterp.decoding.backends import cuda
from flashinterp.decoding.backends.choice import decode_rows
torch.manual_seed(0)
rows, head = torch.randint(-3, 4, (5, 6)).float(), torch.randint(-3, 4, (300, 6)).float()
assert not cuda.selection("cpu").holds
plain = decode_rows(rows, head, top_k=20)
for ours, theirs in zip(cuda.multiply(rows, head, 20, "both"), plain, strict=True):
    assert torch.equal(ours.ids, theirs.ids) and torch.equal(ours.logits, theirs.logits + 0.0)
    torch.testing.assert_close(ours.logsumexp, theirs.logsumexp, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.log_mean_top, theirs.log_mean_top, rtol=1e-5, atol=1e-5)
"""


@pytest.mark.slow  # another process imports torch
def test_the_gpu_path_gives_the_plain_paths_answer_in_the_interpreter() -> None:
    if not os.environ.get("CI"):
        pytest.importorskip("triton")
    run = subprocess.run(
        [sys.executable, "-c", _INTERPRETED],
        env={**os.environ, "TRITON_INTERPRET": "1"},  # must be set before triton is imported
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert run.returncode == 0, run.stderr


@pytest.mark.gpu
def test_on_a_gpu_the_map_is_the_cpus(planted: Any) -> None:
    on_gpu, on_cpu = decode(planted, device="cuda"), decode(planted, device="cpu")
    assert on_gpu.meta["way"]["name"] == "triton", on_gpu.meta["way"]["reason"]
    same = on_gpu.top_ids == on_cpu.top_ids
    assert same.mean() > 0.999
    assert abs(on_gpu.top_logits - on_cpu.top_logits).max() < 1e-5
