"""Do neurons keep their words and their roles through fine-tuning (arXiv 2501.02688: 75.4 % of words, Llama 3.1 8B)?

A base model and its fine-tune are decoded with their own heads, and each neuron's top token is compared. Base
and tuned share the neuron's place, so a kept label is a statement about the same neuron. It is not a statement
about its role: for that, each validated claim's causal curve is measured in both models at the same clamp values, and
that the two are alike has to be shown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, NoReturn

import numpy as np
import pytest

from evals.conftest import Judged, Maps
from flashinterp import Checkpoint, NotComparable, Preservation, compare, open_checkpoint
from flashinterp.audit.figures import preservation
from flashinterp.audit.role_tables import difference, label_words, role_table, why_table
from flashinterp.audit.session import AuditSession
from flashinterp.bench import Bench
from flashinterp.gains import GAIN, gained
from flashinterp.measure_roles import Side, measure_roles
from flashinterp.neuron_map import Word
from flashinterp.preserve import CHANGES, NEAR_TIE, decompose, peer_percentile, row_cosines
from flashinterp.pytest_plugin import Evidence
from flashinterp.roles import ROLES, Role, judge_roles
from flashinterp.stats import Interval

CHANGED = 10
WORDS = 5
GAINED = 10


def test_top_tokens_kept(
    audit: AuditSession, base: Checkpoint, maps: Maps, tuned_maps: Maps | None, device: str, evidence: Evidence
) -> None:
    """The share of neurons whose top token is the same before and after fine-tuning, by layer, and why others changed.

    Implementation: the paper lens, positive pole, special and padded ids left out, Wilson intervals. A change is a
    *near tie* where in either model the new top token and the old one are as near as bfloat16 rounds, *swapped*
    where the first two changed places, else *changed*. A label is a row's product with the head: the share that was
    lost is split into the rows' change and the head's, by decoding each model's rows with the other's head (mean
    over both orders of change). Of the neurons that changed most: the words lost and gained among the best five,
    and where their cosine stands among the 200 neurons of the layer nearest in the row's norm. Models with
    different tokenizers are not comparable, which is a result and not a failure. On the bundled decoys the share is
    known exactly.
    """
    if tuned_maps is None or audit.tuned is None:
        _not_measured(evidence, "shares")
    try:
        own = compare(maps["paper"], tuned_maps["paper"])
        base_head = compare(maps["paper"], Maps(audit.tuned, device, head_of=base)["paper"])
        tuned_head = compare(maps["paper"], Maps(base, device, head_of=audit.tuned)["paper"])
    except NotComparable as error:
        evidence.table("shares", "Top tokens kept", ["verdict", "reason"], [["not_comparable", str(error)]])
        return
    cosines = row_cosines(base, audit.tuned, "up")
    evidence.table("shares", "Top tokens kept through fine-tuning", *_shares(own, base_head, cosines))
    evidence.table("causes", "What became of the labels, and why", *_causes(own, base_head, tuned_head))
    evidence.table("changed", "The neurons that changed most", *_changed(own, cosines))
    evidence.arrays("labels", _label_arrays(own, base_head, tuned_head, cosines))
    shares = [layer.share for layer in own.per_layer if layer.share]
    evidence.figure(
        preservation,
        "layers",
        "Top tokens kept, by layer",
        [layer.layer for layer in own.per_layer if layer.share],
        [s.estimate for s in shares],
        [s.low for s in shares],
        [s.high for s in shares],
        own.share.estimate if own.share else 0.0,
    )
    truth = (audit.truth or {}).get("tuned", {})
    share = own.share
    evidence.finding(
        3,
        "75.4 % of neurons keep their top token through instruction tuning",
        "no neuron has a label" if share is None or share.low is None or share.high is None
        else f"{share.estimate:.1%} [{share.low:.1%}, {share.high:.1%}] keep it",
        f"{truth['kept_share']:.1%}" if "kept_share" in truth else "not known" if audit.truth else None,
    )  # fmt: skip
    if "kept_share" in truth:
        assert own.share is not None
        assert own.share.estimate == truth["kept_share"]
    if "changed" in truth:
        changed = {str(own.map_a.neuron(int(i))) for i in np.flatnonzero(~own.kept)}
        planted = {f"L{layer}N{n}" for layer, neurons in truth["changed"].items() for n in neurons}
        assert changed == planted, f"of {len(own.kept)} neurons, others changed than were changed"


def test_causal_role_kept(
    audit: AuditSession,
    base: Checkpoint,
    bench: Bench,
    maps: Maps,
    judged: Judged,
    judged_tuned: Judged | None,
    tuned_maps: Maps | None,
    session_tuned_model: Any,
    evidence: Evidence,
) -> None:
    """A preserved label is not a preserved role: each validated claim's causal curve in both models.

    Implementation: each neuron that was validated on the base is clamped in both models at the base's own natural
    doses, on the same held-out prompts, four times as many as a verdict takes and 48 at least. *Role kept*: at
    every dose the 90 % interval of the paired difference of the curves lies within the margin (two one-sided t
    tests; a quarter of the base's effect, 0.1 nats at least, half of the effect at most), and the neuron still
    fires at its word (AUC at least 0.75, and at least half as strongly); whatever its label. *Moved*: another
    neuron is the word's best by the same lens and pole, was not before, and over its own natural range has gained
    at least half of the old effect. *Label kept*: its best word is the same, and an equal role is not shown.
    *Lost*: none of these. A role that is not shown to be kept is not shown to be lost: the interval says which.
    Beside it the whole verdict on the fine-tune, over its own natural range.
    """
    if judged_tuned is None or tuned_maps is None or audit.tuned is None:
        _not_measured(evidence, "roles")
    sides = Side(bench, maps), Side(replace(bench, model=session_tuned_model, checkpoint=audit.tuned), tuned_maps)
    found = measure_roles(*sides, judged.verdicts, judged.evidence)
    roles = judge_roles(judged.verdicts, found)
    words = label_words(found, maps["paper"].vocabulary.show)
    audit.add_roles("roles", roles, found, base="claims", tuned="claims-tuned", words=words)
    evidence.table("roles", "Causal roles before and after, at the same clamp values", *role_table(roles, found, words))
    both = judged.verdicts, judged_tuned.verdicts
    evidence.table("roles-why", "Why, and what else is known of them", *why_table(roles, *both))
    truth = (audit.truth or {}).get("tuned", {})
    evidence.finding(
        4,
        "(of their roles it says nothing)",
        _counted([r.role for r in roles if r.role]) or "no claim was validated on the base",
        (_counted(truth.get("roles", {}).values()) or "not known") if audit.truth else None,
    )
    evidence.table("gained", "Words that gained a neuron, by the weights", *_gained(maps, tuned_maps))
    if audit.options.claims:
        return
    if "lost" in truth:
        lost = set(truth["lost"])
        after = {v.claim.id: v.verdict for v in judged_tuned.verdicts}
        before = {v.claim.id: v.verdict for v in judged.verdicts}
        assert all(after[i] != "validated" for i in lost), "a neuron that was overwritten is still validated"
        assert not {r.claim.id for r in roles if r.role == "role kept"} & lost, "an overwritten neuron kept its role"
        kept = {i for i, v in before.items() if v == "validated"} - lost
        assert all(after[i] == "validated" for i in kept), (
            f"lost in the tuned sibling: {[i for i in kept if after[i] != 'validated']}"
        )
    _check(roles, truth, maps, tuned_maps)


def test_fine_tunes_told_apart(
    audit: AuditSession,
    bench: Bench,
    maps: Maps,
    judged: Judged,
    load: Callable[[Checkpoint], Any],
    device: str,
    evidence: Evidence,
) -> None:
    """Several fine-tunes of one base, each with what was done to it: does the table say the right thing of each?

    Implementation: as the evals above, for each fine-tune that the bundled model's truth names: roles kept by training
    alone, a neuron moved, a neuron overwritten, and a concept that the base had not.
    """
    known = (audit.truth or {}).get("fine_tunes", {})
    if not known or audit.options.claims or audit.base.folder is None:
        _not_measured(evidence, "fine-tunes", "only a bundled model comes with several fine-tunes of known truth")
    summary: list[list[Any]] = []
    rows: list[list[Any]] = []
    judged_roles = {}
    for name, truth in known.items():
        tuned = open_checkpoint(audit.base.folder.parent / truth["folder"])
        its_maps = Maps(tuned, device)
        side = Side(replace(bench, model=load(tuned), checkpoint=tuned), its_maps)
        found = measure_roles(Side(bench, maps), side, judged.verdicts, judged.evidence)
        roles = judge_roles(judged.verdicts, found)
        judged_roles[name] = roles, its_maps
        summary.append(_in_short(name, compare(maps["paper"], its_maps["paper"]), roles, maps, its_maps))
        rows += _beside_truth(name, roles, truth)
        words = label_words(found, its_maps["paper"].vocabulary.show)
        audit.add_roles(f"roles-{name}", roles, found, base="claims", words=words)
    told = ["fine-tune", "top token kept", "low", "high", *CHANGES[1:], *ROLES, "words gained"]
    evidence.table("fine-tunes", "Several fine-tunes of one model", told, summary, f"Roles by count. {_GAINED_SAID}")
    evidence.table(
        "fine-tune-roles",
        "Each validated neuron in each fine-tune, beside what was done to it",
        ["fine-tune", "claim", "neuron", "planted", "found", "moved to", "difference", "low", "high", "margin"],
        rows,
        "Difference: of the effect at the base's doses, fine-tune against base, in nats of log-odds, 90 % interval.",
    )
    for name, (roles, its_maps) in judged_roles.items():
        _check(roles, known[name], maps, its_maps, name)


# --- against the truth --------------------------------------------------------------------------------


def _check(roles: list[Role], truth: dict[str, Any], maps: Maps, tuned_maps: Maps, name: str = "the fine-tune") -> None:
    """What was done to the bundled fine-tune is what is told of it."""
    by_id = {role.claim.id: role for role in roles}
    for claim, expected in truth.get("roles", {}).items():
        assert by_id[claim].role == expected, f"{claim} in {name}: {by_id[claim].role}, {by_id[claim].reason}"
    for claim, neuron in truth.get("moved_to", {}).items():
        assert str(by_id[claim].heir) == neuron, f"{claim} in {name} went to {by_id[claim].heir}"
    words = {g.token.id for g in gained(maps["paper"], tuned_maps["paper"])}
    missed = [t for t in truth.get("gained", []) if maps["paper"].vocabulary.resolve(t).id not in words]
    assert not missed, f"{missed} not among the words that gained a neuron in {name}"


def _counted(names: Iterable[str]) -> str:
    return ", ".join(f"{n} {name}" for name, n in Counter(names).most_common())


def _not_measured(
    evidence: Evidence, name: str, reason: str = "no fine-tune was given: name one with --tuned"
) -> NoReturn:
    evidence.table(name, f"Preservation: {name}", ["verdict", "reason"], [["not_measured", reason]])
    pytest.skip(reason)


# --- labels -------------------------------------------------------------------------------------------


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
        "Kept: share with the same top token, 95 % Wilson interval. Clear labels: without near ties. Base head: both "
        "models decoded with the base's. Cosine: of the W_up rows, mean.",
    )


def _causes(
    own: Preservation, base_head: Preservation, tuned_head: Preservation
) -> tuple[list[str], list[list[Any]], str]:
    rows = []
    for layer in (*(s.layer for s in own.per_layer), None):
        part = None if layer is None else own.map_a.roster.layer_span(layer)
        parts = decompose(own, base_head, tuned_head, part)
        counts = own.changes(layer)
        rows.append(
            ["all layers" if layer is None else f"layer {layer}", *(counts[c] for c in CHANGES)]
            + (list(parts) if parts else [None] * 5)
        )
    return (
        ["", *CHANGES, "lost", "by the rows", "by the head", "rows alone", "head alone"],
        rows,
        f"Near tie: changed, and old and new word were within {NEAR_TIE:.2g} of the logit in either model, which "
        "storage in bfloat16 can take away. Lost: the share of labels; by the rows and by the head add up to it.",
    )


def _label_arrays(
    own: Preservation, base_head: Preservation, tuned_head: Preservation, cosines: np.ndarray
) -> dict[str, np.ndarray]:
    """[N] each, from which the tables of labels can be computed again."""
    return {
        "layer": own.map_a.roster.layer_of(),
        "labelled": own.labelled,
        "kept": own.kept,
        "near_tie": own.near_tie,
        "close": own.close,
        "swapped": own.swapped,
        "jaccard": own.jaccard,
        "top_base": own.top_a,
        "top_tuned": own.top_b,
        "margin_base": own.margin_a,
        "margin_tuned": own.margin_b,
        "kept_base_head": base_head.kept,
        "kept_tuned_head": tuned_head.kept,
        "cosine": cosines,
        "norm": own.map_a.norms,
    }


def _changed(own: Preservation, cosines: np.ndarray) -> tuple[list[str], list[list[Any]], str]:
    rows: list[list[Any]] = []
    m = own.map_a
    for neuron in own.most_changed(CHANGED):
        at = m.index(neuron)
        words = _said(own.words_lost(neuron, WORDS)), _said(own.words_gained(neuron, WORDS))
        among = peer_percentile(cosines, m.norms, m.roster, neuron)
        rows.append([str(neuron), str(own.change[at]), *words, float(own.jaccard[at]), float(cosines[at]), among])
    return (
        ["neuron", "change", "words lost", "words gained", "Jaccard", "cosine", "cosine, percentile"],
        rows or [["none", *[None] * 6]],
        f"Least overlap of the kept words first; of the best {WORDS} words before and after. Percentile: of the 200 "
        "neurons of the same MLP nearest in the row's norm, how many turned further.",
    )


def _said(words: list[Word]) -> str | None:
    return ", ".join(str(word.token) for word in words) or None


# --- roles --------------------------------------------------------------------------------------------


_GAINED_SAID = (
    f"Gained: a neuron has the word among its ten best, on either pole, with a score above {GAIN:g} times that of any "
    "neuron of the base."
)


def _gained(maps: Maps, tuned_maps: Maps) -> tuple[list[str], list[list[Any]], str]:
    headers = ["word", "neuron", "pole", "score", "best in the base", "that neuron's word in the base"]
    try:
        new, gone = (
            gained(*pair) for pair in ((maps["paper"], tuned_maps["paper"]), (tuned_maps["paper"], maps["paper"]))
        )
    except NotComparable as error:
        return ["verdict", "reason"], [["not_comparable", str(error)]], ""
    rows: list[list[Any]] = [
        [str(g.token), str(g.neuron), g.pole, g.score, g.before, str(g.own_before) if g.own_before else None]
        for g in new[:GAINED]
    ]
    lost = ", ".join(str(g.token) for g in gone[:GAINED]) or "none"
    return (
        headers,
        rows or [["none", *[None] * 5]],
        f"{_GAINED_SAID} {len(new)} words; {len(gone)} lost theirs: {lost}.",
    )


def _in_short(name: str, own: Preservation, roles: list[Role], maps: Maps, tuned_maps: Maps) -> list[Any]:
    share = own.share
    counts, kinds = own.changes(), Counter(role.role for role in roles)
    new = gained(maps["paper"], tuned_maps["paper"])
    words = ", ".join(str(g.token) for g in new[:WORDS]) + (f" and {len(new) - WORDS} more" if len(new) > WORDS else "")
    kept = [share.estimate, share.low, share.high] if share else [None] * 3
    return [name, *kept, *(counts[c] for c in CHANGES[1:]), *(kinds[r] for r in ROLES), words or "none"]


def _beside_truth(name: str, roles: list[Role], truth: dict[str, Any]) -> list[list[Any]]:
    return [
        [name, role.claim.id, str(role.claim.neuron), truth["roles"].get(role.claim.id), role.role]
        + [str(role.heir) if role.role == "moved" else None, *difference(role.effect)]
        for role in roles
        if role.role is not None
    ]
