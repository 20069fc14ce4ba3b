"""The moments of a head's rows, against float64; and what is kept of them between runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flashinterp.decoding.head_statistics import HeadStatistics, cache_folder, head_statistics
from flashinterp.errors import CheckpointError
from flashinterp.models.checkpoint import Checkpoint


@given(
    vocab=st.integers(2, 40),
    d=st.integers(1, 12),
    seed=st.integers(0, 1000),
    scale=st.sampled_from([1e-3, 1.0, 1e3]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_mean_and_spread_of_any_vectors_logits_are_exact(
    vocab: int, d: int, seed: int, scale: float, dtype: torch.dtype
) -> None:
    """For any w: w · μ is the mean of its logits over the real tokens, and ‖w F‖ their standard deviation."""
    rng = np.random.default_rng(seed)
    head = torch.from_numpy(scale * rng.normal(size=(vocab, d))).to(dtype)
    excluded = rng.random(vocab) < 0.2
    excluded[:2] = False
    found = HeadStatistics.of(head, excluded)
    w = rng.normal(size=d)
    logits = head.double().numpy()[~excluded] @ w
    assert found.tokens == len(logits)
    size = scale * np.linalg.norm(w)
    assert w @ found.mean == pytest.approx(logits.mean(), abs=1e-9 * size)
    assert np.linalg.norm(w @ found.factor) == pytest.approx(logits.std(), rel=1e-5, abs=1e-5 * size)


def test_rows_that_are_no_tokens_do_not_count(planted: Checkpoint) -> None:
    head, excluded = planted.head().clone(), planted.vocabulary.excluded
    assert excluded.any()
    before = HeadStatistics.of(head, excluded)
    head[np.flatnonzero(excluded)] = 1e4
    after = HeadStatistics.of(head, excluded)
    np.testing.assert_array_equal(after.mean, before.mean)
    np.testing.assert_array_equal(after.factor, before.factor)


def test_a_vocabulary_of_one_token_has_no_spread() -> None:
    with pytest.raises(CheckpointError, match="1 real tokens") as caught:
        HeadStatistics.of(torch.ones(3, 2), np.array([True, False, True]))
    assert "at least two" in str(caught.value)


def test_what_was_computed_once_is_read(
    planted: Checkpoint, tuned: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLASHINTERP_CACHE", str(tmp_path / "cache"))
    first = head_statistics(planted)
    (file,) = (tmp_path / "cache").iterdir()
    monkeypatch.setattr(HeadStatistics, "of", lambda *_: pytest.fail("it is in the cache"))
    again = head_statistics(planted)
    np.testing.assert_array_equal(again.factor, first.factor)
    np.testing.assert_array_equal(again.mean, first.mean)
    assert again.tokens == first.tokens
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(pytest.fail.Exception):  # a damaged file is computed again
        head_statistics(planted)


def test_another_head_has_a_file_of_its_own(
    planted: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLASHINTERP_CACHE", str(tmp_path))
    head = planted.head().clone()
    head_statistics(planted)
    head[5] += 1
    monkeypatch.setattr(Checkpoint, "head", lambda self: head)
    other = head_statistics(planted)
    assert len(list(tmp_path.iterdir())) == 2
    np.testing.assert_array_equal(other.mean, HeadStatistics.of(head, planted.vocabulary.excluded).mean)


def test_without_a_cache_nothing_is_written_and_a_place_that_cannot_be_written_is_left_alone(
    planted: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "file"
    place.write_text("no folder")
    monkeypatch.setenv("FLASHINTERP_CACHE", str(place))
    np.testing.assert_array_equal(head_statistics(planted).mean, head_statistics(planted, cache=False).mean)
    assert place.read_text() == "no folder"


def test_the_cache_is_the_platforms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FLASHINTERP_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("sys.platform", "linux")
    assert cache_folder() == tmp_path / "flashinterp"
