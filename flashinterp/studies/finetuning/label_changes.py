"""What became of each neuron's words in a fine-tune, as a run keeps it: by neuron and by word, without any map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from flashinterp.decoding.neuron_map import NeuronMap
from flashinterp.neuron_index import NeuronIndex
from flashinterp.neurons import NeuronId
from flashinterp.provenance.registry import record
from flashinterp.stats import Interval, wilson
from flashinterp.studies.finetuning.compare import CHANGES, Change, Part, Preservation, decompose
from flashinterp.studies.finetuning.gained_words import GAIN, Gained, gained

Codes = NDArray[np.int8]
"""[N] what became of each label, as its place in `CHANGES`; -1 of a neuron without a label."""
EVERYWHERE = slice(None)
KEPT = CHANGES.index("kept")


def codes(compared: Preservation) -> Codes:
    """What a comparison of two maps says of each label."""
    change = compared.change
    found = np.full(len(change), -1, dtype=np.int8)
    for code, name in enumerate(CHANGES):
        found[change == name] = code
    return found


def share_kept(change: Codes, part: slice | NDArray[np.bool_] = EVERYWHERE) -> Interval | None:
    """The share of a part's labels that were kept, with Wilson's interval; None where no neuron has one."""
    own = change[part]
    return wilson(int((own == KEPT).sum()), int((own >= 0).sum()))


def counts(change: Codes, part: slice = EVERYWHERE) -> dict[Change, int]:
    """How many labels of a part became what."""
    return {name: int((change[part] == code).sum()) for code, name in enumerate(CHANGES)}


def lost_by(change: Codes, base_head: Codes, tuned_head: Codes, part: slice = EVERYWHERE) -> Part | None:
    """The share of a part's labels that was lost, split into the rows' change and the head's.

    Args:
        change: base against fine-tune, each with its own head.
        base_head: base against the fine-tune's rows, decoded with the base's head.
        tuned_head: base against its own rows, decoded with the fine-tune's head.
        part: positions.
    """
    # It asks of a comparison which neurons have a label and which kept it, and nothing else.
    own, rows, head = (cast(Preservation, _Outcome(c >= 0, c == KEPT)) for c in (change, base_head, tuned_head))
    return decompose(own, rows, head, part)


class _Outcome(NamedTuple):
    """[N] whether a neuron has a label, and whether it kept it."""

    labelled: NDArray[np.bool_]
    kept: NDArray[np.bool_]


@record("finetuning.labels", version=1)
@dataclass(frozen=True)
class Labels:
    """What two maps, of a base model and its fine-tune, say of each neuron's best word.

    Attributes:
        roster: which neurons, in order.
        change: [N] what became of each label, see `Codes`.
        near_tie: [N] bool, in one of the models the best word's lead was within rounding.
        jaccard: [N] float64, overlap of the two lists.
        lead: [N] float32, of the best word over the second in the base, logits.
        listed: the lists' length.
    """

    roster: NeuronIndex
    change: Codes
    near_tie: NDArray[np.bool_]
    jaccard: NDArray[np.float64]
    lead: NDArray[np.float32]
    listed: int

    @classmethod
    def of(cls, compared: Preservation) -> Labels:
        """From the comparison of two maps."""
        m = compared.map_a
        return cls(
            m.roster, codes(compared), compared.near_tie, compared.jaccard, compared.margin_a, m.top_ids.shape[1]
        )

    @property
    def lost(self) -> list[NeuronId]:
        """The neurons whose best word is another one."""
        return [self.roster.neuron(int(i)) for i in np.flatnonzero(self.change > KEPT)]

    def most_changed(self, n: int) -> list[int]:
        """The positions of those that lost the clearest labels: least overlap first, then the largest former lead."""
        changed = np.flatnonzero(self.change > KEPT)
        order = np.lexsort((changed, -self.lead[changed], self.jaccard[changed]))
        return [int(i) for i in changed[order[:n]]]


@record("finetuning.neuron_words", version=1)
@dataclass(frozen=True)
class ShownWords:
    """The words of some neurons in two models.

    Attributes:
        before, after: by the neuron's position, the ids of its best words in each model, best first.
        texts: the surfaces of these ids.
    """

    before: dict[int, list[int]]
    after: dict[int, list[int]]
    texts: dict[int, str]


def shown_words(compared: Preservation, places: Sequence[int], n: int) -> ShownWords:
    """The n best words of the neurons at these positions in both models of a comparison."""
    texts: dict[int, str] = {}

    def words(m: NeuronMap, at: int) -> list[int]:
        tokens = [word.token for word in m.words(m.neuron(at), n, compared.pole)]
        texts.update((token.id, token.text) for token in tokens)
        return [token.id for token in tokens]

    before, after = ({at: words(m, at) for at in places} for m in (compared.map_a, compared.map_b))
    return ShownWords(before, after, texts)


@record("finetuning.word_gains", version=1)
@dataclass(frozen=True)
class Gains:
    """The words that some neuron of one model names better than any neuron of another does.

    Attributes:
        tokens: [n] int32, their ids.
        neurons: [n] int32, the position of the neuron that names each best.
        poles: [n] int8, 1 or -1: on which of its poles.
        scores: [n] float64, how well.
        before: [n] float64, the best score of any neuron in the other model.
        texts: of the clearest words, the surface.
        own_before: of these, the best word of the same neuron and pole in the other model; None where it has none.
    """

    tokens: NDArray[np.int32]
    neurons: NDArray[np.int32]
    poles: NDArray[np.int8]
    scores: NDArray[np.float64]
    before: NDArray[np.float64]
    texts: dict[int, str]
    own_before: dict[int, str | None]

    @property
    def clear(self) -> list[int]:
        """The places of those that are named more than `GAIN` times better, clearest first."""
        known = self.before > 0
        factor = np.divide(self.scores, self.before, where=known, out=np.full(len(known), np.inf))
        order = np.lexsort((self.tokens, -factor))
        return [int(i) for i in order if factor[i] > GAIN]

    @property
    def words(self) -> set[int]:
        """The ids of these words."""
        return {int(self.tokens[i]) for i in self.clear}


def gains(map_a: NeuronMap, map_b: NeuronMap, shown: int) -> Gains:
    """The words that the second map names better than the first, by however little; the first few with their texts.

    Raises:
        NotComparable: as `flashinterp.compare`.
    """
    found = gained(map_a, map_b, factor=1.0)
    first: list[Gained] = found[:shown]

    def column(values: Any, dtype: Any) -> NDArray[Any]:
        return np.array(list(values), dtype=dtype)

    return Gains(
        tokens=column((g.token.id for g in found), np.int32),
        neurons=column((map_b.index(g.neuron) for g in found), np.int32),
        poles=column((1 if g.pole == "+" else -1 for g in found), np.int8),
        scores=column((g.score for g in found), np.float64),
        before=column((g.before for g in found), np.float64),
        texts={g.token.id: g.token.text for g in first},
        own_before={g.token.id: g.own_before.text if g.own_before else None for g in first},
    )
