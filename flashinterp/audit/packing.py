"""Plain values, arrays and frozen records of known kinds as the arrays of one file of ``raw/``, and back.

What a pickle would do, without its danger: nothing but the kinds that the reader knows is ever made. A person reads
such a file with NumPy alone: ``json.loads(bytes(file["value"]))`` is the value, with the arrays in their places as
``{"$array": "a0"}``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flashinterp.errors import RunError

Arrays = dict[str, NDArray[Any]]
Types = Mapping[str, type]
"""The kinds of records, dataclasses and named tuples, that may stand in a value, by their classes' names."""

VALUE = "value"
"""The array that holds the JSON text of the value."""


def pack(value: Any, types: Types) -> Arrays:
    """A value as arrays.

    Args:
        value: None, text, numbers, arrays, and of these: lists, tuples, dicts and records.
        types: the records that may stand in it.

    Raises:
        RunError: it holds something else, or a record that is not known.
    """
    arrays: Arrays = {}
    tree = _packed(value, types, arrays)
    text = json.dumps(tree, allow_nan=False, separators=(",", ":"))
    arrays[VALUE] = np.frombuffer(text.encode("ascii"), dtype=np.uint8)
    return arrays


def unpack(arrays: Mapping[str, NDArray[Any]], types: Types) -> Any:
    """The inverse of `pack`: equal values of the same kinds; NumPy's scalars come back as Python's.

    Raises:
        RunError: the arrays are not such a value's.
    """
    if VALUE not in arrays:
        raise RunError(f"there is no array {VALUE!r} in it: give a file that a run wrote for a table or a figure")
    return _unpacked(json.loads(bytes(arrays[VALUE]).decode("ascii")), types, arrays)


# A list is a list, a scalar a scalar; everything else is an object of one key, its kind.


def _packed(value: Any, types: Types, arrays: Arrays) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"$float": repr(value)}
    if isinstance(value, list):
        return [_packed(item, types, arrays) for item in value]
    if isinstance(value, tuple) and not hasattr(value, "_fields"):
        return {"$tuple": [_packed(item, types, arrays) for item in value]}
    if isinstance(value, Mapping):
        return {"$dict": [[_packed(k, types, arrays), _packed(v, types, arrays)] for k, v in value.items()]}
    if isinstance(value, np.ndarray):
        return {"$array": _stored(value, arrays)}
    return {"$record": _record(value, types, arrays)}


def _stored(array: NDArray[Any], arrays: Arrays) -> list[str]:
    """The names of an array and, where it has gaps, of their mask: NaN has no place in a run's folder."""
    names = [f"a{len(arrays)}"]
    arrays[names[0]] = array
    if np.issubdtype(array.dtype, np.inexact) and (gaps := np.isnan(array)).any():
        arrays[names[0]] = np.where(gaps, 0, array).astype(array.dtype)
        names.append(f"a{len(arrays)}")
        arrays[names[1]] = gaps
    return names


def _record(value: Any, types: Types, arrays: Arrays) -> list[Any]:
    name = type(value).__name__
    kind: Any = types.get(name)
    if kind is None or kind is not type(value):
        raise RunError(
            f"a {name} cannot be kept in raw/: name it among the TYPES of the module that makes tables of it"
        )
    names = [f.name for f in fields(kind) if f.init] if is_dataclass(kind) else kind._fields
    return [name, {key: _packed(getattr(value, key), types, arrays) for key in names}]


def _unpacked(tree: Any, types: Types, arrays: Mapping[str, NDArray[Any]]) -> Any:
    if isinstance(tree, list):
        return [_unpacked(item, types, arrays) for item in tree]
    if not isinstance(tree, dict):
        return tree
    ((kind, held),) = tree.items()
    if kind == "$float":
        return float(held)
    if kind == "$tuple":
        return tuple(_unpacked(item, types, arrays) for item in held)
    if kind == "$dict":
        return {_unpacked(k, types, arrays): _unpacked(v, types, arrays) for k, v in held}
    if kind == "$array":
        return _restored(held, arrays)
    name, values = held
    if kind != "$record" or name not in types:
        shown = f"{kind} {str(name)[:80]!r}"
        raise RunError(f"it holds a {shown}, which this release does not know: use the one that wrote it")
    return types[name](**{key: _unpacked(item, types, arrays) for key, item in values.items()})


def _restored(names: list[str], arrays: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    array = arrays[names[0]].copy()
    if len(names) > 1:
        array[arrays[names[1]]] = np.nan
    return array
