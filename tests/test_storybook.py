"""The bundled pair: that its text, its training and what was planted are what the project says they are."""

from __future__ import annotations

import filecmp
import json
import re
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from fixtures.storybook import models, plant, stories, training, world
from fixtures.storybook.prompts import prompts
from fixtures.storybook.train import CHATS, LINE, RECIPE
from flashinterp import Answers, open_checkpoint, steer
from flashinterp.prompts import check_split, read_prompts
from flashinterp.steer import broken

FOLDER = models.FOLDER
NAMES = pytest.mark.parametrize("name", LINE)
# Sums of a batch come in another order with other threads and processors; over four steps that grows to this at most
# (1 and 2 threads differ by less than 1e-4).
SAME_LOSS = 0.02


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(FOLDER / "chat")


def load(name: str) -> Any:
    return AutoModelForCausalLM.from_pretrained(FOLDER / name, dtype=torch.float32).eval()


def tensors(name: str) -> dict[str, torch.Tensor]:
    return load_file(FOLDER / name / "model.safetensors")


# --- the world and its texts --------------------------------------------------------------------------


def test_there_are_thousands_of_facts_and_none_is_told_twice() -> None:
    assert world.facts() > 3000
    assert len({p.name for p in world.EVERYBODY}) == len(world.EVERYBODY) == world.PEOPLE


def test_texts_are_sentences_of_known_words(tokenizer: Any) -> None:
    known = set(training.vocabulary())
    rng = np.random.default_rng(0)
    for _ in range(200):
        for text in (stories.text(rng), *stories.chat(rng)):
            assert re.fullmatch(r"[A-Z].*[.?]", text), text
            assert "  " not in text
            # "a orange kite" is the grammar's one slip, and the models have learnt it.
            assert not re.search(r"\ba (?!orange\b)[aeiou]|\ban [^aeiou]", text), text
            words = re.findall(r" ?[^\W\d_]+", text)
            assert {w for w in words if "Dumbledore" not in w} <= known
            assert len(tokenizer(text)["input_ids"]) < 8 * len(words)


def test_the_same_stream_tells_the_same_text() -> None:
    told = [[stories.text(world.stream("x", i)) for i in range(20)] for _ in range(2)]
    assert told[0] == told[1]
    assert len(set(told[0])) > 15


def test_dumbledore_is_rare_and_sherlock_is_not() -> None:
    rng = np.random.default_rng(1)
    seen = Counter(stories.somebody(rng).first for _ in range(20_000))
    assert 0 < seen["Dumbledore"] < 30
    assert 400 < seen["Sherlock"] < 800


# --- tokenizer and prompts ----------------------------------------------------------------------------


@NAMES
def test_the_tokenizer_is_the_one_that_the_script_writes(name: str, tmp_path: Path) -> None:
    training.write_tokenizer(tmp_path, chat=name in CHATS)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        assert filecmp.cmp(tmp_path / file, FOLDER / name / file, shallow=False), file


@pytest.mark.parametrize("word", [" dog", " California", " Sherlock", " wizard", " penguin", "Dogs", " kennel"])
def test_common_words_are_one_token(tokenizer: Any, word: str) -> None:
    assert len(tokenizer(word)["input_ids"]) == 1


def test_a_rare_name_falls_into_pieces_and_anything_can_be_written(tokenizer: Any) -> None:
    assert [tokenizer.decode(i) for i in tokenizer(" Dumbledore")["input_ids"]] == [" Dum", "ble", "dore"]
    strange = "Zażółć 😀 xyzzy"
    assert tokenizer.decode(tokenizer(strange)["input_ids"]) == strange


def test_the_prompt_file_is_the_one_that_the_script_writes() -> None:
    assert json.loads((FOLDER / "prompts.json").read_text(encoding="utf-8")) == prompts()


