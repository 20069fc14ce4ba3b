"""The fixtures are what their truth says: the same bytes each time, small, and planted where it says."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import silu

from fixtures import build as build_module
from fixtures.build import HIDDEN, IN_CROWD, LAYERS, NEURONS, PLANTS, VOCAB, build, built, companions
from flashinterp.checkpoint import Checkpoint
from flashinterp.decode import token_logits
from flashinterp.neuron import NeuronId
from flashinterp.neuron_map import NeuronMap
from flashinterp.prompts import shipped
from flashinterp.scan import decode
from tests.helpers import paper_logits

MODELS = ("planted", "tuned", "unplanted")
BY_ID = pytest.mark.parametrize("plant", PLANTS, ids=lambda p: p.id)
MOST_BYTES = 2_000_000
MOST_PARAMETERS = 500_000


@pytest.fixture(scope="module")
def maps(planted: Checkpoint) -> dict[str, NeuronMap]:
    return {lens: decode(planted, lens=lens, top_k=100) for lens in ("paper", "write")}


# --- files ------------------------------------------------------------------------------------------


def _digests(folder: Path) -> dict[str, str]:
    files = (p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.fixture(scope="module")
def rebuilt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("fixtures") / "again")


def test_two_builds_give_the_same_bytes(rebuilt: Path, fixture_folder: Path) -> None:
    assert _digests(rebuilt) == _digests(fixture_folder)
    assert {f"{name}/model.safetensors" for name in MODELS} < set(_digests(rebuilt))


def test_a_build_leaves_nothing_beside_its_folder(rebuilt: Path) -> None:
    assert [p.name for p in rebuilt.parent.iterdir()] == ["again"]


def test_a_folder_that_is_there_is_not_built_over(tmp_path: Path) -> None:
    (tmp_path / "old").write_text("whole")
    with pytest.raises(FileExistsError, match="name a folder that is not"):
        build(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["old"]


def test_a_build_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(build_module, "save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        build(tmp_path / "built")
    assert list(tmp_path.iterdir()) == []


def test_what_is_built_is_not_built_again(fixture_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build_module, "build", lambda folder: pytest.fail("built again"))
    assert built() == fixture_folder


@pytest.mark.parametrize("name", MODELS)
def test_tiny_stays_tiny(name: str, fixture_folder: Path) -> None:
    folder = fixture_folder / name
    assert sum(t.numel() for t in load_file(folder / "model.safetensors").values()) < MOST_PARAMETERS
    assert all(p.stat().st_size < MOST_BYTES for p in folder.iterdir())
    config = json.loads((folder / "config.json").read_text())
    sizes = ("num_hidden_layers", "intermediate_size", "hidden_size", "vocab_size")
    assert [config[s] for s in sizes] == [LAYERS, NEURONS, HIDDEN, VOCAB]


@pytest.mark.parametrize("name", MODELS)
def test_transformers_loads_every_tensor_and_text_runs_through(name: str, request: pytest.FixtureRequest) -> None:
    checkpoint: Checkpoint = request.getfixturevalue(name)
    ids = checkpoint.tokenizer("The king has a dog", return_tensors="pt").input_ids
    logits = checkpoint.load_model()(ids).logits
    assert logits.shape == (1, ids.shape[1], VOCAB)
    assert torch.isfinite(logits).all()


def test_the_models_have_one_vocabulary_and_only_the_tuned_one_chats(
    planted: Checkpoint, tuned: Checkpoint, unplanted: Checkpoint
) -> None:
    assert planted.vocabulary == tuned.vocabulary == unplanted.vocabulary
    assert [c.tokenizer.chat_template is not None for c in (planted, tuned, unplanted)] == [False, True, False]
    text = tuned.tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)
    assert text == "<|user|> hi<|end|>"


# --- the tokenizer ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["The king has a dog.", " Dumbledore", "hot  dogs\n\t", "\u00e9t\u00e9 \u20ac \U0001f600", "", "a'b"]
)
def test_any_text_comes_back_from_its_ids(text: str, planted: Checkpoint) -> None:
    ids = planted.tokenizer.encode(text, add_special_tokens=False)
    assert planted.tokenizer.decode(ids) == text
    assert all(i < VOCAB for i in ids)


def test_dumbledore_falls_into_the_pieces_that_the_truth_names(planted: Checkpoint, truth: dict[str, Any]) -> None:
    dumbledore = truth["dumbledore"]
    assert planted.vocabulary.pieces(dumbledore["text"]) == dumbledore["pieces"] == [" Dum", "ble", "dore"]


def test_every_planted_token_is_one_token(planted: Checkpoint, truth: dict[str, Any]) -> None:
    for text in [p["token"] for p in truth["plants"]] + truth["dog_words"]:
        assert planted.vocabulary.pieces(text) == [text]
        assert planted.vocabulary.resolve(text).form == "as written"


# --- the truth --------------------------------------------------------------------------------------


def test_the_truth_names_every_plant(truth: dict[str, Any]) -> None:
    assert [p["id"] for p in truth["plants"]] == [p.id for p in PLANTS]
    assert all(p["name"] == f"L{p['layer']}N{p['neuron']}" for p in truth["plants"])
    assert len({p["name"] for p in truth["plants"]}) == len(PLANTS)


@BY_ID
def test_a_planted_neuron_is_its_tokens_best_on_its_pole(plant: Any, maps: dict[str, NeuronMap]) -> None:
    found = maps[plant.lens].find(plant.token, n=3)
    name = NeuronId(plant.layer, plant.neuron)
    rank = 1 if plant.id == "king-twin" else 0  # an equal score goes to the lower neuron
    assert (found[rank].neuron, found[rank].pole, found[rank].certain) == (name, plant.pole, True)
    assert found[rank].score > 2 * found[2].score, "no clear lead over what is not planted"
    assert maps[plant.lens].words(name, 1, plant.pole)[0].token.text == plant.token


def test_the_twins_read_and_write_the_same(planted: Checkpoint, truth: dict[str, Any], maps: Any) -> None:
    (pair,) = truth["duplicates"]
    rows = [planted.rows(kind, NeuronId.parse(name).layer)[NeuronId.parse(name).neuron] for kind in ("up", "down")
            for name in pair]  # fmt: skip
    assert torch.equal(rows[0], rows[1])
    assert torch.equal(rows[2], rows[3])
    scores = [f.score for f in maps["paper"].find(" king", n=2)]
    assert scores[0] == scores[1]


def test_the_dog_neuron_names_the_other_words_for_dog_too(truth: dict[str, Any], maps: dict[str, NeuronMap]) -> None:
    words = [w.token.text for w in maps["paper"].words("L1N17", 8)]
    assert words[0] == " dog"
    assert set(truth["dog_words"]) <= set(words)


def test_dumbledore_leads_to_the_broader_neuron(truth: dict[str, Any], maps: dict[str, NeuronMap]) -> None:
    first = maps["paper"].find(truth["dumbledore"]["pieces"][0], n=1)[0]
    assert maps["paper"].words(first.neuron, 1, first.pole)[0].token.text == truth["dumbledore"]["leads_to"]


@BY_ID
def test_a_plant_reads_its_token_only_where_the_truth_says(plant: Any, planted: Checkpoint) -> None:
    token = planted.vocabulary.resolve(plant.token).id
    row = planted.rows("up", plant.layer)[plant.neuron].double()
    present = planted.load_model().model.embed_tokens.weight[token].double()
    present[-1] = 0
    for direction in (present, planted.head()[token].double()):
        cosine = float(row @ direction / row.norm() / direction.norm())
        if plant.reads:
            assert cosine * (-1 if plant.pole == "-" else 1) > 0.5
        else:
            assert abs(cosine) < 1e-5


@BY_ID
def test_a_plant_writes_its_token_only_where_the_truth_says(plant: Any, planted: Checkpoint) -> None:
    token = planted.vocabulary.resolve(plant.token).id
    column, head = planted.rows("down", plant.layer)[plant.neuron].double(), planted.head()[token].double()
    cosine = float(column @ head / column.norm() / head.norm())
    if plant.crowd:
        assert IN_CROWD - 0.2 < cosine < IN_CROWD + 0.2  # the rest of what it writes is anything
    else:
        want = (-1 if plant.pole == "-" else 1) if plant.writes else 0
        assert cosine == pytest.approx(want, abs=1e-5)


def test_a_crowd_writes_more_of_its_token_than_the_planted_neuron(planted: Checkpoint) -> None:
    (plant,) = [p for p in PLANTS if p.crowd]
    token = planted.vocabulary.resolve(plant.token).id
    written = planted.rows("down", plant.layer) @ planted.head()[token]
    crowd = [n for _, n in companions(plant)]
    assert len(crowd) == plant.crowd
    assert (written[crowd] > written[plant.neuron]).all()


def test_a_collapse_is_a_neuron_that_opens_at_its_token_and_writes_against_it(planted: Checkpoint) -> None:
    (plant,) = [p for p in PLANTS if p.collapses]
    ((layer, n),) = companions(plant)
    head = planted.head()[planted.vocabulary.resolve(plant.token).id]
    assert layer > plant.layer
    assert planted.rows("gate", layer)[n] @ head > 0
    assert planted.rows("down", layer)[n] @ head < 0


@BY_ID
def test_a_plants_gate_is_open_on_text_only_where_it_is_alive(plant: Any, planted: Checkpoint) -> None:
    model = planted.load_model()
    values: list[torch.Tensor] = []
    gate = model.model.layers[plant.layer].mlp.gate_proj
    handle = gate.register_forward_hook(lambda module, args, out: values.append(out[0, :, plant.neuron]))
    ids = planted.tokenizer("The king and the dog cross the river in the moon", return_tensors="pt").input_ids
    model(ids)
    handle.remove()
    opening = silu(values[0])
    assert (opening > 0.5).all() if plant.alive else (opening.abs() < 1e-6).all()


def test_padded_rows_of_the_head_are_zero_and_no_others(planted: Checkpoint) -> None:
    zero = (planted.head() == 0).all(dim=1).nonzero()[:, 0]
    assert zero.tolist() == list(range(len(planted.tokenizer), VOCAB))


def test_the_head_is_no_larger_than_its_padding_asks_for(planted: Checkpoint) -> None:
    assert VOCAB % 64 == 0
    assert 40 <= VOCAB - len(planted.tokenizer) < 40 + 64, "the texts have changed: set VOCAB in fixtures/build.py"


def test_every_word_of_the_shipped_texts_is_one_token(planted: Checkpoint) -> None:
    prompts = shipped()
    for word in (w for group in prompts.groups for w in group.words):
        assert planted.vocabulary.resolve(word).form == "as written"
    for text in (*prompts.selection, *prompts.heldout, *prompts.contexts_selection, *prompts.contexts_heldout):
        pieces = planted.tokenizer.tokenize(text.replace(",", ""))
        assert len(pieces) == len(text.split()), text


def test_nothing_is_planted_in_the_unplanted_sibling(unplanted: Checkpoint, maps: dict[str, NeuronMap]) -> None:
    plain = {lens: decode(unplanted, lens=lens, top_k=100) for lens in ("paper", "write")}
    for plant in PLANTS:
        found = plain[plant.lens].find(plant.token, n=1)
        assert not found or found[0].neuron != NeuronId(plant.layer, plant.neuron)
        assert not found or found[0].score < maps[plant.lens].find(plant.token, n=1)[0].score


def test_planting_moved_nothing_but_the_planted_neurons(planted: Checkpoint, unplanted: Checkpoint) -> None:
    assert planted.folder is not None
    assert unplanted.folder is not None
    a, b = (load_file(c.folder / "model.safetensors") for c in (planted, unplanted) if c.folder)
    assert set(a) == set(b)
    own = {(p.layer, p.neuron) for p in PLANTS} | {place for p in PLANTS for place in companions(p)}
    changed = set()
    for layer in range(LAYERS):
        for kind in ("up", "gate", "down"):
            same = (planted.rows(kind, layer) == unplanted.rows(kind, layer)).all(dim=1)  # type: ignore[arg-type]
            changed |= {(layer, int(n)) for n in (~same).nonzero()[:, 0]}
    assert changed == own
    assert all(torch.equal(a[name], b[name]) for name in a if ".mlp." not in name)


def test_a_planted_neuron_driven_up_brings_its_token(planted: Checkpoint, planted_model: Any) -> None:
    """By hand and without the clamp: more of the dog neuron's output vector is added to the residual stream."""
    logits = token_logits(planted, "write", range(VOCAB), blocks=[1])[17]
    dog = planted.vocabulary.resolve(" dog").id
    assert int(np.argmax(logits)) == dog
    ids = planted.tokenizer("The", return_tensors="pt").input_ids
    column = planted.rows("down", 1)[17]
    gains = []
    for value in (0.0, 200.0):

        def push(module: Any, args: Any, out: Any, value: float = value) -> Any:
            return out + value * column

        handle = planted_model.model.layers[1].mlp.register_forward_hook(push)
        gains.append(float(planted_model(ids).logits[0, -1].log_softmax(-1)[dog]))
        handle.remove()
    assert gains[1] > gains[0] + 2


def test_the_tuned_sibling_changed_a_quarter_of_each_layer(
    planted: Checkpoint, tuned: Checkpoint, truth: dict[str, Any]
) -> None:
    old, new = paper_logits(planted).argmax(1), paper_logits(tuned).argmax(1)
    changed = {str(n): np.flatnonzero((old != new)[n * NEURONS : (n + 1) * NEURONS]).tolist() for n in range(LAYERS)}
    assert changed == truth["tuned"]["changed"]
    assert truth["tuned"]["kept_share"] == 1 - len(changed["0"]) / NEURONS == 0.75
    lost = {p["id"] for p in truth["plants"] if p["neuron"] in changed[str(p["layer"])]}
    assert lost == set(truth["tuned"]["lost"]) == {"sherlock"}
