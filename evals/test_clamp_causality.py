"""Does driving a neuron bring its word, and is that more than any neuron does (Figure 2 of arXiv 2501.02688)?

A claim says that one neuron stands for one token. It was found by decoding weights, and fixed before the model
was run. Here the neuron is clamped at values over its own natural range, on prompts that had no part in
choosing anything, and its natural output is compared where the token stands and where other words stand. Both
sides are set against matched neurons of the same layer, because in any model, trained or not, clamping almost
any neuron moves almost any token one way or the other.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from evals.conftest import Judged, Maps, judge_on
from flashinterp import NeuronId, clamp, open_checkpoint
from flashinterp.audit.baseline import load_results, lost_claims
from flashinterp.audit.figures import DosePanel, dose_response
from flashinterp.audit.session import AuditSession
from flashinterp.capture import capture, encode
from flashinterp.claims import Claim, resolve_claim
from flashinterp.measure import Bench
from flashinterp.neuron import Site
from flashinterp.passes import input_device
from flashinterp.pytest_plugin import Evidence
from flashinterp.verdict import Evidence as Measured
from flashinterp.verdict import Verdict

PANELS = 6


def test_clamp_is_what_it_says(
    model: Any, bench: Bench, claims: tuple[Claim, ...], device: str, evidence: Evidence
) -> None:
    """A clamp changes the MLP's output by exactly what the weights say, at each of its sites.

    Implementation: for each claimed neuron and each site, one forward pass is run clean and one clamped; the
    change of that MLP's output, recorded by a hook of this test, is compared with the same change computed in
    float64 from the checkpoint's rows: act(g)(c - u)·W_down[:, n] at `up`, (act(c) - act(g))·u·W_down[:, n] at
    `gate`, (c - u·act(g))·W_down[:, n] at `post`, or what the family's formula says instead; for an expert's neuron,
    times the weight that the router gives it. The error must be within the rounding of the model's dtype.
    """
    rows = []
    ids = encode(bench.tokenizer, bench.prompts.heldout[0], input_device(model))
    for claim in dict.fromkeys(c.neuron for c in claims):
        assert claim is not None
        for site in bench.checkpoint.layout.sites:
            error, change = _clamp_error(model, bench, claim, site, ids)
            allowed = 64 * torch.finfo(model.dtype).eps
            rows.append([str(claim), site, change, error, allowed])
            assert error <= allowed, f"{claim} at {site}: off by {error:.2g} of the MLP's output"
    evidence.table(
        "mechanics",
        "The clamp does what the weights say",
        ["neuron", "site", "largest change", "relative error", "allowed"],
        rows,
        "Largest change: of any coordinate of the MLP's output, when the neuron is clamped at 7. Relative error: of "
        "that change against float64, over the largest MLP output.",
    )


def _clamp_error(model: Any, bench: Bench, neuron: NeuronId, site: Site, ids: torch.Tensor) -> tuple[float, float]:
    """The relative error of a clamp at 7 against the weights' own arithmetic, and the largest change it made."""
    value, layout, block = 7.0, bench.checkpoint.layout, neuron.block
    outputs: list[torch.Tensor] = []
    # Of experts, the whole MLP: a hook of ours on the experts themselves would run before the clamp's.
    at = layout.mlp(block.layer) if block.expert is not None else layout.tap("post", block.layer).module

    def keep(module: Any, args: Any, out: Any) -> None:
        hidden = out[0] if isinstance(out, tuple) else out
        outputs.append(hidden.detach().double().cpu().reshape(-1, hidden.shape[-1]))

    handle = model.get_submodule(at).register_forward_hook(keep)
    try:
        with torch.no_grad():
            model(ids, use_cache=False)
            with clamp(model, {neuron: value}, site=site):
                model(ids, use_cache=False)
    finally:
        handle.remove()
    clean, clamped = outputs  # [positions, d]
    seen = capture(model, [ids], [block])[0][block]
    u, g = (torch.from_numpy(x[:, neuron.neuron]).double() for x in (seen.up, seen.gate))
    fixed = torch.full_like(u, value)
    driven = {"up": (g, fixed), "gate": (fixed, u)}
    after = fixed if site == "post" else layout.formula.output(*driven[site])
    change = (after - layout.formula.output(g, u)) * torch.from_numpy(seen.weight).double()
    column = bench.checkpoint.rows("down", block)[neuron.neuron].double()
    want = change[:, None] * column
    scale = max(float(clean.abs().max()), float(clamped.abs().max()))
    return float(((clamped - clean) - want).abs().max()) / scale, float(want.abs().max())


