"""Names on disk: whatever form a checkpoint has, the tensors are those that ``from_pretrained`` makes of it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from fixtures.architectures import ARCHITECTURES, EXPERT_NEURONS, EXPERTS, HIDDEN, LAYERS, make
from flashinterp.errors import CheckpointError
from flashinterp.models.checkpoint import Checkpoint, open_checkpoint
from flashinterp.models.layout_reader import skeleton
from flashinterp.models.weights.safetensors_folder import SafetensorsFolder
from flashinterp.models.weights.tensor_names import DiskNames
from flashinterp.neurons import Block
from tests.architecture_cases import by_kind
from tests.helpers import assert_one_line_with_next_step, edited_copy, shard, write_index

Edit = Callable[[dict[str, Tensor]], Any]
Saved = Callable[..., Path]


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    """A folder as ``save_pretrained`` writes it, made once; tests must leave it as it is."""

    @cache
    def folder(name: str, **options: Any) -> Path:
        path = tmp_path_factory.mktemp("saved") / name
        make(ARCHITECTURES[name]).save_pretrained(path, **options)
        return path

    return folder


def _names(folder: Path) -> DiskNames:
    return DiskNames(skeleton(AutoConfig.from_pretrained(folder)), SafetensorsFolder(folder))


def _on_disk(folder: Path) -> set[str]:
    return set(SafetensorsFolder(folder).names())


def _loaded(folder: Path) -> Any:
    model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"], "transformers filled these with random numbers"
    return model


def _is_tied(model: Any) -> bool:
    return model.get_output_embeddings().weight is model.get_input_embeddings().weight


def _assert_as_loaded(folder: Path) -> Any:
    """Every tensor of the model, whole and by parts; returns the model."""
    model, names = _loaded(folder), _names(folder)
    state = model.state_dict()
    assert names.names() == set(state)
    for name, tensor in state.items():
        got = names.tensor(name)
        assert torch.equal(got, tensor), name
        assert names.dtype(name) == got.dtype
        if tensor.ndim:
            assert torch.equal(names.part(name, len(tensor) - 1), tensor[-1]), name
    checkpoint = open_checkpoint(folder)
    assert checkpoint.tied == bool(names.tied) == _is_tied(model)
    return model


def _assert_same_model(model: Any, name: str) -> None:
    """The form changes no number."""
    want = make(ARCHITECTURES[name]).state_dict()
    assert all(torch.equal(tensor, want[own]) for own, tensor in model.state_dict().items())


# --- forms ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", by_kind(ARCHITECTURES))
def test_as_saved(name: str, saved: Saved) -> None:
    _assert_same_model(_assert_as_loaded(saved(name)), name)


@pytest.mark.parametrize(
    ("name", "one"),
    [
        ("mixtral", "model.layers.0.block_sparse_moe.experts.3.w2.weight"),
        ("qwen3_moe", "model.layers.0.mlp.experts.3.up_proj.weight"),
        ("olmoe", "model.layers.0.mlp.experts.3.gate_proj.weight"),
        ("deepseek_v3", "model.layers.1.mlp.shared_experts.up_proj.weight"),
        ("gpt_oss", "model.layers.0.mlp.experts.gate_up_proj_bias"),
        ("gpt_neox", "embed_out.weight"),
        ("gemma3-untied", "language_model.lm_head.weight"),
        ("gpt2", "transformer.h.0.mlp.c_fc.weight"),
        ("opt-postnorm", "model.decoder.project_out.weight"),
    ],
)
def test_what_is_saved_has_the_names_that_checkpoints_have(name: str, one: str, saved: Saved) -> None:
    """If the fixtures were saved under the modules' names, the test above would prove nothing."""
    assert one in _on_disk(saved(name))


@pytest.mark.parametrize("name", ["mixtral", "qwen3_moe", "olmoe", "deepseek_v3", "gpt_oss", "gemma3", "gpt_neox"])
def test_saved_under_the_modules_names(name: str, saved: Saved) -> None:
    """Experts fused, as a release of transformers from 5 on can write them."""
    folder = saved(name, save_original_format=False)
    if name != "gpt_oss":
        assert _on_disk(folder) != _on_disk(saved(name))
    _assert_same_model(_assert_as_loaded(folder), name)


