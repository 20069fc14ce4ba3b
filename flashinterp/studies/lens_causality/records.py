"""A study of the lenses as a run folder records it, and how its results are reached again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any
from zlib import crc32

import numpy as np

from flashinterp.evaluation.judgement import Kept, Raw
from flashinterp.studies.lens_causality.ranking import Result, Study


@dataclass(frozen=True)
class Studied:
    """A study of the lenses, and what comes out of it."""

    found: Study
    results: list[Result]


def keep_study(prefix: str, found: Study, seed: int) -> Kept:
    """Keep a study of the lenses with every number that its tables rest on.

    Args:
        prefix: what stands before the names of its tables and raw files, as ``lens_predicts_causality--``.
        found: the study.
        seed: root of the random streams that its intervals are drawn from.
    """
    arrays = {f"{prefix}{world}": numbers for world, numbers in found.arrays().items()}
    about = {"lenses": list(found.real.picks), "missing": dict(found.missing)}
    return Kept({"name": prefix, "seed": seed, "raw": sorted(arrays), **about}, arrays)


def study_again(entry: Mapping[str, Any], raw: Raw) -> Studied:
    """Compute the results of a recorded study again, from its raw numbers."""
    found = Study.from_arrays({name.removeprefix(entry["name"]): raw(name) for name in entry["raw"]})
    picks = {lens: found.real.picks[lens] for lens in entry["lenses"]}  # arrays have no order, a table's rows have
    return studied(replace(found, missing=entry["missing"], real=replace(found.real, picks=picks)), entry["seed"])


def studied(found: Study, seed: int) -> Studied:
    """A study's results; the random streams are by name from the seed, as `Experiment` draws them."""
    return Studied(found, found.results(lambda name: np.random.default_rng([seed, crc32(name.encode())])))
