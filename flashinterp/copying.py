"""A checkpoint copied with some of its tensors changed: tensor by tensor, no model built, and whole or not at all.

The copy is what plain transformers loads: the same shards under the same names, config.json, the tokenizer's files and
the chat template, and ``flashinterp.json``, which says what was changed and in which weights.
"""

from __future__ import annotations

import copy
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError
from torch import Tensor

from flashinterp.checkpoint import Checkpoint, open_checkpoint
from flashinterp.disk_names import DiskNames
from flashinterp.errors import CheckpointError, first_line
from flashinterp.layout import Layout, skeleton
from flashinterp.quantised import is_plain
from flashinterp.sources import SafetensorsFolder

NOTE = "flashinterp.json"

_INDEX = "model.safetensors.index.json"
# What lies beside the weights and makes a folder a model. Code is never copied, nor are weights in other formats.
_BESIDE = ("*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken", "LICENSE*", "NOTICE*", "additional_chat_templates/*")
_OWN = ("config.json", NOTE)  # written anew
_CHUNK = 1 << 24  # bytes of an unchanged tensor that are in memory at a time


@dataclass(frozen=True)
class Changes:
    """What a copy has otherwise than its source.

    Attributes:
        edits: a tensor's name in the model, and what makes the new tensor from a copy of the old one, in its shape
            and dtype. It may be called more than once.
        config: fields of config.json that are set. Where the model then has biases that it had not, they are
            written as zeros, before the edits.
        note: what ``flashinterp.json`` says of it.
    """

    edits: Mapping[str, Callable[[Tensor], Tensor]]
    config: Mapping[str, Any] = field(default_factory=dict)
    note: Mapping[str, Any] = field(default_factory=dict)


def copy_checkpoint(checkpoint: Checkpoint, folder: str | Path, changes: Changes) -> Path:
    """Write a copy with changes into a new folder; returns the folder.

    One tensor is in memory at a time. All is written into a temporary folder beside the wanted one, opened again and
    compared with what was meant, and only then renamed; whatever goes wrong, nothing is left.

    Raises:
        CheckpointError: the source is a live model, quantised, or stores an edited tensor otherwise than whole; the
            folder is there already or cannot be written; or the copy is not what was meant.
    """
    target = Path(folder)
    stored, names = _stored(checkpoint)
    wanted = with_config(checkpoint, changes.config)
    shards = _shards(stored, names, _new_biases(checkpoint, wanted, names), changes)
    with _whole(target) as work:
        _check_room(target, sum(part.size for parts in shards.values() for part in parts))
        for shard, parts in shards.items():
            _write_shard(work / shard, parts)
        if (stored.folder / _INDEX).is_file():
            _write_index(work / _INDEX, shards)
        _write_beside(stored.folder, work)
        _write_json(work / "config.json", {**_read_json(stored.folder / "config.json"), **changes.config})
        _write_json(work / NOTE, _note(checkpoint, changes.note))
        _prove(work, names, changes)
    return target


def with_config(checkpoint: Checkpoint, fields: Mapping[str, Any]) -> Layout:
    """The layout of a checkpoint's model if its config had these values.

    Raises:
        CheckpointError: its config has no such field.
    """
    if not fields:
        return checkpoint.layout
    config = copy.deepcopy(checkpoint.config)
    for name, value in fields.items():
        if not hasattr(config, name):
            raise CheckpointError(
                f"the config of {checkpoint.name} has no field {name}: check the name, a {config.model_type} config "
                "would ignore it"
            )
        setattr(config, name, value)
    return Layout.of(skeleton(config))


# --- what there is ----------------------------------------------------------------------------------


def _stored(checkpoint: Checkpoint) -> tuple[SafetensorsFolder, DiskNames]:
    if checkpoint.folder is None:
        raise CheckpointError(
            f"{checkpoint.name} is a live model, which has no files to copy: write it with save_pretrained, and open "
            "that folder"
        )
    if getattr(checkpoint.config, "quantization_config", None) is not None:
        raise CheckpointError(
            f"{checkpoint.name} is quantised, and codes cannot be changed row by row: use the unquantised "
            "repository that it was made from"
        )
    stored = SafetensorsFolder(checkpoint.folder)
    return stored, DiskNames(skeleton(checkpoint.config), stored)


