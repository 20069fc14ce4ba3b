"""Where weight rows come from: the same rows by every way in, and no damaged or hostile file taken for a model."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub.errors import GatedRepoError, HFValidationError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

from fixtures.build import VOCAB
from flashinterp.decoding.decode import decode
from flashinterp.errors import CheckpointError, LayoutError
from flashinterp.models.checkpoint import Checkpoint, open_checkpoint
from tests.helpers import (
    DOWN,
    GATE,
    UP,
    assert_one_line_with_next_step,
    edited_copy,
    shard,
    small_checkpoint,
    write_index,
)

Edit = Callable[[Path], Any]


@pytest.fixture
def folder(planted: Checkpoint, tmp_path: Path) -> Path:
    """A copy of the planted fixture, to be damaged."""
    assert planted.folder is not None
    return edited_copy(planted.folder, tmp_path / "model")


def _gamma(checkpoint: Checkpoint, kind: Any, layer: int | None = None) -> Tensor:
    norm = checkpoint.norm(kind, layer)
    assert norm is not None
    assert norm.weight is not None
    return norm.weight


def _final_norm(checkpoint: Checkpoint) -> Tensor:
    return _gamma(checkpoint, "final")


def _assert_rows_of(checkpoint: Checkpoint, model: PreTrainedModel) -> None:
    """What the checkpoint reads is what the live model's modules hold."""
    for at, layer in enumerate(model.model.layers):
        assert torch.equal(checkpoint.rows("up", at), layer.mlp.up_proj.weight)
        assert torch.equal(checkpoint.rows("gate", at), layer.mlp.gate_proj.weight)
        assert torch.equal(checkpoint.rows("down", at), layer.mlp.down_proj.weight.T)
        assert torch.equal(_gamma(checkpoint, "pre", at), layer.post_attention_layernorm.weight)
    assert torch.equal(_gamma(checkpoint, "final"), model.model.norm.weight)
    assert torch.equal(checkpoint.head(), model.get_output_embeddings().weight)


# --- ways in ----------------------------------------------------------------------------------------


def test_a_single_file_gives_the_live_models_rows(folder: Path, planted_model: Any) -> None:
    _assert_rows_of(open_checkpoint(folder), planted_model)


@pytest.mark.parametrize("parts", [1, 2, 5])
def test_shards_give_the_live_models_rows(parts: int, folder: Path, planted_model: Any) -> None:
    shard_of = shard(folder, parts)
    assert len(set(shard_of.values())) == parts
    _assert_rows_of(open_checkpoint(str(folder)), planted_model)
    assert len(open_checkpoint(folder).digests) == parts + 3


def test_an_index_goes_before_a_single_file(folder: Path) -> None:
    stale = {name: tensor + 1 for name, tensor in load_file(folder / "model.safetensors").items()}
    want = open_checkpoint(folder).head()
    shard(folder)
    save_file(stale, folder / "model.safetensors", metadata={"format": "pt"})
    assert torch.equal(open_checkpoint(folder).head(), want)


def test_a_live_model_gives_its_own_rows(planted_model: Any) -> None:
    _assert_rows_of(open_checkpoint(planted_model), planted_model)


def test_a_checkpoint_passes_through(planted: Checkpoint) -> None:
    assert open_checkpoint(planted) is planted


@pytest.mark.parametrize("way", ["folder", "live"])
def test_a_tied_head_is_the_embedding(way: str, tmp_path: Path) -> None:
    config = LlamaConfig(
        vocab_size=30, hidden_size=8, intermediate_size=12, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, tie_word_embeddings=True,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config).eval()
    model.save_pretrained(tmp_path / "tied")
    assert "lm_head.weight" not in load_file(tmp_path / "tied" / "model.safetensors")
    checkpoint = open_checkpoint(model if way == "live" else tmp_path / "tied")
    assert checkpoint.tied
    _assert_rows_of(checkpoint, model)
    assert torch.equal(checkpoint.head(), model.model.embed_tokens.weight)
    assert torch.equal(checkpoint.load_model().lm_head.weight, checkpoint.head())


def test_a_checkpoint_says_what_it_is(planted: Checkpoint) -> None:
    assert f"llama, layers 0 to 3 with neurons 0 to 255, hidden size 64, vocabulary {VOCAB}" in repr(planted)


def test_a_model_is_loaded_ready_for_measuring(planted: Checkpoint) -> None:
    model = planted.load_model()
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())
    assert model.dtype == torch.float32
    assert planted.load_model(dtype=torch.bfloat16).dtype == torch.bfloat16
    live = open_checkpoint(model)
    assert live.load_model() is model


def test_the_vocabulary_covers_the_rows_of_the_head(planted: Checkpoint) -> None:
    assert len(planted.vocabulary) == len(planted.head()) == VOCAB


