"""Do neurons keep their words and their roles through fine-tuning (arXiv 2501.02688: 75.4 % of words, Llama 3.1 8B)?

A base model and its fine-tune are decoded with their own heads, and each neuron's top token is compared. Base
and tuned share the neuron's place, so a kept label is a statement about the same neuron. It is not a statement
about its role: for that, each validated claim's causal curve is measured in both models at the same clamp values, and
that the two are alike has to be shown.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NoReturn

import pytest

from flashinterp import Checkpoint, NotComparable, open_checkpoint
from flashinterp.decoding.lens_maps import DecodedMaps
from flashinterp.decoding.neuron_map import LensMaps
from flashinterp.evaluation.experiment import Experiment
from flashinterp.evaluation.judgement import Judged
from flashinterp.provenance.recorded import Recorded
from flashinterp.runs.eval_recorder import EvalRecorder
from flashinterp.runs.session import AuditSession
from flashinterp.studies.finetuning.label_changes import Gains, Labels, gains, share_kept
from flashinterp.studies.finetuning.label_tables import (
    GAINED,
    causes_table,
    changed_table,
    fine_tune_roles_table,
    fine_tunes_table,
    gained_table,
    layer_shares,
    roles_counted,
    share_said,
    shares_table,
    uncompared_table,
)
from flashinterp.studies.finetuning.measure_labels import fine_tune_labels, label_changes
from flashinterp.studies.finetuning.measure_roles import Side, measure_roles
from flashinterp.studies.finetuning.role_tables import label_words, role_table, roles_why_table
from flashinterp.studies.finetuning.roles import Role, judge_roles


def test_top_tokens_kept(
    audit: AuditSession,
    base: Checkpoint,
    maps: LensMaps,
    tuned_maps: LensMaps | None,
    device: str,
    evidence: EvalRecorder,
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
        found = label_changes(base, audit.tuned, maps, tuned_maps, device)
    except NotComparable as error:
        evidence.derived(uncompared_table, "shares", "Top tokens kept", "not_comparable", str(error))
        return
    labels, by_neuron = found.labels, (found.labels.roster, found.labels.change)
    kept, causes = "Top tokens kept through fine-tuning", "What became of the labels, and why"
    changed = "The neurons that changed most"
    evidence.derived(shares_table, "shares", kept, labels, found.base_head, found.cosines)
    evidence.derived(causes_table, "causes", causes, *by_neuron, found.base_head, found.tuned_head)
    evidence.derived(changed_table, "changed", changed, labels, found.cosines, found.norms, found.best)
    evidence.arrays("labels", {"top_base": found.top_base, "top_tuned": found.top_tuned})
    if (labels.change >= 0).any():
        evidence.figure(layer_shares, "layers", "Top tokens kept, by layer", *by_neuron)
    paper = "75.4 % of neurons keep their top token through instruction tuning"
    evidence.finding(3, paper, share_said, labels.change, _planted(audit, "kept_share"))
    _check_labels((audit.truth or {}).get("tuned", {}), labels)


def test_causal_role_kept(
    audit: AuditSession,
    base: Checkpoint,
    bench: Experiment,
    maps: LensMaps,
    judged: Judged,
    judged_tuned: Judged | None,
    tuned_maps: LensMaps | None,
    session_tuned_model: Any,
    evidence: EvalRecorder,
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
    of = {part: Recorded("roles", "roles", part) for part in ("roles", "found", "words", "base", "tuned")}
    same = "Causal roles before and after, at the same clamp values"
    evidence.derived(role_table, "roles", same, of["roles"], of["found"], of["words"])
    why = "Why, and what else is known of them"
    evidence.derived(roles_why_table, "roles-why", why, of["roles"], of["base"], of["tuned"])
    planted = (_planted(audit, "roles") or {}).get("roles", {})
    known = list(planted.values()) if audit.truth else None
    evidence.finding(4, "(of their roles it says nothing)", roles_counted, of["roles"], known)
    new = _record_gained(evidence, maps, tuned_maps)
    if audit.options.claims:
        return
    truth = (audit.truth or {}).get("tuned", {})
    _check_verdicts(truth, roles, judged, judged_tuned)
    _check(roles, truth, maps, new)


def test_fine_tunes_told_apart(
    audit: AuditSession,
    bench: Experiment,
    maps: LensMaps,
    judged: Judged,
    load: Callable[[Checkpoint], Any],
    device: str,
    evidence: EvalRecorder,
) -> None:
    """Several fine-tunes of one base, each with what was done to it: does the table say the right thing of each?

    Implementation: as the evals above, for each fine-tune that the bundled model's truth names: roles kept by training
    alone, a neuron moved, a neuron overwritten, and a concept that the base had not.
    """
    known = (audit.truth or {}).get("fine_tunes", {})
    if not known or audit.options.claims or audit.base.folder is None:
        _not_measured(evidence, "fine-tunes", "only a bundled model comes with several fine-tunes of known truth")
    told, its_roles = [], dict[str, list[Role]]()
    for name, truth in known.items():
        tuned = open_checkpoint(audit.base.folder.parent / truth["folder"])
        its_maps = DecodedMaps(tuned, device)
        side = Side(replace(bench, model=load(tuned), checkpoint=tuned), its_maps)
        found = measure_roles(Side(bench, maps), side, judged.verdicts, judged.evidence)
        its_roles[name] = judge_roles(judged.verdicts, found)
        told.append(fine_tune_labels(name, maps["paper"], its_maps["paper"]))
        words = label_words(found, its_maps["paper"].vocabulary.show)
        audit.add_roles(f"roles-{name}", its_roles[name], found, base="claims", words=words)
    recorded = [Recorded("roles", f"roles-{name}", "roles") for name in known]
    evidence.derived(fine_tunes_table, "fine-tunes", "Several fine-tunes of one model", told, *recorded)
    evidence.derived(
        fine_tune_roles_table,
        "fine-tune-roles",
        "Each validated neuron in each fine-tune, beside what was done to it",
        {name: truth["roles"] for name, truth in known.items()},
        *recorded,
    )
    for one in told:
        _check(its_roles[one.name], known[one.name], maps, one.gains, one.name)


def _not_measured(
    evidence: EvalRecorder, name: str, reason: str = "no fine-tune was given: name one with --tuned"
) -> NoReturn:
    evidence.derived(uncompared_table, name, f"Preservation: {name}", "not_measured", reason)
    pytest.skip(reason)


def _record_gained(evidence: EvalRecorder, maps: LensMaps, tuned_maps: LensMaps) -> Gains | None:
    """The words that found a neuron in the fine-tune; None where the models have not the same words."""
    title = "Words that gained a neuron, by the weights"
    base, tuned = maps["paper"], tuned_maps["paper"]
    try:
        new, gone = gains(base, tuned, GAINED), gains(tuned, base, GAINED)
    except NotComparable as error:
        evidence.derived(uncompared_table, "gained", title, "not_comparable", str(error))
        return None
    evidence.derived(gained_table, "gained", title, new, gone, base.roster)
    return new


# --- against the truth --------------------------------------------------------------------------------


def _planted(audit: AuditSession, name: str) -> dict[str, Any] | None:
    """One thing that is known of the bundled fine-tune, by its name, if it is; None of other models."""
    truth = (audit.truth or {}).get("tuned", {})
    return {key: truth[key] for key in (name,) if key in truth} if audit.truth else None


def _check_labels(truth: Mapping[str, Any], labels: Labels) -> None:
    """Exactly the share of labels was kept that was left alone, and exactly the neurons changed that were changed."""
    if "kept_share" in truth:
        share = share_kept(labels.change)
        assert share is not None
        assert share.estimate == truth["kept_share"]
    if "changed" in truth:
        planted = {f"L{layer}N{n}" for layer, neurons in truth["changed"].items() for n in neurons}
        assert {str(neuron) for neuron in labels.lost} == planted, (
            f"of {len(labels.change)} neurons, others changed than were changed"
        )


def _check_verdicts(truth: Mapping[str, Any], roles: list[Role], judged: Judged, judged_tuned: Judged) -> None:
    """Of the validated claims those whose neuron was overwritten are lost, and no others."""
    if "lost" not in truth:
        return
    lost = set(truth["lost"])
    before, after = ({v.claim.id: v.verdict for v in one.verdicts} for one in (judged, judged_tuned))
    assert all(after[i] != "validated" for i in lost), "a neuron that was overwritten is still validated"
    assert not {r.claim.id for r in roles if r.role == "role kept"} & lost, "an overwritten neuron kept its role"
    gone = [i for i, v in before.items() if v == "validated" and i not in lost and after[i] != "validated"]
    assert not gone, f"lost in the tuned sibling: {gone}"


def _check(
    roles: list[Role], truth: Mapping[str, Any], maps: LensMaps, new: Gains | None, name: str = "the fine-tune"
) -> None:
    """What was done to the bundled fine-tune is what is told of it."""
    by_id = {role.claim.id: role for role in roles}
    for claim, expected in truth.get("roles", {}).items():
        assert by_id[claim].role == expected, f"{claim} in {name}: {by_id[claim].role}, {by_id[claim].reason}"
    for claim, neuron in truth.get("moved_to", {}).items():
        assert str(by_id[claim].heir) == neuron, f"{claim} in {name} went to {by_id[claim].heir}"
    words = new.words if new else set()
    missed = [t for t in truth.get("gained", []) if maps["paper"].vocabulary.resolve(t).id not in words]
    assert not missed, f"{missed} not among the words that gained a neuron in {name}"
