"""Which neuron is where: positions and names are each other's inverse, whatever blocks there are."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashinterp.errors import NeuronError
from flashinterp.neuron_index import NeuronIndex, span
from flashinterp.neurons import Block, NeuronId
from tests.helpers import assert_one_line_with_next_step


@st.composite
def rosters(draw: st.DrawFn) -> NeuronIndex:
    """Any blocks of some layers, in order: of each layer a dense MLP, or experts, or both."""
    blocks = []
    for layer in sorted(draw(st.sets(st.integers(0, 12), min_size=1, max_size=5))):
        dense, experts = draw(st.sampled_from([(True, 0), (False, 1), (False, 3), (True, 1), (True, 11)]))
        blocks += [Block(layer)] if dense else []
        blocks += [Block(layer, e) for e in range(experts)]
    return NeuronIndex(tuple(blocks), tuple(draw(st.integers(1, 7)) for _ in blocks))


MIXED = NeuronIndex((Block(0), Block(1), Block(1, 0), Block(1, 1), Block(3, 0)), (4, 6, 2, 2, 5))


def _all(roster: NeuronIndex) -> list[NeuronId]:
    """Every neuron in order, counted out."""
    return [NeuronId(b.layer, n, b.expert) for b, w in zip(roster.blocks, roster.widths, strict=True) for n in range(w)]


# --- names and positions ----------------------------------------------------------------------------


@given(rosters())
def test_a_position_and_its_neuron_are_inverse(roster: NeuronIndex) -> None:
    neurons = _all(roster)
    assert len(roster) == len(neurons)
    assert [roster.neuron(i) for i in range(len(roster))] == neurons
    assert [roster.index(str(neuron)) for neuron in neurons] == list(range(len(roster)))
    assert neurons == sorted(neurons)
    assert roster.layer_of().tolist() == [neuron.layer for neuron in neurons]


def test_a_position_counts_the_blocks_before_it() -> None:
    names = {0: "L0N0", 4: "L1N0", 9: "L1N5", 10: "L1E0N0", 13: "L1E1N1", 14: "L3E0N0", 18: "L3E0N4"}
    assert {i: str(MIXED.neuron(i)) for i in names} == names
    assert MIXED.index("L1E1N1") == 13


@pytest.mark.parametrize(
    "name", ["L0N4", "L1E0N2", "L1E2N0", "L0E0N0", "L2N0", "L3N0", "L4E0N0", "L1N6", "L3E0N5", "L13N0"]
)
def test_a_neuron_that_is_not_there_is_refused_with_what_is(name: str) -> None:
    with pytest.raises(NeuronError, match=f"{name} is out of range: there are layer 0 with neurons 0 to 3") as caught:
        MIXED.index(name)
    assert_one_line_with_next_step(caught.value)


def test_a_negative_neuron_is_refused() -> None:
    with pytest.raises(NeuronError, match="out of range"):
        MIXED.check(NeuronId(0, -1))


@pytest.mark.parametrize("i", [-1, 19, 10**9])
def test_a_position_out_of_range_is_refused(i: int) -> None:
    with pytest.raises(
        NeuronError, match=f"position {i} is out of range: there are 19 neurons; choose 0 to 18"
    ) as caught:
        MIXED.neuron(i)
    assert_one_line_with_next_step(caught.value)


# --- spans ------------------------------------------------------------------------------------------


@given(rosters())
def test_the_spans_of_blocks_lie_end_to_end(roster: NeuronIndex) -> None:
    neurons, end = _all(roster), 0
    for block, width in zip(roster.blocks, roster.widths, strict=True):
        own = roster.span(block)
        assert (own.start, own.stop - own.start, roster.width(block)) == (end, width, width)
        assert {neuron.block for neuron in neurons[own]} == {block}
        end = own.stop
    assert end == len(roster)


@given(rosters())
def test_the_span_of_a_layer_is_that_of_all_its_blocks(roster: NeuronIndex) -> None:
    neurons = _all(roster)
    for layer in roster.layers:
        own = roster.layer_span(layer)
        assert neurons[own] == [neuron for neuron in neurons if neuron.layer == layer]
        np.testing.assert_array_equal(np.flatnonzero(roster.layer_of() == layer), np.arange(own.start, own.stop))


def test_a_layers_number_stands_for_its_dense_mlp() -> None:
    assert MIXED.span(1) == MIXED.span(Block(1)) == slice(4, 10)
    assert MIXED.layer_span(1) == slice(4, 14)
    assert MIXED.width(1) == 6


@pytest.mark.parametrize("where", [2, 3, Block(0, 0), Block(1, 2), Block(-1)])
def test_a_block_that_is_not_there_is_refused(where: int | Block) -> None:
    for look in (MIXED.width, MIXED.span):
        with pytest.raises(NeuronError, match="is not among these MLPs: layer 0 with") as caught:
            look(where)
        assert_one_line_with_next_step(caught.value)


@pytest.mark.parametrize("layer", [2, 4, -1])
def test_a_layer_that_is_not_there_is_refused(layer: int) -> None:
    with pytest.raises(NeuronError, match=f"layer {layer} is not among these") as caught:
        MIXED.layer_span(layer)
    assert_one_line_with_next_step(caught.value)


# --- parts and files --------------------------------------------------------------------------------


@given(rosters(), st.data())
def test_some_layers_part_keeps_their_blocks_and_widths(roster: NeuronIndex, data: st.DataObject) -> None:
    chosen = data.draw(st.lists(st.sampled_from(roster.layers), unique=True))
    part = roster.of_layers(chosen)
    assert _all(part) == [neuron for neuron in _all(roster) if neuron.layer in chosen]
    assert part.layers == tuple(sorted(chosen))
    assert roster.of_layers(roster.layers) == roster


@given(rosters())
def test_rows_come_back_through_json(roster: NeuronIndex) -> None:
    again = NeuronIndex.from_rows(json.loads(json.dumps(roster.as_rows())))
    assert again == roster
    assert hash(again) == hash(roster)


def test_a_roster_without_blocks_holds_nothing() -> None:
    empty = MIXED.of_layers([])
    assert (len(empty), empty.layers, empty.as_rows(), empty.layer_of().tolist()) == (0, (), [], [])
    with pytest.raises(NeuronError, match="out of range"):
        empty.neuron(0)


# --- how it prints ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("roster", "text"),
    [
        (NeuronIndex(tuple(map(Block, range(32))), (14336,) * 32), "layers 0 to 31 with neurons 0 to 14335"),
        (
            NeuronIndex((Block(0), Block(1, 0), Block(1, 1)), (48, 40, 40)),
            "layer 0 with neurons 0 to 47; layer 1 with experts 0 to 1 with neurons 0 to 39",
        ),
        (
            NeuronIndex((Block(0, 0), Block(1), Block(1, 0), Block(2, 0)), (3, 5, 3, 3)),
            "layers 0, 2 with experts 0 to 0 with neurons 0 to 2; "
            "layer 1 with neurons 0 to 4 and experts 0 to 0 with neurons 0 to 2",
        ),
    ],
)
def test_a_roster_prints_what_there_is(roster: NeuronIndex, text: str) -> None:
    assert str(roster) == text


@pytest.mark.parametrize(
    ("layers", "text"),
    [([0, 1, 2], "0 to 2"), ([3], "3"), ([0, 2], "0, 2"), ([1, 3, 4], "1, 3, 4"), ([4, 5], "4 to 5")],
)
def test_layers_print_as_a_range_where_they_are_one(layers: list[int], text: str) -> None:
    assert span(layers) == text