@pytest.mark.parametrize("name", ["gpt2", "gpt_neox-tied", "opt", "llama-tied", "gemma3", "mixtral-tied"])
def test_saved_without_the_causal_class(name: str, tmp_path: Path) -> None:
    model = make(ARCHITECTURES[name])
    getattr(model, model.base_model_prefix).save_pretrained(tmp_path)
    model.config.save_pretrained(tmp_path)
    assert not any(own.startswith(f"{model.base_model_prefix}.") for own in _on_disk(tmp_path))
    _assert_same_model(_assert_as_loaded(tmp_path), name)


_GEMMA3 = r"^language_model\.model\."
_GEMMA3_REST = r"^(vision_tower|multi_modal_projector)\."


@pytest.mark.parametrize(
    ("name", "renamings", "one"),
    [
        (
            "gemma3",
            {_GEMMA3: "model.language_model.", _GEMMA3_REST: r"model.\1."},
            "model.language_model.norm.weight",
        ),
        (
            "gemma3-untied",
            {
                _GEMMA3: "model.language_model.",
                r"^language_model\.lm_head": "lm_head",
                _GEMMA3_REST: r"model.\1.",
            },
            "lm_head.weight",
        ),
        (
            "gemma3",
            {_GEMMA3: "model.language_model.model.", _GEMMA3_REST: r"model.\1."},
            "model.language_model.model.norm.weight",
        ),
        ("gpt2", {r"^transformer\.": ""}, "h.0.mlp.c_fc.weight"),
        ("gpt_neox", {r"^embed_out\.": "lm_head."}, "lm_head.weight"),
        ("opt", {r"^model\.": ""}, "decoder.layers.0.fc1.weight"),
        ("llama-tied", {r"^model\.": ""}, "layers.0.mlp.up_proj.weight"),
    ],
)
def test_other_names_that_checkpoints_have_had(
    name: str, renamings: dict[str, str], one: str, saved: Saved, tmp_path: Path
) -> None:
    def rename(tensors: dict[str, Tensor]) -> None:
        for old in list(tensors):
            new = old
            for pattern, replacement in renamings.items():
                new = re.sub(pattern, replacement, new)
            tensors[new] = tensors.pop(old)

    folder = edited_copy(saved(name), tmp_path / "renamed", rename)
    assert one in _on_disk(folder)
    _assert_same_model(_assert_as_loaded(folder), name)


@pytest.mark.parametrize("name", ["llama", "mixtral", "deepseek_v3", "gemma3", "gpt_oss"])
def test_shards(name: str, saved: Saved, tmp_path: Path) -> None:
    """Neighbours in name, as the experts of a layer are, lie in different files."""
    folder = edited_copy(saved(name), tmp_path / "sharded")
    shard(folder, 3)
    _assert_same_model(_assert_as_loaded(folder), name)


def test_experts_are_ordered_by_number_and_not_by_name(saved: Saved, tmp_path: Path) -> None:
    """As text, 10 comes before 2."""
    base = ARCHITECTURES["qwen3_moe"]
    model = make(replace(base, config={**base.config, "num_experts": 12}))
    model.save_pretrained(tmp_path)
    names = _names(tmp_path)
    for own in ("gate_up_proj", "down_proj"):
        name = f"model.layers.0.mlp.experts.{own}"
        assert torch.equal(names.tensor(name), model.state_dict()[name])
        assert torch.equal(names.part(name, 10), model.state_dict()[name][10])


