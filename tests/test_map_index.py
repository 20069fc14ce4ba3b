"""The inverted index answers as a scan does."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flashinterp import map_index
from flashinterp.checkpoint import Checkpoint
from flashinterp.map_index import DEPTH, PoleIndex
from flashinterp.neuron_map import NeuronMap
from flashinterp.scan import decode


@settings(max_examples=30)
@given(
    n=st.integers(1, 60), k=st.integers(1, 8), ties=st.booleans(), chunk=st.integers(1, 500), seed=st.integers(0, 999)
)
def test_each_token_keeps_its_best_places_in_order(n: int, k: int, ties: bool, chunk: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    vocab = 9
    ids = np.stack([rng.permutation(vocab)[:k] for _ in range(n)]).astype(np.int32)
    scores = rng.integers(0, 3 if ties else 10**6, (n, k)).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(map_index, "_CHUNK", chunk)
        index = PoleIndex.build(ids, scores, vocab)
    for token in range(vocab):
        places = np.flatnonzero(ids.ravel() == token)
        best = places[np.argsort(-scores.ravel()[places], kind="stable")][:DEPTH]
        assert index.places[token].tolist() == best.tolist() + [-1] * (DEPTH - len(best))


@pytest.mark.parametrize("top_k", [3, 40, 768])
@pytest.mark.parametrize("pole", ["both", "+", "-"])
def test_find_on_a_loaded_map_is_find_by_a_scan(planted: Checkpoint, tmp_path: Path, top_k: int, pole: str) -> None:
    fresh = decode(planted, top_k=top_k)
    loaded = NeuronMap.load(fresh.save(tmp_path / "map"))
    assert loaded.indexes is not None
    for token in range(0, 768, 37):
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