def test_claims(audit: AuditSession, judged: Judged, bench: Bench, evidence: Evidence) -> None:
    """The verdict on each claim, with every figure that it rests on.

    Implementation: see METHOD 4 in the project's docs. `validated` needs both sides: the neuron's natural output
    tells the token from other words, and clamping it over its natural range moves the token's log-odds, each
    more than in matched neurons of the layer, with false discovery controlled over the family. A discovered
    neuron may be refuted without failing this test; a claim from a file, or a validated claim of the baseline,
    may not.
    """
    evidence.verdicts(list(judged.verdicts))
    evidence.table("verdicts", "Verdicts", *_verdict_table(judged))
    evidence.table("writing", "The writing side: clamp over the natural range", *_writing_table(judged))
    evidence.table("reading", "The reading side: natural output with the word and with others", *_reading_table(judged))
    evidence.table("direction", "Why the curve goes the way it goes", *_direction_table(judged))
    for claim, found in zip(judged.claims, judged.evidence, strict=True):
        if isinstance(found, Measured):
            evidence.arrays(_slug(claim.id), found.arrays())
    panels = [(c, e) for c, e in zip(judged.claims, judged.evidence, strict=True) if isinstance(e, Measured)][:PANELS]
    if panels:
        evidence.figure(dose_response, "natural", "Clamped over the natural range", [_panel(c, e) for c, e in panels])
        evidence.figure(
            dose_response, "stress", "Clamped from -500 to 500, as in the paper", [_stress(c, e) for c, e in panels]
        )

    if audit.truth and not audit.options.claims:
        wrong = [f"{v.claim.id} is {v.verdict}: {v.reason}" for v in judged.verdicts if v.verdict != v.claim.expect]
        assert not wrong, "a planted neuron was misjudged: " + "; ".join(wrong)
    _check_file_claims(judged.verdicts)
    if audit.options.baseline:
        lost = lost_claims(load_results(audit.options.baseline), audit.verdicts)
        assert not lost, "lost since the baseline: " + "; ".join(
            f"{one.id} ({one.token!r} at {one.neuron}) is now {one.now}: {one.reason}" for one in lost
        )


def _check_file_claims(verdicts: tuple[Verdict, ...]) -> None:
    """Of each claim in a file, one candidate at least comes out as claimed."""
    groups: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        if verdict.claim.source == "file":
            groups.setdefault(verdict.claim.group, []).append(verdict)
    failed = [g for g in groups.values() if all(v.verdict != v.claim.expect for v in g)]
    assert not failed, "claims that do not hold: " + "; ".join(
        f"{v.claim.id} ({v.claim.neuron}) claimed {v.claim.expect}, is {v.verdict}: {v.reason}"
        for g in failed
        for v in g
    )


@pytest.mark.control
def test_nothing_is_found_where_nothing_is_planted(
    audit: AuditSession, bench: Bench, claims: tuple[Claim, ...], device: str, evidence: Evidence
) -> None:
    """A model with nothing planted gets no `validated`, by the same rule on the same words.

    Implementation: the fixtures' model before planting is decoded and audited in the same way, its specialised
    neurons taken as claims. Runs on the bundled fixtures only: for any other model it has nothing to compare.
    """
    if not audit.truth:
        pytest.skip("the control model belongs to the bundled fixtures")
    from fixtures.build import built  # in the checkout only, as the control is

    checkpoint = open_checkpoint(built() / "unplanted")
    maps = Maps(checkpoint, device)
    words = dict.fromkeys((c.token, c.lens) for c in claims)
    family = tuple(
        resolve_claim(Claim(f"{str(t).strip()}-{lens}", t, None, None, lens, None, "discovered"), maps, checkpoint)  # type: ignore[arg-type]
        for t, lens in words
    )
    judged = judge_on(replace(bench, model=checkpoint.load_model(device=device), checkpoint=checkpoint), family)
    evidence.table(
        "unplanted", "The control: the same words in the model with nothing planted", *_verdict_table(judged)
    )
    validated = [str(v.claim.neuron) for v in judged.verdicts if v.verdict == "validated"]
    assert not validated, f"validated where nothing was planted: {', '.join(validated)}"


# --- tables and figures -------------------------------------------------------------------------------


def _name(claim: Claim) -> str:
    return claim.token.strip() if isinstance(claim.token, str) else f"id {claim.token}"


def _slug(text: str) -> str:
    return "".join(c if c.isalnum() and c.isascii() else "-" for c in text).strip("-").lower() or "claim"