@pytest.mark.parametrize(
    ("name", "extra"),
    [
        (
            "gptj",
            {
                "transformer.h.0.attn.bias": torch.ones(1, 1, 8, 8, dtype=torch.bool),
                "transformer.h.0.attn.masked_bias": torch.tensor(-1e9),
            },
        ),
        ("gpt2", {"transformer.h.1.attn.bias": torch.ones(1, 1, 8, 8)}),
        ("gpt_neox", {"gpt_neox.layers.0.attention.rotary_emb.inv_freq": torch.ones(4)}),
        (
            "deepseek_v3",  # a layer that predicts a further token
            {
                f"model.layers.{LAYERS}.mlp.experts.0.up_proj.weight": torch.ones(EXPERT_NEURONS, HIDDEN),
                f"model.layers.{LAYERS}.eh_proj.weight": torch.ones(HIDDEN, 2 * HIDDEN),
            },
        ),
        ("llama", {"score.weight": torch.ones(2, HIDDEN)}),
    ],
)
def test_tensors_that_the_model_does_not_have_are_left_alone(
    name: str, extra: dict[str, Tensor], saved: Saved, tmp_path: Path
) -> None:
    folder = edited_copy(saved(name), tmp_path / "more", lambda tensors: tensors.update(extra))
    assert extra.keys() <= _on_disk(folder)
    _assert_same_model(_assert_as_loaded(folder), name)


# --- heads ------------------------------------------------------------------------------------------

# A tied family's names on disk: its head, if it were stored, and its embedding.
_TIED = {
    "llama-tied": ("lm_head.weight", "model.embed_tokens.weight"),
    "gpt2": ("lm_head.weight", "transformer.wte.weight"),
    "gpt_neox-tied": ("embed_out.weight", "gpt_neox.embed_in.weight"),
    "gemma3": ("language_model.lm_head.weight", "language_model.model.embed_tokens.weight"),
    "opt-postnorm": ("lm_head.weight", "model.decoder.embed_tokens.weight"),
}
HEADS = pytest.mark.parametrize(("name", "head", "embedding"), [(name, *pair) for name, pair in _TIED.items()])


@HEADS
def test_a_head_that_is_tied_and_stored_is_tied(
    name: str, head: str, embedding: str, saved: Saved, tmp_path: Path
) -> None:
    folder = edited_copy(saved(name), tmp_path / "both", lambda t: t.update({head: t[embedding].clone()}))
    assert _is_tied(_assert_as_loaded(folder))


@HEADS
def test_a_stored_head_that_differs_from_the_embedding_is_not_tied(
    name: str, head: str, embedding: str, saved: Saved, tmp_path: Path
) -> None:
    """Whatever the config says; to read the embedding for it would be to decode with another head."""
    folder = edited_copy(saved(name), tmp_path / "both", lambda t: t.update({head: t[embedding] + 1}))
    model = _assert_as_loaded(folder)
    assert not _is_tied(model)
    assert torch.equal(open_checkpoint(folder).head(), open_checkpoint(model).head())
    assert not torch.equal(model.lm_head.weight, model.get_input_embeddings().weight)


@HEADS
def test_a_head_alone_is_the_embedding_too(name: str, head: str, embedding: str, saved: Saved, tmp_path: Path) -> None:
    folder = edited_copy(saved(name), tmp_path / "head", lambda t: t.update({head: t.pop(embedding)}))
    model = _assert_as_loaded(folder)
    assert _is_tied(model)
    _assert_same_model(model, name)


@pytest.mark.parametrize("name", ["llama", "gpt_neox", "gemma3-untied", "mixtral", "gptj"])
def test_no_head_and_none_to_tie_it_to_is_refused(name: str, saved: Saved, tmp_path: Path) -> None:
    def behead(tensors: dict[str, Tensor]) -> None:
        heads = [own for own in tensors if re.search(r"(lm_head|embed_out)\.weight$", own)]
        assert len(heads) == 1
        del tensors[heads[0]]

    folder = edited_copy(saved(name), tmp_path / "beheaded", behead)
    with pytest.raises(CheckpointError, match="lacks 1 tensors.*lm_head.weight") as caught:
        open_checkpoint(folder)
    assert_one_line_with_next_step(caught.value)


