"""Writes a checkpoint's shards piece by piece, with tensors edited or added on the way."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from flashinterp.errors import CheckpointError
from flashinterp.models.weights.quantization import is_plain
from flashinterp.models.weights.safetensors_folder import SafetensorsFolder
from flashinterp.models.weights.tensor_names import DiskNames

INDEX = "model.safetensors.index.json"
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


def plan_shards(
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
    return lambda: _bytes(apply_edit(edit, _plain(stored, name), name))


def _made(zeros: Tensor, edit: Callable[[Tensor], Tensor] | None) -> _Read:
    return lambda: _bytes(zeros if edit is None else apply_edit(edit, zeros, "a new bias"))


def apply_edit(edit: Callable[[Tensor], Tensor], tensor: Tensor, name: str) -> Tensor:
    """The edited tensor, of the same shape and dtype; the stored one is left as it is."""
    new = edit(tensor.clone())
    if new.shape != tensor.shape or new.dtype != tensor.dtype:
        raise ValueError(
            f"the edit of {name} makes {new.dtype} {tuple(new.shape)}, not {tensor.dtype}"
        )  # a bug of ours
    return new


def _bytes(tensor: Tensor) -> Iterator[Any]:
    yield tensor.contiguous().flatten().view(torch.uint8).numpy().data


def write_shard(path: Path, parts: list[_Part]) -> None:
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


def write_index(path: Path, shards: Mapping[str, list[_Part]]) -> None:
    """The index of several shards: which file holds which tensor."""
    total = sum(part.size for parts in shards.values() for part in parts)
    weight_map = {part.name: shard for shard, parts in shards.items() for part in parts}
    write_json(path, {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))})


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file."""
    loaded: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return loaded


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """A JSON object as a file, its keys in the order given."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
