"""A decode in progress on disk: one file a layer, so that a killed run goes on at the last whole layer."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flashinterp._util.arrays import Arrays, read_arrays, write_arrays
from flashinterp.errors import MapError


class LayerParts:
    """The finished layers of one decode, in a folder beside the map that they will become.

    Attributes:
        folder: ``<map>.parts``.
        key: sha256 of what is being decoded; parts of anything else are not taken.
    """

    def __init__(self, target: Path, meta: Mapping[str, Any]) -> None:
        self.folder = target.with_name(target.name + ".parts")
        self.key = hashlib.sha256(json.dumps(meta, sort_keys=True).encode()).hexdigest()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise MapError(f"{self.folder} cannot be made ({error}): choose another place for the map") from error

    def load(self, layer: int) -> Arrays | None:
        """A finished layer; None if it is not there or was cut short.

        Raises:
            MapError: the part is of another decode.
        """
        path = self._path(layer)
        if not path.is_file():
            return None
        try:
            arrays, metadata = read_arrays(path)
        except (OSError, ValueError):
            return None
        if metadata.get("key") != self.key:
            raise MapError(
                f"{path} is part of another decode (other weights, lens, top_k, dtype or versions): delete "
                f"{self.folder}, or choose another place for the map"
            )
        return arrays

    def save(self, layer: int, arrays: Arrays) -> None:
        """Keep a finished layer."""
        write_arrays(self._path(layer), arrays, {"key": self.key})

    def remove(self) -> None:
        """Forget all parts, once the map is whole."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, layer: int) -> Path:
        return self.folder / f"layer-{layer:04d}.safetensors"
