"""The inverted index answers as a scan does."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from fixtures.build import VOCAB
from flashinterp.decoding import index_builder
from flashinterp.decoding.decode import decode
from flashinterp.decoding.index_builder import build_index
from flashinterp.decoding.neuron_map import NeuronMap
from flashinterp.decoding.token_index import BOUND_ROWS, DEPTH
from flashinterp.models.checkpoint import Checkpoint
from tests.examples import examples


def _by_sorting(ids: NDArray[np.int32], scores: NDArray[np.float32], vocab: int) -> list[list[int]]:
    """The places of every token, each token's by a sort of its own."""
    flat_ids, flat_scores = ids.ravel(), scores.ravel()
    lists = []
    for token in range(vocab):
        places = np.flatnonzero(flat_ids == token)
        best = places[np.argsort(-flat_scores[places], kind="stable")][:DEPTH].tolist()
        lists.append(best + [-1] * (DEPTH - len(best)))
    return lists


@examples(60)
@given(
    n=st.integers(1, 400),
    k=st.integers(1, 8),
    vocab=st.integers(8, 12),
    levels=st.sampled_from([1, 3, 40, 10**6]),
    infinite=st.booleans(),
    hot=st.booleans(),
    chunk=st.integers(1, 500),
    seed=st.integers(0, 999),
)
def test_each_token_keeps_its_best_places_in_order(
    n: int, k: int, vocab: int, levels: int, infinite: bool, hot: bool, chunk: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    ids = np.stack([rng.permutation(vocab)[:k] for _ in range(n)]).astype(np.int32)
    if hot:
        ids[:, 0] = 3
    scores = rng.integers(-levels // 2, levels, (n, k)).astype(np.float32)
    scores[(scores == 0) & (rng.random((n, k)) < 0.5)] = -0.0  # equal to 0, and of another order in its bits
    if infinite:
        scores[scores == scores.min()] = -np.inf
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index_builder, "_CHUNK", chunk)
        index = build_index(ids, scores, vocab)
    assert index.places.dtype == np.int32
    assert index.places.tolist() == _by_sorting(ids, scores, vocab)
    assert index.bound_rows.tolist() == np.argsort(-scores[:, -1], kind="stable")[:BOUND_ROWS].tolist()


@pytest.mark.parametrize("content", ["random", "one score", "rising", "one token"])
def test_few_places_are_sorted_and_never_many_at_once(content: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    n, k, vocab, chunk = 20_000, 10, 100, 4_000
    ids = ((rng.integers(0, vocab, (n, 1)) + np.arange(k)) % vocab).astype(np.int32)
    scores = -np.sort(-rng.standard_normal((n, k)).astype(np.float32))
    if content == "one score":
        scores[:] = 0
    elif content == "rising":  # every place is better than all before it
        scores = np.arange(n * k, dtype=np.float32).reshape(n, k)
    elif content == "one token":
        ids[:, 4] = 7
    sizes = []

    def counted(places: NDArray[np.int64], *arrays: Any) -> Any:
        sizes.append(len(places))
        return best_of_each(places, *arrays)

    best_of_each = index_builder._best_of_each
    monkeypatch.setattr(index_builder, "_CHUNK", chunk)
    monkeypatch.setattr(index_builder, "_best_of_each", counted)
    index = build_index(ids, scores, vocab)
    assert max(sizes) <= DEPTH * vocab + 2 * chunk
    assert sum(sizes) < n * k / 10  # 2 % for random content, 6 % where all scores are equal
    assert index.places.tolist() == _by_sorting(ids, scores, vocab)


@pytest.mark.parametrize("top_k", [3, 40, VOCAB])
@pytest.mark.parametrize("pole", ["both", "+", "-"])
def test_find_on_a_loaded_map_is_find_by_a_scan(planted: Checkpoint, tmp_path: Path, top_k: int, pole: str) -> None:
    fresh = decode(planted, top_k=top_k)
    loaded = NeuronMap.load(fresh.save(tmp_path / "map"))
    assert loaded.indexes is not None
    for token in range(0, VOCAB, 73):
        for n in (1, 5, DEPTH - 1, DEPTH, 100):
            want, got = fresh.find(token, n, pole), loaded.find(token, n, pole)  # type: ignore[arg-type]
            assert [f[:4] for f in got] == [f[:4] for f in want]
            assert all(not g.certain or w.certain for g, w in zip(got, want, strict=True))


def test_ties_beyond_the_depth_are_scanned(planted: Checkpoint, tmp_path: Path) -> None:
    m = decode(planted, top_k=5)
    same = dataclasses.replace(
        m,
        top_ids=np.tile(np.arange(5, dtype=np.int32), (len(m), 1)),
        top_logits=np.tile(np.arange(5, 0, -1, dtype=np.float32), (len(m), 1)),
        log_mean_top=np.zeros_like(m.log_mean_top),
    )
    loaded = NeuronMap.load(same.save(tmp_path / "map"))
    assert [str(f.neuron) for f in loaded.find(0, 3, "+")] == ["L0N0", "L0N1", "L0N2"]
    assert loaded._look_up(0, "+", 3) is None
