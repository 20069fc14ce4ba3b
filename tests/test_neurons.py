"""The nouns: names, ranges, lenses."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashinterp.errors import FlashinterpError, NeuronError
from flashinterp.neurons import LENSES, POLES, POSITIONS, SITES, Block, NeuronId, get_lens

COUNT = st.integers(0, 10**6)


@given(COUNT, COUNT)
def test_a_name_and_its_parts_are_inverse(layer: int, neuron: int) -> None:
    assert NeuronId.parse(str(NeuronId(layer, neuron))) == NeuronId(layer, neuron)


@given(st.lists(st.tuples(COUNT, COUNT), max_size=8))
def test_neurons_sort_by_layer_then_neuron(pairs: list[tuple[int, int]]) -> None:
    assert [(n.layer, n.neuron) for n in sorted(NeuronId(*p) for p in pairs)] == sorted(pairs)


def test_the_papers_dog_neuron_prints_as_the_design_says() -> None:
    assert str(NeuronId(25, 1442)) == "L25N1442"


def test_blanks_around_a_name_and_a_parsed_name_pass() -> None:
    assert NeuronId.parse(" L3N4\n") == NeuronId.parse(NeuronId(3, 4)) == NeuronId(3, 4)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "L25",
        "N3",
        "25N1442",
        "L-1N3",
        "L1N3.5",
        "L1N3x",
        "L1 N3",
        "l1n3",
        "L1N3 L1N4",
        "L1E2",
        "L1EN3",
        "E2N3",
        "L1E-1N3",
    ],
)
def test_what_is_no_name_is_refused_with_an_example(name: str) -> None:
    with pytest.raises(NeuronError, match="L25N1442") as caught:
        NeuronId.parse(name)
    assert "\n" not in str(caught.value)


def test_an_experts_neuron_has_its_own_name() -> None:
    neuron = NeuronId.parse("L12E3N40")
    assert (neuron.layer, neuron.expert, neuron.neuron, str(neuron)) == (12, 3, 40, "L12E3N40")
    assert neuron.block == Block(12, 3)
    assert NeuronId(12, 40).block == Block.of(12)


def test_neurons_sort_by_layer_then_expert_then_neuron() -> None:
    names = ["L0N7", "L1N9", "L1E0N1", "L1E0N30", "L1E2N0", "L1E10N0", "L2N0"]
    assert [str(n) for n in sorted(NeuronId.parse(name) for name in reversed(names))] == names


def test_the_lenses_are_the_five_of_the_method() -> None:
    assert {name: (lens.weight, lens.residual, lens.side) for name, lens in LENSES.items()} == {
        "paper": ("up", False, "read"),
        "read": ("up", True, "read"),
        "gate": ("gate", True, "read"),
        "write": ("down", True, "write"),
        "logit-lens": ("down", False, "write"),
    }


def test_a_lens_is_found_by_name_and_passes_through() -> None:
    assert get_lens("read") is get_lens(get_lens("read")) is LENSES["read"]


def test_an_unknown_lens_is_refused_with_the_choice() -> None:
    with pytest.raises(NeuronError, match="'tuned': choose one of paper, read, gate, write, logit-lens"):
        get_lens("tuned")


def test_sites_poles_and_positions_are_those_of_the_method() -> None:
    assert (SITES, POLES, POSITIONS) == (("up", "gate", "post"), ("+", "-"), ("all", "last", "generated"))


def test_every_error_has_the_one_base() -> None:
    from flashinterp import errors

    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    assert len(kinds) >= 10
    assert all(issubclass(kind, FlashinterpError) for kind in kinds)
