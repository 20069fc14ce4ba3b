"""The modules that give functions and records their ids, to be imported where all of them must be known.

`verify` needs them all. What writes a folder has imported what it uses.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module

_MODULES = (
    "flashinterp.audit.alignment_tables",
    "flashinterp.audit.catalogue_tables",
    "flashinterp.audit.decode_tables",
    "flashinterp.audit.dose_limit_tables",
    "flashinterp.audit.figures",
    "flashinterp.audit.figures_dose",
    "flashinterp.audit.figures_evidence",
    "flashinterp.audit.figures_layers",
    "flashinterp.audit.figures_steering",
    "flashinterp.audit.figures_words",
    "flashinterp.audit.frequency_tables",
    "flashinterp.audit.instrument_tables",
    "flashinterp.audit.judge_tables",
    "flashinterp.audit.lens_tables",
    "flashinterp.audit.limit_tables",
    "flashinterp.audit.name_tables",
    "flashinterp.audit.preservation_tables",
    "flashinterp.audit.regression_tables",
    "flashinterp.audit.removal_tables",
    "flashinterp.audit.removal_values",
    "flashinterp.audit.role_tables",
    "flashinterp.audit.steering_tables",
    "flashinterp.audit.steering_values",
    "flashinterp.audit.trained_tables",
    "flashinterp.audit.verdict_tables",
    "flashinterp.provenance.ground_records",
)


@cache
def import_all() -> None:
    """Import all of them, so that `flashinterp.provenance.registry` knows every id of this release."""
    for module in _MODULES:
        import_module(module)
