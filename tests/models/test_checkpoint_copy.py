"""A copied checkpoint is the source but for what was changed, and either whole or not there at all."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from flashinterp.errors import CheckpointError
from flashinterp.models import checkpoint_copy
from flashinterp.models.checkpoint import Checkpoint, open_checkpoint
from flashinterp.models.checkpoint_copy import NOTE, copy_checkpoint, with_config
from flashinterp.models.weights import shard_writer
from flashinterp.models.weights.shard_writer import Changes
from tests.architecture_cases import Case
from tests.examples import examples
from tests.helpers import UP, assert_one_line_with_next_step, edited_copy, shard

NAME = UP.format(1)
BIAS = NAME.replace("weight", "bias")
IDS = torch.arange(3, 15)[None]


def _doubled(tensor: Tensor) -> Tensor:
    return 2 * tensor


def _tensors(folder: Path) -> dict[str, Tensor]:
    return {name: tensor for path in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(path).items()}


def _equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(a[n].dtype == b[n].dtype and torch.equal(a[n], b[n]) for n in a)


def _refused(checkpoint: Checkpoint, folder: Path, changes: Changes, match: str) -> None:
    with pytest.raises(CheckpointError, match=match) as caught:
        copy_checkpoint(checkpoint, folder, changes)
    assert_one_line_with_next_step(caught.value)


@pytest.fixture
def source(planted: Checkpoint, tmp_path: Path) -> Path:
    """A copy of the planted fixture that a test may change."""
    assert planted.folder is not None
    shutil.copytree(planted.folder, tmp_path / "source")
    return tmp_path / "source"


# --- what is copied ---------------------------------------------------------------------------------


@pytest.mark.parametrize("parts", [1, 3])
def test_without_changes_the_copy_is_the_source(source: Path, tmp_path: Path, parts: int) -> None:
    if parts > 1:
        shard(source, parts)
    made = copy_checkpoint(open_checkpoint(source), tmp_path / "copy", Changes({}))
    assert _equal(_tensors(made), _tensors(source))
    assert {p.name for p in made.iterdir()} == {p.name for p in source.iterdir()} | {NOTE}
    assert json.loads((made / "config.json").read_text()) == json.loads((source / "config.json").read_text())
    assert open_checkpoint(made).load_model()(IDS).logits.equal(open_checkpoint(source).load_model()(IDS).logits)
    assert AutoTokenizer.from_pretrained(made).get_vocab() == AutoTokenizer.from_pretrained(source).get_vocab()
    assert made.stat().st_mode == source.stat().st_mode  # not as private as a temporary folder


def test_an_edit_changes_its_tensor_and_no_other(source: Path, tmp_path: Path) -> None:
    made = copy_checkpoint(open_checkpoint(source), tmp_path / "copy", Changes({NAME: _doubled}))
    before, after = _tensors(source), _tensors(made)
    assert torch.equal(after.pop(NAME), 2 * before.pop(NAME))
    assert _equal(after, before)


def test_a_new_bias_is_zeros_beside_its_weight_in_its_dtype(source: Path, tmp_path: Path) -> None:
    def halved(tensors: dict[str, Tensor]) -> None:
        tensors[NAME] = tensors[NAME].to(torch.bfloat16)

    mixed = edited_copy(source, tmp_path / "mixed", halved)
    shard_of = shard(mixed, 3)
    changes = Changes({BIAS: lambda bias: bias + 3}, {"mlp_bias": True})
    made = copy_checkpoint(open_checkpoint(mixed), tmp_path / "copy", changes)
    index = json.loads((made / "model.safetensors.index.json").read_text())
    assert index["weight_map"][BIAS] == shard_of[NAME]
    tensors = _tensors(made)
    assert index["metadata"]["total_size"] == sum(t.numel() * t.element_size() for t in tensors.values())
    assert index["weight_map"].keys() == tensors.keys()
    new = tensors.keys() - shard_of.keys()
    assert len(new) == 3 * 4  # up, gate and down of four layers
    assert (tensors[BIAS].dtype, tensors[BIAS].unique().tolist()) == (torch.bfloat16, [3.0])
    assert all(not tensors[name].any() for name in new - {BIAS})
    assert all(tensors[name].dtype == torch.float32 for name in new - {BIAS})


@examples(20)
@given(
    extra=st.lists(
        st.tuples(
            st.sampled_from([torch.uint8, torch.bfloat16, torch.float32, torch.float64, torch.int64, torch.bool]),
            st.lists(st.integers(0, 5), max_size=3),
        ),
        max_size=5,
    )
)
def test_tensors_of_any_dtype_and_size_survive(
    planted: Checkpoint, tmp_path_factory: pytest.TempPathFactory, extra: list[tuple[torch.dtype, list[int]]]
) -> None:
    """A tensor that begins at no multiple of its width cannot be read back by torch."""
    assert planted.folder is not None
    work = tmp_path_factory.mktemp("dtypes")

    def add(tensors: dict[str, Tensor]) -> None:
        for n, (dtype, shape) in enumerate(extra):
            tensors[f"extra.{n}"] = torch.arange(torch.Size(shape).numel()).reshape(shape).to(dtype)

    source = edited_copy(planted.folder, work / "source", add)
    made = copy_checkpoint(open_checkpoint(source), work / "copy", Changes({NAME: _doubled}))
    before, after = _tensors(source), _tensors(made)
    after[NAME] = after[NAME] / 2
    assert _equal(after, before)
    shutil.rmtree(work)


def test_code_pickles_and_strangers_stay_behind(source: Path, tmp_path: Path) -> None:
    for name in ("modeling.py", "pytorch_model.bin", "old.safetensors", "pytorch_model.bin.index.json", "README.md"):
        (source / name).write_bytes(b"{}")
    (source / "chat_template.jinja").write_text("{{ messages }}")
    (source / "additional_chat_templates").mkdir()
    (source / "additional_chat_templates" / "tools.jinja").write_text("{{ tools }}")
    made = copy_checkpoint(open_checkpoint(source), tmp_path / "copy", Changes({}))
    there = {str(p.relative_to(made)) for p in made.rglob("*")}
    assert {"chat_template.jinja", "additional_chat_templates/tools.jinja", "tokenizer.json"} <= there
    strangers = {"modeling.py", "pytorch_model.bin", "old.safetensors", "pytorch_model.bin.index.json"}
    assert not there & strangers


def test_a_tensor_that_no_index_names_stays_behind(source: Path, tmp_path: Path) -> None:
    shard_of = shard(source, 2)
    file = source / shard_of[NAME]
    save_file({**load_file(file), "hidden": torch.ones(3)}, file, metadata={"format": "pt"})
    made = copy_checkpoint(open_checkpoint(source), tmp_path / "copy", Changes({}))
    assert "hidden" not in _tensors(made)


def test_the_note_says_what_was_made_of_what(source: Path, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(source)
    once = copy_checkpoint(checkpoint, tmp_path / "once", Changes({NAME: _doubled}, note={"what": "doubled"}))
    note = json.loads((once / NOTE).read_text())
    assert (note["what"], note["source"]["name"]) == ("doubled", "source")
    assert note["source"]["digests"] == checkpoint.digests
    twice = copy_checkpoint(open_checkpoint(once), tmp_path / "twice", Changes({}))
    assert json.loads((twice / NOTE).read_text())["source"]["note"] == note
    with safe_open(once / "model.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_the_source_stays_as_it_was(source: Path, tmp_path: Path) -> None:
    before = {p.name: p.read_bytes() for p in source.iterdir()}
    copy_checkpoint(open_checkpoint(source), tmp_path / "copy", Changes({NAME: Tensor.zero_}, {"mlp_bias": True}))
    assert {p.name: p.read_bytes() for p in source.iterdir()} == before


def test_names_on_disk_may_be_others_than_in_the_model(case: Callable[[str], Case], tmp_path: Path) -> None:
    """GPT-2's own checkpoint has no ``transformer.`` in front of its names."""
    folder = case("gpt2").checkpoint.folder
    assert folder is not None

    def short(tensors: dict[str, Tensor]) -> None:
        for name in list(tensors):
            tensors[name.removeprefix("transformer.")] = tensors.pop(name)

    source = edited_copy(folder, tmp_path / "source", short)
    name = "transformer.h.1.mlp.c_fc.bias"
    made = copy_checkpoint(open_checkpoint(source), tmp_path / "copy", Changes({name: _doubled}))
    assert _tensors(made).keys() == _tensors(source).keys()
    loaded: Any = AutoModelForCausalLM.from_pretrained(made)
    assert torch.equal(loaded.get_parameter(name), 2 * case("gpt2").model.get_parameter(name))


