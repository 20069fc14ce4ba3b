"""What a map answers, against brute force; and its file, which is whole or not there."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from fixtures.build import VOCAB
from flashinterp.decoding.decode import decode
from flashinterp.decoding.neuron_map import NeuronMap
from flashinterp.errors import MapError, NeuronError, TokenError
from flashinterp.models.checkpoint import Checkpoint, open_checkpoint
from flashinterp.neurons import POLES, NeuronId
from tests.examples import examples
from tests.helpers import UP, edited_copy, log_mean_top, log_sum_exp, map_by_hand, paper_logits, small_checkpoint

ARRAYS = (
    "top_ids",
    "top_logits",
    "bottom_ids",
    "bottom_logits",
    "logsumexp",
    "log_mean_top",
    "bottom_logsumexp",
    "bottom_log_mean_top",
    "norms",
)
SEEDS = st.integers(0, 2**32 - 1)
# A score is exp(z - logmeanexp) with both in float32: logits of size 10 are known to 1e-6.
NEAR = 1e-4


@pytest.fixture(scope="module")
def planted_map(planted: Checkpoint) -> NeuronMap:
    return decode(planted, top_k=100)


def brute_scores(checkpoint: Checkpoint) -> NDArray[np.float64]:
    """[N, V, 2] log scores of every token at every neuron, on both poles."""
    z = paper_logits(checkpoint)
    return np.stack([z - log_mean_top(z)[:, None], -z - log_mean_top(-z)[:, None]], axis=2)


# --- which neuron is which --------------------------------------------------------------------------


@pytest.mark.parametrize("layers", [None, [2], [0, 3]])
def test_position_and_neuron_are_inverse(layers: list[int] | None, planted: Checkpoint) -> None:
    m = decode(planted, top_k=1, layers=layers)
    names = [m.neuron(i) for i in range(len(m))]
    assert [m.index(n) for n in names] == [m.index(str(n)) for n in names] == list(range(len(m)))
    assert names == sorted(names)
    assert sorted({n.layer for n in names}) == (layers or [0, 1, 2, 3])


@pytest.mark.parametrize(
    ("layers", "name", "told"),
    [
        ((0, 1), "L2N0", "layers 0 to 1 with neurons 0 to 2"),
        ((0, 1), "L0N3", "layers 0 to 1"),
        ((0, 2), "L1N0", "layers 0, 2"),
        ((1, 2), "L0N0", "layers 1 to 2"),
    ],
)
def test_a_neuron_that_is_not_in_the_map_is_refused(layers: tuple[int, ...], name: str, told: str) -> None:
    m = map_by_hand([[0]] * 6, layers=layers)
    with pytest.raises(NeuronError, match=f"{name} is out of range: there are {told}"):
        m.index(name)


@pytest.mark.parametrize("i", [-1, 6])
def test_a_position_out_of_range_is_refused(i: int) -> None:
    with pytest.raises(NeuronError, match="there are 6 neurons"):
        map_by_hand([[0]] * 6, layers=(0, 1)).neuron(i)


def test_a_map_says_what_it_is(planted_map: NeuronMap) -> None:
    assert len(planted_map) == 1024
    assert "1,024 neurons" in repr(planted_map)
    assert f"lens paper, top 100 of {VOCAB:,} tokens" in repr(planted_map)


# --- words ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pole", POLES)
def test_words_are_the_best_tokens_with_their_scores(pole: Any, planted: Checkpoint, planted_map: NeuronMap) -> None:
    z = paper_logits(planted)[1 * 256 + 17] * (1 if pole == "+" else -1)
    allowed = np.flatnonzero(~planted.vocabulary.excluded)
    best = allowed[np.argsort(-z[allowed], kind="stable")][:5]
    words = planted_map.words("L1N17", 5, pole)
    assert [w.token.id for w in words] == best.tolist()
    assert [w.token.text for w in words] == [planted.vocabulary.surfaces[i] for i in best]
    np.testing.assert_allclose([w.logit for w in words], z[best] * (1 if pole == "+" else -1), rtol=1e-5)
    np.testing.assert_allclose([w.score for w in words], np.exp(z[best] - log_mean_top(z)), rtol=NEAR)
    np.testing.assert_allclose([w.probability for w in words], np.exp(z[best] - log_sum_exp(z)), rtol=NEAR)


def test_excluded_ids_are_words_only_when_asked_for() -> None:
    m = map_by_hand([[3, 1, 2], [3, 3, 3]], excluded=[3])
    assert [w.token.id for w in m.words("L0N0")] == [1, 2]
    assert [w.token.id for w in m.words("L0N0", excluded=True)] == [3, 1, 2]
    assert m.words("L0N1") == []
    assert m.top_tokens().tolist() == [1, -1]


@pytest.mark.parametrize(("n", "count"), [(0, 0), (1, 1), (2, 2), (9, 3)])
def test_as_many_words_as_asked_for_and_as_there_are(n: int, count: int) -> None:
    m = map_by_hand([[3, 1, 2]])
    assert len(m.words("L0N0", n)) == count
    assert len(m.find(1, n)) == min(n, 2)  # on either pole


def test_no_top_token_is_an_excluded_one(planted: Checkpoint, planted_map: NeuronMap) -> None:
    for pole in POLES:
        z = paper_logits(planted) * (1 if pole == "+" else -1)
        z[:, planted.vocabulary.excluded] = -np.inf
        np.testing.assert_array_equal(planted_map.top_tokens(pole), z.argmax(1))


def test_mean_and_sum_scores_differ_by_the_number_of_tokens(planted_map: NeuronMap) -> None:
    by_mean, by_sum = (planted_map.find(" dog", score=form) for form in ("mean", "sum"))
    assert [f.neuron for f in by_mean] == [f.neuron for f in by_sum]
    np.testing.assert_allclose([f.score for f in by_mean], [100 * f.score for f in by_sum], rtol=1e-12)
    words = [planted_map.words("L1N17", 1, score=form)[0].score for form in ("mean", "sum")]
    assert words[0] == pytest.approx(100 * words[1])


def test_with_fewer_than_a_hundred_tokens_a_score_compares_with_all() -> None:
    checkpoint = small_checkpoint(np.random.default_rng(3), vocab=40)
    m = decode(checkpoint, top_k=40)
    z = paper_logits(checkpoint)
    p = np.exp(z - log_sum_exp(z)[:, None])
    want = (p / p.mean(axis=1, keepdims=True))[:, 7].max()
    assert m.find(7, 1, "+")[0].score == pytest.approx(want, rel=1e-4)
    assert m.find(7, 1, "+", score="sum")[0].score == pytest.approx(want / 40, rel=1e-4)


# --- find -------------------------------------------------------------------------------------------


def _assert_best(found: list[Any], brute: NDArray[np.float64], m: NeuronMap, columns: list[Any]) -> None:
    """Found, in order, is what brute force [N, poles] ranks highest; only near-equal scores may change places."""
    best = -np.sort(-brute.ravel())
    for rank, one in enumerate(found):
        own = brute[m.index(one.neuron), columns.index(one.pole)]
        assert abs(own - best[rank]) < NEAR, f"{one} at rank {rank}: {own=} {best[rank]=}"
        assert one.score == pytest.approx(np.exp(own), rel=2 * NEAR)
    assert len({(f.neuron, f.pole) for f in found}) == len(found)


@examples(60)
@given(SEEDS, st.integers(1, 12), st.integers(0, 39), st.sampled_from(["both", "+", "-"]), st.booleans())
def test_a_certain_answer_is_what_brute_force_gives(
    seed: int, top_k: int, token: int, pole: Any, integers: bool
) -> None:
    checkpoint = small_checkpoint(np.random.default_rng(seed), integers=integers)
    m = decode(checkpoint, top_k=top_k)
    columns = list(POLES) if pole == "both" else [pole]
    brute = brute_scores(checkpoint)[:, token, [POLES.index(p) for p in columns]]
    found = m.find(token, n=24, pole=pole)
    sure = [f for f in found if f.certain]
    assert found[: len(sure)] == sure, "an uncertain answer stands before a certain one"
    _assert_best(sure, brute, m, columns)
    for f in found:  # what is listed is exact, certain or not
        assert f.score == pytest.approx(np.exp(brute[m.index(f.neuron), columns.index(f.pole)]), rel=2 * NEAR)
    exact = m.find(token, n=24, pole=pole, checkpoint=checkpoint)
    assert len(exact) == min(24, brute.size)
    assert all(f.certain for f in exact)
    _assert_best(exact, brute, m, columns)
    z = paper_logits(checkpoint)
    for f in exact[:3]:
        signed = z[m.index(f.neuron)] * (1 if f.pole == "+" else -1)
        assert f.probability == pytest.approx(np.exp(signed[token] - log_sum_exp(signed)), rel=2 * NEAR)


def test_answers_are_certain_and_uncertain_on_a_short_list() -> None:
    """The test above would be empty if either never happened."""
    m = decode(small_checkpoint(np.random.default_rng(0)), top_k=3)
    told = {f.certain for token in range(40) for f in m.find(token)}
    assert told == {True, False}


def test_a_listed_token_below_an_unlisted_bound_is_not_certain() -> None:
    m = map_by_hand([[0, 1], [2, 3], [2, 4]], [[9, 1], [5, 4.9], [9, 0]])
    # L0N0 lists token 1 far below its first; L0N1 does not list it, and could give it up to 4.9 against 5.
    assert [f.certain for f in m.find(1, pole="+")] == [False]
    assert [f.certain for f in m.find(0, pole="+")] == [True]


def test_an_answer_that_an_unlisted_one_could_equal_is_not_certain() -> None:
    m = map_by_hand([[0, 1], [2, 3]], [[5, 4], [5, 4]])
    assert [f.certain for f in m.find(1, pole="+")] == [False]


def test_a_map_of_the_whole_vocabulary_is_always_certain() -> None:
    checkpoint = small_checkpoint(np.random.default_rng(1))
    m = decode(checkpoint, top_k=40)
    assert all(f.certain for token in (0, 13, 39) for f in m.find(token, n=24))


def test_a_token_that_no_neuron_lists_is_not_found() -> None:
    assert map_by_hand([[0, 1], [2, 3]]).find(9) == []


def test_equal_scores_go_to_the_lower_layer_then_neuron_then_the_positive_pole() -> None:
    checkpoint = small_checkpoint(np.random.default_rng(2), integers=True, neurons=50)
    for layer in checkpoint.model.model.layers:
        layer.mlp.up_proj.weight.zero_()
        layer.mlp.up_proj.weight[::3] = torch.tensor([2.0, -1.0, 0.0, 1.0])
    # 200 answers with three different scores: token 11 is higher on one pole of every third neuron, lower on the other.
    places = [(layer, n, pole) for layer in (0, 1) for n in range(50) for pole in POLES]
    brute = brute_scores(checkpoint)[:, 11].ravel().round(9)
    assert len(set(brute)) == 3
    want = [places[at] for at in np.argsort(-brute, kind="stable")]
    m = decode(checkpoint, top_k=40)
    for found in (m.find(11, n=200), m.find(11, n=200, checkpoint=checkpoint)):
        assert [(f.neuron.layer, f.neuron.neuron, f.pole) for f in found] == want


def test_equal_rows_in_two_layers_go_to_the_lower(planted: Checkpoint) -> None:
    checkpoint = small_checkpoint(np.random.default_rng(4), integers=True)
    row = torch.tensor([5.0, -4.0, 3.0, 6.0])
    checkpoint.model.model.layers[1].mlp.up_proj.weight[[2, 4]] = row
    checkpoint.model.model.layers[0].mlp.up_proj.weight[5] = row
    top = int((checkpoint.head() @ row).argmax())
    same = [f"L{n.layer}N{n.neuron}" for n in (NeuronId(0, 5), NeuronId(1, 2), NeuronId(1, 4))]
    m = decode(checkpoint, top_k=10)
    assert [str(f.neuron) for f in m.find(top, 3)] == same
    assert [str(f.neuron) for f in m.find(top, 3, checkpoint=checkpoint)] == same


def test_a_token_may_be_given_as_text_id_or_token(planted: Checkpoint, planted_map: NeuronMap) -> None:
    token = planted.vocabulary.resolve(" dog")
    answers = [planted_map.find(t) for t in (" dog", "dog", token.id, np.int64(token.id), token)]
    assert all(a == answers[0] for a in answers)
    with pytest.raises(TokenError, match="Dumbledore"):
        planted_map.find(" Dumbledore")


def test_scores_are_those_that_find_gives_and_nan_where_unlisted(planted_map: NeuronMap) -> None:
    scores = planted_map.scores(" dog")
    for f in planted_map.find(" dog", 5, "+"):
        assert scores[planted_map.index(f.neuron)] == pytest.approx(f.score)
    listed = (planted_map.top_ids == planted_map.vocabulary.resolve(" dog").id).any(axis=1)
    np.testing.assert_array_equal(np.isfinite(scores), listed)


@pytest.mark.parametrize("ask", ["find", "words", "top_tokens", "scores"])
@pytest.mark.parametrize("pole", ["up", "\u2212", "", None])
def test_an_unknown_pole_is_refused_and_not_taken_for_the_negative_one(ask: str, pole: Any) -> None:
    m = map_by_hand([[0, 1]])
    arguments: dict[str, Any] = {"find": {"token": 0}, "words": {"neuron": "L0N0"}, "scores": {"token": 0}}
    with pytest.raises(NeuronError, match="unknown pole"):
        getattr(m, ask)(**arguments.get(ask, {}), pole=pole)


def test_an_unknown_score_is_refused() -> None:
    m = map_by_hand([[0, 1]])
    with pytest.raises(MapError, match="choose mean or sum"):
        m.find(0, score="median")  # type: ignore[arg-type]


def test_other_weights_than_the_maps_own_are_refused(planted_map: NeuronMap, tuned: Checkpoint) -> None:
    with pytest.raises(MapError, match=r"other weights.*open"):
        planted_map.find(" dog", checkpoint=tuned)


def test_a_map_with_a_borrowed_head_gets_no_logits_from_the_rows_own(planted: Checkpoint, tuned: Checkpoint) -> None:
    m = decode(tuned, top_k=3, head_of=planted)
    with pytest.raises(MapError, match="decoded with the head of"):
        m.find(" dog", checkpoint=tuned)


# --- the file ---------------------------------------------------------------------------------------


def test_a_saved_map_comes_back_whole(planted_map: NeuronMap, tmp_path: Path) -> None:
    path = planted_map.save(tmp_path / "a.safetensors")
    loaded = NeuronMap.load(path)
    for name in ARRAYS:
        before, after = getattr(planted_map, name), getattr(loaded, name)
        assert before.dtype == after.dtype
        np.testing.assert_array_equal(before, after)
    assert loaded.roster == planted_map.roster
    assert loaded.vocabulary == planted_map.vocabulary
    np.testing.assert_array_equal(loaded.vocabulary.excluded, planted_map.vocabulary.excluded)
    assert loaded.vocabulary.prefix_space == planted_map.vocabulary.prefix_space
    assert loaded.meta == json.loads(json.dumps(planted_map.meta))
    assert loaded.find(" dog") == planted_map.find(" dog")
    assert loaded.words("L3N31", pole="-") == planted_map.words("L3N31", pole="-")


@examples(25)
@given(SEEDS, st.integers(1, 12), st.sampled_from(["both", "+", "-"]), st.booleans())
def test_a_loaded_map_answers_as_a_fresh_one(seed: int, top_k: int, pole: Any, integers: bool) -> None:
    """A loaded map looks answers up in an index, a fresh one scans."""
    fresh = decode(small_checkpoint(np.random.default_rng(seed), integers=integers, neurons=60), top_k=top_k)
    with TemporaryDirectory() as folder:
        loaded = NeuronMap.load(fresh.save(Path(folder) / "map"))
        for token in range(40):
            for n in (0, 1, 10, 31, 32, 300):
                assert loaded.find(token, n, pole) == fresh.find(token, n, pole)


def test_a_loaded_map_takes_exact_scores_from_its_model(planted: Checkpoint, tmp_path: Path) -> None:
    path = decode(planted, top_k=2).save(tmp_path / "a.safetensors")
    again = open_checkpoint(planted.folder)
    assert NeuronMap.load(path).find(" dog", checkpoint=again)[0].neuron == NeuronId(1, 17)


def test_the_same_map_gives_the_same_bytes(planted_map: NeuronMap, tmp_path: Path) -> None:
    first = planted_map.save(tmp_path / "a").read_bytes()
    assert planted_map.save(tmp_path / "b").read_bytes() == first
    assert NeuronMap.load(tmp_path / "a").save(tmp_path / "c").read_bytes() == first
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b", "c"]


@pytest.mark.parametrize("text", ["\u202eevil", "\ud800", "new\nline", "\x00", "\U0001f600"])
def test_any_text_survives_the_file(text: str, tmp_path: Path) -> None:
    m = map_by_hand([[0, 1]], vocab=2)
    vocabulary = type(m.vocabulary)([text, "b"], [1], prefix_space=True)
    loaded = NeuronMap.load(replace(m, vocabulary=vocabulary).save(tmp_path / "m"))
    assert loaded.vocabulary.surfaces == (text, "b")
    assert loaded.vocabulary.prefix_space


@pytest.mark.parametrize("place", ["files.os.replace", "arrays.save_file"])
@pytest.mark.parametrize("error", [OSError(28, "No space left"), SafetensorError("disk"), KeyboardInterrupt()])
@pytest.mark.parametrize("existed", [True, False])
def test_a_save_that_fails_leaves_the_old_file_whole_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, place: str, error: BaseException, existed: bool
) -> None:
    path = tmp_path / "map"
    if existed:
        map_by_hand([[0, 1]]).save(path)
    before = path.read_bytes() if existed else None

    def fail(*args: Any, **kwargs: Any) -> None:
        if place == "arrays.save_file":
            Path(args[1]).write_bytes(b"half of")
        raise error

    monkeypatch.setattr(f"flashinterp._util.{place}", fail)
    with pytest.raises(KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else MapError) as caught:
        map_by_hand([[1, 0]]).save(path)
    monkeypatch.undo()
    assert "\n" not in str(caught.value)
    assert (path.read_bytes() if path.exists() else None) == before
    assert list(tmp_path.iterdir()) == ([path] if existed else [])


def test_a_folder_that_is_not_there_is_an_error_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(MapError, match="cannot be written"):
        map_by_hand([[0, 1]]).save(tmp_path / "no" / "map")


def _truncate(share: float) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


def _without_array(name: str) -> Callable[[Path], None]:
    def edit(path: Path) -> None:
        with safe_open(str(path), framework="np") as file:
            about = file.metadata()
        arrays = load_file(path)
        del arrays[name]
        save_file(arrays, path, metadata=about)

    return edit


def _meta(**changes: Any) -> Callable[[Path], None]:
    def edit(path: Path) -> None:
        with safe_open(str(path), framework="np") as file:
            about = json.loads(file.metadata()["flashinterp"])
        about = {k: v for k, v in {**about, **changes}.items() if v is not None}
        save_file(load_file(path), path, metadata={"flashinterp": json.dumps(about)})

    return edit


def _vocabulary(text: bytes) -> Callable[[Path], None]:
    def edit(path: Path) -> None:
        with safe_open(str(path), framework="np") as file:
            about = file.metadata()
        save_file({**load_file(path), "vocabulary": np.frombuffer(text, np.uint8)}, path, metadata=about)

    return edit


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        pytest.param(_truncate(0.0), "not a whole", id="empty"),
        pytest.param(_truncate(0.01), "not a whole", id="cut in the header"),
        pytest.param(_truncate(0.99), "not a whole", id="cut in the data"),
        pytest.param(lambda p: p.write_bytes(b"\xff" * 500), "not a whole", id="garbage"),
        pytest.param(lambda p: p.unlink(), "not a whole", id="missing"),
        pytest.param(lambda p: (p.unlink(), p.mkdir()), "not a whole", id="a folder"),
        pytest.param(lambda p: save_file({"a": np.ones(2)}, p), "no neuron map", id="other tensors"),
        pytest.param(
            lambda p: save_file({"a": np.ones(2)}, p, metadata={"flashinterp": "[1]"}), "no neuron map", id="a list"
        ),
        pytest.param(
            lambda p: save_file({"a": np.ones(2)}, p, metadata={"flashinterp": "{"}), "not a whole", id="not JSON"
        ),
        pytest.param(_meta(schema_version=99), "schema 99", id="newer schema"),
        pytest.param(_meta(schema_version=None), "schema None", id="no schema"),
        pytest.param(_without_array("bottom_logits"), "not a whole", id="an array is missing"),
        pytest.param(_without_array("vocabulary"), "not a whole", id="no vocabulary"),
        pytest.param(_vocabulary(b"{}"), "not a whole", id="vocabulary without words"),
        pytest.param(_vocabulary(b"[]"), "not a whole", id="vocabulary of another kind"),
        pytest.param(
            _vocabulary(b'{"surfaces": ["a"], "excluded": [5], "prefix_space": false}'),
            "not a whole",
            id="ids too high",
        ),
        pytest.param(_meta(blocks=None), "not a whole", id="no blocks"),
        pytest.param(_meta(blocks=[[0, -1, "many"]]), "not a whole", id="bad width"),
        pytest.param(_meta(blocks=[[0, -1, 7]]), "does not hold 7 neurons", id="another width"),
    ],
)
def test_a_file_that_is_no_whole_map_is_refused_in_one_line(
    damage: Callable[[Path], None], told: str, tmp_path: Path
) -> None:
    path = map_by_hand([[0, 1], [2, 3]]).save(tmp_path / "map")
    assert len(NeuronMap.load(path)) == 2
    damage(path)
    with pytest.raises(MapError, match=told) as caught:
        NeuronMap.load(path)
    assert len(str(caught.value).splitlines()) == 1
    assert str(path) in str(caught.value)


def test_the_unit_score_is_the_same_for_a_rescaled_neuron(planted: Checkpoint, tmp_path: Path) -> None:
    assert planted.folder is not None
    scaled = edited_copy(planted.folder, tmp_path / "scaled", lambda t: t[UP.format(1)][17].mul_(3))
    one, other = decode(planted), decode(str(scaled))
    assert other.find(" dog", 1)[0].score > 2 * one.find(" dog", 1)[0].score
    assert other.unit_score("L1N17", " dog") == pytest.approx(one.unit_score("L1N17", " dog"), rel=1e-5)
    assert one.unit_score("L3N31", " California", "-") > one.unit_score("L0N3", one.words("L0N3")[0].token)  # type: ignore[operator]


def test_the_unit_score_is_unknown_where_the_map_cannot_tell(planted: Checkpoint) -> None:
    assert decode(planted, top_k=99).unit_score("L1N17", " dog") is None
    assert decode(planted).unit_score("L1N17", " dog", "-") is None
