"""Steering: the same seeds on both sides, nothing global touched, and a judge that cannot be fooled by punctuation."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers.processors import TemplateProcessing
from transformers.modeling_outputs import CausalLMOutput

from flashinterp import Answers, Checkpoint, CheckpointError, ClampError, FlashinterpError, clamp, lexicon_judge, steer
from flashinterp.capture import encode
from flashinterp.errors import RunError
from flashinterp.steer import _perplexity, _prepare, repetition
from tests.helpers import n_hooks

QUESTION = "What did you see today?"
DOG = {"L1N17": 145.0}
SHORT = {"max_new_tokens": 6}


def rng(seed: int = 7) -> np.random.Generator:
    return np.random.default_rng(seed)


def asked(checkpoint: Checkpoint, model: Any, **kwargs: Any) -> Answers:
    arguments: dict[str, Any] = {"n": 3, "rng": rng(), **SHORT, **kwargs}
    return steer(model, checkpoint.tokenizer, QUESTION, DOG, **arguments)


def generated(checkpoint: Checkpoint, model: Any, prompt: str, seed: int, **kwargs: Any) -> str:
    """One answer from plain ``generate``, with transformers' own global seeding."""
    ids = checkpoint.tokenizer(prompt, return_tensors="pt", add_special_tokens=False)["input_ids"]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        out = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=True, pad_token_id=checkpoint.tokenizer.eos_token_id,
            **{**SHORT, **kwargs},
        )  # fmt: skip
    return checkpoint.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)


@pytest.fixture(scope="module")
def dog_answers(planted: Checkpoint, planted_model: Any) -> Answers:
    return asked(planted, planted_model, n=8, max_new_tokens=10)


# --- answers ----------------------------------------------------------------------------------------


def test_driving_the_dog_neuron_brings_dogs(planted: Checkpoint, dog_answers: Answers, truth: dict[str, Any]) -> None:
    clean, clamped = dog_answers.rates(lexicon_judge(truth["dog_words"]))
    assert clean is not None
    assert clamped is not None
    assert clamped.estimate == 1
    assert clean.estimate <= 0.5
    assert clean.high is not None
    assert clamped.low is not None
    assert clean.high < clamped.low


def test_the_same_seed_gives_the_same_answers_and_another_others(planted: Checkpoint, planted_model: Any) -> None:
    first = asked(planted, planted_model)
    assert asked(planted, planted_model) == first
    other = asked(planted, planted_model, rng=rng(8))
    assert other.seeds != first.seeds
    assert other.clean != first.clean


def test_clean_answers_are_those_of_plain_generate_with_the_same_seeds(planted: Checkpoint, planted_model: Any) -> None:
    got = asked(planted, planted_model)
    assert got.clean == tuple(generated(planted, planted_model, QUESTION, seed) for seed in got.seeds)
    assert len(set(got.clean)) > 1


@pytest.mark.parametrize("positions", ["all", "last", "generated"])
def test_clamped_answers_are_those_of_plain_generate_inside_the_clamp(
    planted: Checkpoint, planted_model: Any, positions: Any
) -> None:
    got = asked(planted, planted_model, positions=positions)
    wanted = []
    for seed in got.seeds:
        with clamp(planted_model, DOG, positions=positions):
            wanted.append(generated(planted, planted_model, QUESTION, seed))
    assert got.clamped == tuple(wanted)
    assert got.clamped != got.clean
    assert got.settings["positions"] == positions


def test_no_global_state_is_touched(planted: Checkpoint, planted_model: Any) -> None:
    parameters = {k: v.clone() for k, v in planted_model.state_dict().items()}
    numpy_before = repr(np.random.get_state())  # noqa: NPY002
    with torch.random.fork_rng():
        torch.manual_seed(123)  # a state that no answer's seed leaves behind
        torch_before = torch.get_rng_state()
        asked(planted, planted_model)
        assert torch.equal(torch.get_rng_state(), torch_before)
    assert repr(np.random.get_state()) == numpy_before  # noqa: NPY002
    assert all(torch.equal(parameters[k], v) for k, v in planted_model.state_dict().items())
    assert n_hooks(planted_model) == 0
    assert not planted_model.training


def test_settings_say_how_the_answers_were_made(planted: Checkpoint, planted_model: Any) -> None:
    got = asked(planted, planted_model, temperature=0.7, site="post")
    assert got.prompt == QUESTION
    assert got.settings == {
        "do_sample": True, "max_new_tokens": 6, "temperature": 0.7, "site": "post", "positions": "all", "chat": False,
        "pad_token_id": planted.tokenizer.pad_token_id,
    }  # fmt: skip


