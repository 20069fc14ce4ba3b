"""Two maps compared: which neurons kept their words through fine-tuning (METHOD 5; paper, section 3.3).

A preserved label is not a preserved role: that is for the causal curves to say.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flashinterp.checkpoint import Checkpoint
from flashinterp.errors import NotComparable
from flashinterp.neuron import NeuronId, Pole, WeightKind
from flashinterp.neuron_map import NeuronMap
from flashinterp.roster import span
from flashinterp.stats import Interval, wilson

# A top 1 is in doubt where its lead over the second token is within what bfloat16 storage rounds away:
# half a unit in the last of 8 bits, relative to the logit.
_NEAR_TIE = 2.0**-8


@dataclass(frozen=True)
class LayerShare:
    """Of one layer's n neurons with a label, how many kept their top token, with the share's Wilson interval."""

    layer: int
    n: int
    kept: int
    share: Interval | None


@dataclass(frozen=True)
class Preservation:
    """What became of each neuron's words between two models, by position in the maps.

    Attributes:
        kept: [N] bool, the top token is the same.
        near_tie: [N] bool, the old top token's lead was within rounding in either model, so that a change
            of label says nothing.
        swapped: [N] bool, changed, and the old top token is now second.
        jaccard: [N] overlap of the two top-k sets.
        top_a, top_b: [N] the top ids, -1 where none is a word.
        margin_a, margin_b: [N] the lead of the top token over the second, in logits.
        per_layer: the shares, layer by layer.
    """

    kept: NDArray[np.bool_]
    near_tie: NDArray[np.bool_]
    swapped: NDArray[np.bool_]
    jaccard: NDArray[np.float64]
    top_a: NDArray[np.int64]
    top_b: NDArray[np.int64]
    margin_a: NDArray[np.float32]
    margin_b: NDArray[np.float32]
    per_layer: tuple[LayerShare, ...]
    map_a: NeuronMap
    map_b: NeuronMap

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


def compare(map_a: NeuronMap, map_b: NeuronMap, *, pole: Pole = "+") -> Preservation:
    """Compare two maps neuron by neuron, as of a base model and its fine-tune.

    Raises:
        NotComparable: another vocabulary, shape, lens or top_k: the comparison would mean nothing.
    """
    _check_comparable(map_a, map_b)
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
        swapped=labelled & ~kept & (second_b == top_a) & (second_a == top_b),
        jaccard=_jaccard(map_a.pole_arrays(pole)[0], map_b.pole_arrays(pole)[0]),
        top_a=top_a,
        top_b=top_b,
        margin_a=margin_a,
        margin_b=margin_b,
        per_layer=tuple(per_layer),
        map_a=map_a,
        map_b=map_b,
    )


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


def _check_comparable(a: NeuronMap, b: NeuronMap) -> None:
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
    tie = lead <= _NEAR_TIE * np.abs(two[:, 0])
    return np.take_along_axis(ids, places, axis=1)[:, 1].astype(np.int64), lead, tie


def _jaccard(a: NDArray[np.int32], b: NDArray[np.int32]) -> NDArray[np.float64]:
    """[N] |A ∩ B| / |A ∪ B| of the rows' id sets; ids within a row are distinct."""
    both = np.sort(np.concatenate([a, b], axis=1), axis=1)
    common = (both[:, 1:] == both[:, :-1]).sum(axis=1)
    shared: NDArray[np.float64] = common / (2 * a.shape[1] - common)
    return shared
