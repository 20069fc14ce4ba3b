"""Does driving a neuron bring its word, and is that more than any neuron does (Figure 2 of arXiv 2501.02688)?

A claim says that one neuron stands for one token. It was found by decoding weights, and fixed before the model
was run. Here the neuron is clamped at values over its own natural range, on prompts that had no part in
choosing anything, and its natural output is compared where the token stands and where other words stand. Both
sides are set against matched neurons of the same layer, because in any model, trained or not, clamping almost
any neuron moves almost any token one way or the other.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from evals.conftest import Judged, Maps, judge_on
from flashinterp import Checkpoint
from flashinterp.audit.baseline import load_results, lost_claims
from flashinterp.audit.figures import DosePanel, dose_response
from flashinterp.audit.session import AuditSession
from flashinterp.bench import Bench
from flashinterp.claims import Claim, resolve_claim
from flashinterp.evidence import Evidence as Measured
from flashinterp.neuron import LENSES
from flashinterp.pytest_plugin import Evidence
from flashinterp.verdict import Verdict

PANELS = 6


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
    evidence.table("direction", "Which way the curve goes, and what predicts it", *_direction_table(judged))
    evidence.table("why", "Why the curve goes the way it goes, in words", *_why_table(judged))
    for claim, found in judged.measured:
        evidence.arrays(_slug(claim.id), found.arrays())
    evidence.finding(2, "clamping them moves their token's probability, monotonically", *_in_words(judged))
    panels = judged.measured[:PANELS]
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


def _in_words(judged: Judged) -> tuple[str, str | None]:
    """The verdicts counted, and what they should be where that is known."""

    def counted(names: list[str | None]) -> str:
        return ", ".join(f"{n} {name}" for name, n in Counter(names).most_common())

    truth = [v.claim.expect for v in judged.verdicts if v.claim.source == "fixture"]
    return counted([v.verdict for v in judged.verdicts]), counted(list(truth)) if truth else None


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
    blank: Checkpoint, bench: Bench, claims: tuple[Claim, ...], device: str, evidence: Evidence
) -> None:
    """A model with nothing planted gets no `validated`, by the same rule on the same words.

    Implementation: a model of the same shape that was never trained is decoded and audited in the same way, its
    specialised neurons taken as claims. Runs on the bundled models only: for any other model it has nothing to compare.
    """
    maps = Maps(blank, device)
    words = dict.fromkeys((c.token, c.lens) for c in claims)
    open_claims = [Claim(f"{str(t).strip()}-{lens}", t, None, None, lens, None, "discovered") for t, lens in words]
    family = tuple(resolve_claim(claim, maps, blank) for claim in open_claims)
    judged = judge_on(replace(bench, model=blank.load_model(device=device), checkpoint=blank), family)
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
        tested = {"read": "writes", "write": "reads"}[LENSES[c.lens].side]
        rows.append([c.id, _name(c), str(c.neuron), c.pole, c.lens, tested, reads, writes, v.verdict, v.lacking])
    headers = [
        "claim",
        "word",
        "neuron",
        "pole",
        "lens",
        "tested by",
        "reads",
        "writes",
        "verdict",
        "conditions not met",
    ]
    if all(v.claim.source == "fixture" for v in judged.verdicts):
        headers.insert(-1, "planted as")
        rows = [[*row[:-1], v.claim.expect, row[-1]] for row, v in zip(rows, judged.verdicts, strict=True)]
    return (
        headers,
        rows,
        "validated: reads and writes. lever: writes only. detector: reads only. refuted: neither, more than controls "
        "do. inconclusive: the evidence goes neither way. The lens has selected on one side, which proves nothing "
        "about that side: the one in `tested by` is the test.",
    )


def _writing_table(judged: Judged) -> tuple[list[str], list[list[Any]], str]:
    rows = []
    for v in judged.verdicts:
        f = v.writes.figures if v.writes else {}
        keys = ("effect", "effect_low", "effect_high", "violation", "trend_p", "rank_p")
        q = v.writes.q if v.writes else None
        rest = [f.get(k) for k in ("n_controls", "specificity", "kl", "identity_error", "noise_floor")]
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
            "KL",
            "identity",
            "noise",
        ],
        rows,
        "Effect: mean change of the token's log-odds (nats) from the 1st to the 99th percentile of the neuron's own "
        "activation, in the claimed direction, with its 95 % bootstrap interval over prompts. Violation: distance of "
        "the mean curve from monotone. Rank p: (1 + controls at least as strong) / (1 + controls), in effect per unit "
        "of what each writes over its range. q: Benjamini-Hochberg over the family. Specificity: share of unrelated "
        "words that move less. KL: by how much the other words of texts about something else change (nats a token, "
        "the worse end of the range). Identity and noise: largest change of any log-probability under a clamp to the "
        "own values, and between batch sizes.",
    )


def _reading_table(judged: Judged) -> tuple[list[str], list[list[Any]], str]:
    rows = []
    for v in judged.verdicts:
        f = v.reads.figures if v.reads else {}
        keys = ("auc", "auc_low", "auc_high", "separation", "auc_p", "rank_p")
        rows.append(
            [v.claim.id, *(f.get(k) for k in keys), v.reads.q if v.reads else None]
            + [f.get("relative_scale"), f.get("theme_auc")]
        )
    return (
        ["claim", "AUC", "low", "high", "separation", "test p", "rank p", "q", "relative scale", "theme AUC"],
        rows,
        "AUC: chance that the output is higher on the word than on another word in the same context, with its "
        "interval over contexts (none where all contexts agree). Separation: difference of the means over the "
        "neuron's standard deviation on natural text. Relative scale: its output over the layer's median; near 0 is "
        "dead. Theme AUC: chance that it is higher at the end of texts after which a word of the same group may come "
        "than of others; told, not judged.",
    )


def _direction_table(judged: Judged) -> tuple[list[str], list[list[Any]], str]:
    keys = ("gate", "act_gate", "z_read", "z_write", "z_write_deviations", "predicted_direction", "observed_direction")
    rows = [[v.claim.id, v.claim.pole, v.claim.drive, *(v.explained.get(k) for k in keys)] for v in judged.verdicts]
    return (
        ["claim", "pole", "claimed", "gate g", "act(g)", "z read", "z write", "s.d.", "predicted", "observed"],
        rows,
        "A clamp at `up` adds act(g)·(c - u)·W_down[:, n], so the word's logit follows the sign of act(g) times that "
        "of what the neuron writes. g and act(g): means at the measured position. z read: the word's logit by the "
        "paper lens. z write: by the write lens; s.d.: how far above other words' (a logit that all words share "
        "cancels); within one, the neuron hardly writes the word, and the direction is not predicted (0). A negative "
        "pole means that negative values stand for the word: turning the signs of a gated neuron's up and down "
        "vectors changes nothing in the model, so either sign is as good.",
    )


def _why_table(judged: Judged) -> tuple[list[str], list[list[Any]], str]:
    rows = [[v.claim.id, str(v.claim.neuron), v.explained.get("why")] for v in judged.verdicts]
    return ["claim", "neuron", "why"], rows, "s.d.: standard deviations above or below what it writes of other words."


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
