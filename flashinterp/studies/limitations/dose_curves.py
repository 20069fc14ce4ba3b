"""The same doses in two dtypes (METHOD 7)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from flashinterp.evaluation.claims import Claim
from flashinterp.evaluation.experiment import Experiment
from flashinterp.evaluation.natural_range import natural_text
from flashinterp.interventions.dose_response import sweep
from flashinterp.studies.limitations.dose_tables import DTYPES, PARTS, DtypeCurves
from flashinterp.studies.limitations.drive import PROMPTS

DOSES = 12


def in_two_dtypes(bench: Experiment, claims: Sequence[Claim]) -> list[DtypeCurves]:
    """The same doses in float32 and in bfloat16, over each part of the natural ranges of the claims' neurons.

    The model is loaded a second time, in the dtype that it is not in. Left out are experts that no text reaches.
    """
    models = {
        name: bench.model if bench.model.dtype == dtype else _loaded(bench, dtype)
        for name, dtype in ((name, getattr(torch, name)) for name in DTYPES)
    }
    blocks = list(dict.fromkeys(claim.neuron.block for claim in claims if claim.neuron))
    natural = natural_text(bench, blocks, [bench.token(claim).id for claim in claims])
    found = []
    for claim in claims:
        assert claim.neuron is not None
        here = natural[claim.neuron.block]
        if not len(here.up):
            continue
        low, high = here.doses(claim.neuron.neuron, 2)
        curves: dict[str, Mapping[str, NDArray[np.float32]]] = {}
        for part, share in PARTS.items():
            doses = np.linspace(low, low + share * (high - low), DOSES)
            curves[part] = {name: _curves(models[name], bench, claim, doses) for name in DTYPES}
        found.append(DtypeCurves(claim.id, claim.neuron, curves))
    return found


def _loaded(bench: Experiment, dtype: torch.dtype) -> Any:
    return bench.checkpoint.load_model(device=str(bench.model.device), dtype=dtype)


def _curves(model: Any, bench: Experiment, claim: Claim, doses: NDArray[np.float64]) -> NDArray[np.float32]:
    """[prompts, doses] the token's log-odds."""
    assert claim.neuron is not None
    prompts = bench.prompts.heldout[:PROMPTS]
    odds = sweep(model, bench.tokenizer, prompts, [claim.neuron], doses, [bench.token(claim)])
    curves: NDArray[np.float32] = odds.log_odds[0, :, :, 0].T
    return curves