# --- what is refused --------------------------------------------------------------------------------


def test_a_live_model_has_no_files(planted_model: Any, tmp_path: Path) -> None:
    _refused(open_checkpoint(planted_model), tmp_path / "copy", Changes({}), "live model")


def test_a_quantised_source_is_refused(source: Path, tmp_path: Path) -> None:
    path = source / "config.json"
    fp8 = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    path.write_text(json.dumps({**json.loads(path.read_text()), "quantization_config": fp8}))
    _refused(open_checkpoint(source), tmp_path / "copy", Changes({}), "is quantised")


def test_experts_that_are_put_together_at_load_are_refused(case: Callable[[str], Case], tmp_path: Path) -> None:
    name = "model.layers.0.mlp.experts.gate_up_proj"
    _refused(case("mixtral").checkpoint, tmp_path / "copy", Changes({name: _doubled}), f"{name} is put together from")


def test_a_tensor_that_is_not_there_is_refused(planted: Checkpoint, tmp_path: Path) -> None:
    _refused(planted, tmp_path / "copy", Changes({"model.layers.9.x": _doubled}), "there is no tensor model.layers.9.x")


def test_a_field_that_the_config_has_not_is_refused(planted: Checkpoint, tmp_path: Path) -> None:
    _refused(planted, tmp_path / "copy", Changes({}, {"mlp_biases": True}), "has no field mlp_biases")


