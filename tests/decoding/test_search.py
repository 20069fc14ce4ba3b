"""Which neuron names a word: against the explicit product with the whole head, in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from flashinterp.decoding.contrast import Null, search_p
from flashinterp.decoding.lens_rows import lens_rows
from flashinterp.decoding.search import find, find_each
from flashinterp.errors import NeuronError, TokenError
from flashinterp.models.checkpoint import Checkpoint, open_checkpoint
from tests.architecture_cases import KINDS, Case
from tests.helpers import assert_one_line_with_next_step, edited_copy


def explicit(checkpoint: Checkpoint, lens: str, token: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """z and contrast of every neuron [N], from all its logits, layer by layer."""
    head, real = checkpoint.head().double().numpy(), ~checkpoint.vocabulary.excluded
    every, contrasts = [], []
    for layer in checkpoint.layout.roster.layers:
        blocks = checkpoint.layout.roster.of_layers([layer]).blocks
        logits = np.concatenate([lens_rows(checkpoint, lens, b, dtype=torch.float64).numpy() for b in blocks]) @ head.T
        mean, deviation = logits[:, real].mean(axis=1), logits[:, real].std(axis=1)
        z = (logits[:, token] - mean) / deviation
        every.append(z)
        contrasts.append(z / np.sqrt((z**2).mean()))
    return np.concatenate(every), np.concatenate(contrasts)


@pytest.mark.parametrize("lens", ["paper", "read", "gate", "write", "logit-lens"])
def test_the_best_neurons_are_those_of_the_explicit_formula(planted: Checkpoint, lens: str) -> None:
    token = planted.vocabulary.resolve(" dog")
    z, contrast = explicit(planted, lens, token.id)
    best = np.argsort(-np.abs(contrast), kind="stable")[:12]
    found = find(planted, " dog", lens=lens, n=12, cache=False)
    assert [m.neuron for m in found] == [planted.layout.roster.neuron(int(i)) for i in best]
    sign = np.sign(contrast[best])
    assert [m.pole for m in found] == ["+" if s > 0 else "-" for s in sign]
    np.testing.assert_allclose([m.z for m in found], sign * z[best], rtol=2e-5)
    np.testing.assert_allclose([m.contrast for m in found], sign * contrast[best], rtol=2e-5)
    assert {m.lens for m in found} == {lens}
    assert {m.searched for m in found} == {len(planted.layout.roster)}


@pytest.mark.parametrize("name", KINDS)
def test_on_every_kind_of_architecture(name: str, case: Callable[[str], Case]) -> None:
    """Scaled logits, soft-caps, (1 + w) norms, transposed matrices, experts: z is that of the explicit formula."""
    checkpoint = case(name).checkpoint
    token = int(np.flatnonzero(~checkpoint.vocabulary.excluded)[7])
    for lens in ("paper", "write"):
        z, contrast = explicit(checkpoint, lens, token)
        for match in find(checkpoint, token, lens=lens, n=3, cache=False):
            i = checkpoint.layout.roster.index(match.neuron)
            sign = 1 if match.pole == "+" else -1
            assert match.z == pytest.approx(sign * z[i], rel=1e-4)
            assert match.contrast == pytest.approx(sign * contrast[i], rel=1e-4)


@pytest.mark.parametrize("pole", ["+", "-"])
def test_one_pole_alone(planted: Checkpoint, pole: Any) -> None:
    sign = 1 if pole == "+" else -1
    _, contrast = explicit(planted, "paper", planted.vocabulary.resolve(" dog").id)
    found = find(planted, " dog", n=4, pole=pole, cache=False)
    np.testing.assert_allclose([m.contrast for m in found], np.sort(sign * contrast)[::-1][:4], rtol=2e-5)
    assert {m.pole for m in found} == {pole}
    assert found[0].p == search_p(found[0].contrast, len(contrast), 1)


def test_words_and_rank_are_those_of_the_neurons_logits(planted: Checkpoint) -> None:
    head, vocabulary = planted.head().double().numpy(), planted.vocabulary
    for match in find(planted, " king", n=3, cache=False):
        row = planted.rows("up", match.neuron.layer)[match.neuron.neuron].double().numpy()
        logits = (1 if match.pole == "+" else -1) * head @ row
        logits[vocabulary.excluded] = -np.inf
        order = np.argsort(-logits, kind="stable")
        assert match.words == tuple(vocabulary.surfaces[i] for i in order[:10])
        assert order[match.rank - 1] == vocabulary.resolve(" king").id


def test_a_planted_neuron_is_found_with_a_small_p(planted: Checkpoint, truth: dict[str, Any]) -> None:
    one = next(p for p in truth["plants"] if p["id"] == "dog")
    best = find(planted, one["token"], n=1, cache=False)[0]
    assert (str(best.neuron), best.pole, best.rank) == (one["name"], one["pole"], 1)
    assert best.p < 1e-3


def test_rescaling_a_neuron_changes_nothing_and_the_gauge_only_the_pole(planted: Checkpoint, tmp_path: Any) -> None:
    own = find(planted, " dog", n=1, cache=False)[0]
    layer, i = own.neuron.layer, own.neuron.neuron

    def change(tensors: dict[str, Any]) -> None:
        tensors[f"model.layers.{layer}.mlp.up_proj.weight"][i] *= -7.5

    other = open_checkpoint(edited_copy(planted.folder, tmp_path / "turned", change))
    turned = find(other, " dog", n=1, cache=False)[0]
    assert (turned.neuron, turned.pole) == (own.neuron, "-" if own.pole == "+" else "+")
    assert turned.contrast == pytest.approx(own.contrast, rel=1e-5)


def test_several_words_and_all_lenses_are_the_single_searches(planted: Checkpoint) -> None:
    words = [" dog", " king", " California"]
    together = find_each(planted, words, lens="all", n=2, cache=False)
    names = [lens.name for lens in planted.layout.lenses]
    for word, found in zip(words, together, strict=True):
        alone = [m for name in names for m in find(planted, word, lens=name, n=2, cache=False)]
        assert sorted((m.lens, m.neuron) for m in found) == sorted((m.lens, m.neuron) for m in alone)
        theirs = {(m.lens, m.neuron): m for m in alone}
        for match in found:
            other = theirs[match.lens, match.neuron]
            assert (match.pole, match.rank, match.words) == (other.pole, other.rank, other.words)
            assert (match.z, match.contrast) == pytest.approx((other.z, other.contrast), rel=1e-5)
        assert [m.p for m in found] == sorted(m.p for m in found)


def test_progress_goes_once_over_all_layers_of_all_lenses(planted: Checkpoint) -> None:
    seen: list[tuple[int, int]] = []
    find(planted, " dog", lens="all", n=1, cache=False, progress=lambda *at: seen.append(at))
    assert seen == [(i, 20) for i in range(1, 21)]


def test_what_is_not_there_is_refused(planted: Checkpoint) -> None:
    for call, kind in (
        (lambda: find(planted, 10**6, cache=False), TokenError),
        (lambda: find(planted, " dog", lens="tuned", cache=False), NeuronError),
        (lambda: find(planted, " dog", n=0, cache=False), NeuronError),
    ):
        with pytest.raises(kind) as caught:
            call()
        assert_one_line_with_next_step(caught.value)
    assert find_each(planted, [], cache=False) == []


@given(st.floats(0, 12), st.integers(1, 10**7), st.sampled_from([1, 2]))
def test_p_is_that_of_the_largest_of_so_many_normals(contrast: float, searched: int, poles: int) -> None:
    one = poles * stats.norm.sf(contrast)
    want = 1.0 if one >= 1 else -np.expm1(searched * np.log1p(-one))
    assert search_p(contrast, searched, poles) == pytest.approx(want, rel=1e-9, abs=1e-300)
    assert 0 <= search_p(contrast, searched, poles) <= 1


def test_in_a_model_without_neurons_for_words_few_words_are_flagged(unplanted: Checkpoint) -> None:
    """The rate at 5 % over all words of a random model, by lens."""
    words = unplanted.vocabulary.words()
    for lens in ("paper", "write"):
        best = [found[0] for found in find_each(unplanted, words, lens=lens, n=1, cache=False)]
        flagged = sum(m.p <= 0.05 for m in best)
        assert stats.binomtest(flagged, len(words), 0.05, alternative="greater").pvalue > 0.001, (lens, flagged)


def test_against_neurons_drawn_at_random_a_planted_one_stands_out_and_the_next_does_not(planted: Checkpoint) -> None:
    first, second = find(planted, " dog", n=2, null=Null(draws=39), cache=False)
    assert first.p == 1 / 40
    assert second.p > 0.05
    assert (first.q, second.q) == (first.p, None)


def test_what_is_drawn_is_drawn_from_the_seed(planted: Checkpoint) -> None:
    one, same, other = (
        [m.p for m in find(planted, " dog", n=8, null=Null(draws=9, seed=seed), cache=False)] for seed in (1, 1, 2)
    )
    assert one == same
    assert one != other


def test_the_normal_is_no_bolder_than_a_rotation(unplanted: Checkpoint) -> None:
    """Over words of a random model: in few dimensions contrasts have lighter tails than a normal, never heavier."""
    words = unplanted.vocabulary.words()[:200]
    counted = find_each(unplanted, words, n=1, null=Null(draws=99), cache=False)
    normal = find_each(unplanted, words, n=1, cache=False)
    bolder = [a[0].p - b[0].p for a, b in zip(counted, normal, strict=True)]
    assert np.mean(bolder) < 0.01
    assert np.max(bolder) < 0.15


def test_q_is_that_of_the_best_neurons_over_the_words(planted: Checkpoint) -> None:
    found = find_each(planted, [" dog", " king", " cat"], n=2, cache=False)
    want = stats.false_discovery_control([matches[0].p for matches in found])
    assert [matches[0].q for matches in found] == pytest.approx(list(want))
    assert {matches[1].q for matches in found} == {None}


def test_a_name_of_several_tokens_is_looked_for_by_their_mean_and_by_each(planted: Checkpoint) -> None:
    """z of the mean of the pieces' directions is the mean of their z, neuron by neuron."""
    name, vocabulary = " dog cat", planted.vocabulary
    ids = vocabulary.piece_ids(name)
    assert len(ids) == 2
    found = find(planted, name, n=3, cache=False)
    assert [m.word for m in found] == ["mean of " + " + ".join(vocabulary.surfaces[i] for i in ids)] * 3 + [
        vocabulary.surfaces[i] for i in ids for _ in range(3)
    ]
    z = np.mean([explicit(planted, "paper", i)[0] for i in ids], axis=0).reshape(4, 256)
    contrast = (z / np.sqrt((z**2).mean(axis=1, keepdims=True))).ravel()
    best = int(np.abs(contrast).argmax())
    assert (found[0].neuron, found[0].ids) == (planted.layout.roster.neuron(best), tuple(ids))
    assert found[0].contrast == pytest.approx(abs(contrast[best]), rel=2e-5)
    alone = find(planted, ids[0], n=3, cache=False)
    assert [(m.word, m.neuron, m.pole, m.rank) for m in found[3:6]] == [
        (m.word, m.neuron, m.pole, m.rank) for m in alone
    ]
