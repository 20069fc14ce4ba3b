"""What results.json must look like: its JSON Schema, and the only door through which it is read.

The schema is the file ``results.schema.json`` beside this one, in the 2020-12 dialect, for any validator. `check` knows
as much of that dialect as the file uses, so that reading needs no other package.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from flashinterp._util.text import clip, safe_text
from flashinterp.errors import RunError
from flashinterp.runs.folder.run_folder import EVENTS, MANIFEST

SCHEMA_VERSION = 1
"""Of results.json. It rises when a key is renamed, removed or means something else, not when one is added."""
RESULTS = "results.json"
INCOMPLETE = "incomplete"
"""The status of a run that did not reach its end: it was killed, or its report could not be written."""
_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
    "null": (type(None),),
}


@cache
def schema() -> dict[str, Any]:
    """The JSON Schema of results.json."""
    text = (Path(__file__).parent / "results.schema.json").read_text(encoding="utf-8")
    return dict(json.loads(text))


def status_of(folder: str | Path) -> str:
    """How a run ended, by its folder: ``incomplete`` unless its manifest, written last, is there and so is its end.

    Raises:
        RunError: the folder is no run's.
    """
    path = Path(folder)
    if not any((path / name).is_file() for name in (EVENTS, MANIFEST, RESULTS)):
        raise RunError(f"{path} is no run's folder: it has neither {EVENTS} nor {MANIFEST}; give the --out of a run")
    if not all((path / name).is_file() for name in (EVENTS, MANIFEST, RESULTS)):
        return INCOMPLETE
    return str(read_json(path / RESULTS).get("status") or INCOMPLETE)


def read_results(folder: str | Path) -> dict[str, Any]:
    """The results of a finished run.

    Raises:
        RunError: the run is incomplete, results.json cannot be read, is of another schema or does not follow it.
    """
    path = Path(folder) / RESULTS
    if not path.is_file():
        told = status_of(folder)
        raise RunError(f"{path} is not there: the run is {told}; give the folder of a finished run")
    results = read_json(path)
    if (found := results.get("schema_version")) != SCHEMA_VERSION or isinstance(found, bool):
        raise RunError(
            f"{path} has schema {clip(safe_text(repr(found)), 40)}, this release reads {SCHEMA_VERSION}: give "
            "a folder that this release wrote, or read this one with its own"
        )
    for wrong in check(results, schema()):
        raise RunError(f"{path} does not follow its schema: {wrong}; give the folder of a finished run")
    if status_of(folder) == INCOMPLETE:
        raise RunError(f"{folder} is of a run that is {INCOMPLETE}: it has no {MANIFEST}; give a finished run's folder")
    return results


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file that may be hostile.

    Raises:
        RunError: not readable, not JSON, no object, or with a number that is not finite.
    """

    def refuse(constant: str) -> None:
        raise ValueError(f"it holds {constant}")

    try:
        found: Any = json.loads(path.read_bytes().decode("utf-8"), parse_constant=refuse)
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{path} cannot be read ({error}): give the folder of a finished run") from error
    if not isinstance(found, dict):
        raise RunError(f"{path} is JSON, but no object: give the folder of a finished run")
    return found


def check(value: Any, rule: Mapping[str, Any], where: str = "$") -> Iterator[str]:
    """What is wrong with a value, one line each with its JSON path; nothing where it follows the rule.

    Knows $ref into $defs, anyOf, type, const, enum, properties, required, additionalProperties, items, pattern and
    minimum.
    """
    if "$ref" in rule:
        yield from check(value, schema()["$defs"][rule["$ref"].removeprefix("#/$defs/")], where)
    if "anyOf" in rule and all(any(check(value, one, where)) for one in rule["anyOf"]):
        yield f"{where} is none of what it may be"
    kinds = rule.get("type")
    if kinds is not None and not any(_is(value, kind) for kind in ([kinds] if isinstance(kinds, str) else kinds)):
        yield f"{where} is a {type(value).__name__}, not {kinds if isinstance(kinds, str) else ' or '.join(kinds)}"
        return
    yield from _check_value(value, rule, where)
    if isinstance(value, dict):
        yield from _check_object(value, rule, where)
    if isinstance(value, list) and "items" in rule:
        for i, item in enumerate(value):
            yield from check(item, rule["items"], f"{where}[{i}]")


def _is(value: Any, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    if kind == "integer" and isinstance(value, float):
        return value.is_integer()  # as the standard has it
    return isinstance(value, _TYPES[kind])


def _check_value(value: Any, rule: Mapping[str, Any], where: str) -> Iterator[str]:
    shown = clip(safe_text(repr(value)), 60)
    if "const" in rule and not _equal(value, rule["const"]):
        yield f"{where} is {shown}, not {rule['const']!r}"
    if "enum" in rule and not any(_equal(value, one) for one in rule["enum"]):
        yield f"{where} is {shown}, none of {', '.join(map(str, rule['enum']))}"
    if "pattern" in rule and isinstance(value, str) and not re.search(rule["pattern"], value):
        yield f"{where} is {shown}, which does not match {rule['pattern']}"
    if "minimum" in rule and isinstance(value, int | float) and value < rule["minimum"]:
        yield f"{where} is {shown}, below {rule['minimum']}"


def _equal(value: Any, other: Any) -> bool:
    return isinstance(value, bool) == isinstance(other, bool) and bool(value == other)


def _check_object(value: dict[str, Any], rule: Mapping[str, Any], where: str) -> Iterator[str]:
    properties, rest = rule.get("properties", {}), rule.get("additionalProperties", True)
    yield from (f"{where} lacks {key!r}" for key in rule.get("required", ()) if key not in value)
    for key, item in value.items():
        named = f"{where}.{clip(safe_text(key), 80)}"
        if key in properties:
            yield from check(item, properties[key], named)
        elif rest is False:
            yield f"{named} is not known to the schema"
        elif isinstance(rest, dict):
            yield from check(item, rest, named)
