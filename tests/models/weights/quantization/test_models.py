"""Whole models with quantised weights: read from their folder, proved, decoded, clamped and swept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig

from fixtures import tokenizer
from flashinterp import clamp, open_checkpoint, probe, sweep
from flashinterp.decoding.decode import decode
from tests.helpers import n_hooks

IDS = torch.tensor([[3, 17, 40, 88, 5]])


@pytest.fixture(scope="module")
def folder(bitsandbytes: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Llama in 4 bits, as its owner would publish it."""
    base = tmp_path_factory.mktemp("quantised")
    (base / "four").mkdir()
    words = len(tokenizer.build(base / "four", chat=True))
    config = LlamaConfig(
        vocab_size=words, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=False,
    )  # fmt: skip
    torch.manual_seed(0)
    plain = AutoModelForCausalLM.from_config(config)
    for parameter in plain.parameters():
        if parameter.ndim == 2:
            parameter.data.normal_(std=0.1)
    plain.save_pretrained(base / "plain")
    four = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    AutoModelForCausalLM.from_pretrained(
        base / "plain", quantization_config=four, device_map="cpu", dtype=torch.bfloat16
    ).save_pretrained(base / "four")
    return base


@pytest.fixture(scope="module")
def live(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder / "four", device_map="cpu").eval().requires_grad_(False)


def test_a_quantised_folder_decodes_near_the_plain_one(folder: Path) -> None:
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        target = folder / "plain" / name
        if not target.exists():
            target.write_bytes((folder / "four" / name).read_bytes())
    exact, rough = (decode(folder / name, top_k=20) for name in ("plain", "four"))
    assert rough.top_ids.shape == exact.top_ids.shape == (256, 20)
    kept = [len(set(a) & set(b)) for a, b in zip(exact.top_ids, rough.top_ids, strict=True)]
    assert 8 < np.mean(kept) < 20  # the same weights but for 4 bits, and not the same bits


def test_what_is_read_is_what_the_quantised_model_computes(folder: Path, live: Any) -> None:
    for checkpoint in (open_checkpoint(folder / "four"), open_checkpoint(live)):
        errors = probe(checkpoint, live)
        assert set(errors) == {"pre_norm", "mlp", "residual", "head"}


@pytest.mark.parametrize(("site", "part"), [("up", "up_proj"), ("gate", "gate_proj"), ("post", "down_proj")])
def test_a_clamp_on_a_quantised_model_fixes_the_neuron(site: Any, part: str, live: Any) -> None:
    """Against a hook of the test's own, to the bit."""
    module = getattr(live.model.layers[1].mlp, part)

    def fix(x: torch.Tensor) -> torch.Tensor:
        x = x.clone()
        x[..., 9] = 5.0
        return x

    own = (
        module.register_forward_pre_hook(lambda _, args: (fix(args[0]),))
        if site == "post"
        else module.register_forward_hook(lambda _, args, out: fix(out))
    )
    with torch.no_grad():
        want = live(IDS).logits
        own.remove()
        clean = live(IDS).logits
        with clamp(live, {"L1N9": 5.0}, site=site) as log:
            got = live(IDS).logits
    assert torch.equal(got, want)
    assert not torch.equal(got, clean)
    assert log.written[1] == IDS.numel()
    assert n_hooks(live) == 0


def test_a_quantised_folder_is_loaded_as_it_is_and_clamped(folder: Path, live: Any) -> None:
    model = open_checkpoint(folder / "four").load_model()
    assert model.model.layers[1].mlp.up_proj.weight.dtype == torch.uint8, "it is dequantised"
    with torch.no_grad():
        clean = model(IDS).logits
        with clamp(model, {"L1N9": 5.0}) as log, clamp(live, {"L1N9": 5.0}):
            got, want = model(IDS).logits, live(IDS).logits
    assert torch.equal(got, want)
    assert not torch.equal(got, clean)
    assert log.written[1] == IDS.numel()


def test_a_sweep_of_a_quantised_model_is_its_clamps(folder: Path, live: Any) -> None:
    checkpoint = open_checkpoint(folder / "four")
    curves = sweep(live, checkpoint.tokenizer, ["The people saw the"], ["L0N3", "L1N9"], [-4.0, 4.0], [" dog"])
    ids = checkpoint.tokenizer("The people saw the", return_tensors="pt")["input_ids"]
    token = curves.tokens[0].id
    for i, name in enumerate(("L0N3", "L1N9")):
        for j, value in enumerate((-4.0, 4.0)):
            with torch.no_grad(), clamp(live, {name: value}):
                log_p = live(ids).logits[0, -1].float().log_softmax(-1)[token]
            assert curves.log_probs[i, j, 0, 0] == pytest.approx(float(log_p), abs=0.1)  # bfloat16, in a batch