def _new_biases(checkpoint: Checkpoint, wanted: Layout, names: DiskNames) -> dict[str, tuple[str, tuple[int, ...]]]:
    """For each bias that only the wanted model has: the stored weight that it belongs to, and its shape."""
    new = {}
    for name in sorted(wanted.shapes.keys() - checkpoint.layout.shapes.keys()):
        weight = f"{name.removesuffix('bias')}weight"
        if not name.endswith(".bias") or weight not in checkpoint.layout.shapes:
            raise CheckpointError(
                f"the changed config asks for {name}, which is no bias of a stored weight: check which fields are set"
            )
        new[name] = names.on_disk(weight), wanted.shapes[name]
    return new


# --- the shards -------------------------------------------------------------------------------------

_Read = Callable[[], Iterator[Any]]  # the bytes of a tensor, piece by piece


@dataclass(frozen=True)
class _Part:
    """One tensor of the copy.

    Attributes:
        name: on disk.
        dtype: as the format writes it: F32, BF16.
        shape: its shape.
        size: in bytes.
        read: gives its bytes, piece by piece.
    """

    name: str
    dtype: str
    shape: list[int]
    size: int
    read: _Read

    @property
    def order(self) -> tuple[int, str]:
        """The format's own: wide numbers first, so that each begins at a multiple of its width; then by name."""
        return -(self.size // max(1, torch.Size(self.shape).numel())), self.name


def _shards(
    stored: SafetensorsFolder,
    names: DiskNames,
    biases: Mapping[str, tuple[str, tuple[int, ...]]],
    changes: Changes,
) -> dict[str, list[_Part]]:
    """File by file, the tensors of the copy: those of the source, and each new bias beside its weight."""
    edits = {names.on_disk(name): edit for name, edit in changes.edits.items() if name not in biases}
    shards: dict[str, list[_Part]] = {shard: [] for shard in sorted(set(stored.shard_of.values()))}
    for shard, parts in shards.items():
        header, start = _header(stored.folder / shard)
        for name, entry in header.items():
            if stored.shard_of.get(name) == shard:  # not what a hidden tensor of the file would be
                first, end = entry["data_offsets"]
                read: _Read = _unchanged(stored.folder / shard, start + first, end - first)
                if name in edits:
                    read = _edited(stored, name, edits[name])
                parts.append(_Part(name, entry["dtype"], entry["shape"], end - first, read))
    for name, (weight, shape) in biases.items():
        own = next(part for part in shards[stored.shard_of[weight]] if part.name == weight)
        dtype = _plain(stored, weight).dtype
        zeros = torch.zeros(shape, dtype=dtype)
        edit = changes.edits.get(name)
        shards[stored.shard_of[weight]].append(
            _Part(
                f"{weight.removesuffix('weight')}bias",
                own.dtype,
                list(shape),
                zeros.numel() * zeros.element_size(),
                _made(zeros, edit),
            )
        )
    return {shard: sorted(parts, key=lambda part: part.order) for shard, parts in shards.items()}


def _header(path: Path) -> tuple[dict[str, Any], int]:
    """A safetensors file's header, and where its data begin."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header: dict[str, Any] = json.loads(file.read(length))
    header.pop("__metadata__", None)
    return header, 8 + length


def _unchanged(path: Path, start: int, size: int) -> _Read:
    def read() -> Iterator[bytes]:
        with path.open("rb") as file:
            file.seek(start)
            left = size
            while left:
                piece = file.read(min(left, _CHUNK))
                if not piece:
                    raise CheckpointError(f"{path} ends before its tensors do: fetch it again")
                left -= len(piece)
                yield piece

    return read


def _plain(stored: SafetensorsFolder, name: str) -> Tensor:
    """A tensor, mapped into memory, if its numbers are weights."""
    tensor = stored.tensor(name)
    if not is_plain(tensor):
        raise CheckpointError(f"{name} is stored as {tensor.dtype}, which is quantised: use the unquantised model")
    return tensor


def _edited(stored: SafetensorsFolder, name: str, edit: Callable[[Tensor], Tensor]) -> _Read:
    return lambda: _bytes(_apply(edit, _plain(stored, name), name))


def _made(zeros: Tensor, edit: Callable[[Tensor], Tensor] | None) -> _Read:
    return lambda: _bytes(zeros if edit is None else _apply(edit, zeros, "a new bias"))


def _apply(edit: Callable[[Tensor], Tensor], tensor: Tensor, name: str) -> Tensor:
    new = edit(tensor.clone())
    if new.shape != tensor.shape or new.dtype != tensor.dtype:
        raise ValueError(
            f"the edit of {name} makes {new.dtype} {tuple(new.shape)}, not {tensor.dtype}"
        )  # a bug of ours
    return new


def _bytes(tensor: Tensor) -> Iterator[Any]:
    yield tensor.contiguous().flatten().view(torch.uint8).numpy().data


def _write_shard(path: Path, parts: list[_Part]) -> None:
    """One safetensors file: the header's length, the header, and the tensors end to end."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for part in parts:
        header[part.name] = {"dtype": part.dtype, "shape": part.shape, "data_offsets": [at, at + part.size]}
        at += part.size
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for part in parts:
            _write_part(file, part)
        file.flush()
        os.fsync(file.fileno())  # some file systems tell of a full disk only here


def _write_part(file: BinaryIO, part: _Part) -> None:
    for piece in part.read():
        file.write(piece)


def _write_index(path: Path, shards: Mapping[str, list[_Part]]) -> None:
    total = sum(part.size for parts in shards.values() for part in parts)
    weight_map = {part.name: shard for shard, parts in shards.items() for part in parts}
    _write_json(path, {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))})


