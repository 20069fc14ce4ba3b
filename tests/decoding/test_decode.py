"""From a checkpoint to a map: what is recorded, what is resolved, what is refused."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch

from fixtures.build import VOCAB
from flashinterp.decoding.decode import decode
from flashinterp.decoding.neuron_map import NeuronMap
from flashinterp.errors import CheckpointError, MapError, NeuronError
from flashinterp.models.checkpoint import Checkpoint, open_checkpoint
from tests.helpers import paper_logits, small_checkpoint


def _assert_same_arrays(a: NeuronMap, b: NeuronMap, rows: slice = slice(None)) -> None:
    for name in (f.name for f in fields(NeuronMap)):
        if isinstance(getattr(a, name), np.ndarray):
            np.testing.assert_array_equal(getattr(a, name)[rows], getattr(b, name), err_msg=name)


@pytest.mark.parametrize("top_k", [1, 7, VOCAB])
def test_a_map_has_the_shapes_and_types_of_the_contract(top_k: int, planted: Checkpoint) -> None:
    m = decode(planted, top_k=top_k)
    for name in ("top_ids", "bottom_ids"):
        assert (getattr(m, name).shape, getattr(m, name).dtype) == ((1024, top_k), np.int32)
    for name in ("top_logits", "bottom_logits"):
        assert (getattr(m, name).shape, getattr(m, name).dtype) == ((1024, top_k), np.float32)
    for name in ("logsumexp", "log_mean_top", "bottom_logsumexp", "bottom_log_mean_top", "norms"):
        assert (getattr(m, name).shape, getattr(m, name).dtype) == ((1024,), np.float32)
    assert (m.layers, m.roster.widths) == ((0, 1, 2, 3), (256,) * 4)


def test_the_negative_pole_carries_the_logits_of_the_positive_direction(planted: Checkpoint) -> None:
    m = decode(planted, top_k=5)
    z = paper_logits(planted)
    np.testing.assert_allclose(m.bottom_logits, np.sort(z, axis=1)[:, :5], rtol=1e-5, atol=1e-5)


def test_the_norms_are_of_the_vectors_that_met_the_head(planted: Checkpoint) -> None:
    want = torch.cat([planted.rows("up", layer) for layer in range(4)]).double().norm(dim=1)
    np.testing.assert_allclose(decode(planted, top_k=1).norms, want, rtol=1e-6)


def test_a_folder_a_path_and_a_live_model_give_the_same_map(planted: Checkpoint, planted_model: Any) -> None:
    live = open_checkpoint(planted_model)
    maps = [decode(source, top_k=9, lens="read") for source in (planted, str(planted.folder), live)]
    _assert_same_arrays(maps[0], maps[1])
    _assert_same_arrays(maps[0], maps[2])
    assert all(m.vocabulary == planted.vocabulary for m in maps)


def test_some_layers_are_that_part_of_the_whole(planted: Checkpoint) -> None:
    whole, part = decode(planted, top_k=4), decode(planted, top_k=4, layers=[2])
    _assert_same_arrays(whole, part, slice(512, 768))
    assert part.layers == (2,)
    assert decode(planted, top_k=4, layers=[3, 1, 1]).layers == (1, 3)


def test_progress_counts_the_layers(planted: Checkpoint) -> None:
    seen: list[tuple[int, int]] = []
    decode(planted, top_k=1, layers=[0, 2, 3], progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_a_map_records_what_it_was_made_from(planted: Checkpoint, tuned: Checkpoint) -> None:
    m = decode(tuned, lens="write", top_k=3, device="cpu", head_of=planted)
    assert (m.meta["model"], m.meta["lens"], m.meta["top_k"]) == (tuned.name, "write", 3)
    assert m.meta["weights"] == tuned.digests
    assert (m.meta["head_of"], m.meta["head_weights"]) == (planted.name, planted.digests)
    assert (m.meta["device"], m.meta["dtype"]) == ("cpu", "float32")
    assert m.meta["passed"] == {"device": "cpu", "dtype": "auto"}
    assert set(m.meta["versions"]) == {"flashinterp", "torch", "transformers", "safetensors"}
    own = decode(tuned, top_k=1, dtype="float64")
    assert (own.meta["head_of"], own.meta["head_weights"], own.meta["dtype"]) == (None, None, "float64")


def test_auto_is_resolved_to_what_is_there(planted: Checkpoint) -> None:
    m = decode(planted, top_k=1)
    assert m.meta["device"] == ("cuda" if torch.cuda.is_available() else "cpu")
    assert m.meta["passed"] == {"device": "auto", "dtype": "auto"}


def test_another_models_head_decodes_these_rows() -> None:
    rows, other = (small_checkpoint(np.random.default_rng(seed), integers=True) for seed in (1, 2))
    m = decode(rows, top_k=40, head_of=other)
    up = torch.cat([rows.rows("up", layer) for layer in range(2)])
    z = (up @ other.head().T).numpy()
    np.testing.assert_array_equal(m.top_ids, np.argsort(-z, axis=1, kind="stable"))


def test_a_head_of_another_size_is_refused(planted: Checkpoint) -> None:
    other = small_checkpoint(np.random.default_rng(0))
    with pytest.raises(MapError, match="reads 4 dimensions.*has 64"):
        decode(planted, head_of=other)


@pytest.mark.parametrize(
    ("options", "kind", "told"),
    [
        ({"lens": "tuned"}, NeuronError, "unknown lens"),
        ({"layers": [9]}, NeuronError, "layer 9"),
        ({"layers": []}, NeuronError, "no layer"),
        ({"top_k": 0}, MapError, f"choose 1 to {VOCAB}"),
        ({"top_k": VOCAB + 1}, MapError, f"choose 1 to {VOCAB}"),
        ({"dtype": "bfloat16"}, CheckpointError, "choose auto, float32 or float64"),
        ({"device": "quantum"}, CheckpointError, "no device 'quantum'"),
        ({"device": "cuda:99"}, CheckpointError, "no device 'cuda:99'"),
    ],
)
def test_what_cannot_be_decoded_is_refused_in_one_line(
    options: dict[str, Any], kind: type[Exception], told: str, planted: Checkpoint
) -> None:
    with pytest.raises(kind, match=told) as caught:
        decode(planted, **options)
    assert "\n" not in str(caught.value)


def test_nothing_is_left_of_the_models_dtype_in_the_ranking() -> None:
    """Two logits that bfloat16 would tie are told apart."""
    checkpoint = small_checkpoint(np.random.default_rng(0), layers=1, neurons=1, hidden=2, vocab=3)
    model = checkpoint.model
    model.model.layers[0].mlp.up_proj.weight[0] = torch.tensor([1.0, 1.0])
    model.lm_head.weight.copy_(torch.tensor([[256.0, 0.0], [256.0, 0.5], [0.0, 0.0]]))
    model.to(torch.bfloat16)
    assert decode(checkpoint, top_k=2).top_ids.tolist() == [[1, 0]]
    assert torch.tensor(256.5).bfloat16() == 256
