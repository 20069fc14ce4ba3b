"""Matched controls: who is eligible, who is nearest, and who is the same neuron twice."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashinterp.evaluation.matched_controls import (
    DEAD_SCALE,
    MOST_MISMATCH,
    LayerScale,
    duplicates_of,
    matched_controls,
)
from tests.examples import examples

NEURONS = 40
NONE = np.zeros(NEURONS, dtype=bool)


def scale(seed: int = 0, **silenced: float) -> LayerScale:
    """A layer of 40 neurons with log-normal scales; ``n7=1e-9`` sets one neuron's activation."""
    draw = np.random.default_rng(seed)
    activation, norm = np.exp(draw.normal(size=NEURONS)), np.exp(0.5 * draw.normal(size=NEURONS))
    for name, value in silenced.items():
        activation[int(name[1:])] = value
    return LayerScale(activation, norm)


def nearest_by_hand(layer: LayerScale, target: int, n: int, barred: set[int]) -> list[int]:
    """The n nearest on two log axes, each in standard deviations over those eligible, by sorting all."""
    alive = [i for i in range(NEURONS) if layer.output[i] > DEAD_SCALE * np.median(layer.output)]
    axes = [np.log(np.maximum(a, 1e-300)) for a in (layer.activation, layer.column_norm)]
    alike = [i for i in alive if all(abs(axis[i] - axis[target]) <= np.log(MOST_MISMATCH) for axis in axes)]
    pool = [i for i in alike if i != target and i not in barred]
    if not pool:
        return []
    spreads = [max(float(np.std([axis[i] for i in pool])), 1e-6) for axis in axes]
    far = {i: sum(abs(axis[i] - axis[target]) / s for axis, s in zip(axes, spreads, strict=True)) for i in pool}
    return sorted(pool, key=lambda i: (far[i], i))[:n]


@examples(25)
@given(seed=st.integers(0, 10**6), target=st.integers(0, NEURONS - 1), n=st.integers(1, NEURONS))
def test_controls_are_the_nearest_by_brute_force(seed: int, target: int, n: int) -> None:
    layer, duplicates = scale(seed, n7=1e-9, n8=0.0), NONE.copy()
    duplicates[[3, 4]] = True
    got = matched_controls(layer, target, n, duplicates)
    assert list(got.neurons) == nearest_by_hand(layer, target, n, {3, 4})
    assert not {target, 3, 4, 7, 8} & set(got.neurons)
    assert len(set(got.neurons)) == len(got.neurons) <= n


def test_a_dead_target_has_no_controls() -> None:
    got = matched_controls(scale(n7=0.0, n8=1e-9), 7, 10, NONE)
    assert (got.neurons, got.scale_ratio, got.norm_ratio) == ((), None, None)


@pytest.mark.parametrize("times", [1 / 5.01, 1 / 4.99, 4.99, 5.01])
@pytest.mark.parametrize("axis", ["activation", "column_norm"])
def test_a_control_is_of_the_targets_kind_on_each_axis(axis: str, times: float) -> None:
    axes = {"activation": np.ones(NEURONS), "column_norm": np.ones(NEURONS)}
    axes[axis][3] = times
    got = matched_controls(LayerScale(**axes), 0, NEURONS, NONE)
    assert (3 in got.neurons) == (1 / MOST_MISMATCH <= times <= MOST_MISMATCH)
    assert len(got.neurons) == NEURONS - 1 - (3 not in got.neurons)


@pytest.mark.parametrize(("share", "alive"), [(0.999, False), (1.001, True)])
def test_a_control_lives_above_a_hundredth_of_the_layers_median(share: float, alive: bool) -> None:
    # The output counts, whichever of its two parts is small; the target is as small, so that it is of their kind.
    activation, norm = np.ones(NEURONS), np.ones(NEURONS)
    activation[:2] = norm[2:4] = share * DEAD_SCALE
    for target, other in ((0, 1), (2, 3)):
        got = matched_controls(LayerScale(activation, norm), target, NEURONS, NONE)
        assert got.neurons == ((other,) if alive else ())


def test_in_a_layer_that_is_mostly_silent_whatever_does_as_much_is_a_control() -> None:
    activation = np.zeros(NEURONS)
    activation[[2, 7, 9]] = [1.0, 0.3, 4.0]
    assert set(matched_controls(LayerScale(activation, np.ones(NEURONS)), 2, 10, NONE).neurons) == {7, 9}


