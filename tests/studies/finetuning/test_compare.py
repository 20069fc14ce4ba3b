"""Two maps compared: the share that is known by construction, and what cannot be compared."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flashinterp.decoding.decode import decode
from flashinterp.decoding.neuron_map import NeuronMap
from flashinterp.errors import NotComparable
from flashinterp.models.checkpoint import Checkpoint, open_checkpoint
from flashinterp.neurons import POLES, NeuronId
from flashinterp.studies.finetuning.compare import (
    NEAR_TIE,
    Preservation,
    compare,
    decompose,
    peer_percentile,
    row_cosines,
)
from tests.helpers import map_by_hand, paper_logits, small_checkpoint, word_vocabulary


@pytest.fixture(scope="module")
def base(planted: Checkpoint) -> NeuronMap:
    return decode(planted, top_k=50)


@pytest.fixture(scope="module")
def preservation(base: NeuronMap, tuned: Checkpoint) -> Preservation:
    return compare(base, decode(tuned, top_k=50))


# --- the known share --------------------------------------------------------------------------------


def test_the_kept_share_is_the_one_that_was_built_in(preservation: Preservation, truth: dict[str, Any]) -> None:
    assert preservation.share is not None
    assert preservation.share.estimate == truth["tuned"]["kept_share"] == 0.75
    assert preservation.share.low is not None
    assert preservation.share.high is not None
    assert 0.72 < preservation.share.low < 0.75 < preservation.share.high < 0.78


def test_every_layer_has_that_share_with_its_interval(preservation: Preservation) -> None:
    assert [(s.layer, s.n, s.kept) for s in preservation.per_layer] == [(n, 256, 192) for n in range(4)]
    for layer in preservation.per_layer:
        assert layer.share is not None
        assert layer.share.estimate == 0.75
        assert (layer.share.low, layer.share.high) == pytest.approx((0.6935, 0.7992), abs=5e-4)  # Wilson, 192 of 256


def test_the_changed_neurons_are_those_that_were_changed(preservation: Preservation, truth: dict[str, Any]) -> None:
    for layer in range(4):
        kept = preservation.kept[layer * 256 : (layer + 1) * 256]
        assert np.flatnonzero(~kept).tolist() == truth["tuned"]["changed"][str(layer)]


def test_a_map_against_itself_keeps_all(base: NeuronMap) -> None:
    for pole in POLES:
        same = compare(base, base, pole=pole)
        assert same.kept.all()
        assert not same.swapped.any()
        assert (same.jaccard == 1).all()
        assert same.share is not None
        assert same.share.estimate == 1
        assert same.most_changed() == []
        np.testing.assert_array_equal(same.margin_a, same.margin_b)


def test_scaled_rows_keep_their_whole_lists(preservation: Preservation) -> None:
    assert (preservation.jaccard[preservation.kept] == 1).all()
    assert (preservation.jaccard[~preservation.kept] < 1).all()


def test_the_negative_pole_is_compared_on_its_own(planted: Checkpoint, tuned: Checkpoint) -> None:
    a, b = decode(planted, top_k=5), decode(tuned, top_k=5)
    z = {name: paper_logits(c) for name, c in (("a", planted), ("b", tuned))}
    for pole, sign in (("+", 1), ("-", -1)):
        tops = []
        for name, checkpoint in (("a", planted), ("b", tuned)):
            signed = sign * z[name]
            signed[:, checkpoint.vocabulary.excluded] = -np.inf
            tops.append(signed.argmax(1))
        got = compare(a, b, pole=pole)  # type: ignore[arg-type]
        np.testing.assert_array_equal(got.kept, tops[0] == tops[1])
        np.testing.assert_array_equal(got.top_a, tops[0])
        np.testing.assert_array_equal(got.top_b, tops[1])


# --- labels by hand ---------------------------------------------------------------------------------


def test_swapped_means_that_first_and_second_changed_places() -> None:
    a = map_by_hand([[0, 1, 2], [0, 1, 2], [0, 1, 2], [0, 1, 2]])
    b = map_by_hand([[0, 1, 2], [1, 0, 2], [1, 2, 0], [3, 0, 1]])
    got = compare(a, b)
    assert got.kept.tolist() == [True, False, False, False]
    assert got.swapped.tolist() == [False, True, False, False]
    assert got.jaccard.tolist() == [1, 1, 1, 0.5]


def test_margins_and_near_ties_are_of_the_two_best_words() -> None:
    clear, close = [8.0, 7.0, 1.0], [8.0, 8.0 - 2**-6, 1.0]
    a = map_by_hand([[0, 1, 2], [0, 1, 2], [0, 1, 2], [9, 0, 1]], [clear, clear, close, [9.0, 8.0, 6.0]], excluded=[9])
    b = map_by_hand([[0, 1, 2], [0, 1, 2], [0, 1, 2], [0, 9, 1]], [clear, close, clear, [9.0, 8.9, 6.0]], excluded=[9])
    got = compare(a, b)
    assert got.near_tie.tolist() == [False, True, True, False]
    np.testing.assert_allclose(got.margin_a, [1, 1, 2**-6, 2])
    np.testing.assert_allclose(got.margin_b, [1, 2**-6, 1, 3])
    assert got.share_clear is not None
    assert got.share_clear.estimate == 1
    assert got.kept.all()


@pytest.mark.parametrize(("lead", "tied"), [(0.0, True), (2**-8, True), (2**-7, False)])
def test_a_lead_within_bfloat16_rounding_is_a_near_tie(lead: float, tied: bool) -> None:
    m = map_by_hand([[0, 1]], [[1.0, 1.0 - lead]])
    assert compare(m, m).near_tie.tolist() == [tied]


# --- what became of a label -----------------------------------------------------------------------------


def test_every_label_has_one_fate() -> None:
    near = 8.0 - 2**-6
    a = map_by_hand(
        [[0, 1, 2], [0, 1, 2], [0, 1, 2], [0, 1, 2], [0, 1, 2], [9, 9, 9]],
        [[8, 7, 6], [8, near, 6], [8, 7, 6], [8, 7, 6], [8, near, 6], [8, 7, 6]],
        excluded=[9],
    )
    b = map_by_hand(
        [[0, 1, 2], [1, 0, 2], [1, 0, 2], [3, 4, 5], [3, 4, 5], [9, 9, 9]],
        [[8, 7, 6], [8, 7, 6], [8, 7, 6], [8, near, 6], [8, 7, 6], [8, 7, 6]],
        excluded=[9],
    )
    got = compare(a, b)
    # The fourth's new label and the fifth's old one are in doubt, but their former word is gone whoever took its place.
    assert got.change.tolist() == ["kept", "near tie", "swapped", "changed", "changed", ""]
    assert got.near_tie.tolist()[3:5] == [True, True]
    assert got.changes() == {"kept": 1, "near tie": 1, "swapped": 1, "changed": 2}


@pytest.mark.parametrize("order", [1, -1])
def test_a_change_between_two_near_words_is_a_near_tie_in_whichever_model_they_are_near(order: int) -> None:
    near, far = [8.0, 8.0 * (1 - NEAR_TIE), 1.0], [8.0, 7.0, 1.0]
    a = map_by_hand([[0, 1, 2]] * 2, [near, far][::order])
    b = map_by_hand([[1, 0, 2]] * 2, [far, far])
    assert compare(a, b).change.tolist() == ["near tie", "swapped"][::order]
    assert compare(b, a).change.tolist() == ["near tie", "swapped"][::order]


def test_a_word_that_is_not_listed_is_near_only_where_all_that_are_listed_are() -> None:
    flat = [1.0, 1.0 - NEAR_TIE / 4, 1.0 - NEAR_TIE / 2]
    a = map_by_hand([[0, 1, 2], [0, 1, 2]], [flat, [1.0, 1.0 - NEAR_TIE / 2, 0.5]])
    b = map_by_hand([[3, 4, 5], [3, 4, 5]], [[8.0, 7.0, 6.0]] * 2)
    assert compare(a, b).change.tolist() == ["near tie", "changed"]


def test_the_overwritten_rows_are_told_as_changed_and_rounded_ones_as_near_ties(
    preservation: Preservation, planted: Checkpoint, base: NeuronMap
) -> None:
    assert preservation.changes() == {"kept": 768, "near tie": 0, "swapped": 0, "changed": 256}
    assert preservation.changes(2) == {"kept": 192, "near tie": 0, "swapped": 0, "changed": 64}
    model = planted.load_model()
    for parameter in model.parameters():
        parameter.data = parameter.data.bfloat16().float()
    rounded = open_checkpoint(model)
    rounded.vocabulary = planted.vocabulary
    found = compare(base, decode(rounded, top_k=50)).changes()
    assert found["near tie"] > 0
    assert found["swapped"] == found["changed"] == 0


def test_words_lost_and_gained_are_the_differences_of_the_best(preservation: Preservation) -> None:
    for neuron in [*preservation.most_changed(3), NeuronId(0, 0)]:
        before, after = ([w.token.id for w in m.words(neuron, 5)] for m in (preservation.map_a, preservation.map_b))
        assert [w.token.id for w in preservation.words_lost(neuron, 5)] == [i for i in before if i not in after]
        assert [w.token.id for w in preservation.words_gained(neuron, 5)] == [i for i in after if i not in before]


def test_words_are_those_of_the_compared_pole(base: NeuronMap, tuned: Checkpoint) -> None:
    minus = compare(base, decode(tuned, top_k=50), pole="-")
    neuron = minus.most_changed(1)[0]
    own = {w.token.id for w in base.words(neuron, 5, "-")}
    lost = minus.words_lost(neuron, 5)
    assert lost
    assert {w.token.id for w in lost} <= own


# --- the rows' change and the head's -----------------------------------------------------------------------


def four(seed: int, *, rows: bool, head: bool) -> tuple[Preservation, Preservation, Preservation]:
    """A model against one with other rows or another head, as `decompose` takes it."""
    a, b, c = (small_checkpoint(np.random.default_rng(s)) for s in (seed, seed, seed + 50))
    for layer in range(2):
        if rows:
            b.model.model.layers[layer].mlp.up_proj.weight.copy_(c.rows("up", layer))
    if head:
        b.model.lm_head.weight.copy_(c.head())
    own, base_head, tuned_head = decode(b, top_k=5), decode(b, top_k=5, head_of=a), decode(a, top_k=5, head_of=b)
    m = decode(a, top_k=5)
    return compare(m, own), compare(m, base_head), compare(m, tuned_head)


def test_a_change_of_the_rows_alone_and_of_the_head_alone_are_told_apart() -> None:
    for rows, head in ((True, False), (False, True)):
        part = decompose(*four(1, rows=rows, head=head))
        assert part is not None
        assert part.lost > 0.5
        assert part.rows == pytest.approx(part.lost if rows else 0)
        assert part.head == pytest.approx(part.lost if head else 0)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("part", [None, slice(6, 12)])
def test_the_parts_add_up_and_are_the_mean_over_both_orders(seed: int, part: slice | None) -> None:
    own, base_head, tuned_head = four(seed, rows=True, head=True)
    got = decompose(own, base_head, tuned_head, part)
    assert got is not None
    lost_of = [float((~p.kept[part or slice(None)]).mean()) for p in (own, base_head, tuned_head)]
    assert got.lost == pytest.approx(lost_of[0])
    assert got.rows + got.head == pytest.approx(got.lost)
    rows_first, rows_last = lost_of[1], lost_of[0] - lost_of[2]
    assert got.rows == pytest.approx((rows_first + rows_last) / 2)
    assert (got.rows_alone, got.head_alone) == pytest.approx(tuple(lost_of[1:]))


def test_a_part_without_labels_has_no_parts() -> None:
    same = compare(map_by_hand([[9]], excluded=[9]), map_by_hand([[9]], excluded=[9]))
    assert decompose(same, same, same) is None


def test_percentiles_are_among_the_nearest_in_norm_of_the_same_mlp() -> None:
    m = map_by_hand([[0, 1]] * 10, layers=(0, 1))
    values = np.array([0, 1, 2, 3, 4, 9, 9, 9, 9, 9], dtype=np.float64)
    like = np.array([1, 2, 4, 8, 16, 1, 1, 1, 1, 1], dtype=np.float64)
    assert peer_percentile(values, like, m.roster, "L0N2") == 50
    assert peer_percentile(values, like, m.roster, "L0N4") == 100
    assert peer_percentile(values, like, m.roster, "L0N0", 2) == 0
    assert peer_percentile(values, like, m.roster, "L1N3") == 50  # all equal
    assert peer_percentile(values, like, m.roster, "L0N3", 1) == 100  # of L0N2 and L0N4, as near, the lower neuron
    alone = map_by_hand([[0, 1]])
    assert peer_percentile(np.ones(1), np.ones(1), alone.roster, "L0N0") is None


def test_a_change_of_a_near_tie_does_not_count_against_the_clear_ones() -> None:
    a = map_by_hand([[0, 1], [0, 1]], [[8, 7], [8, 8]])
    b = map_by_hand([[0, 1], [1, 0]], [[8, 7], [8, 8]])
    got = compare(a, b)
    assert got.share is not None
    assert got.share_clear is not None
    assert (got.share.estimate, got.share_clear.estimate) == (0.5, 1)


def test_where_no_id_is_a_word_there_is_nothing_to_keep() -> None:
    a = map_by_hand([[0], [9], [9], [1]], excluded=[9], layers=(0, 1))
    b = map_by_hand([[0], [9], [2], [9]], excluded=[9], layers=(0, 1))
    got = compare(a, b)
    assert got.top_a.tolist() == [0, -1, -1, 1]
    assert got.labelled.tolist() == [True, False, True, True]
    assert got.kept.tolist() == [True, False, False, False]
    assert got.share is not None
    assert got.share.estimate == pytest.approx(1 / 3)
    assert [(s.n, s.kept) for s in got.per_layer] == [(1, 1), (2, 0)]
    assert got.most_changed() == [NeuronId(1, 0), NeuronId(1, 1)]
    nothing = compare(map_by_hand([[9]], excluded=[9]), map_by_hand([[9]], excluded=[9]))
    assert nothing.share is None
    assert nothing.share_clear is None
    assert nothing.per_layer[0].share is None


def test_a_single_kept_token_has_no_lead() -> None:
    got = compare(map_by_hand([[0], [1]]), map_by_hand([[0], [2]]))
    assert got.kept.tolist() == [True, False]
    assert got.near_tie.all()
    assert got.share_clear is None


def test_most_changed_puts_the_clearest_losses_first() -> None:
    a = map_by_hand([[0, 1], [0, 1], [0, 1], [0, 1], [0, 1]], [[5, 4], [5, 1], [9, 0], [5, 1], [5, 4]], layers=(3,))
    b = map_by_hand([[2, 3], [2, 3], [0, 1], [1, 2], [2, 3]], layers=(3,))
    got = compare(a, b)
    assert [str(n) for n in got.most_changed()] == ["L3N1", "L3N0", "L3N4", "L3N3"]
    assert [str(n) for n in got.most_changed(2)] == ["L3N1", "L3N0"]


def test_the_neuron_that_was_planted_and_lost_is_among_the_changed(
    preservation: Preservation, truth: dict[str, Any]
) -> None:
    (lost,) = (p for p in truth["plants"] if p["id"] in truth["tuned"]["lost"])
    assert NeuronId.parse(lost["name"]) in preservation.most_changed(256)
    assert preservation.margin_a[preservation.map_a.index(lost["name"])] > 0


ID_SETS = st.integers(1, 6).flatmap(
    lambda k: st.lists(st.tuples(*[st.permutations(range(9)).map(lambda p: p[:k])] * 2), min_size=1, max_size=5)
)


@given(ID_SETS)
def test_jaccard_is_that_of_the_sets(rows: list[tuple[list[int], list[int]]]) -> None:
    got = compare(map_by_hand([a for a, _ in rows]), map_by_hand([b for _, b in rows]))
    assert got.jaccard.tolist() == [len({*a} & {*b}) / len({*a} | {*b}) for a, b in rows]


# --- what cannot be compared ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (map_by_hand([[0, 1]] * 4, lens="write"), "lens is paper in one and write in the other"),
        (map_by_hand([[0]] * 4), "top_k is 2 in one and 1"),
        (map_by_hand([[0, 1]] * 4, layers=(0, 1)), "layers is"),
        (map_by_hand([[0, 1]] * 4, layers=(1,)), "layers is"),
        (map_by_hand([[0, 1]] * 5), "neurons 0 to 3 in one and layer 0 with neurons 0 to 4"),
        (map_by_hand([[0, 1]] * 4, vocab=11), "vocabulary size is 10 in one and 11"),
        (
            replace(map_by_hand([[0, 1]] * 4), vocabulary=type(word_vocabulary(1))(
                [" w0", " w1", " w2", "\u202eevil", *(f" w{i}" for i in range(4, 10))], [], prefix_space=False
            )),
            r"tokenizers differ, first at id 3 \(␣w3 against \\u\{202e\}evil\)",
        ),
    ],
    ids=["lens", "top_k", "number of layers", "other layers", "width", "vocabulary size", "tokenizer"],
)  # fmt: skip
def test_what_would_mean_nothing_is_not_comparable(other: NeuronMap, told: str) -> None:
    own = map_by_hand([[0, 1]] * 4)
    with pytest.raises(NotComparable, match=told) as caught:
        compare(own, other)
    assert "\n" not in str(caught.value)
    with pytest.raises(NotComparable):
        compare(other, own)


# --- rows -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["up", "gate", "down"])
def test_row_cosines_are_those_of_float64(kind: Any) -> None:
    a, b = (small_checkpoint(np.random.default_rng(seed), hidden=10) for seed in (1, 2))
    got = row_cosines(a, b, kind)
    x, y = (torch.cat([c.rows(kind, layer) for layer in range(2)]).double().numpy() for c in (a, b))
    want = (x * y).sum(1) / np.linalg.norm(x, axis=1) / np.linalg.norm(y, axis=1)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, want, atol=1e-6)
    np.testing.assert_allclose(row_cosines(a, a, kind), 1, atol=1e-6)


def test_cosines_of_zero_rows_and_of_opposites() -> None:
    a, b = (small_checkpoint(np.random.default_rng(1)) for _ in range(2))
    for checkpoint, rows in ((a, [0, 1]), (b, [0, 2])):
        checkpoint.model.model.layers[0].mlp.up_proj.weight[rows] = 0
    b.model.model.layers[0].mlp.up_proj.weight[3] *= -2
    assert row_cosines(a, b, "up")[:5].tolist() == pytest.approx([1, 0, 0, -1, 1])


def test_scaled_rows_point_the_same_way_and_changed_ones_do_not(
    planted: Checkpoint, tuned: Checkpoint, preservation: Preservation
) -> None:
    cosines = row_cosines(planted, tuned, "up")
    np.testing.assert_allclose(cosines[preservation.kept], 1, atol=1e-6)
    assert cosines[~preservation.kept].max() < 0.9
    np.testing.assert_allclose(row_cosines(planted, tuned, "down"), 1, atol=1e-6)


@pytest.mark.parametrize("shape", [{"layers": 3}, {"neurons": 7}, {"hidden": 6}])
def test_rows_of_models_of_other_shapes_are_not_comparable(shape: dict[str, int]) -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(NotComparable, match="one has layers 0 to 1 with neurons 0 to 5, hidden size 4, the other"):
        row_cosines(small_checkpoint(rng), small_checkpoint(rng, **shape), "up")


def test_one_head_for_both_separates_the_rows_change_from_the_heads(planted: Checkpoint, tuned: Checkpoint) -> None:
    other = small_checkpoint(np.random.default_rng(1), integers=True)
    same_rows = small_checkpoint(np.random.default_rng(1), integers=True)
    same_rows.model.lm_head.weight.copy_(torch.flip(other.head(), (0,)))
    own = compare(decode(other, top_k=5), decode(same_rows, top_k=5))
    borrowed = compare(decode(other, top_k=5), decode(same_rows, top_k=5, head_of=other))
    assert not own.kept.all()
    assert borrowed.kept.all()