def _verdict_table(judged: Judged) -> tuple[list[str], list[list[Any]], str]:
    rows = []
    for v in judged.verdicts:
        reads, writes = (v.reads.answer if v.reads else None), (v.writes.answer if v.writes else None)
        c = v.claim
        rows.append([c.id, _name(c), str(c.neuron), c.pole, c.lens, reads, writes, v.verdict, v.lacking])
    return (
        ["claim", "word", "neuron", "pole", "lens", "reads", "writes", "verdict", "conditions not met"],
        rows,
        "validated: reads and writes. lever: writes only. detector: reads only. refuted: neither, more than controls "
        "do. inconclusive: the evidence goes neither way. The lens has selected on one side, which proves nothing "
        "about that side; the other one is the test.",
    )


def _writing_table(judged: Judged) -> tuple[list[str], list[list[Any]], str]:
    rows = []
    for v in judged.verdicts:
        f = v.writes.figures if v.writes else {}
        keys = ("effect", "effect_low", "effect_high", "violation", "trend_p", "rank_p")
        q = v.writes.q if v.writes else None
        rest = [f.get("n_controls"), f.get("specificity"), f.get("identity_error"), f.get("noise_floor")]
        rows.append([v.claim.id, *(f.get(k) for k in keys), q, *rest])
    return (
        [
            "claim",
            "effect",
            "low",
            "high",
            "violation",
            "trend p",
            "rank p",
            "q",
            "controls",
            "specificity",
            "identity",
            "noise",
        ],
        rows,
        "Effect: mean change of the token's log-odds (nats) from the 1st to the 99th percentile of the neuron's own "
        "activation, in the claimed direction, with its 95 % bootstrap interval over prompts. Violation: distance of "
        "the mean curve from monotone. Rank p: (1 + controls at least as strong) / (1 + controls). q: "
        "Benjamini-Hochberg over the family. Specificity: share of other tokens that move less. Identity and noise: "
        "largest change of any log-probability under a clamp to the own values, and between batch sizes.",
    )


def _reading_table(judged: Judged) -> tuple[list[str], list[list[Any]], str]:
    rows = []
    for v in judged.verdicts:
        f = v.reads.figures if v.reads else {}
        keys = ("auc", "auc_low", "auc_high", "separation", "auc_p", "rank_p")
        rows.append([v.claim.id, *(f.get(k) for k in keys), v.reads.q if v.reads else None, f.get("relative_scale")])
    return (
        ["claim", "AUC", "low", "high", "separation", "test p", "rank p", "q", "relative scale"],
        rows,
        "AUC: chance that the output is higher on the word than on another word in the same context, with its "
        "interval over contexts (none where all contexts agree). Separation: difference of the means over the "
        "standard deviation on other words. Relative scale: its output over the layer's median; near 0 is dead.",
    )


def _direction_table(judged: Judged) -> tuple[list[str], list[list[Any]], str]:
    keys = ("gate", "act_gate", "z_read", "z_write", "reads_times_writes", "predicted_direction", "observed_direction")
    rows = [[v.claim.id, v.claim.pole, v.claim.drive, *(v.explained.get(k) for k in keys)] for v in judged.verdicts]
    return (
        ["claim", "pole", "claimed", "gate g", "act(g)", "z read", "z write", "read x write", "predicted", "observed"],
        rows,
        "A clamp at `up` adds act(g)·(c - u)·W_down[:, n], so the token's logit follows sign(act(g)) times the sign of "
        "what the neuron writes (z write), if it writes it at all: with z write near 0 the other tokens decide. g and "
        "act(g) are means at the measured position. z read: the word's logit by the paper lens. A negative pole means "
        "that negative values stand for the word: turning the signs of a gated neuron's up and down vectors changes "
        "nothing in the model, so either sign is as good.",
    )


def _panel(claim: Claim, e: Measured) -> DosePanel:
    return DosePanel(
        label=f"{_name(claim)} {claim.neuron}",
        values=e.doses,
        curves=_log_p(e.log_odds),
        own=float(e.own.mean()),
    )


def _stress(claim: Claim, e: Measured) -> DosePanel:
    return DosePanel(
        label=f"{_name(claim)} {claim.neuron}",
        values=e.stress_doses,
        curves=_log_p(e.stress_log_odds),
        natural=(float(e.doses[0]), float(e.doses[-1])),
    )


def _log_p(odds: np.ndarray) -> np.ndarray:
    """The log-probability of log-odds."""
    return -np.logaddexp(0, -odds)
