"""Where two plain values first differ."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from flashinterp._util.text import clip

# Another processor may round a sum differently in its last places; a verdict is never that near to its threshold
# without saying so.
_TOLERANCE = 1e-9


def difference(a: Any, b: Any, where: str = "") -> str | None:
    """Where two plain values first differ, as ``[3].figures.p: 0.01, and 0.02``; None where they do not.

    Numbers may differ by what another processor rounds. A tuple is a list, an integer key its text.
    """
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        a, b = {str(k): v for k, v in a.items()}, {str(k): v for k, v in b.items()}
        if a.keys() != b.keys():
            odd = sorted(a.keys() ^ b.keys())[0]
            return f"{where}.{clip(odd, 80)}: there on one side only"
        return next(filter(None, (difference(a[key], b[key], f"{where}.{key}") for key in a)), None)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        if len(a) != len(b):
            return f"{where}: {len(a)} entries, and {len(b)}"
        both = enumerate(zip(a, b, strict=True))
        return next(filter(None, (difference(x, y, f"{where}[{i}]") for i, (x, y) in both)), None)
    return None if _alike(a, b) else f"{where}: {clip(repr(a), 80)}, and {clip(repr(b), 80)}"


def _alike(a: Any, b: Any) -> bool:
    numbers = all(isinstance(x, int | float) and not isinstance(x, bool) for x in (a, b))
    if numbers:
        return math.isclose(a, b, rel_tol=_TOLERANCE, abs_tol=1e-300)
    return isinstance(a, bool) == isinstance(b, bool) and bool(a == b)