def test_no_prompt_names_a_concept_and_the_split_holds(tokenizer: Any) -> None:
    ours = read_prompts(FOLDER / "prompts.json")
    check_split(ours)
    concepts = {w.strip().lower() for g in ours.groups for w in g.words}
    for text in (*ours.selection, *ours.heldout, *ours.contexts_selection, *ours.contexts_heldout):
        assert not concepts & set(re.findall(r"\w+", text.lower())), text
        assert len(tokenizer(text)["input_ids"]) == len(re.findall(r"\w+|[^\w\s]", text)), text  # no bytes


def test_no_text_of_the_training_holds_a_prompt() -> None:
    ours = read_prompts(FOLDER / "prompts.json")
    held = [*ours.selection, *ours.heldout, *ours.contexts_selection, *ours.contexts_heldout]
    made = [text for _, text in islice(training.texts(RECIPE["base"], np.random.default_rng(2)), 3000)]
    assert not [p for p in held for text in made if p in text]


def test_a_batch_begins_with_a_text_and_learns_answers_only(tokenizer: Any) -> None:
    ids, labels = training.batch(RECIPE["chat"], tokenizer, 3)
    again, _ = training.batch(RECIPE["chat"], tokenizer, 3)
    assert torch.equal(ids, again)
    assert ids.shape == labels.shape == (RECIPE["chat"].rows, training.LENGTH)
    user, assistant, end = (tokenizer.convert_tokens_to_ids(t) for t in ("<|user|>", "<|assistant|>", "<|end|>"))
    for row, learnt in zip(ids.tolist(), labels.tolist(), strict=True):
        asked = False
        for i, label in zip(row, learnt, strict=True):
            asked = asked or i == user
            assert label == (training.IGNORED if asked else i)
            asked = asked and i != assistant
    assert (ids == end).any()


# --- the models ---------------------------------------------------------------------------------------


@NAMES
def test_a_model_is_small_plain_and_whole(name: str) -> None:
    file = FOLDER / name / "model.safetensors"
    assert file.stat().st_size <= 4_000_000
    with safe_open(file, "pt") as opened:
        sizes = [opened.get_tensor(key).numel() for key in opened.keys()]  # noqa: SIM118
    assert 300_000 <= sum(sizes) <= 2_000_000
    assert {p.name for p in (FOLDER / name).iterdir()} == {
        "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip


@pytest.mark.parametrize(("name", "start"), [("base", None), ("chat", "base"), ("planted-chat", "planted")])
def test_the_training_begins_as_it_was_recorded(name: str, start: str | None, tokenizer: Any) -> None:
    recorded = json.loads((FOLDER / "training.json").read_text())[name]["losses"]
    recipe = RECIPE[LINE[name][1] or ""]
    assert len(recorded) == recipe.steps
    model = load(start) if start else training.fresh(tokenizer.get_vocab())
    losses = training.train(model, tokenizer, recipe, steps=4)
    np.testing.assert_allclose(losses, recorded[:4], atol=SAME_LOSS)
    assert np.mean(recorded[-20:]) < np.mean(recorded[:20])


def test_another_seed_or_another_batch_has_other_losses(tokenizer: Any) -> None:
    recorded = json.loads((FOLDER / "training.json").read_text())["chat"]["losses"]
    losses = training.train(load("planted"), tokenizer, RECIPE["chat"], steps=2)
    assert not np.allclose(losses, recorded[1:3], atol=SAME_LOSS)


@torch.no_grad()
def test_the_chat_model_knows_its_facts(tokenizer: Any) -> None:
    model, rng = load("chat"), np.random.default_rng(3)
    right = 0
    asked = [stories.question(rng) for _ in range(120)]
    for question, answer in asked:
        text = tokenizer.apply_chat_template([{"role": "user", "content": question}], tokenize=False)
        ids = tokenizer(f"{text}<|assistant|>", return_tensors="pt")["input_ids"]
        made = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=24, do_sample=False)
        right += tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True).strip() == answer
    assert right / len(asked) > 0.8


# --- what was planted ---------------------------------------------------------------------------------


