"""Arrays on disk: one safetensors file, written whole or not at all, read by memory map."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from flashinterp.errors import MapError

Arrays = dict[str, NDArray[Any]]


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]], metadata: dict[str, str]) -> None:
    """Write one file; a former one stays as it is until the new one is whole.

    Raises:
        MapError: the place cannot be written.
    """
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as work:
            temporary = Path(work) / path.name
            temporary.touch()
            mode = temporary.stat().st_mode  # what the umask allows; save_file makes its files private
            save_file({name: np.ascontiguousarray(a) for name, a in arrays.items()}, temporary, metadata=metadata)
            os.chmod(temporary, mode)
            os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        raise MapError(f"{path} cannot be written ({error}): choose a place with room") from error


def read_arrays(path: Path) -> tuple[Arrays, dict[str, str]]:
    """All arrays of a file, mapped into memory and read from disk only where they are looked at; its metadata.

    Raises:
        OSError, SafetensorError: not there, or not a whole file.
    """
    # The torch flavour maps the file; the numpy one would copy it.
    with safe_open(str(path), framework="pt") as file:
        names = list(file.keys())
        return {name: file.get_tensor(name).numpy() for name in names}, dict(file.metadata() or {})
