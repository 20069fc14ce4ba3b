"""The modules that give functions and records their ids, to be imported where all of them must be known.

`verify` needs them all. What writes a folder has imported what it uses.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module

_MODULES = (
    "flashinterp.evaluation.figures",
    "flashinterp.evaluation.tables",
    "flashinterp.provenance.ground_records",
    "flashinterp.report.charts.dose_damage",
    "flashinterp.report.charts.dose_response",
    "flashinterp.report.charts.layers",
    "flashinterp.report.charts.neurons",
    "flashinterp.report.charts.shares",
    "flashinterp.runs.compare.regression_tables",
    "flashinterp.studies.concept_erasure.records",
    "flashinterp.studies.concept_erasure.tables",
    "flashinterp.studies.finetuning.label_tables",
    "flashinterp.studies.finetuning.role_tables",
    "flashinterp.studies.instrument_checks.clamp_tables",
    "flashinterp.studies.instrument_checks.decode_tables",
    "flashinterp.studies.lens_causality.figures",
    "flashinterp.studies.lens_causality.tables",
    "flashinterp.studies.limitations.dose_tables",
    "flashinterp.studies.limitations.name_tables",
    "flashinterp.studies.limitations.shared_neuron_tables",
    "flashinterp.studies.steering.judge_tables",
    "flashinterp.studies.steering.records",
    "flashinterp.studies.steering.tables",
    "flashinterp.studies.vocabulary.alignment_tables",
    "flashinterp.studies.vocabulary.word_figures",
    "flashinterp.studies.vocabulary.word_tables",
    "flashinterp.studies.word_frequency.concentration_tables",
    "flashinterp.studies.word_frequency.training_tables",
)


@cache
def import_all() -> None:
    """Import all of them, so that `flashinterp.provenance.registry` knows every id of this release."""
    for module in _MODULES:
        import_module(module)
