"""The lenses against the live model's own modules, the ways of decoding, and the layers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from fixtures.build import VOCAB
from flashinterp.decoding.backends import cpu_bfloat16, cuda
from flashinterp.decoding.backends.choice import Way, choose_way, decode_rows
from flashinterp.decoding.backends.top_tokens import Proof
from flashinterp.decoding.decode import decode
from flashinterp.decoding.lens_rows import lens_rows, token_logits
from flashinterp.errors import CheckpointError
from flashinterp.models.checkpoint import open_checkpoint
from flashinterp.neurons import LENSES, Lens
from tests.helpers import edited_copy, log_mean_top, log_sum_exp, small_checkpoint


def _ranked(z: NDArray[Any]) -> NDArray[np.int64]:
    """Ids from best to worst, equal logits by lower id."""
    return np.argsort(-z, axis=1, kind="stable")


# --- ways -------------------------------------------------------------------------------------------

LARGE = {"d": 4096, "vocab": 128_256, "top_k": 100}


@pytest.fixture
def able(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor that multiplies bfloat16."""
    monkeypatch.setattr(cpu_bfloat16, "bfloat16", lambda: Proof(True, "it agrees"))


@pytest.mark.usefixtures("able")
@pytest.mark.parametrize(
    ("weights", "rank_in", "shape", "name", "reason"),
    [
        (torch.bfloat16, torch.float32, {}, "bfloat16", "it agrees"),
        (torch.bfloat16, torch.float32, {"d": 64, "vocab": 512}, "plain", "64 x 512"),
        (torch.bfloat16, torch.float32, {"top_k": 5000}, "plain", "5000 candidates"),
        (torch.bfloat16, torch.float32, {"exact_mass": True}, "plain", "float32 was asked for"),
        (torch.bfloat16, torch.float64, {}, "plain", "float64"),
        (torch.float32, torch.float32, {}, "plain", "not a CUDA device"),
        (torch.float16, torch.float32, {}, "plain", "not a CUDA device"),
    ],
)
def test_the_fastest_exact_way_is_chosen_and_says_why(
    weights: torch.dtype, rank_in: torch.dtype, shape: dict[str, Any], name: str, reason: str
) -> None:
    way = choose_way("cpu", weights, rank_in, **{**LARGE, **shape})
    assert way.name == name
    assert reason in way.reason


def test_the_kernels_are_taken_up_to_the_tokens_that_they_keep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "selection", lambda device: Proof(True, "they agree"))
    few, many = (choose_way("cuda", torch.bfloat16, torch.float32, **{**LARGE, "top_k": k}) for k in (256, 257))
    assert few == Way("triton", "they agree")
    assert many == Way("plain", "the kernels keep at most 256 tokens")


def test_a_processor_without_bfloat16_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_bfloat16, "_has", lambda flag: False)
    cpu_bfloat16.bfloat16.cache_clear()
    assert choose_way("cpu", torch.bfloat16, torch.float32, **LARGE) == Way(
        "plain", "this processor has no bfloat16 product"
    )
    cpu_bfloat16.bfloat16.cache_clear()


def test_a_map_says_which_way_it_was_made(planted: Any) -> None:
    assert decode(planted).meta["way"] == {"name": "plain", "reason": "not a CUDA device"}


def test_a_way_can_be_named() -> None:
    rows, head = torch.randn(3, 4).bfloat16(), torch.randn(13_000, 4).bfloat16()
    for a, b in zip(decode_rows(rows, head), decode_rows(rows, head, way=Way("bfloat16", "for a test")), strict=True):
        torch.testing.assert_close(a.logits, b.logits)


# --- lenses -----------------------------------------------------------------------------------------


def _by_the_models_own_modules(model: Any, lens: str) -> NDArray[np.float64]:
    """[N, V] the logits of a lens, from the live model's modules, in float64 and without our code."""
    norm, head = model.model.norm, model.lm_head.weight.double()
    per_layer = []
    for layer in model.model.layers:
        gamma = layer.post_attention_layernorm.weight.double()
        up, gate, down = (getattr(layer.mlp, f"{p}_proj").weight.double() for p in ("up", "gate", "down"))
        w = {"paper": up, "read": gamma * up, "gate": gamma * gate, "write": down.T, "logit-lens": down.T}[lens]
        if lens in ("read", "gate", "write"):
            w = w / (w.pow(2).mean(-1, keepdim=True) + norm.variance_epsilon).sqrt() * norm.weight.double()
        per_layer.append(w @ head.T)
    return torch.cat(per_layer).numpy()


@pytest.mark.parametrize("lens", LENSES)
def test_each_lens_is_what_the_method_says(lens: str, planted: Any, planted_model: Any) -> None:
    z = _by_the_models_own_modules(planted_model, lens)
    m = decode(planted, lens=lens, top_k=50)
    error = 1e-5 * np.abs(z).max()  # float32 over 64 terms; the planted rows are of norm 2.5
    for pole, sign in (("+", 1.0), ("-", -1.0)):
        ids, logits, lse, mean = m.pole_arrays(pole)  # type: ignore[arg-type]
        exact = sign * z
        best = -np.sort(-exact, axis=1)[:, :50]
        np.testing.assert_allclose(logits, best, rtol=0, atol=error)
        np.testing.assert_allclose(np.take_along_axis(exact, ids.astype(np.int64), axis=1), best, rtol=0, atol=error)
        np.testing.assert_allclose(lse, log_sum_exp(exact), rtol=0, atol=error + 1e-5)
        np.testing.assert_allclose(mean, log_mean_top(exact), rtol=0, atol=error + 1e-5)