@examples(25)
@given(st.integers(0, 10**6), st.integers(0, NEURONS - 1), st.floats(0.01, 100), st.floats(0.01, 100))
def test_the_units_of_a_layer_change_neither_its_controls_nor_their_match(
    seed: int, target: int, activation: float, norm: float
) -> None:
    layer = scale(seed)
    other = LayerScale(activation * layer.activation, norm * layer.column_norm)
    one, two = (matched_controls(each, target, 8, NONE) for each in (layer, other))
    assert set(one.neurons) == set(two.neurons)
    assert two.scale_ratio == pytest.approx(one.scale_ratio)
    assert two.norm_ratio == pytest.approx(one.norm_ratio)
    assert other.relative(target) == pytest.approx(layer.relative(target))


def test_ties_go_to_the_lower_neuron() -> None:
    activation = np.ones(NEURONS)
    activation[[5, 30]] = 2.0  # so that the axis has a spread
    got = matched_controls(LayerScale(activation, np.ones(NEURONS)), 10, 4, NONE)
    assert got.neurons == (0, 1, 2, 3)


def test_an_axis_on_which_all_agree_decides_nothing() -> None:
    layer = scale()
    flat = LayerScale(layer.activation, np.full(NEURONS, 0.3))
    by_activation = sorted(
        (i for i in range(NEURONS) if i != 10), key=lambda i: abs(np.log(flat.activation[i] / flat.activation[10]))
    )
    alive = [i for i in by_activation if flat.output[i] > DEAD_SCALE * np.median(flat.output)]
    assert list(matched_controls(flat, 10, 5, NONE).neurons) == alive[:5]


def test_matching_is_on_ratios_not_on_differences() -> None:
    activation = np.array([1.0, 0.1, 1.9, *np.full(NEURONS - 3, 50.0)])
    assert matched_controls(LayerScale(activation, np.ones(NEURONS)), 0, 1, NONE).neurons == (2,)


def test_fewer_come_back_where_the_layer_has_no_more() -> None:
    assert len(matched_controls(scale(), 0, 999, NONE).neurons) == nearest_count(scale())


def nearest_count(layer: LayerScale) -> int:
    return len(nearest_by_hand(layer, 0, 999, set()))


@pytest.mark.parametrize("activation", [np.zeros(NEURONS), np.eye(NEURONS)[0]], ids=["silent", "only-the-target"])
def test_no_control_where_nothing_else_lives(activation: np.ndarray) -> None:
    got = matched_controls(LayerScale(activation, np.ones(NEURONS)), 0, 10, NONE)
    assert (got.neurons, got.scale_ratio, got.norm_ratio) == ((), None, None)


def test_ratios_are_the_target_over_the_controls_median() -> None:
    layer = scale()
    got = matched_controls(layer, 0, 5, NONE)
    chosen = list(got.neurons)
    assert got.scale_ratio == pytest.approx(layer.activation[0] / np.median(layer.activation[chosen]))
    assert got.norm_ratio == pytest.approx(layer.column_norm[0] / np.median(layer.column_norm[chosen]))


def test_relative_output_is_in_medians_and_nought_in_a_silent_layer() -> None:
    layer = scale()
    assert layer.relative(3) == pytest.approx(layer.activation[3] * layer.column_norm[3] / np.median(layer.output))
    assert LayerScale(np.zeros(4), np.ones(4)).relative(0) == 0


# --- duplicates -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("read", "write", "same"),
    [
        (1.0, 1.0, True),
        (3.0, 0.2, True),  # a scale is a gauge
        (-1.0, -1.0, True),  # so is the sign of both
        (-2.0, -0.5, True),
        (-1.0, 1.0, False),  # the opposite neuron
        (1.0, -1.0, False),
        (1.0, None, False),  # reads the same, writes something else
        (None, 1.0, False),
        (0.0, 1.0, False),
    ],
)
def test_duplicates_are_the_same_function_up_to_the_gauge(read: float | None, write: float | None, same: bool) -> None:
    draw = np.random.default_rng(1)
    reading, writing = draw.normal(size=(NEURONS, 64)), draw.normal(size=(NEURONS, 64))
    if read is not None:
        reading[20] = read * reading[10]
    if write is not None:
        writing[20] = write * writing[10]
    found = duplicates_of(10, reading, writing)
    assert found.shape == (NEURONS,)
    assert set(np.flatnonzero(found)) == ({20} if same else set())


def test_a_near_copy_is_a_duplicate_and_a_relative_is_not() -> None:
    draw = np.random.default_rng(1)
    reading, writing = draw.normal(size=(NEURONS, 64)), draw.normal(size=(NEURONS, 64))
    reading[20], writing[20] = reading[10] + 0.01 * reading[20], writing[10]  # cosine 0.99995
    reading[21], writing[21] = reading[10] + 0.5 * reading[21], writing[10]  # cosine about 0.89
    assert set(np.flatnonzero(duplicates_of(10, reading, writing))) == {20}


def test_a_neuron_without_weights_is_no_duplicate() -> None:
    assert not duplicates_of(0, np.zeros((3, 4)), np.zeros((3, 4))).any()
