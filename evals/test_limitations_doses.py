"""Where doses end: clamps that the norm takes away, steps that rounding takes away, and neurons that never fire.

Each is a limit of what a curve of doses can show, is measured on every model, and has a page in docs/limitations.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from evals.conftest import Judged, Maps
from flashinterp import Checkpoint, NeuronId, sweep
from flashinterp.audit.session import AuditSession
from flashinterp.bench import Bench
from flashinterp.claims import Claim
from flashinterp.controls import DEAD_SCALE
from flashinterp.dose_steps import Steps, count_steps
from flashinterp.evidence import Evidence as Measured
from flashinterp.natural import natural_text
from flashinterp.pytest_plugin import Evidence
from flashinterp.stats import wilson

DOSES = 12
MOST_LEFT = 0.1  # of a slope within the natural range, at 500: a planted neuron's u is some tens at the most
LOW_DOSES = 0.02  # of the natural range
PROMPTS = 6
MOST_CLAIMS = 8
MOST_PARAMETERS = 3e9  # of a model that is loaded a second time, in another dtype: 12 GB


@pytest.mark.limitation
def test_saturation_at_high_dose(audit: AuditSession, judged: Judged, evidence: Evidence) -> None:
    """Far outside the natural range a higher dose does little more: the final norm takes the neuron's growth away.

    Implementation: for each claim, the change of log-odds per unit of clamp value within the natural range and
    over the last step of the -500…500 curve in the claimed direction. A doubling of the dose near 500 says
    little about doses that occur. Limit FI-L002.
    """
    rows: list[list[Any]] = []
    for claim, e in zip(judged.claims, judged.evidence, strict=True):
        if not isinstance(e, Measured):
            continue
        natural = (
            (e.log_odds[:, -1] - e.log_odds[:, 0]).mean() / (e.doses[-1] - e.doses[0])
            if e.doses[-1] > e.doses[0]
            else None
        )
        mean = e.stress_log_odds.mean(axis=0)
        last = slice(-2, None) if claim.drive == "+" else slice(None, 2)
        far = float(np.diff(mean[last])[0] / np.diff(e.stress_doses[last])[0])
        share = far / natural if natural else None
        rows.append([claim.id, str(claim.neuron), None if natural is None else float(natural), far, share])
    evidence.table(
        "saturation",
        "What a unit of clamp value does, near and far (FI-L002)",
        ["claim", "neuron", "per unit, natural range", "per unit, at 500", "share left"],
        rows or [["none", None, None, None, None]],
        "Change of the token's log-odds (nats) per unit of clamp value.",
    )
    for plant in (audit.truth or {}).get("plants", []):
        if plant["verdict"] == "validated":
            share = next(row[4] for row in rows if row[0] == plant["id"])
            assert abs(share) < MOST_LEFT, f"{plant['id']}: {share:.1%} of its slope is left at 500"


# --- rounding ---------------------------------------------------------------------------------------------


@pytest.mark.limitation
def test_rounding_at_low_doses(
    audit: AuditSession, base: Checkpoint, claims: tuple[Claim, ...], model: Any, bench: Bench, evidence: Evidence
) -> None:
    """The same doses in float32 and in bfloat16: how many steps of the curve go the wrong way, or nowhere.

    Implementation: each claim's neuron is clamped at 12 values over the whole natural range, and at 12 over its first
    fiftieth, on held-out prompts, in both dtypes. A step is *reversed* if the token's log-odds move against the
    direction of the whole float32 curve on that prompt, and *level* if they do not move. bfloat16 keeps 8 bits: what a
    small step adds to the residual stream may be below its last place. Claims whose neurons cannot be swept, and
    models that would not fit twice, are told. Limit FI-L009.
    """
    if (size := sum(p.numel() for p in model.parameters())) > MOST_PARAMETERS:
        reason = f"not measured: {size:,} parameters in a second dtype"
        evidence.table("rounding", "Steps in two dtypes (FI-L009)", ["remark"], [[reason]])
        pytest.skip(reason)
    chosen = [claim for claim in claims if claim.neuron is not None][:MOST_CLAIMS]
    blocks = list(dict.fromkeys(claim.neuron.block for claim in chosen if claim.neuron))
    natural = natural_text(bench, blocks, [bench.token(claim).id for claim in chosen])
    models = {
        dtype: model if model.dtype == dtype else base.load_model(device=str(model.device), dtype=dtype)
        for dtype in (torch.float32, torch.bfloat16)
    }
    ranges = {"whole range": 1.0, "first fiftieth": LOW_DOSES}
    total = {(part, dtype): Steps(0, 0, 0) for part in ranges for dtype in models}
    rows: list[list[Any]] = []
    for claim in chosen:
        assert claim.neuron is not None
        here = natural[claim.neuron.block]
        if not len(here.up):
            continue  # an expert that no text reaches
        low, high = here.doses(claim.neuron.neuron, 2)
        ways = None
        for part, share in ranges.items():
            row: list[Any] = [claim.id, str(claim.neuron), part]
            for dtype, loaded in models.items():
                curves = _curves(loaded, bench, claim, np.linspace(low, low + share * (high - low), DOSES))
                ways = np.sign(curves[:, -1] - curves[:, 0]) if ways is None else ways  # whole range, float32
                steps = count_steps(curves, ways)
                total[part, dtype] += steps
                row += [steps.reversed, steps.level]
            rows.append([*row, steps.n])
    for part in ranges:
        both = [total[part, dtype] for dtype in models]
        rows.append(["all", None, part, *(n for one in both for n in (one.reversed, one.level)), both[0].n])
    evidence.table(
        "rounding",
        "Steps in two dtypes (FI-L009)",
        ["claim", "neuron", "doses", "float32: reversed", "level", "bfloat16: reversed", "level", "steps"],
        rows,
        "Steps between neighbouring doses, over all prompts. Reversed: against the direction of the whole range in "
        "float32 on the same prompt. A curve's last digits say nothing where many steps are level or reversed.",
    )
    if audit.truth:
        lost = {key: (steps.reversed + steps.level) / steps.n for key, steps in total.items()}
        part = "first fiftieth"
        assert lost[part, torch.bfloat16] > lost[part, torch.float32] + 0.1, lost


def _curves(model: Any, bench: Bench, claim: Claim, doses: Any) -> Any:
    """[prompts, doses] the token's log-odds."""
    assert claim.neuron is not None
    odds = sweep(model, bench.tokenizer, bench.prompts.heldout[:PROMPTS], [claim.neuron], doses, [bench.token(claim)])
    return odds.log_odds[0, :, :, 0].T


