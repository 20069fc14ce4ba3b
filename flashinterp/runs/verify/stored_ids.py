"""What an id in a folder stands for; also a bare name, which a run wrote before there were ids.

``ids_v1.json`` holds the names that functions and classes had then. It never changes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from flashinterp.provenance.registry import derivation_of, record_of
from flashinterp.runs.verify.known_derivations import import_all


def stored_derivation(name: str) -> Callable[..., Any]:
    """The function that a folder names; raises as `derivation_of`."""
    import_all()
    return derivation_of(_names()["derivations"].get(name, name))


def stored_record(name: str) -> type:
    """The class that a folder names; raises as `record_of`."""
    import_all()
    return record_of(_names()["records"].get(name, name))


@cache
def _names() -> Mapping[str, Mapping[str, str]]:
    names: Mapping[str, Mapping[str, str]] = json.loads(Path(__file__).with_name("ids_v1.json").read_text("utf-8"))
    return names
