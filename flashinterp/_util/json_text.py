"""JSON that is the same bytes for the same value, and a refusal of what JSON cannot hold."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping

import numpy as np

from flashinterp._util.text import clip, safe_text
from flashinterp.errors import RunError

_SURROGATE = re.compile("[\ud800-\udfff]")


def canonical_json(obj: object) -> str:
    """JSON text that is the same for the same value; see `RunFolder.write_json`."""
    text = json.dumps(plain(obj), sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False)
    # UTF-8 has no lone surrogates, JSON has: they occur inside strings only, so an escape is exact.
    return _SURROGATE.sub(lambda match: f"\\u{ord(match[0]):04x}", text) + "\n"


def plain(value: object, where: str = "$") -> object:
    """Turn a value into what JSON can hold, or say where it cannot.

    Raises:
        RunError: a float is not finite, a key is not text, or a type has no JSON form; names the
            JSON path, as in ``$.verdicts[3].figures.p``.
    """
    if isinstance(value, (np.generic, np.ndarray)):
        value = value.tolist()
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise RunError(f"{where} is {value}: write None and give the reason in a field beside it")
        return value
    if isinstance(value, (list, tuple)):
        return [plain(item, f"{where}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, Mapping):
        return _plain_mapping(value, where)
    raise RunError(
        f"{where} is a {type(value).__name__}, which JSON cannot hold: write text, a number, a "
        "bool, None, a list or a dict"
    )


def _plain_mapping(value: Mapping[object, object], where: str) -> dict[str, object]:
    record: dict[str, object] = {}
    for key, item in value.items():
        if isinstance(key, bool) or not isinstance(key, (str, int, np.integer)):
            raise RunError(f"{where} has the key {key!r}: use text or an integer as a key")
        if str(key) in record:
            raise RunError(f"{where} has the key {str(key)!r} twice, as text and number: keep one")
        record[str(key)] = plain(item, f"{where}.{clip(safe_text(str(key)), 80)}")
    return record