def test_a_field_that_asks_for_more_than_biases_is_refused(planted: Checkpoint, tmp_path: Path) -> None:
    _refused(planted, tmp_path / "copy", Changes({}, {"num_hidden_layers": 5}), "no bias of a stored weight")


def test_the_layout_of_a_changed_config(planted: Checkpoint) -> None:
    assert with_config(planted, {}) is planted.layout
    assert with_config(planted, {"mlp_bias": True}).weight("up", 1).bias == BIAS
    assert planted.layout.weight("up", 1).bias is None
    assert planted.config.mlp_bias is False


@pytest.mark.parametrize("kind", ["folder", "full folder", "file", "dangling link"])
def test_what_is_there_already_is_left_alone(planted: Checkpoint, tmp_path: Path, kind: str) -> None:
    target = tmp_path / "copy"
    if kind == "file":
        target.write_text("mine")
    elif kind == "dangling link":
        target.symlink_to(tmp_path / "nowhere")
    else:
        target.mkdir()
        if kind == "full folder":
            (target / "mine").write_text("mine")
    _refused(planted, target, Changes({}), "is there already")
    assert [p.name for p in tmp_path.iterdir()] == ["copy"]
    assert not (tmp_path / "nowhere").exists()


# --- whole or not at all ----------------------------------------------------------------------------


@pytest.fixture
def small_disk() -> Iterator[None]:
    """No file can grow beyond 64 KiB: what the system then says is a failed write."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("small_disk")
def test_a_write_that_fails_is_one_line_and_leaves_nothing(planted: Checkpoint, tmp_path: Path) -> None:
    _refused(planted, tmp_path / "copy", Changes({}), "cannot be written")
    assert not list(tmp_path.iterdir())


def test_too_little_room_is_told_before_anything_is_written(
    planted: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_write(*args: object) -> None:
        raise AssertionError("a shard was written")

    monkeypatch.setattr(checkpoint_copy, "write_shard", no_write)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1))
    _refused(planted, tmp_path / "copy", Changes({}), "GB are free there")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("fault", [KeyboardInterrupt(), OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))])
def test_whatever_interrupts_it_leaves_nothing(planted: Checkpoint, tmp_path: Path, fault: BaseException) -> None:
    def edit(tensor: Tensor) -> Tensor:
        (work,) = tmp_path.iterdir()
        assert work.name.startswith(".copy.")  # it is beside the wanted folder, so that a rename makes it that
        assert list(work.glob("*.safetensors"))
        raise fault

    expected = CheckpointError if isinstance(fault, OSError) else KeyboardInterrupt
    with pytest.raises(expected):
        copy_checkpoint(planted, tmp_path / "copy", Changes({NAME: edit}))
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_to_is_told(planted: Checkpoint, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    _refused(planted, tmp_path / "file" / "copy", Changes({}), "cannot be written")


@pytest.mark.parametrize("tensor", [NAME, BIAS])
def test_a_copy_that_is_not_what_was_meant_is_not_kept(
    planted: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tensor: str
) -> None:
    write = shard_writer._write_part

    def flipped(file: Any, part: Any) -> None:
        write(file, part)
        if part.name == tensor:
            file.seek(-1, os.SEEK_END)
            last = file.read(1)
            file.seek(-1, os.SEEK_END)
            file.write(bytes([last[0] ^ 1]))

    real = Path.open
    monkeypatch.setattr(Path, "open", lambda self, mode="r", **kw: real(self, "w+b" if mode == "wb" else mode, **kw))
    monkeypatch.setattr(shard_writer, "_write_part", flipped)
    changes = Changes({NAME: _doubled, BIAS: lambda bias: bias + 1}, {"mlp_bias": True})
    _refused(planted, tmp_path / "copy", changes, f"{tensor} is not in the copy as it was meant")
    assert not list(tmp_path.iterdir())


def test_a_source_that_lacks_a_tensor_makes_no_copy(source: Path, tmp_path: Path) -> None:
    name = "model.layers.0.self_attn.q_proj.weight"  # which no decode needs
    lacking = edited_copy(source, tmp_path / "lacking", lambda tensors: tensors.pop(name))
    _refused(open_checkpoint(lacking), tmp_path / "copy", Changes({}), name)
    assert not (tmp_path / "copy").exists()


def test_a_source_that_is_cut_short_meanwhile_is_told(source: Path, tmp_path: Path) -> None:
    checkpoint, weights = open_checkpoint(source), source / "model.safetensors"

    def edit(tensor: Tensor) -> Tensor:
        os.truncate(weights, 5000)
        return tensor

    # The widest tensors come first, then by name: lm_head is before all others.
    _refused(checkpoint, tmp_path / "copy", Changes({"lm_head.weight": edit}), "ends before its tensors do")
    assert not (tmp_path / "copy").exists()


def test_an_edit_that_changes_shape_or_dtype_is_a_bug(planted: Checkpoint, tmp_path: Path) -> None:
    for edit in (Tensor.half, lambda tensor: tensor[1:]):
        with pytest.raises(ValueError, match="the edit of"):
            copy_checkpoint(planted, tmp_path / "copy", Changes({NAME: edit}))
        assert not list(tmp_path.iterdir())