def test_a_live_model_finds_the_tokenizer_of_its_folder(planted: Checkpoint, planted_model: Any) -> None:
    assert open_checkpoint(planted_model).vocabulary == planted.vocabulary


def test_a_live_model_from_nowhere_has_no_tokenizer() -> None:
    checkpoint = small_checkpoint(np.random.default_rng(0))
    with pytest.raises(CheckpointError, match="without a tokenizer") as caught:
        _ = checkpoint.tokenizer
    assert_one_line_with_next_step(caught.value)


# --- damaged and hostile folders --------------------------------------------------------------------


def _index(edit: Callable[[dict[str, str]], Any]) -> Edit:
    """Shard the folder, then edit the index's weight map."""

    def do(folder: Path) -> None:
        shard_of = shard(folder)
        edit(shard_of)
        write_index(folder, shard_of)

    return do


def _index_text(text: str) -> Edit:
    return lambda folder: (shard(folder), (folder / "model.safetensors.index.json").write_text(text))


def _pickle_only(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"a": 1}))


def _config(text: str) -> Edit:
    return lambda folder: (folder / "config.json").write_text(text)


def _config_with(**changes: Any) -> Edit:
    def do(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return do


def _tensors(edit: Callable[[dict[str, Tensor]], Any]) -> Edit:
    def do(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        edit(tensors)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    return do


def _cut(path: Path, share: float) -> None:
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


OUTSIDE = "leaves the folder.*do not trust"
DAMAGED: dict[str, tuple[Edit, str]] = {
    "truncated file": (lambda f: _cut(f / "model.safetensors", 0.9), "not a whole safetensors file"),
    "file cut in its header": (lambda f: _cut(f / "model.safetensors", 0.001), "not a whole safetensors file"),
    "empty file": (lambda f: (f / "model.safetensors").write_bytes(b""), "not a whole safetensors file"),
    "garbage file": (lambda f: (f / "model.safetensors").write_bytes(b"\xff" * 999), "not a whole safetensors file"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "holds neither"),
    "a pickle only": (_pickle_only, r"pytorch_model.bin is a pickle, which is never loaded"),
    "missing shard": (_index(lambda m: m.update(x="model-9.safetensors")), "'model-9.safetensors', which is not there"),
    "truncated shard": (
        lambda f: (shard(f), _cut(f / "model-00002-of-00003.safetensors", 0.5)),
        "00002-of-00003.*not a whole",
    ),
    "shard above the folder": (_index(lambda m: m.update(x="../x")), OUTSIDE),
    "shard in another folder": (_index(lambda m: m.update(x="a/b.safetensors")), OUTSIDE),
    "absolute shard": (_index(lambda m: m.update(x="/etc/passwd")), OUTSIDE),
    "shard without a name": (_index(lambda m: m.update(x="")), OUTSIDE),
    "shard that is the folder": (_index(lambda m: m.update(x=".")), OUTSIDE),
    "shard above": (_index(lambda m: m.update(x="..")), OUTSIDE),
    "shard named in two lines": (_index(lambda m: m.update(x="a\nb")), "a.*nb.*not there"),
    "promised tensor": (
        _index(lambda m: m.update({"model.\nextra": "model-00001-of-00003.safetensors"})),
        r"lacks 'model.\\nextra', which its index promises",
    ),
    "index is not JSON": (_index_text("{"), "not a weight index"),
    "index is a list": (_index_text("[]"), "not a weight index"),
    "index without a map": (_index_text("{}"), "not a weight index"),
    "index whose map is a list": (_index_text('{"weight_map": []}'), "not a weight index"),
    "empty index": (_index_text('{"weight_map": {}}'), "lacks 18 tensors"),
    "index is not UTF-8": (
        lambda f: (f / "model.safetensors.index.json").write_bytes(b"\xff\xfe{}"),
        "not a weight index",
    ),
    "no config": (lambda f: (f / "config.json").unlink(), "no config.json"),
    "config is not JSON": (_config("{"), "cannot be read"),
    "config is empty": (_config(""), "cannot be read"),
    "config is a list": (_config("[]"), "no config"),
    "config of the wrong kind": (_config_with(hidden_size="wide"), "does not take the config"),
    "tensor of an MLP is missing": (_tensors(lambda t: t.pop(GATE.format(2))), "lacks 1 tensors.*layers.2.mlp.gate"),
    "head is missing and not tied": (_tensors(lambda t: t.pop("lm_head.weight")), "lacks 1 tensors.*lm_head.weight"),
    "more layers in the config": (_config_with(num_hidden_layers=5), "lacks 4 tensors.*layers.4"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_folder_is_refused_in_one_line(name: str, folder: Path) -> None:
    damage, told = DAMAGED[name]
    damage(folder)
    with pytest.raises(CheckpointError, match=told) as caught:
        open_checkpoint(folder)
    assert_one_line_with_next_step(caught.value)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize("model_type", ["bloom", "not-a-model", None, ["llama"]])
def test_an_unknown_architecture_is_refused_with_the_known_ones(model_type: Any, folder: Path) -> None:
    _config_with(model_type=model_type)(folder)
    with pytest.raises(LayoutError, match="known are arcee, cohere.*llama, mistral") as caught:
        open_checkpoint(folder)
    assert_one_line_with_next_step(caught.value)


def test_a_quantised_config_is_refused(folder: Path) -> None:
    _config_with(quantization_config={"quant_method": "gptq", "bits": 4})(folder)
    with pytest.raises(CheckpointError, match="gptq.*unquantised repository") as caught:
        open_checkpoint(folder)
    assert_one_line_with_next_step(caught.value)


def test_a_live_module_that_is_no_language_model_is_refused() -> None:
    with pytest.raises(LayoutError, match="known are arcee, cohere"):
        open_checkpoint(torch.nn.Linear(2, 2))


def _set(name: str, value: float) -> Edit:
    return _tensors(lambda t: t[name].view(-1).__setitem__(7, value))


def _cast(name: str, dtype: torch.dtype) -> Edit:
    return _tensors(lambda t: t.update({name: t[name].to(dtype)}))


def _rows_of(kind: str, layer: int) -> Callable[[Checkpoint], Any]:
    return lambda c: c.rows(kind, layer)  # type: ignore[arg-type]


BAD_TENSORS: dict[str, tuple[Edit, Callable[[Checkpoint], Any], str]] = {
    "NaN in rows": (_set(UP.format(1), np.nan), _rows_of("up", 1), "holds 1 values that are NaN or infinite"),
    "infinity in columns": (_set(DOWN.format(3), np.inf), _rows_of("down", 3), "NaN or infinite"),
    "NaN in the head": (_set("lm_head.weight", np.nan), Checkpoint.head, "lm_head.weight holds 1 values"),
    "minus infinity in the head": (_set("lm_head.weight", -np.inf), Checkpoint.head, "NaN or infinite"),
    "NaN in a norm": (_set("model.norm.weight", np.nan), _final_norm, "NaN or infinite"),
    "fp8": (_cast(UP.format(0), torch.float8_e4m3fn), _rows_of("up", 0), "float8_e4m3fn, which is quantised"),
    "integers": (_cast(GATE.format(0), torch.int32), _rows_of("gate", 0), "int32, which is quantised"),
    "transposed rows": (
        _tensors(lambda t: t.update({DOWN.format(0): t[DOWN.format(0)].T.contiguous()})),
        _rows_of("down", 0),
        r"shape \(256, 64\), its config says \(64, 256\)",
    ),
    "a narrower head": (
        _tensors(lambda t: t.update({"lm_head.weight": t["lm_head.weight"][:700].contiguous()})),
        Checkpoint.head,
        rf"\(700, 64\).*\({VOCAB}, 64\)",
    ),
    "another width in the config": (_config_with(intermediate_size=128), _rows_of("up", 2), r"\(128, 64\)"),
    "a norm of another size": (
        _tensors(lambda t: t.update({"model.norm.weight": torch.ones(1)})),
        _final_norm,
        r"shape \(1,\)",
    ),
}


@pytest.mark.parametrize("name", BAD_TENSORS)
def test_a_bad_tensor_is_refused_when_it_is_read(name: str, folder: Path) -> None:
    damage, read, told = BAD_TENSORS[name]
    damage(folder)
    checkpoint = open_checkpoint(folder)
    with pytest.raises(CheckpointError, match=told) as caught:
        read(checkpoint)
    assert_one_line_with_next_step(caught.value)


@pytest.mark.parametrize("name", ["NaN in rows", "NaN in the head", "fp8", "a narrower head"])
def test_a_bad_tensor_stops_a_decode(name: str, folder: Path) -> None:
    BAD_TENSORS[name][0](folder)
    with pytest.raises(CheckpointError):
        decode(folder, top_k=1)


def test_half_precision_is_plain_floating_point(folder: Path) -> None:
    _cast(UP.format(0), torch.bfloat16)(folder)
    assert open_checkpoint(folder).rows("up", 0).dtype == torch.bfloat16


def test_a_model_with_missing_attention_is_not_filled_with_random_numbers(folder: Path) -> None:
    _tensors(lambda t: t.pop("model.layers.1.self_attn.q_proj.weight"))(folder)
    with pytest.raises(CheckpointError, match="lacks 1 tensors.*layers.1.self_attn.q_proj.weight") as caught:
        open_checkpoint(folder).load_model()
    assert_one_line_with_next_step(caught.value)


def test_a_model_that_transformers_cannot_load_is_refused_in_one_line(folder: Path) -> None:
    checkpoint = open_checkpoint(folder)
    _cut(folder / "model.safetensors", 0.5)
    with pytest.raises(CheckpointError, match="cannot load") as caught:
        checkpoint.load_model()
    assert_one_line_with_next_step(caught.value)


@pytest.mark.parametrize("damage", ["missing", "garbage"])
def test_a_folder_without_a_good_tokenizer_still_gives_its_rows(damage: str, folder: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if damage == "missing":
            (folder / name).unlink()
        else:
            (folder / name).write_text("{")
    checkpoint = open_checkpoint(folder)
    assert len(checkpoint.head()) == VOCAB
    with pytest.raises(CheckpointError, match="no tokenizer") as caught:
        _ = checkpoint.vocabulary
    assert_one_line_with_next_step(caught.value)


# --- digests ----------------------------------------------------------------------------------------


def _flip_last_byte(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "tokenizer_config.json", "config.json"])
def test_one_changed_byte_changes_one_digest(name: str, folder: Path) -> None:
    before = open_checkpoint(folder).digests
    assert set(before) == {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    if name == "model.safetensors":
        _flip_last_byte(folder / name)
    else:
        (folder / name).write_text((folder / name).read_text() + " ")
    after = open_checkpoint(folder).digests
    assert {n for n in before if before[n] != after[n]} == {name}


def test_a_changed_shard_changes_its_digest(folder: Path) -> None:
    shard(folder)
    before = open_checkpoint(folder).digests
    _flip_last_byte(folder / "model-00002-of-00003.safetensors")
    after = open_checkpoint(folder).digests
    assert {n for n in before if before[n] != after[n]} == {"model-00002-of-00003.safetensors"}


def test_a_copy_elsewhere_has_the_same_digests(folder: Path, planted: Checkpoint) -> None:
    assert open_checkpoint(folder).digests == planted.digests


def test_a_live_models_digest_changes_with_any_value() -> None:
    digests = []
    for change in (0.0, 0.0, 1e-6):
        checkpoint = small_checkpoint(np.random.default_rng(0))
        checkpoint.model.model.layers[1].self_attn.q_proj.weight[0, 0] += change
        digests.append(checkpoint.digests["live model"])
    assert digests[0] == digests[1] != digests[2]


# --- the Hub ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["/no/such/folder", "./relative", "../up", "~/home", "bare", "a/b/c", "https://huggingface.co/a/b", ""]
)
def test_a_path_that_is_not_there_never_reaches_the_hub(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *a, **k: pytest.fail("asked the Hub"))
    with pytest.raises(CheckpointError, match="there is no folder|holds neither") as caught:
        open_checkpoint(name)
    assert_one_line_with_next_step(caught.value)


def test_a_hub_id_gives_the_snapshots_rows_and_commit(
    folder: Path, monkeypatch: pytest.MonkeyPatch, planted_model: Any
) -> None:
    asked = []

    def download(repository: str, **options: Any) -> str:
        asked.append((repository, options["revision"], options["allow_patterns"]))
        return shutil.move(folder, folder.parent / "0123abc")

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    checkpoint = open_checkpoint("owner/name", revision="main")
    (repository, revision, patterns) = asked[0]
    assert (repository, revision) == ("owner/name", "main")
    assert not any(p.endswith((".bin", ".pt", ".py")) for p in patterns), "pickles and code are never fetched"
    assert (checkpoint.name, checkpoint.revision) == ("owner/name", "0123abc")
    _assert_rows_of(checkpoint, planted_model)
    assert decode(checkpoint, top_k=1, layers=[0]).meta["revision"] == "0123abc"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError("no network\nsecond line\nthird"), "no network"),
        (HFValidationError("Repo id must be a-z\nand so on"), "neither a folder nor a Hub id"),
        (
            GatedRepoError("You must log in", response=SimpleNamespace(headers={}, request=None)),
            "hf auth login",
        ),
        (RuntimeError(""), "RuntimeError"),
    ],
)
def test_a_hub_that_does_not_answer_is_one_line(error: Exception, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> str:
        raise error

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    with pytest.raises(CheckpointError, match=told) as caught:
        open_checkpoint("owner/name")
    assert len(str(caught.value).splitlines()) == 1
    assert "owner/name" in str(caught.value)


# --- a trained model --------------------------------------------------------------------------------


def test_a_trained_model_opens_and_gives_its_rows(real_model: str) -> None:
    checkpoint = open_checkpoint(real_model)
    _assert_rows_of(checkpoint, checkpoint.load_model())
    words = decode(checkpoint, lens="read", top_k=20).words("L0N0", 5)
    assert len(words) == 5
