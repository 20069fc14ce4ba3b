"""A neuron map as one safetensors file: what is written, and what is read back and checked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flashinterp._util.arrays import Arrays, read_arrays, write_arrays
from flashinterp.decoding.token_index import PoleIndex
from flashinterp.errors import MapError
from flashinterp.neuron_index import NeuronIndex
from flashinterp.tokens import Vocabulary

SCHEMA_VERSION = 3
"""1: without an index. 2: with one. 3: with experts, hence layers of different widths."""
_POLE_NAMES = ("plus", "minus")
ARRAYS = (
    "top_ids",
    "top_logits",
    "logsumexp",
    "log_mean_top",
    "bottom_ids",
    "bottom_logits",
    "bottom_logsumexp",
    "bottom_log_mean_top",
    "norms",
)
"""The fields of a `NeuronMap` that are one array each."""


@dataclass(frozen=True)
class MapParts:
    """What a map file holds.

    Attributes:
        arrays: by the names in `ARRAYS`, N rows each.
        roster: which neurons, in order.
        vocabulary: the words.
        meta: what the map was made from.
        indexes: from token to neurons, for "+" and "-".
    """

    arrays: Arrays
    roster: NeuronIndex
    vocabulary: Vocabulary
    meta: dict[str, Any]
    indexes: tuple[PoleIndex, ...]


def write_map(path: Path, parts: MapParts) -> None:
    """Write a map, whole or not at all.

    Raises:
        MapError: the place cannot be written.
    """
    arrays = {name: np.ascontiguousarray(parts.arrays[name]) for name in ARRAYS}
    words = {
        "surfaces": parts.vocabulary.surfaces,
        "excluded": np.flatnonzero(parts.vocabulary.excluded).tolist(),
        "prefix_space": parts.vocabulary.prefix_space,
    }
    for name, index in zip(_POLE_NAMES, parts.indexes, strict=True):
        arrays |= {f"index_{name}": index.places, f"bound_rows_{name}": index.bound_rows}
    arrays["vocabulary"] = np.frombuffer(json.dumps(words).encode(), dtype=np.uint8)
    about = {"schema_version": SCHEMA_VERSION, "blocks": parts.roster.as_rows(), **parts.meta}
    write_arrays(path, arrays, {"flashinterp": json.dumps(about, sort_keys=True)})


def read_map(path: Path) -> MapParts:
    """Read a map that `write_map` wrote.

    Raises:
        MapError: not a map, damaged, or of another schema.
    """
    try:
        stored, metadata = read_arrays(path)
        about = _about(path, metadata)
        words = json.loads(stored["vocabulary"].tobytes())
        parts = MapParts(
            arrays={name: stored[name] for name in ARRAYS},
            roster=NeuronIndex.from_rows(about.pop("blocks")),
            vocabulary=Vocabulary(words["surfaces"], words["excluded"], prefix_space=words["prefix_space"]),
            meta=about,
            indexes=tuple(PoleIndex(stored[f"index_{p}"], stored[f"bound_rows_{p}"]) for p in _POLE_NAMES),
        )
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise MapError(f"{path} is not a whole neuron map ({error}): decode the model again") from error
    if any(len(array) != len(parts.roster) for array in parts.arrays.values()):
        raise MapError(f"{path} does not hold {len(parts.roster)} neurons ({parts.roster}): decode the model again")
    return parts


def _about(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    about = json.loads(metadata.get("flashinterp", "null"))
    if not isinstance(about, dict):
        raise MapError(f"{path} is safetensors, but no neuron map: give a file that NeuronMap.save wrote")
    version = about.pop("schema_version", None)
    if version != SCHEMA_VERSION:
        raise MapError(f"{path} has map schema {version}, this release reads {SCHEMA_VERSION}: decode the model again")
    return about