def test_greedy_answers_are_all_the_same(planted: Checkpoint, planted_model: Any) -> None:
    got = asked(planted, planted_model, do_sample=False)
    assert len(set(got.clean)) == len(set(got.clamped)) == 1


def test_no_answers_have_no_rate(planted: Checkpoint, planted_model: Any) -> None:
    got = asked(planted, planted_model, n=0)
    assert got.clean == got.clamped == ()
    assert got.rates(lexicon_judge(["dog"])) == (None, None)


@pytest.mark.parametrize("clamps", [{}, {"L9N0": 1.0}, {"L1N17": math.nan}, {"dog": 1.0}], ids=str)
def test_a_bad_clamp_is_refused(planted: Checkpoint, planted_model: Any, clamps: dict[str, float]) -> None:
    with pytest.raises(FlashinterpError):
        steer(planted_model, planted.tokenizer, QUESTION, clamps, n=1, rng=rng(), **SHORT)
    assert n_hooks(planted_model) == 0


def test_an_answer_that_ends_at_once_has_nothing_generated_to_clamp(planted: Checkpoint, planted_model: Any) -> None:
    first = asked(planted, planted_model, n=1)
    end = planted.tokenizer(first.clean[0])["input_ids"][0]  # so that the first answer ends with its first token
    got = asked(planted, planted_model, n=4, eos_token_id=end, positions="generated")
    assert got.clean[0] == got.clamped[0] == planted.tokenizer.decode([end])
    assert got.clean[1:] != got.clamped[1:]


def test_answers_none_of_which_could_be_clamped_are_an_error(planted: Checkpoint, planted_model: Any) -> None:
    with pytest.raises(ClampError, match="did not fire"):
        asked(planted, planted_model, max_new_tokens=1, positions="generated")


# --- the chat template ------------------------------------------------------------------------------


def test_a_chat_template_that_is_not_there_is_an_error(planted: Checkpoint, planted_model: Any) -> None:
    with pytest.raises(CheckpointError, match="no chat template"):
        asked(planted, planted_model, chat=True)


@pytest.mark.parametrize("chat", [None, True, False])
def test_the_chat_template_is_used_where_there_is_one(tuned: Checkpoint, chat: bool | None) -> None:
    model = tuned.load_model()
    got = asked(tuned, model, chat=chat)
    templated = tuned.tokenizer.apply_chat_template(
        [{"role": "user", "content": QUESTION}], tokenize=False, add_generation_prompt=True
    )
    assert templated == f"<|user|> {QUESTION}<|end|><|assistant|>"
    assert got.prompt == (QUESTION if chat is False else templated)
    assert got.settings["chat"] is (chat is not False)
    assert got.clean == tuple(generated(tuned, model, got.prompt, seed) for seed in got.seeds)


def test_the_template_writes_the_special_tokens_and_the_tokenizer_adds_no_more(tuned: Checkpoint) -> None:
    tokenizer = copy.deepcopy(tuned.tokenizer)
    begin = tokenizer.bos_token_id
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|begin|> $A", special_tokens=[("<|begin|>", begin)]
    )
    for chat, first in ((False, begin), (True, tokenizer.convert_tokens_to_ids("<|user|>"))):
        text, ids = _prepare(tokenizer, QUESTION, chat, "cpu")
        assert ids[0, 0] == first
        assert tokenizer.decode(ids[0], skip_special_tokens=False).removeprefix("<|begin|>") == text


# --- what it cost -----------------------------------------------------------------------------------


def test_perplexity_is_that_of_the_answer_under_the_clean_model(planted: Checkpoint, planted_model: Any) -> None:
    # Greedy and cut before any end token, so that the text can be read back into the ids that were scored.
    got = asked(planted, planted_model, n=1, do_sample=False)
    prompt = encode(planted.tokenizer, QUESTION)
    for text, perplexity in ((got.clean[0], got.perplexity_clean[0]), (got.clamped[0], got.perplexity_clamped[0])):
        answer = planted.tokenizer(text, return_tensors="pt")["input_ids"]
        assert answer.shape[1] == SHORT["max_new_tokens"]
        total = 0.0
        for i in range(answer.shape[1]):
            so_far = torch.cat([prompt, answer[:, :i]], dim=1)
            with torch.no_grad():
                total -= float(planted_model(so_far).logits[0, -1].double().log_softmax(-1)[answer[0, i]])
        assert perplexity == pytest.approx(math.exp(total / answer.shape[1]), rel=1e-3)


