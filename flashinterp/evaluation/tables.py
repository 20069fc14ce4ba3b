"""The tables that show verdicts: made from verdicts alone, by the eval and again by `verify` (METHOD 4)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from flashinterp.evaluation.claims import Claim
from flashinterp.evaluation.verdict import Verdict
from flashinterp.neurons import LENSES
from flashinterp.provenance.registry import derivation
from flashinterp.report.table import Told


def claim_word(claim: Claim) -> str:
    """What a claim is about, as a person writes it."""
    return claim.token.strip() if isinstance(claim.token, str) else f"id {claim.token}"


@derivation("evaluation.verdicts", version=1)
def verdict_table(verdicts: Sequence[Verdict]) -> Told:
    """The verdict on each claim, and which side its lens left to be tested."""
    rows = []
    for v in verdicts:
        reads, writes = (v.reads.answer if v.reads else None), (v.writes.answer if v.writes else None)
        c = v.claim
        tested = {"read": "writes", "write": "reads"}[LENSES[c.lens].side]
        rows.append([c.id, claim_word(c), str(c.neuron), c.pole, c.lens, tested, reads, writes, v.verdict, v.lacking])
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
    if all(v.claim.source == "fixture" for v in verdicts):
        headers.insert(-1, "planted as")
        rows = [[*row[:-1], v.claim.expect, row[-1]] for row, v in zip(rows, verdicts, strict=True)]
    return (
        headers,
        rows,
        "validated: reads and writes. lever: writes only. detector: reads only. refuted: neither, more than controls "
        "do. inconclusive: the evidence goes neither way. The lens has selected on one side, which proves nothing "
        "about that side: the one under 'tested by' is the test.",
    )


@derivation("evaluation.writing_side", version=1)
def writing_table(verdicts: Sequence[Verdict]) -> Told:
    """The writing side: every figure of the clamp over the natural range."""
    rows = []
    for v in verdicts:
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


@derivation("evaluation.reading_side", version=1)
def reading_table(verdicts: Sequence[Verdict]) -> Told:
    """The reading side: every figure of the natural output."""
    rows = []
    for v in verdicts:
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


@derivation("evaluation.direction", version=1)
def direction_table(verdicts: Sequence[Verdict]) -> Told:
    """Which way each curve goes, and what predicts it."""
    keys = ("gate", "act_gate", "z_read", "z_write", "z_write_deviations", "predicted_direction", "observed_direction")
    rows = [[v.claim.id, v.claim.pole, v.claim.drive, *(v.explained.get(k) for k in keys)] for v in verdicts]
    return (
        ["claim", "pole", "claimed", "gate g", "act(g)", "z read", "z write", "s.d.", "predicted", "observed"],
        rows,
        "A clamp at up adds act(g)·(c - u)·W_down[:, n], so the word's logit follows the sign of act(g) times that "
        "of what the neuron writes. g and act(g): means at the measured position. z read: the word's logit by the "
        "paper lens. z write: by the write lens; s.d.: how far above other words' (a logit that all words share "
        "cancels); within one, the neuron hardly writes the word, and the direction is not predicted (0). A negative "
        "pole means that negative values stand for the word: turning the signs of a gated neuron's up and down "
        "vectors changes nothing in the model, so either sign is as good.",
    )


@derivation("evaluation.direction_reasons", version=1)
def why_table(verdicts: Sequence[Verdict]) -> Told:
    """Why each curve goes the way it goes, in words."""
    rows = [[v.claim.id, str(v.claim.neuron), v.explained.get("why")] for v in verdicts]
    return ["claim", "neuron", "why"], rows, "s.d.: standard deviations above or below what it writes of other words."


@derivation("evaluation.verdict_counts", version=1)
def verdicts_counted(verdicts: Sequence[Verdict]) -> tuple[str, str | None]:
    """The verdicts counted, in words, and what they should be where that is known."""

    def counted(names: list[str | None]) -> str:
        return ", ".join(f"{n} {name}" for name, n in Counter(names).most_common())

    truth = [v.claim.expect for v in verdicts if v.claim.source == "fixture"]
    return counted([v.verdict for v in verdicts]), counted(list(truth)) if truth else None