@pytest.mark.parametrize(
    ("name", "outer", "inner", "tied"),
    [
        ("gemma3", None, True, True),
        ("gemma3", None, False, True),
        ("gemma3", True, False, True),
        ("gemma3-untied", False, True, False),
    ],
)
def test_of_a_multimodal_config_the_outer_word_on_tying_counts(
    name: str, outer: bool | None, inner: bool, tied: bool, saved: Saved, tmp_path: Path
) -> None:
    folder = edited_copy(saved(name), tmp_path / "config")
    config = json.loads((folder / "config.json").read_text())
    config.pop("tie_word_embeddings", None)
    config |= {} if outer is None else {"tie_word_embeddings": outer}
    config["text_config"]["tie_word_embeddings"] = inner
    (folder / "config.json").write_text(json.dumps(config))
    assert _is_tied(_assert_as_loaded(folder)) == tied


# --- experts ----------------------------------------------------------------------------------------


class Spy:
    """A source that notes what is read of it."""

    def __init__(self, source: SafetensorsFolder) -> None:
        self.source = source
        self.read: list[str] = []

    def names(self) -> Any:
        return self.source.names()

    def tensor(self, name: str) -> Tensor:
        self.read.append(name)
        return self.source.tensor(name)

    def part(self, name: str, i: int) -> Tensor:
        self.read.append(f"{name}[{i}]")
        return self.source.part(name, i)

    def dtype(self, name: str) -> torch.dtype:
        return self.source.dtype(name)

    def digests(self) -> dict[str, str]:
        return self.source.digests()


def _spied(folder: Path) -> tuple[Checkpoint, Spy]:
    config = AutoConfig.from_pretrained(folder)
    spy, opened = Spy(SafetensorsFolder(folder)), open_checkpoint(folder)
    checkpoint = Checkpoint("spied", DiskNames(skeleton(config), spy), opened.layout, config, folder=folder)
    spy.read.clear()
    return checkpoint, spy


@pytest.mark.parametrize(
    ("name", "original", "kind", "read"),
    [
        ("mixtral", True, "up", {"block_sparse_moe.experts.2.w1.weight", "block_sparse_moe.experts.2.w3.weight"}),
        ("mixtral", True, "down", {"block_sparse_moe.experts.2.w2.weight"}),
        ("mixtral", False, "gate", {"mlp.experts.gate_up_proj[2]"}),
        ("mixtral", False, "down", {"mlp.experts.down_proj[2]"}),
        ("deepseek_v3", True, "gate", {"mlp.experts.2.gate_proj.weight", "mlp.experts.2.up_proj.weight"}),
        ("gpt_oss", True, "up", {"mlp.experts.gate_up_proj[2]"}),
        ("gpt_oss", True, "down", {"mlp.experts.down_proj[2]"}),
    ],
)
def test_of_one_expert_only_its_own_tensors_are_read(
    name: str, original: bool, kind: Any, read: set[str], saved: Saved
) -> None:
    folder = saved(name, save_original_format=original)
    checkpoint, spy = _spied(folder)
    rows = checkpoint.rows(kind, Block(1, 2))
    assert set(spy.read) == {f"model.layers.1.{own}" for own in read}
    assert torch.equal(rows, open_checkpoint(_loaded(folder)).rows(kind, Block(1, 2)))


def test_nothing_is_read_to_find_out_what_there_is(saved: Saved) -> None:
    folder = saved("mixtral")
    spy = Spy(SafetensorsFolder(folder))
    DiskNames(skeleton(AutoConfig.from_pretrained(folder)), spy)
    assert spy.read == []


MIXTRAL = "model.layers.{}.block_sparse_moe.experts.{}.{}.weight"


@pytest.mark.parametrize(
    ("absent", "told"),
    [
        ([(1, 2, "w1")], r"layers.1.mlp.experts.gate_up_proj is made of 4 experts, and there are 3 of .experts.\*.w1"),
        ([(1, 0, "w1"), (1, 0, "w3")], "3 of .experts.*w1.weight, 3 of .experts.*w3.weight"),
        ([(2, 3, "w2")], "layers.2.mlp.experts.down_proj is made of 4 experts, and there are 3"),
        ([(1, expert, "w1") for expert in range(EXPERTS)], "there are 0 of .experts.*w1.weight, 4 of"),
        ([(1, expert, "w2") for expert in range(EXPERTS)], "lacks 1 tensors.*layers.1.mlp.experts.down_proj"),
    ],
)
def test_a_missing_expert_is_refused_at_once(
    absent: list[tuple[int, int, str]], told: str, saved: Saved, tmp_path: Path
) -> None:
    """Else the next would be taken for it."""

    def remove(tensors: dict[str, Tensor]) -> None:
        for one in absent:
            del tensors[MIXTRAL.format(*one)]

    folder = edited_copy(saved("mixtral"), tmp_path / "less", remove)
    with pytest.raises(CheckpointError, match=told) as caught:
        open_checkpoint(folder)
    assert_one_line_with_next_step(caught.value)


