"""An exported clamp beside the clamp by hooks, and which copies are not written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flashinterp.evaluation.experiment import Experiment
from flashinterp.evaluation.natural_range import natural_range
from flashinterp.evaluation.profiles import PROFILES
from flashinterp.evaluation.prompts import shipped
from flashinterp.interventions import clamp_export
from flashinterp.models.checkpoint import Checkpoint
from flashinterp.neurons import NeuronId
from flashinterp.studies.concept_erasure import exported_clamp
from flashinterp.studies.concept_erasure.exported_clamp import compare_export, compare_exports, why_not_exported

DOG = NeuronId(1, 17)


@pytest.fixture(scope="module")
def bench(planted_model: Any, planted: Checkpoint) -> Experiment:
    return Experiment(planted_model, planted, shipped(), replace(PROFILES["smoke"], selection=2, prompts=2), 0)


def test_each_site_alone_and_together(bench: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(exported_clamp, "compare_export", lambda *given: asked.append(given[2:]) or given[3])
    other = NeuronId(0, 3)
    assert compare_exports(bench, [DOG, other], tmp_path) == [s for s in bench.checkpoint.layout.sites for _ in "ab"]
    values = {neuron: natural_range(bench, neuron)[1] for neuron in (DOG, other)}
    assert [clamps for clamps, _, _ in asked] == [{DOG: values[DOG]}, values] * len(bench.checkpoint.layout.sites)
    assert len({folder for _, _, folder in asked}) == len(asked)


def test_the_copy_is_the_clamped_model_or_not(
    bench: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = compare_export(bench, bench.model, {DOG: 5.0}, "up", tmp_path / "a")
    assert (sound.reading, sound.neurons, len(sound.off)) == ("yes", (DOG,), len(bench.heldout))
    monkeypatch.setattr(clamp_export, "_edits", lambda *_: {})
    assert compare_export(bench, bench.model, {DOG: 5.0}, "up", tmp_path / "b").reading == "no"


def test_what_is_not_written(planted: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    assert why_not_exported(planted, [DOG]) == ""
    assert "in experts" in why_not_exported(planted, [])
    monkeypatch.setattr(exported_clamp, "LARGEST", 1e3)
    assert "is not written here" in why_not_exported(planted, [DOG])
