"""An id means the same from release to release: what changed needs a new version."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from flashinterp.provenance.packing import field_names
from flashinterp.provenance.registry import AREAS, derivations, records
from flashinterp.runs.verify import stored_ids
from flashinterp.runs.verify.known_derivations import import_all

PINNED = Path(__file__).with_name("ids.json")
HOW = (
    "Folders keep values by these names. Give what changed a new version and keep what the old version stands for as "
    "long as its folders are to be verified; then run `python -m tests.provenance.test_ids` in the project's folder."
)


def ours(things: Mapping[str, Any]) -> dict[str, Any]:
    return {key: thing for key, thing in things.items() if key.partition(".")[0] in AREAS}


def now() -> dict[str, dict[str, list[str]]]:
    import_all()
    return {
        "derivations": {key: list(inspect.signature(make).parameters) for key, make in ours(derivations()).items()},
        "records": {key: field_names(kind) for key, kind in ours(records()).items()},
    }


@pytest.mark.parametrize("kind", ["derivations", "records"])
def test_an_id_keeps_its_parameters_and_its_fields(kind: str) -> None:
    pinned, found = json.loads(PINNED.read_text(encoding="utf-8"))[kind], now()[kind]
    changed = {key: (pinned[key], found.get(key)) for key in pinned if found.get(key) != pinned[key]}
    assert not changed, f"{kind}: {changed}. {HOW}"
    assert found.keys() == pinned.keys(), f"{kind} that are not pinned: {found.keys() - pinned.keys()}. {HOW}"


@pytest.mark.parametrize("kind", ["derivations", "records"])
def test_every_name_of_old_folders_stands_for_something(kind: str) -> None:
    names = stored_ids._names()[kind]
    assert len(names) == len(set(names.values())) == {"derivations": 83, "records": 53}[kind]
    assert set(names.values()) <= now()[kind].keys()


def test_no_id_is_that_of_a_function_and_of_a_record() -> None:
    assert not now()["derivations"].keys() & now()["records"].keys()


if __name__ == "__main__":
    PINNED.write_text(json.dumps(now(), indent=1) + "\n", encoding="utf-8")