@pytest.mark.parametrize("lens", ["read", "gate", "write"])
def test_a_residual_lens_takes_the_way_of_a_residual_vector(lens: str, planted: Any, planted_model: Any) -> None:
    layer = planted_model.model.layers[2]
    gamma = layer.post_attention_layernorm.weight
    w = {"read": gamma * layer.mlp.up_proj.weight, "gate": gamma * layer.mlp.gate_proj.weight}.get(
        lens, layer.mlp.down_proj.weight.T
    )
    z = planted_model.lm_head(planted_model.model.norm(w))
    torch.testing.assert_close(lens_rows(planted, lens, 2) @ planted.head().T, z, rtol=1e-5, atol=1e-5)


def test_the_lenses_differ_from_each_other(planted_model: Any) -> None:
    """If two lenses gave the same logits on the fixture, the tests above could not tell them apart."""
    tops = {lens: tuple(_by_the_models_own_modules(planted_model, lens).argmax(1)) for lens in LENSES}
    assert len(set(tops.values())) == len(LENSES)


@pytest.mark.parametrize("lens", LENSES)
def test_the_float64_path_is_float64_from_the_rows_on(lens: str, planted: Any, planted_model: Any) -> None:
    z = _by_the_models_own_modules(planted_model, lens)
    rows = torch.cat([lens_rows(planted, lens, layer, dtype=torch.float64) for layer in range(4)])
    assert rows.dtype == torch.float64
    np.testing.assert_allclose((rows @ planted.head().double().T).numpy(), z, rtol=0, atol=1e-12 * np.abs(z).max())
    m = decode(planted, lens=lens, top_k=20, dtype="float64")
    np.testing.assert_array_equal(m.top_ids, _ranked(z)[:, :20])
    np.testing.assert_array_equal(m.bottom_ids, _ranked(-z)[:, :20])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("lens", LENSES)
def test_half_precision_weights_are_ranked_in_float32(
    lens: str, dtype: torch.dtype, planted: Any, tmp_path: Any
) -> None:
    def halve(tensors: dict[str, Tensor]) -> None:
        tensors.update({name: tensor.to(dtype) for name, tensor in tensors.items()})

    folder = edited_copy(planted.folder, tmp_path / "half", halve, {"dtype": str(dtype).removeprefix("torch.")})
    half = open_checkpoint(folder)
    m = decode(half, lens=lens, top_k=VOCAB)
    assert half.rows("up", 0).dtype == dtype
    z = _by_the_models_own_modules(half.load_model(dtype=torch.float32), lens)
    best = -np.sort(-z, axis=1)
    np.testing.assert_allclose(m.top_logits, best, rtol=0, atol=1e-5 * np.abs(z).max())
    assert len(np.unique(m.top_logits[0])) > 500, "logits were rounded to half precision before ranking"


@pytest.mark.parametrize("lens", LENSES)
def test_the_logits_of_a_few_tokens_are_those_of_the_whole_product(lens: str, planted: Any, planted_model: Any) -> None:
    z = _by_the_models_own_modules(planted_model, lens)
    tokens = [5, 700, 5, 0]
    got = token_logits(planted, lens, tokens)
    assert got.shape == (1024, 4)
    np.testing.assert_allclose(got, z[:, tokens], rtol=0, atol=1e-5 * np.abs(z).max())
    np.testing.assert_array_equal(token_logits(planted, LENSES[lens], tokens, blocks=[3, 1])[:256], got[768:])


@pytest.mark.parametrize("lens", ["paper", "read"])
def test_a_vector_whose_norm_overflows_is_refused_and_not_decoded_as_zero(lens: str) -> None:
    checkpoint = small_checkpoint(np.random.default_rng(0))
    checkpoint.model.model.layers[1].mlp.up_proj.weight[3, 2] = 1e30
    with pytest.raises(CheckpointError, match="layer 1 is so large"):
        lens_rows(checkpoint, lens, 1)
    assert lens_rows(checkpoint, lens, 0).shape == (6, 4)


def test_the_head_of_another_model_brings_its_final_norm(planted: Any, tmp_path: Any) -> None:
    def change(tensors: dict[str, Tensor]) -> None:
        tensors["model.norm.weight"] *= torch.linspace(0.5, 2, 64)

    other = open_checkpoint(edited_copy(planted.folder, tmp_path / "other", change))
    own, theirs = (c.norm("final").weight for c in (planted, other))
    want = lens_rows(planted, "write", 1) / own * theirs
    torch.testing.assert_close(lens_rows(planted, "write", 1, head_of=other), want)
    assert torch.equal(lens_rows(planted, "paper", 1, head_of=other), planted.rows("up", 1))


def test_a_lens_may_be_given_as_itself(planted: Any) -> None:
    own = Lens("own", "gate", residual=False, side="read")
    assert torch.equal(lens_rows(planted, own, 0), planted.rows("gate", 0))
