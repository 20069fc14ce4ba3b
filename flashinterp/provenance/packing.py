"""Plain values, arrays and frozen records with an id as the arrays of one file of ``raw/``, and back.

What a pickle would do, without its danger: nothing but records that `flashinterp.provenance.registry` knows is ever
made. A person reads such a file with NumPy alone: ``json.loads(bytes(file["value"]))`` is the value, with the arrays in
their places as ``{"$array": ["a0"]}`` and a record as ``{"$record": ["tokens.token/1", {...}]}``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import flashinterp.provenance.ground_records  # noqa: F401 (wherever values are kept, these must have their ids)
from flashinterp.errors import RunError
from flashinterp.provenance.registry import record_id, record_of

Arrays = dict[str, NDArray[Any]]
Kinds = Callable[[str], type]
"""The class of a record's id; raises where there is none."""
VALUE = "value"
"""The array that holds the JSON text of the value."""


def pack(value: Any) -> Arrays:
    """A value as arrays.

    Args:
        value: None, text, numbers, arrays, and of these: lists, tuples, dicts and records with an id.

    Raises:
        RunError: it holds something else, or a record without an id.
    """
    arrays: Arrays = {}
    tree = _packed(value, arrays)
    text = json.dumps(tree, allow_nan=False, separators=(",", ":"))
    arrays[VALUE] = np.frombuffer(text.encode("ascii"), dtype=np.uint8)
    return arrays


def unpack(arrays: Mapping[str, NDArray[Any]], kinds: Kinds = record_of) -> Any:
    """The inverse of `pack`: equal values of the same kinds; NumPy's scalars come back as Python's.

    Raises:
        RunError: the arrays are not such a value's, or hold a record of an id that is not known.
    """
    if VALUE not in arrays:
        raise RunError(f"there is no array {VALUE!r} in it: give a file that a run wrote for a table or a figure")
    return _unpacked(json.loads(bytes(arrays[VALUE]).decode("ascii")), kinds, arrays)


def _packed(value: Any, arrays: Arrays) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"$float": repr(value)}
    if isinstance(value, list):
        return [_packed(item, arrays) for item in value]
    if isinstance(value, tuple) and not hasattr(value, "_fields"):
        return {"$tuple": [_packed(item, arrays) for item in value]}
    if isinstance(value, Mapping):
        return {"$dict": [[_packed(k, arrays), _packed(v, arrays)] for k, v in value.items()]}
    if isinstance(value, np.ndarray):
        return {"$array": _stored(value, arrays)}
    return {"$record": _record(value, arrays)}


def _stored(array: NDArray[Any], arrays: Arrays) -> list[str]:
    """The names of an array and, where it has gaps, of their mask: NaN has no place in a run's folder."""
    names = [f"a{len(arrays)}"]
    arrays[names[0]] = array
    if np.issubdtype(array.dtype, np.inexact) and (gaps := np.isnan(array)).any():
        arrays[names[0]] = np.where(gaps, 0, array).astype(array.dtype)
        names.append(f"a{len(arrays)}")
        arrays[names[1]] = gaps
    return names


def _record(value: Any, arrays: Arrays) -> list[Any]:
    kind: Any = type(value)
    key = record_id(kind)
    if key is None:
        raise RunError(
            f"a {kind.__name__} cannot be kept in raw/: give plain values, or a frozen dataclass whose id is given "
            "by @record('mylab.my_record', version=1)"
        )
    return [key, {name: _packed(getattr(value, name), arrays) for name in field_names(kind)}]


def field_names(kind: Any) -> list[str]:
    """The fields of a dataclass or a named tuple that are kept: those that it is made with."""
    return [f.name for f in fields(kind) if f.init] if is_dataclass(kind) else list(kind._fields)


def _unpacked(tree: Any, kinds: Kinds, arrays: Mapping[str, NDArray[Any]]) -> Any:
    if isinstance(tree, list):
        return [_unpacked(item, kinds, arrays) for item in tree]
    if not isinstance(tree, dict):
        return tree
    ((kind, held),) = tree.items()
    if kind == "$float":
        return float(held)
    if kind == "$tuple":
        return tuple(_unpacked(item, kinds, arrays) for item in held)
    if kind == "$dict":
        return {_unpacked(k, kinds, arrays): _unpacked(v, kinds, arrays) for k, v in held}
    if kind == "$array":
        return _restored(held, arrays)
    name, values = held
    if kind != "$record":
        raise RunError(f"it holds a {str(kind)[:80]!r}, which is nothing that a run keeps: give the file of a run")
    return kinds(name)(**{key: _unpacked(item, kinds, arrays) for key, item in values.items()})


def _restored(names: list[str], arrays: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    array = arrays[names[0]].copy()
    if len(names) > 1:
        array[arrays[names[1]]] = np.nan
    return array
