"""The functions that tables, figures and findings are made by, and the kinds of records that they are made of.

`verify` calls these and no others, whatever a folder names. A module of tables lists its own: ``MAKERS`` and, where it
takes records, ``TYPES``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

from flashinterp.audit.recorded import Recorded
from flashinterp.claims import Claim
from flashinterp.neuron import Block, NeuronId
from flashinterp.roster import Roster
from flashinterp.stats import Interval

_MODULES = tuple(
    import_module(f"flashinterp.audit.{name}")
    for name in (
        "alignment_tables",
        "catalogue_tables",
        "decode_tables",
        "dose_limit_tables",
        "figures",
        "figures_dose",
        "figures_evidence",
        "figures_layers",
        "figures_steering",
        "figures_words",
        "frequency_tables",
        "instrument_tables",
        "judge_tables",
        "lens_tables",
        "limit_tables",
        "name_tables",
        "preservation_tables",
        "regression_tables",
        "removal_tables",
        "removal_values",
        "role_tables",
        "steering_tables",
        "steering_values",
        "trained_tables",
        "verdict_tables",
    )
)


def _all(which: str) -> Iterator[tuple[str, Any]]:
    for module in _MODULES:
        for one in getattr(module, which, ()):
            yield one.__name__, one


MAKERS: dict[str, Callable[..., Any]] = dict(_all("MAKERS"))
"""By name; a name stands for one function."""

TYPES: dict[str, type] = {
    **{t.__name__: t for t in (Recorded, Block, Claim, Interval, NeuronId, Roster)},
    **dict(_all("TYPES")),
}
"""By name; a name stands for one kind of record."""
