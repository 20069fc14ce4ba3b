"""Where named tensors come from: a protocol, and a safetensors folder read tensor by tensor.

Weights are data: safetensors only, no pickle, and a file name out of an index never leaves the model's folder.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from flashinterp._util.files import sha256_of
from flashinterp.errors import CheckpointError, first_line

_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"
_IDENTITY_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json")


class Source(Protocol):
    """Named tensors, and what proves which they were."""

    def names(self) -> Iterable[str]:
        """Every tensor's name."""

    def tensor(self, name: str) -> Tensor:
        """One tensor; a folder's is mapped into memory, and read where it is looked at."""

    def part(self, name: str, i: int) -> Tensor:
        """``tensor(name)[i]``, of which alone anything is read."""

    def dtype(self, name: str) -> torch.dtype:
        """The dtype of a tensor, of which nothing is read."""

    def digests(self) -> dict[str, str]:
        """sha256 of whatever the tensors are in."""


class SafetensorsFolder:
    """The tensors of a folder: ``model.safetensors``, or the shards that an index names."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shard_of = _read_index(folder) if (folder / _INDEX).is_file() else self._read_single()

    def _read_single(self) -> dict[str, str]:
        if not (self.folder / _SINGLE).is_file():
            pickled = next(self.folder.glob("*.bin"), None)
            told = f" ({pickled.name} is a pickle, which is never loaded)" if pickled else ""
            raise CheckpointError(
                f"{self.folder} holds neither {_SINGLE} nor {_INDEX}{told}: give a model folder with "
                "safetensors weights, as save_pretrained writes it"
            )
        with _open(self.folder / _SINGLE) as file:
            return dict.fromkeys(file.keys(), _SINGLE)

    def names(self) -> Iterable[str]:
        return self.shard_of

    def tensor(self, name: str) -> Tensor:
        return self._read(name, lambda file: file.get_tensor(name))

    def part(self, name: str, i: int) -> Tensor:
        return self._read(name, lambda file: file.get_slice(name)[i])

    def _read(self, name: str, get: Callable[[Any], Tensor]) -> Tensor:
        shard = self.folder / self.shard_of[name]
        with _open(shard) as file:
            try:
                return get(file)
            except (SafetensorError, ValueError) as error:
                raise CheckpointError(
                    f"{shard} does not give tensor {name} ({error}), which its index promises: fetch the model again"
                ) from error

    def digests(self) -> dict[str, str]:
        files = sorted({*self.shard_of.values(), *_IDENTITY_FILES})
        paths = [path for name in files if (path := self.folder / name).is_file()]
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # hashing leaves Python's lock, so shards go side by side
            return {path.name: digest for path, digest in zip(paths, pool.map(sha256_of, paths), strict=True)}

    def dtype(self, name: str) -> torch.dtype:
        return self.tensor(name).dtype  # mapped into memory, not read


def _read_index(folder: Path) -> dict[str, str]:
    """The shard of each tensor, with every shard's name and presence checked."""
    path = folder / _INDEX
    try:
        weight_map = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        shard_of = {str(name): str(shard) for name, shard in weight_map.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is not a weight index ({first_line(error)}): fetch the model again") from error
    for shard in sorted(set(shard_of.values())):
        # A hostile index could name ../../etc/passwd: only a bare file name is followed.
        if shard != Path(shard).name or shard in ("", ".", ".."):
            raise CheckpointError(f"{path} names the shard {shard!r}, which leaves the folder: do not trust this model")
        if not (folder / shard).is_file():
            raise CheckpointError(f"{path} names the shard {shard!r}, which is not there: finish the download")
        with _open(folder / shard) as file:
            absent = sorted({n for n, s in shard_of.items() if s == shard} - set(file.keys()))
        if absent:
            raise CheckpointError(f"{folder / shard} lacks {absent[0]!r}, which its index promises: fetch it again")
    return shard_of


def _open(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} is not a whole safetensors file ({first_line(error)}): fetch it again"
        ) from error
