"""Two maps compared: which neurons kept their words through fine-tuning (METHOD 5; paper, section 3.3).

A preserved label is not a preserved role: that is for the causal curves to say (`roles`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from flashinterp.decoding.neuron_map import NeuronMap, Word
from flashinterp.errors import NotComparable
from flashinterp.neuron_index import NeuronIndex, span
from flashinterp.neurons import NeuronId, Pole, WeightKind
from flashinterp.stats import Interval, wilson

if TYPE_CHECKING:
    from flashinterp.models.checkpoint import Checkpoint

Change = Literal["kept", "near tie", "swapped", "changed"]
"""What became of a label: the same; another one as near; first and second changed places; really another."""
CHANGES: tuple[Change, ...] = get_args(Change)
NEAR_TIE = 2.0**-8
"""Two words are within rounding where the better leads by at most this part of its logit.

That is what storage in bfloat16 can take away: it keeps 8 bits. Measured, with all weights of three models of 2,908
neurons in float32 rounded to bfloat16: 19 labels changed, all of them told as near ties, with leads of at most 0.74 of
this in both models; no lead moved by more than 1.5 of it. About 5 % of all labels lead by so little. Of the 256 that
a fine-tune of known truth gave other words by overwriting the rows, none is told as a near tie.
"""
PEERS = 200
"""Neurons of the same MLP, nearest in the row's norm, beside which a neuron's change is placed."""


@dataclass(frozen=True)
class LayerShare:
    """Of one layer's n neurons with a label, how many kept their top token, with the share's Wilson interval."""

    layer: int
    n: int
    kept: int
    share: Interval | None


class Part(NamedTuple):
    """Of a part's labels, the share that was lost, and how much of it is the rows' change and how much the head's.

    Attributes:
        lost: rows + head, exactly.
        rows, head: the mean over both orders, the rows changed first or the head.
        rows_alone, head_alone: the share lost where only the rows are the fine-tune's, or only the head.
    """

    lost: float
    rows: float
    head: float
    rows_alone: float
    head_alone: float


@dataclass(frozen=True)
class Preservation:
    """What became of each neuron's words between two models, by position in the maps.

    Attributes:
        kept: [N] bool, the top token is the same.
        near_tie: [N] bool, the top token's lead was within rounding in either model: the label is in doubt.
        close: [N] bool, the old and the new top token were within rounding of each other in either model, so that a
            change from one to the other says nothing.
        swapped: [N] bool, changed, and the old top token is now second.
        jaccard: [N] overlap of the two top-k sets.
        top_a, top_b: [N] the top ids, -1 where none is a word.
        margin_a, margin_b: [N] the lead of the top token over the second, in logits.
        per_layer: the shares, layer by layer.
    """

    kept: NDArray[np.bool_]
    near_tie: NDArray[np.bool_]
    close: NDArray[np.bool_]
    swapped: NDArray[np.bool_]
    jaccard: NDArray[np.float64]
    top_a: NDArray[np.int64]
    top_b: NDArray[np.int64]
    margin_a: NDArray[np.float32]
    margin_b: NDArray[np.float32]
    per_layer: tuple[LayerShare, ...]
    map_a: NeuronMap
    map_b: NeuronMap
    pole: Pole = "+"

    @property
    def change(self) -> NDArray[np.str_]:
        """[N] what became of each label, one of `CHANGES`; of a neuron without a label, "".

        A near tie is told first: between two words within rounding, a swap says as little as any other change. Not so a
        label that is in doubt and whose former word is far off: that word was lost, whoever took its place.
        """
        told = np.select(
            [~self.labelled, self.kept, self.close, self.swapped], ["", "kept", "near tie", "swapped"], "changed"
        )
        return np.asarray(told, dtype=np.str_)

    def changes(self, layer: int | None = None) -> dict[Change, int]:
        """How many labels of a layer, or of all, became what."""
        part = self.change[slice(None) if layer is None else self.map_a.roster.layer_span(layer)]
        return {change: int((part == change).sum()) for change in CHANGES}

    @property
    def labelled(self) -> NDArray[np.bool_]:
        """[N] bool, some id among the top k is a word, in one model or the other; else there is nothing to keep."""
        return (self.top_a >= 0) | (self.top_b >= 0)

    @property
    def share(self) -> Interval | None:
        """The share of the labelled neurons that kept their top token (the paper's 75.4 %)."""
        return wilson(int(self.kept.sum()), int(self.labelled.sum()))

    @property
    def share_clear(self) -> Interval | None:
        """The same among neurons whose label was not in doubt in either model."""
        clear = self.labelled & ~self.near_tie
        return wilson(int(self.kept[clear].sum()), int(clear.sum()))

    def most_changed(self, n: int = 10) -> list[NeuronId]:
        """The neurons that lost the clearest labels: least overlap first, then the largest former lead."""
        changed = np.flatnonzero(self.labelled & ~self.kept)
        order = np.lexsort((changed, -self.margin_a[changed], self.jaccard[changed]))
        return [self.map_a.neuron(int(i)) for i in changed[order[:n]]]

    def words_lost(self, neuron: str | NeuronId, n: int = 10) -> list[Word]:
        """Of a neuron's n best words in the first model, those that are not among its n best in the second."""
        return self._words_only(self.map_a, self.map_b, neuron, n)

    def words_gained(self, neuron: str | NeuronId, n: int = 10) -> list[Word]:
        """Of a neuron's n best words in the second model, those that were not among its n best in the first."""
        return self._words_only(self.map_b, self.map_a, neuron, n)

    def _words_only(self, here: NeuronMap, there: NeuronMap, neuron: str | NeuronId, n: int) -> list[Word]:
        others = {word.token.id for word in there.words(neuron, n, self.pole)}
        return [word for word in here.words(neuron, n, self.pole) if word.token.id not in others]


def compare(map_a: NeuronMap, map_b: NeuronMap, *, pole: Pole = "+") -> Preservation:
    """Compare two maps neuron by neuron, as of a base model and its fine-tune.

    Raises:
        NotComparable: another vocabulary, shape, lens or top_k: the comparison would mean nothing.
    """
    check_comparable(map_a, map_b)
    excluded = map_a.vocabulary.excluded | map_b.vocabulary.excluded  # what is a word in both
    top_a, top_b = map_a.top_tokens(pole, excluded), map_b.top_tokens(pole, excluded)
    second_a, margin_a, tie_a = _runner_up(map_a, pole, excluded)
    second_b, margin_b, tie_b = _runner_up(map_b, pole, excluded)
    labelled = (top_a >= 0) | (top_b >= 0)
    kept = labelled & (top_a == top_b)
    per_layer = []
    for layer in map_a.layers:
        own = map_a.roster.layer_span(layer)
        n, count = int(labelled[own].sum()), int(kept[own].sum())
        per_layer.append(LayerShare(layer, n, count, wilson(count, n)))
    return Preservation(
        kept=kept,
        near_tie=tie_a | tie_b,
        close=_close(map_a, top_a, top_b, pole) | _close(map_b, top_b, top_a, pole),
        swapped=labelled & ~kept & (second_b == top_a) & (second_a == top_b),
        jaccard=_jaccard(map_a.pole_arrays(pole)[0], map_b.pole_arrays(pole)[0]),
        top_a=top_a,
        top_b=top_b,
        margin_a=margin_a,
        margin_b=margin_b,
        per_layer=tuple(per_layer),
        map_a=map_a,
        map_b=map_b,
        pole=pole,
    )


def decompose(
    own: Preservation, base_head: Preservation, tuned_head: Preservation, part: slice | None = None
) -> Part | None:
    """Split the share of lost labels into the rows' change and the head's.

    A label is a row's product with a head, and fine-tuning changes both. Of four label sets (rows and head, each of the
    base or of the fine-tune) the mean over both orders of change is taken, so that the two parts add up to the whole.
    A part may be negative: rows and head that moved together keep labels that either alone would lose. None where no
    neuron has a label.

    Args:
        own: base against fine-tune, each with its own head.
        base_head: base against the fine-tune's rows, decoded with the base's head.
        tuned_head: base against its own rows, decoded with the fine-tune's head.
        part: positions in the maps, all by default.
    """
    chosen = own.labelled.copy()
    if part is not None:
        outside = np.ones(len(chosen), dtype=bool)
        outside[part] = False
        chosen &= ~outside
    if not chosen.any():
        return None
    rows_alone, head_alone, both = (1.0 - float(p.kept[chosen].mean()) for p in (base_head, tuned_head, own))
    rows = (rows_alone + both - head_alone) / 2
    return Part(both, rows, both - rows, rows_alone, head_alone)


def peer_percentile(
    values: NDArray[np.floating],
    like: NDArray[np.floating],
    roster: NeuronIndex,
    neuron: str | NeuronId,
    n: int = PEERS,
) -> float | None:
    """Where a neuron's value stands among those of its peers: the share of them below it, ties half, in per cent.

    Peers are the other neurons of the same MLP nearest in ``like``, as a rule the row's norm: a short fine-tune hardly
    moves most neurons, and the same update turns a large row less, so that a cosine of 0.99 alone says nothing.
    None where there is no other neuron.

    Args:
        values: [N] what is placed, for example the cosines of the rows.
        like: [N] positive, on a log scale, what peers are alike in.
        roster: which neurons the positions are.
        neuron: the one that is placed.
        n: how many peers.
    """
    at, own = roster.index(neuron), roster.span(NeuronId.parse(neuron).block)
    others = np.delete(np.arange(own.start, own.stop), at - own.start)
    if not others.size:
        return None
    size = np.log(np.maximum(np.asarray(like, dtype=np.float64), np.finfo(np.float64).tiny))
    peers = others[np.argsort(np.abs(size[others] - size[at]), kind="stable")[:n]]
    return float(100 * ((values[peers] < values[at]).mean() + (values[peers] == values[at]).mean() / 2))


def row_cosines(a: Checkpoint, b: Checkpoint, kind: WeightKind) -> NDArray[np.float32]:
    """[N] cosine of each neuron's vector in two models; 1 where both are zero.

    Raises:
        NotComparable: the models have not the same layers, neurons and hidden size.
    """
    in_a, in_b = (f"{c.layout.roster}, hidden size {c.layout.d_model}" for c in (a, b))
    if in_a != in_b:
        raise NotComparable(
            f"{a.name} and {b.name} are not comparable: one has {in_a}, the other {in_b}; compare models of one family"
        )
    parts = []
    for block in a.layout.roster.blocks:
        x, y = a.rows(kind, block).double(), b.rows(kind, block).double()
        norms = x.norm(dim=1) * y.norm(dim=1)
        cosine = (x * y).sum(1) / norms.clamp_min(1e-300)
        both_zero = (x.norm(dim=1) == 0) & (y.norm(dim=1) == 0)
        parts.append(cosine.masked_fill(both_zero, 1.0).numpy())
    return np.concatenate(parts).astype(np.float32)


def check_comparable(a: NeuronMap, b: NeuronMap) -> None:
    """Refuse to compare maps of different neurons, words, lens or depth.

    Raises:
        NotComparable: what differs, with both values.
    """
    differs = [
        ("lens", a.meta["lens"], b.meta["lens"]),
        ("top_k", a.top_ids.shape[1], b.top_ids.shape[1]),
        ("layers", span(a.layers), span(b.layers)),
        ("the set of neurons", str(a.roster), str(b.roster)),
        ("vocabulary size", len(a.vocabulary), len(b.vocabulary)),
    ]
    for what, in_a, in_b in differs:
        if in_a != in_b:
            raise NotComparable(
                f"{a.meta['model']} and {b.meta['model']} are not comparable: {what} is {in_a} in one and {in_b} "
                "in the other; compare models of one family, decoded in the same way"
            )
    if a.vocabulary != b.vocabulary:
        pairs = zip(a.vocabulary.surfaces, b.vocabulary.surfaces, strict=True)
        at = next(i for i, (x, y) in enumerate(pairs) if x != y)
        raise NotComparable(
            f"{a.meta['model']} and {b.meta['model']} are not comparable: their tokenizers differ, first at id {at} "
            f"({a.vocabulary.show(at)} against {b.vocabulary.show(at)}); neurons are named by tokens, so compare "
            "models with one tokenizer"
        )


def _runner_up(
    m: NeuronMap, pole: Pole, excluded: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.bool_]]:
    """The second word's id [N], the lead of the first over it in logits [N], and whether that is within rounding."""
    ids, logits, _, _ = m.pole_arrays(pole)
    # Places of the first two ids that are words: a stable sort of "is excluded" puts them in front.
    places = np.argsort(excluded[ids], axis=1, kind="stable")[:, :2]
    if places.shape[1] < 2:
        zero = np.zeros(len(m), dtype=np.float32)
        return np.full(len(m), -1), zero, np.ones(len(m), dtype=bool)
    two = np.take_along_axis(logits, places, axis=1)
    lead = two[:, 0] - two[:, 1]
    tie = lead <= NEAR_TIE * np.abs(two[:, 0])
    return np.take_along_axis(ids, places, axis=1)[:, 1].astype(np.int64), lead, tie


def _close(m: NeuronMap, top: NDArray[np.int64], other: NDArray[np.int64], pole: Pole) -> NDArray[np.bool_]:
    """[N] whether a neuron's other word is within rounding of its best.

    One that the map does not list is at most as good as the last that it does: where even that is so near, all are.
    """
    ids, logits, _, _ = m.pole_arrays(pole)
    best, rival = (np.where(ids == token[:, None], logits, -np.inf).max(axis=1) for token in (top, other))
    rival = np.where(np.isfinite(rival), rival, logits[:, -1])
    named = (top >= 0) & (other >= 0)
    best = np.where(named, best, 0.0)
    close: NDArray[np.bool_] = named & (best - rival <= NEAR_TIE * np.abs(best))
    return close


def _jaccard(a: NDArray[np.int32], b: NDArray[np.int32]) -> NDArray[np.float64]:
    """[N] |A ∩ B| / |A ∪ B| of the rows' id sets; ids within a row are distinct."""
    both = np.sort(np.concatenate([a, b], axis=1), axis=1)
    common = (both[:, 1:] == both[:, :-1]).sum(axis=1)
    shared: NDArray[np.float64] = common / (2 * a.shape[1] - common)
    return shared