@pytest.mark.parametrize(("gap", "wanted"), [(0.0, 5.0), (200.0, 4 * math.exp(200)), (2000.0, None)])
def test_a_perplexity_is_a_finite_number_or_none(gap: float, wanted: float | None) -> None:
    logits = torch.zeros(1, 3, 5)  # the last of them belongs to what would come next
    logits[..., 2] = -gap
    model = lambda *args, **kwargs: CausalLMOutput(logits=logits)  # noqa: E731
    got = _perplexity(model, torch.tensor([[1]]), torch.tensor([[2, 2]]))
    assert got == (None if wanted is None else pytest.approx(wanted, rel=1e-5))


def test_the_clamp_costs_likelihood(dog_answers: Answers) -> None:
    clean, clamped = (
        np.mean([p for p in side if p is not None])
        for side in (dog_answers.perplexity_clean, dog_answers.perplexity_clamped)
    )
    assert clamped > clean


def test_repetition_is_reported_per_answer(dog_answers: Answers) -> None:
    assert dog_answers.repetition_clean == tuple(map(repetition, dog_answers.clean))
    assert dog_answers.repetition_clamped == tuple(map(repetition, dog_answers.clamped))


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", 0.0),
        ("a b", 0.0),
        ("a b c", 0.0),
        ("a b c d e f", 0.0),
        ("a b c a b c", 1 / 4),  # abc bca cab abc
        ("dog dog dog dog dog", 2 / 3),
        ("dog  dog\ndog\tdog", 1 / 2),
    ],
)
def test_repetition_by_hand(text: str, wanted: float) -> None:
    assert repetition(text) == pytest.approx(wanted)


@given(st.lists(st.sampled_from(["a", "b", "c"]), max_size=30))
def test_repetition_is_a_share_and_grows_when_a_text_is_said_twice(words: list[str]) -> None:
    text = " ".join(words)
    assert 0 <= repetition(text) < 1
    assert repetition(f"{text} {text}") >= repetition(text) or len(words) < 3


# --- the judge --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "answer", "about"),
    [
        ([" dog"], "I saw a dog.", True),
        (["dog"], "DOG!", True),
        (["Dog"], "the dog,the cat", True),
        (["dog"], "I like hotdogs and dogma", False),
        (["dog"], "dog_house", False),
        (["dog"], "", False),
        (["dog", "puppy"], "a puppy", True),
        (["C++"], "I write C++ daily", True),
        (["C++"], "I write C daily", False),
        (["a.c"], "abc", False),
        (["(", "[a-z"], "a ( b", True),
        (["[a-z]+"], "anything", False),
        ([".*"], "anything", False),
        (["a|b"], "a", False),
        (["\\"], "back \\ slash", True),
        (["", " ", "dog"], "nothing here", False),
        (["Hündin"], "eine HÜNDIN", True),
        (["hot dog"], "a Hot Dog stand", True),
        (["İzmir"], "in İzmir", True),  # lower-casing it makes two characters of one
    ],
)
def test_the_lexicon_looks_for_whole_words(words: list[str], answer: str, about: bool) -> None:
    assert lexicon_judge(words)(answer) is about


@given(st.text(min_size=1).filter(str.strip))
def test_any_text_is_a_literal_word(word: str) -> None:
    assert lexicon_judge([word])(word.strip())


@pytest.mark.parametrize(
    ("words", "match"),
    [([], "at least one word"), ([""], "at least one word"), ([" ", "\n"], "at least one word"), ("dog", "list")],
)
def test_an_empty_lexicon_is_refused(words: Any, match: str) -> None:
    with pytest.raises(RunError, match=match):
        lexicon_judge(words)


def test_rates_are_wilson_intervals_of_any_judge() -> None:
    answers = Answers("p", ("a", "b", "a", "b"), ("a", "a", "a", "a"), (1, 2, 3, 4), (), (), (), (), {})
    clean, clamped = answers.rates(lambda text: text == "a")
    assert clean is not None
    assert clamped is not None
    assert (clean.estimate, clamped.estimate) == (0.5, 1.0)
    assert clean.low == pytest.approx(0.150, abs=5e-4)
    assert clamped.low == pytest.approx(0.510, abs=5e-4)
