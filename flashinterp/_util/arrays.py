"""Arrays on disk: one safetensors file, written whole or not at all, read by memory map."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import save_file

from flashinterp._util.files import replacing
from flashinterp.errors import MapError

Arrays = dict[str, NDArray[Any]]

_LARGEST_HEADER = 100_000_000  # bytes, safetensors' own limit
_DTYPES = {
    "BOOL": "?", "U8": "u1", "I8": "i1", "U16": "<u2", "I16": "<i2", "U32": "<u4", "I32": "<i4", "U64": "<u8",
    "I64": "<i8", "F16": "<f2", "F32": "<f4", "F64": "<f8",
}  # fmt: skip


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]], metadata: dict[str, str]) -> None:
    """Write one file; a former one stays as it is until the new one is whole.

    Raises:
        MapError: the place cannot be written.
    """
    try:
        with replacing(path) as scratch:
            save_file({name: np.ascontiguousarray(a) for name, a in arrays.items()}, scratch, metadata=metadata)
    except (OSError, SafetensorError) as error:
        raise MapError(f"{path} cannot be written ({error}): choose a place with room") from error


def read_arrays(path: Path) -> tuple[Arrays, dict[str, str]]:
    """All arrays of a safetensors file, mapped into memory and read from disk only where they are looked at; metadata.

    Read with NumPy alone, since safetensors maps a file through torch only, and its NumPy reader copies it. The header
    is checked as safetensors checks it: a file may come from a stranger.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not a whole safetensors file.
    """
    raw = np.memmap(path, dtype=np.uint8, mode="c")  # copy on write, so that torch takes the arrays without a warning
    header, start = _header(raw)
    metadata = header.pop("__metadata__", {})
    arrays = {}
    end = start
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        dtype, shape = np.dtype(_DTYPES[entry["dtype"]]), tuple(entry["shape"])
        first, last = (start + offset for offset in entry["data_offsets"])
        size = math.prod(shape) * dtype.itemsize
        if first != end or last != first + size or last > len(raw) or any(n < 0 for n in shape):
            raise ValueError(f"the array {name!r} has bytes {first} to {last} of {len(raw)} for a shape of {shape}")
        arrays[name] = np.asarray(raw[first:last]).view(dtype).reshape(shape)
        end = last
    if end != len(raw):
        raise ValueError(f"{len(raw)} bytes, of which the header explains {end}")
    return {name: arrays[name] for name in header}, dict(metadata)


def _header(raw: NDArray[np.uint8]) -> tuple[dict[str, Any], int]:
    """The parsed header, and where the arrays begin."""
    length = int.from_bytes(raw[:8].tobytes(), "little")
    if len(raw) < 8 or length > min(_LARGEST_HEADER, len(raw) - 8):
        raise ValueError(f"its header should have {length} bytes, and the file has {len(raw)}")
    header = json.loads(raw[8 : 8 + length].tobytes())
    if not isinstance(header, dict):
        raise ValueError("its header is no JSON object")
    return header, 8 + length
