"""The tables of preservation: made from recorded values alone, by the eval and again by `verify`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flashinterp.neuron_index import NeuronIndex
from flashinterp.provenance.registry import derivation, record
from flashinterp.report.charts.shares import preservation
from flashinterp.report.figure import Figure
from flashinterp.report.table import Told
from flashinterp.stats import Interval
from flashinterp.studies.finetuning.compare import CHANGES, NEAR_TIE, peer_percentile
from flashinterp.studies.finetuning.gained_words import GAIN
from flashinterp.studies.finetuning.label_changes import Codes, Gains, Labels, ShownWords, counts, lost_by, share_kept
from flashinterp.studies.finetuning.role_tables import difference
from flashinterp.studies.finetuning.roles import ROLES, Role
from flashinterp.tokens import show

CHANGED = 10
"""Neurons shown of those that changed most."""
WORDS = 5
"""Words shown of a neuron, and of a fine-tune."""
GAINED = 10
"""Words shown of those that gained a neuron or lost theirs."""
_GAINED_SAID = (
    f"Gained: a neuron has the word among its ten best, on either pole, with a score above {GAIN:g} times that of any "
    "neuron of the base."
)


@derivation("finetuning.not_compared", version=1)
def uncompared_table(verdict: str, reason: str) -> Told:
    """Why nothing was compared."""
    return ["verdict", "reason"], [[verdict, reason]], ""


@derivation("finetuning.label_shares", version=1)
def shares_table(labels: Labels, base_head: Codes, cosines: NDArray[np.float32]) -> Told:
    """The share of neurons that kept their top token, by layer.

    Args:
        labels: of [N] neurons, each model decoded with its own head.
        base_head: [N] the same with both decoded with the base's head.
        cosines: [N] of the W_up rows of both models.
    """
    rows: list[list[Any]] = []
    clear = np.where(labels.near_tie, -1, labels.change).astype(np.int8)
    for name, part in _parts(labels.roster):
        by_head, doubtless = (_estimate(share_kept(change, part)) for change in (base_head, clear))
        labelled = int((labels.change[part] >= 0).sum())
        rows.append(
            [name, labelled, *_cells(share_kept(labels.change, part)), doubtless, by_head]
            + [float(values[part].mean()) for values in (labels.jaccard, cosines)]
        )
    return (
        ["", "neurons", "kept", "low", "high", "clear labels", "base head", f"Jaccard@{labels.listed}", "cosine"],
        rows,
        "Kept: share with the same top token, 95 % Wilson interval. Clear labels: without near ties. Base head: both "
        "models decoded with the base's. Cosine: of the W_up rows, mean.",
    )


@derivation("finetuning.label_loss_causes", version=1)
def causes_table(roster: NeuronIndex, change: Codes, base_head: Codes, tuned_head: Codes) -> Told:
    """What became of the labels, and how much of the loss the rows and the head have made, by layer.

    Args:
        roster: which neurons, N in order.
        change: [N] what became of their labels, each model decoded with its own head.
        base_head, tuned_head: [N] the same with the rows alone the fine-tune's, and with the head alone.
    """
    rows: list[list[Any]] = []
    for name, part in _parts(roster):
        count = counts(change, part)
        lost = lost_by(change, base_head, tuned_head, part)
        rows.append([name, *(count[c] for c in CHANGES), *(lost or [None] * 5)])
    return (
        ["", *CHANGES, "lost", "by the rows", "by the head", "rows alone", "head alone"],
        rows,
        f"Near tie: changed, and old and new word were within {NEAR_TIE:.2g} of the logit in either model, which "
        "storage in bfloat16 can take away. Lost: the share of labels; by the rows and by the head add up to it.",
    )


@derivation("finetuning.changed_labels", version=1)
def changed_table(labels: Labels, cosines: NDArray[np.float32], norms: NDArray[np.float32], best: ShownWords) -> Told:
    """The neurons that lost the clearest labels.

    Args:
        labels: of [N] neurons.
        cosines, norms: [N] of the W_up rows: between the models, and in the base.
        best: the words of these neurons in both models.
    """
    rows: list[list[Any]] = []
    for at in labels.most_changed(CHANGED):
        neuron, before, after = labels.roster.neuron(at), best.before[at], best.after[at]
        lost, found = ([i for i in own if i not in other] for own, other in ((before, after), (after, before)))
        rows.append(
            [str(neuron), CHANGES[labels.change[at]], *(_said(best.texts[i] for i in ids) for ids in (lost, found))]
            + [float(labels.jaccard[at]), float(cosines[at]), peer_percentile(cosines, norms, labels.roster, neuron)]
        )
    return (
        ["neuron", "change", "words lost", "words gained", "Jaccard", "cosine", "cosine, percentile"],
        rows or [["none", *[None] * 6]],
        f"Least overlap of the kept words first; of the best {WORDS} words before and after. Percentile: of the 200 "
        "neurons of the same MLP nearest in the row's norm, how many turned further.",
    )


@derivation("finetuning.label_share_figure", version=1)
def layer_shares(name: str, title: str, roster: NeuronIndex, change: Codes) -> Figure:
    """The share of each layer's labels that were kept, beside the model's.

    Args:
        name, title: the figure's.
        roster: which neurons, in order.
        change: [N] what became of their labels.
    """
    shares = [(layer, share_kept(change, roster.layer_span(layer))) for layer in roster.layers]
    known = [(layer, share) for layer, share in shares if share]
    estimates, lows, highs = ([getattr(share, end) for _, share in known] for end in ("estimate", "low", "high"))
    overall = _estimate(share_kept(change)) or 0.0
    return preservation(name, title, [layer for layer, _ in known], estimates, lows, highs, overall)


@derivation("finetuning.label_share_summary", version=1)
def share_said(change: Codes, planted: Mapping[str, float] | None) -> tuple[str, str | None]:
    """The share of [N] labels that were kept, in words, and ``kept_share`` of what was planted; None of nothing."""
    share = share_kept(change)
    here = (
        "no neuron has a label"
        if share is None or share.low is None or share.high is None
        else f"{share.estimate:.1%} [{share.low:.1%}, {share.high:.1%}] keep it"
    )
    known = {} if planted is None else planted
    there = f"{known['kept_share']:.1%}" if "kept_share" in known else "not known"
    return here, None if planted is None else there


def _parts(roster: NeuronIndex) -> list[tuple[str, slice]]:
    """Each layer's positions with its name, then the whole model's."""
    layers = [(f"layer {layer}", roster.layer_span(layer)) for layer in roster.layers]
    return [*layers, ("all layers", slice(None))]


def _cells(share: Interval | None) -> list[float | None]:
    return [share.estimate, share.low, share.high] if share else [None] * 3


def _estimate(share: Interval | None) -> float | None:
    return share.estimate if share else None


def _said(texts: Iterable[str]) -> str | None:
    return ", ".join(map(show, texts)) or None


@derivation("finetuning.role_counts", version=1)
def roles_counted(roles: Sequence[Role], planted: Sequence[str] | None) -> tuple[str, str | None]:
    """The roles counted, in words, and what they should be where that is known; ``planted`` is None of nothing."""
    here = _counted([r.role for r in roles if r.role]) or "no claim was validated on the base"
    return here, None if planted is None else _counted(planted) or "not known"


def _counted(names: Sequence[str]) -> str:
    return ", ".join(f"{n} {name}" for name, n in Counter(names).most_common())


@derivation("finetuning.gained_words", version=1)
def gained_table(new: Gains, gone: Gains, roster: NeuronIndex) -> Told:
    """The words that have a neuron in the fine-tune and had none nearly as good in the base, clearest first.

    Args:
        new: the words that the fine-tune names better than the base.
        gone: those that the base names better than the fine-tune.
        roster: the model's neurons.
    """
    rows: list[list[Any]] = []
    for i in new.clear[:GAINED]:
        token, own = int(new.tokens[i]), new.own_before.get(int(new.tokens[i]))
        neuron, pole = str(roster.neuron(int(new.neurons[i]))), "+" if new.poles[i] > 0 else "-"
        scores = [float(new.scores[i]), float(new.before[i])]
        rows.append([_text(new, token), neuron, pole, *scores, None if own is None else show(own)])
    lost = ", ".join(_text(gone, int(gone.tokens[i])) for i in gone.clear[:GAINED]) or "none"
    return (
        ["word", "neuron", "pole", "score", "best in the base", "that neuron's word in the base"],
        rows or [["none", *[None] * 5]],
        f"{_GAINED_SAID} {len(new.clear)} words; {len(gone.clear)} lost theirs: {lost}.",
    )


def _text(found: Gains, token: int) -> str:
    return show(found.texts[token])


@record("finetuning.fine_tune", version=1)
@dataclass(frozen=True)
class FineTune:
    """One of several fine-tunes of a base: its name, what became of the labels [N], and the words it names better."""

    name: str
    change: Codes
    gains: Gains


@derivation("finetuning.fine_tune_comparison", version=1)
def fine_tunes_table(tuned: Sequence[FineTune], *roles: Sequence[Role]) -> Told:
    """What became of labels, roles and words in each of several fine-tunes; ``roles`` holds those of each."""
    rows: list[list[Any]] = []
    for one, its in zip(tuned, roles, strict=True):
        count, kinds, clear = counts(one.change), Counter(role.role for role in its), one.gains.clear
        words = ", ".join(_text(one.gains, int(one.gains.tokens[i])) for i in clear[:WORDS])
        more = f" and {len(clear) - WORDS} more" if len(clear) > WORDS else ""
        rows.append(
            [one.name, *_cells(share_kept(one.change)), *(count[c] for c in CHANGES[1:])]
            + [*(kinds[r] for r in ROLES), f"{words}{more}" or "none"]
        )
    return (
        ["fine-tune", "top token kept", "low", "high", *CHANGES[1:], *ROLES, "words gained"],
        rows,
        f"Roles by count. {_GAINED_SAID}",
    )


@derivation("finetuning.roles_by_fine_tune", version=1)
def fine_tune_roles_table(planted: Mapping[str, Mapping[str, str]], *roles: Sequence[Role]) -> Told:
    """Each validated neuron in each of several fine-tunes.

    Args:
        planted: by the fine-tune's name, the role that each claim should come out with.
        roles: those that were found, one sequence a fine-tune.
    """
    rows = [
        [name, role.claim.id, str(role.claim.neuron), truth.get(role.claim.id), role.role]
        + [str(role.heir) if role.role == "moved" else None, *difference(role.effect)]
        for (name, truth), its in zip(planted.items(), roles, strict=True)
        for role in its
        if role.role is not None
    ]
    return (
        ["fine-tune", "claim", "neuron", "planted", "found", "moved to", "difference", "low", "high", "margin"],
        rows,
        "Difference: of the effect at the base's doses, fine-tune against base, in nats of log-odds, 90 % interval.",
    )