def test_a_missing_shard_of_experts_is_refused(saved: Saved, tmp_path: Path) -> None:
    folder = edited_copy(saved("mixtral"), tmp_path / "sharded")
    shard_of = shard(folder, 3)
    gone = shard_of[MIXTRAL.format(1, 2, "w1")]
    (folder / gone).unlink()
    with pytest.raises(CheckpointError, match=f"{gone}', which is not there: finish the download"):
        open_checkpoint(folder)
    write_index(folder, {name: file for name, file in shard_of.items() if file != gone})
    with pytest.raises(CheckpointError, match="is made of 4 experts"):
        open_checkpoint(folder)


# --- the name on disk -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llama", "gpt2", "phi3"])
def test_every_dense_tensor_has_a_name_on_disk_that_holds_it(name: str, saved: Saved) -> None:
    folder = saved(name)
    names, source = _names(folder), SafetensorsFolder(folder)
    for one in names.names():
        assert torch.equal(source.tensor(names.on_disk(one)), names.tensor(one))
    assert {names.on_disk(one) for one in names.names()} == _on_disk(folder)


def test_a_tied_head_is_on_disk_where_the_embedding_is(saved: Saved) -> None:
    names = _names(saved("gpt2"))
    assert names.on_disk("lm_head.weight") == names.on_disk("transformer.wte.weight")


def test_what_is_put_together_from_several_has_no_name_of_its_own(saved: Saved) -> None:
    with pytest.raises(CheckpointError, match="experts.gate_up_proj is put together from 8 stored tensors") as caught:
        _names(saved("mixtral")).on_disk("model.layers.0.mlp.experts.gate_up_proj")
    assert_one_line_with_next_step(caught.value)


def test_what_is_not_there_has_no_name_on_disk(saved: Saved) -> None:
    with pytest.raises(CheckpointError, match="there is no tensor no.such on disk") as caught:
        _names(saved("llama")).on_disk("no.such")
    assert_one_line_with_next_step(caught.value)


# --- names that are not there -----------------------------------------------------------------------


def test_a_name_that_is_not_there_is_a_key_error_and_does_not_appear(saved: Saved) -> None:
    names = _names(saved("llama"))
    before = names.names()
    for look in (names.tensor, names.dtype, lambda name: names.part(name, 0)):
        with pytest.raises(KeyError, match="no.such"):
            look("no.such")
    assert names.names() == before


@pytest.mark.parametrize(
    ("name", "bias", "ask"),
    [
        ("llama-bias", "model.layers.1.mlp.up_proj.bias", lambda c: c.bias("up", 1)),
        ("gpt2", "transformer.h.2.mlp.c_proj.bias", lambda c: c.bias("down", 2)),
        ("gpt_oss", "model.layers.0.mlp.experts.gate_up_proj_bias", lambda c: c.bias("gate", Block(0, 3))),
        ("gptj", "lm_head.bias", lambda c: c.head_bias()),
    ],
)
def test_a_bias_that_is_not_there_is_refused_and_not_taken_for_none(
    name: str, bias: str, ask: Callable[[Checkpoint], Any], saved: Saved, tmp_path: Path
) -> None:
    def remove(tensors: dict[str, Tensor]) -> None:
        del tensors[bias]

    folder = edited_copy(saved(name), tmp_path / "less", remove)
    with pytest.raises(CheckpointError, match=f"lacks {bias}: the checkpoint is incomplete") as caught:
        ask(open_checkpoint(folder))
    assert_one_line_with_next_step(caught.value)