# --- dead neurons -----------------------------------------------------------------------------------------


@pytest.mark.limitation
def test_dead_neurons(audit: AuditSession, base: Checkpoint, maps: Maps, bench: Bench, evidence: Evidence) -> None:
    """How many neurons of each layer do nothing on natural text, and what the lens names them nevertheless.

    Implementation: a neuron is dead if the standard deviation of its output u · act(g) on the selection texts, times
    the norm of its column of W_down, is below 1 % of its MLP's median. The lens does not know: the dead neuron
    with the highest score for its own best word is named, with that word. Of a model with experts, dead includes
    those whose expert no text reaches. Limit FI-L010.
    """
    paper, roster = maps["paper"], base.layout.roster
    rows: list[list[Any]] = []
    dead: set[str] = set()
    for layer in roster.layers:
        blocks = [block for block in roster.blocks if block.layer == layer]
        natural = natural_text(bench, blocks)
        names: list[NeuronId] = []
        for block in blocks:
            scale = natural[block].scale.output
            low = ~(scale > DEAD_SCALE * np.median(scale))  # a layer that is silent altogether is dead, too
            names += [NeuronId(layer, int(n), block.expert) for n in np.flatnonzero(low)]
        dead |= {str(name) for name in names}
        total = sum(roster.width(block) for block in blocks)
        share = wilson(len(names), total)
        assert share is not None
        best = max(((paper.words(name, 1)[0], name) for name in names), key=lambda one: one[0].score, default=None)
        told = [None, None, None] if best is None else [str(best[1]), str(best[0].token), best[0].score]
        rows.append([layer, total, len(names), share.estimate, share.low, share.high, *told])
    evidence.table(
        "dead",
        "Dead neurons (FI-L010)",
        ["layer", "neurons", "dead", "share", "low", "high", "one of them", "its best word", "score"],
        rows,
        "Dead on these texts: on others they may live. Intervals: Wilson's. The word is the paper lens's, as sure "
        "as a living neuron's.",
    )
    for plant in (audit.truth or {}).get("plants", []):
        if plant["verdict"] == "validated" or not plant["alive"]:
            assert (plant["name"] in dead) != plant["alive"], f"{plant['name']} ({plant['id']})"