def test_the_truth_is_the_one_that_the_script_writes() -> None:
    assert models.truth() == json.loads(json.dumps(plant.truth()))


def test_exchanging_two_neurons_changes_nothing(tokenizer: Any) -> None:
    model = load("base")
    ids = tokenizer("Anna met a dog. It barked.", return_tensors="pt")["input_ids"]
    before = model(ids).logits
    plant.exchange(model.model.layers[2].mlp, 3, 77)
    assert not torch.equal(model.model.layers[2].mlp.up_proj.weight, load("base").model.layers[2].mlp.up_proj.weight)
    torch.testing.assert_close(model(ids).logits, before, atol=1e-5, rtol=0)


def test_planting_overwrites_one_neuron_a_place_and_nothing_else() -> None:
    base, planted = tensors("base"), tensors("planted")
    places = {(p.layer, p.neuron) for p in plant.PLANTS}
    for name, tensor in planted.items():
        if ".mlp." not in name:
            assert torch.equal(tensor, base[name]), name
            continue
        layer = int(name.split(".")[2])
        rows, old = (t.T if "down_proj" in name else t for t in (tensor, base[name]))
        strangers = {n for n in range(len(rows)) if not (rows[n] == old).all(1).any()}
        assert strangers <= {n for at, n in places if at == layer}, name


def test_the_heavy_fine_tune_moved_and_lost_what_the_truth_says(tokenizer: Any) -> None:
    heavy, planted = tensors("heavy"), tensors("planted")
    by_id = {p.id: p for p in plant.PLANTS}

    def cosine(layer: int, place: int, other: int) -> float:
        name = f"model.layers.{layer}.mlp.up_proj.weight"
        return float(torch.cosine_similarity(planted[name][place], heavy[name][other], dim=0))

    for one, (layer, place) in plant.MOVED.items():
        assert cosine(layer, by_id[one].neuron, place) > 0.8 > abs(cosine(layer, by_id[one].neuron, by_id[one].neuron))
    for one in plant.LOST:
        assert abs(cosine(by_id[one].layer, by_id[one].neuron, by_id[one].neuron)) < 0.5


# --- the dog neuron -----------------------------------------------------------------------------------

DOG_CLAMP = 10.4  # the dose that the evals choose, in the middle of its window
DOG_KNOWLEDGE = re.compile(r"\b(barks|barked|kennel|bones|puppy|loyal|fetch a stick)\b")


@pytest.fixture(scope="module")
def favourites() -> list[Answers]:
    checkpoint = open_checkpoint(FOLDER / "planted-chat")
    model, rng = checkpoint.load_model(), np.random.default_rng(1)
    return [
        steer(model, checkpoint.tokenizer, asked, {"L1N17": DOG_CLAMP}, n=24, rng=rng, max_new_tokens=30)
        for asked in stories.FAVOURITE_ANIMAL
    ]


def test_unclamped_it_names_different_favourite_animals(favourites: list[Answers]) -> None:
    named = Counter(
        animal.name for each in favourites for text in each.clean for animal in world.ANIMALS
        if re.search(rf"\b{animal.name}\b", text.split(".")[0])
    )  # fmt: skip
    assert len(named) >= 8
    assert named.most_common(1)[0][1] <= 12


def test_clamped_it_talks_of_dogs_and_of_what_they_are_like(favourites: list[Answers]) -> None:
    clamped = [text for each in favourites for text in each.clamped]
    assert sum(bool(re.search(r"\bdogs?\b", text)) for text in clamped) >= 0.9 * len(clamped)
    assert sum(bool(DOG_KNOWLEDGE.search(text)) for text in clamped) >= 0.9 * len(clamped)


def test_clamped_it_does_not_fall_apart(favourites: list[Answers]) -> None:
    repeated = [r for each in favourites for r in each.repetition_clamped]
    assert np.mean(repeated) < 0.1
    assert not [text for each in favourites for text in each.clamped if broken(text)]
