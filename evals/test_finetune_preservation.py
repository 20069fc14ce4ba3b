"""Do neurons keep their words through fine-tuning (arXiv 2501.02688: 75.4 % in Llama 3.1 8B)?

A base model and its fine-tune are decoded with their own heads, and each neuron's top token is compared. Base
and tuned share the neuron's place, so a kept label is a statement about the same neuron. It is not a statement
about its role: for that, the claims' causal effect is measured in both models.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from evals.conftest import Judged, Maps
from flashinterp import Checkpoint, NotComparable, Preservation, compare
from flashinterp.audit.figures import preservation
from flashinterp.audit.session import AuditSession
from flashinterp.preserve import row_cosines
from flashinterp.pytest_plugin import Evidence
from flashinterp.stats import Interval

CHANGED = 10
WORDS = 5


def test_top_tokens_kept(
    audit: AuditSession, base: Checkpoint, maps: Maps, tuned_maps: Maps | None, device: str, evidence: Evidence
) -> None:
    """The share of neurons whose top token is the same before and after fine-tuning, layer by layer.

    Implementation: the paper lens, positive pole, special and padded ids left out, Wilson intervals. "Clear
    labels" leaves out neurons whose top token led the second by less than bfloat16 rounds away, in either model: their
    change says nothing. "Base head" decodes both models' rows with the base model's head, which separates a
    change of the rows from one of the head. Models with different tokenizers are not comparable, which is a
    result and not a failure. On the fixtures the share is known exactly.
    """
    if tuned_maps is None or audit.tuned is None:
        _not_measured(evidence, "shares")
    try:
        own = compare(maps["paper"], tuned_maps["paper"])
        same_head = compare(maps["paper"], Maps(audit.tuned, device, head_of=base)["paper"])
    except NotComparable as error:
        evidence.table("shares", "Top tokens kept", ["verdict", "reason"], [["not_comparable", str(error)]])
        return
    cosines = row_cosines(base, audit.tuned, "up")
    evidence.table("shares", "Top tokens kept through fine-tuning", *_shares(own, same_head, cosines))
    evidence.table("changed", "The neurons that changed most", *_changed(own, cosines))
    evidence.arrays("labels", {"kept": own.kept, "near_tie": own.near_tie, "jaccard": own.jaccard, "cosine": cosines})
    shares = [layer.share for layer in own.per_layer if layer.share]
    evidence.figure(
        preservation,
        "layers",
        "Top tokens kept, by layer",
        [layer.layer for layer in own.per_layer],
        [s.estimate for s in shares],
        [s.low for s in shares],
        [s.high for s in shares],
        own.share.estimate if own.share else 0.0,
    )
    if audit.truth:
        assert own.share is not None
        assert own.share.estimate == audit.truth["tuned"]["kept_share"]
        changed = {str(own.map_a.neuron(int(i))) for i in np.flatnonzero(~own.kept)}
        planted = {f"L{layer}N{n}" for layer, neurons in audit.truth["tuned"]["changed"].items() for n in neurons}
        assert changed == planted, f"of {len(own.kept)} neurons, others changed than were changed"


def test_causal_role_kept(
    audit: AuditSession, judged: Judged, judged_tuned: Judged | None, tuned_maps: Maps | None, evidence: Evidence
) -> None:
    """A preserved label is not a preserved role: each claim's effect and verdict in both models.

    Implementation: the same claims, neuron for neuron, measured and judged on the fine-tune with the same
    prompts and seeds. "Label" is the neuron's best word there on the claim's pole.
    """
    if judged_tuned is None or tuned_maps is None:
        _not_measured(evidence, "roles")
    rows = []
    for old, new in zip(judged.verdicts, judged_tuned.verdicts, strict=True):
        assert old.claim.neuron is not None
        best = tuned_maps[old.claim.lens].words(old.claim.neuron, 1, old.claim.pole or "+")
        effects = [v.writes.figures["effect"] if v.writes else None for v in (old, new)]
        rows.append(
            [
                old.claim.id,
                str(old.claim.neuron),
                *effects,
                old.verdict,
                new.verdict,
                str(best[0].token) if best else None,
            ]
        )
    evidence.table(
        "roles",
        "Causal roles before and after",
        ["claim", "neuron", "effect, base", "effect, tuned", "verdict, base", "verdict, tuned", "label, tuned"],
        rows,
        "Effect: change of the token's log-odds (nats) over the neuron's natural range in that model.",
    )
    if audit.truth and not audit.options.claims:
        lost = set(audit.truth["tuned"]["lost"])
        after = {v.claim.id: v.verdict for v in judged_tuned.verdicts}
        before = {v.claim.id: v.verdict for v in judged.verdicts}
        assert all(after[i] != "validated" for i in lost), "a neuron that was overwritten is still validated"
        kept = {i for i, v in before.items() if v == "validated"} - lost
        assert all(after[i] == "validated" for i in kept), (
            f"lost in the tuned sibling: {[i for i in kept if after[i] != 'validated']}"
        )


def _not_measured(evidence: Evidence, name: str) -> Any:
    reason = "no fine-tune was given: name one with --tuned"
    evidence.table(name, f"Preservation: {name}", ["verdict", "reason"], [["not_measured", reason]])
    pytest.skip(reason)


def _shares(own: Preservation, same_head: Preservation, cosines: np.ndarray) -> tuple[list[str], list[list[Any]], str]:
    def cells(share: Interval | None) -> list[Any]:
        return [share.estimate, share.low, share.high] if share else [None, None, None]

    rows: list[list[Any]] = []
    for layer, base_head in zip(own.per_layer, same_head.per_layer, strict=True):
        part = own.map_a.roster.layer_span(layer.layer)
        clear = ~own.near_tie[part]
        kept_clear = float(own.kept[part][clear].mean()) if clear.any() else None
        rows.append(
            [
                f"layer {layer.layer}",
                layer.n,
                *cells(layer.share),
                kept_clear,
                base_head.share and base_head.share.estimate,
            ]
            + [float(own.jaccard[part].mean()), float(cosines[part].mean())]
        )
    overall = [own.share_clear and own.share_clear.estimate, same_head.share and same_head.share.estimate]
    rows.append(
        ["all layers", len(own.kept), *cells(own.share), *overall, float(own.jaccard.mean()), float(cosines.mean())]
    )
    swapped, near = int(own.swapped.sum()), int((~own.kept & own.near_tie).sum())
    return (
        [
            "",
            "neurons",
            "kept",
            "low",
            "high",
            "clear labels",
            "base head",
            f"Jaccard@{own.map_a.top_ids.shape[1]}",
            "cosine",
        ],
        rows,
        f"Kept: share with the same top token, 95 % Wilson interval. Of {int((~own.kept).sum())} changed neurons, "
        f"{near} were near-ties and {swapped} only swapped their first two words. Cosine: of the W_up rows, mean.",
    )


def _changed(own: Preservation, cosines: np.ndarray) -> tuple[list[str], list[list[Any]], str]:
    rows = []
    for neuron in own.most_changed(CHANGED):
        before, after = (", ".join(str(w.token) for w in m.words(neuron, WORDS)) for m in (own.map_a, own.map_b))
        at = own.map_a.index(neuron)
        rows.append([str(neuron), before, after, float(own.jaccard[at]), float(cosines[at])])
    return (
        ["neuron", "words before", "words after", "Jaccard", "cosine"],
        rows or [["none", None, None, None, None]],
        "Least overlap of the kept words first.",
    )