# --- the folder -------------------------------------------------------------------------------------


@contextmanager
def _whole(target: Path) -> Iterator[Path]:
    """A folder beside the target that becomes it if all goes well, and is gone if not."""
    if target.exists() or target.is_symlink():
        raise CheckpointError(f"{target} is there already and is left as it is: name a folder that is not")
    work = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        work.mkdir(parents=True)
        yield work
        os.rename(work, target)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{target} cannot be written ({first_line(error)}): choose a place with room that you may write to"
        ) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _check_room(target: Path, needed: int) -> None:
    free = shutil.disk_usage(target.parent).free
    if free < needed:
        raise CheckpointError(
            f"{target} needs {needed / 1e9:.2f} GB, and {free / 1e9:.2f} GB are free there: choose a place with room"
        )


def _write_beside(source: Path, work: Path) -> None:
    for path in sorted({path for pattern in _BESIDE for path in source.glob(pattern)}):
        if path.is_file() and path.name not in _OWN and not path.name.endswith(".index.json"):
            copied = work / path.relative_to(source)
            copied.parent.mkdir(exist_ok=True)
            shutil.copyfile(path, copied)


def _read_json(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return loaded


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _note(checkpoint: Checkpoint, note: Mapping[str, Any]) -> dict[str, Any]:
    """What was changed, and in which bytes; with the note of the source, if it was such a copy itself."""
    assert checkpoint.folder is not None
    former = checkpoint.folder / NOTE
    return {
        "made_by": f"flashinterp {version('flashinterp')}",
        **note,
        "source": {
            "name": checkpoint.name if checkpoint.revision else Path(checkpoint.name).name,
            "revision": checkpoint.revision,
            "digests": checkpoint.digests,
            "note": _read_json(former) if former.is_file() else None,
        },
    }


def _prove(work: Path, names: DiskNames, changes: Changes) -> None:
    """Open the copy as any checkpoint, and find in it every tensor of its model, and the changed ones as meant."""
    made = open_checkpoint(work)
    assert made.folder is not None
    now = DiskNames(skeleton(made.config), SafetensorsFolder(made.folder))
    missing = sorted(made.layout.shapes.keys() - now.names())
    if missing:
        raise CheckpointError(
            f"the copy lacks {len(missing)} tensors of its model, the first of them {missing[0]}, because the source "
            "does: fetch the whole checkpoint"
        )
    before = names.names()
    for name, edit in changes.edits.items():
        found = now.tensor(name)
        old = names.tensor(name) if name in before else torch.zeros_like(found)
        if not torch.equal(found, _apply(edit, old, name)):
            raise CheckpointError(f"{name} is not in the copy as it was meant: check the disk, and try again")
