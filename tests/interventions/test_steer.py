"""Steering: the same seeds on both sides, nothing global touched, and a judge that cannot be fooled by punctuation."""

from __future__ import annotations

import copy
import math
from contextlib import ExitStack
from importlib import import_module
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers.processors import TemplateProcessing
from transformers.modeling_outputs import CausalLMOutput

from flashinterp import Answers, Checkpoint, CheckpointError, ClampError, FlashinterpError, clamp, lexicon_judge, steer
from flashinterp.errors import RunError
from flashinterp.interventions import generation
from flashinterp.interventions.answers import broken, repetition
from flashinterp.interventions.generation import _perplexities, prepare_prompt
from flashinterp.interventions.steer import steer_each
from flashinterp.models.activations import encode
from tests.helpers import assert_one_line_with_next_step, n_hooks

steering = import_module(
    "flashinterp.interventions.steer"
)  # in the package, the function of this name stands in front of it

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


# --- many answers at once ---------------------------------------------------------------------------


@pytest.mark.parametrize("sampling", [{}, {"temperature": 0.7, "top_k": 20}, {"top_p": 0.8, "repetition_penalty": 1.3}])
def test_an_answer_does_not_depend_on_the_others_of_its_batch(
    planted: Checkpoint, planted_model: Any, sampling: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    together = asked(planted, planted_model, n=9, max_new_tokens=12, **sampling)
    alone = asked(planted, planted_model, n=9, max_new_tokens=12, num_beams=1, **sampling)  # a setting of whole batches
    assert (together.clean, together.clamped, together.seeds) == (alone.clean, alone.clamped, alone.seeds)
    assert together.perplexity_clamped == pytest.approx(alone.perplexity_clamped, rel=1e-4)
    monkeypatch.setattr(generation, "_ROWS", 4)
    monkeypatch.setattr(generation, "_SCORED_ROWS", 2)
    in_parts = asked(planted, planted_model, n=9, max_new_tokens=12, **sampling)
    assert (in_parts.clean, in_parts.clamped) == (together.clean, together.clamped)
    assert in_parts.perplexity_clamped == pytest.approx(together.perplexity_clamped, rel=1e-4)


def passes_of(model: Any, call: Any) -> int:
    """How many forward passes a call makes."""
    count: list[int] = []
    handle = model.register_forward_hook(lambda *_: count.append(1))
    try:
        call()
    finally:
        handle.remove()
    return len(count)


def test_answers_share_their_passes(planted: Checkpoint, planted_model: Any) -> None:
    def made(n: int, **settings: Any) -> int:
        return passes_of(planted_model, lambda: asked(planted, planted_model, n=n, min_new_tokens=6, **settings))

    assert made(12) == made(1) == 2 * (6 + 1)  # six tokens and one pass to score them, on each side
    assert made(3, num_beams=1) == 2 * (3 * 6 + 1)


def test_answers_of_several_lengths_end_where_they_end_alone(planted: Checkpoint, planted_model: Any) -> None:
    first = asked(planted, planted_model, n=12, max_new_tokens=10)
    words = [planted.tokenizer(text)["input_ids"] for text in first.clean]
    ends = [words[0][2], words[1][5], words[2][0]]
    given = {"n": 12, "max_new_tokens": 10, "eos_token_id": ends}
    together, alone = asked(planted, planted_model, **given), asked(planted, planted_model, **given, num_beams=1)
    assert (together.clean, together.clamped) == (alone.clean, alone.clamped)
    assert together.perplexity_clean == pytest.approx(alone.perplexity_clean, rel=1e-4)
    lengths = {len(planted.tokenizer(text)["input_ids"]) for text in together.clean}
    assert {1, 10} <= lengths
    assert len(lengths) >= 3


def test_several_doses_share_the_unclamped_answers(planted: Checkpoint, planted_model: Any) -> None:
    doses = [0.0, 30.0, 145.0]
    given: dict[str, Any] = {"n": 3, **SHORT}
    clamps = [{"L1N17": dose} for dose in doses]
    several = steer_each(planted_model, planted.tokenizer, QUESTION, clamps, rng=rng(), **given)
    for one, got in zip(clamps, several, strict=True):
        wanted = steer(planted_model, planted.tokenizer, QUESTION, one, rng=rng(), **given)
        assert (got.clean, got.clamped, got.seeds, got.settings) == (
            wanted.clean, wanted.clamped, wanted.seeds, wanted.settings
        )  # fmt: skip
        assert got.perplexity_clamped == pytest.approx(wanted.perplexity_clamped, rel=1e-4)
    assert len({got.clamped for got in several}) == 3
    others = steer_each(planted_model, planted.tokenizer, QUESTION, [*clamps, {"L3N31": -90.0}], rng=rng(), **given)
    assert [a.clamped for a in others[:3]] == [a.clamped for a in several]
    assert "California" in "".join(others[3].clamped)


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        ({}, [4, 5, 9, 13, 15]),  # five unclamped answers, and ten clamped ones that share passes
        ({"num_beams": 1}, list(range(1, 16))),
    ],
)
def test_progress_counts_every_answer_of_both_sides(
    planted: Checkpoint, planted_model: Any, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], steps: list[int]
) -> None:
    monkeypatch.setattr(generation, "_ROWS", 4)
    clamps: list[dict[str, float]] = [{"L1N17": 30.0}, {"L1N17": 145.0}]
    seen: list[tuple[int, int]] = []
    steer_each(
        planted_model, planted.tokenizer, QUESTION, clamps, n=5, rng=rng(), progress=lambda *at: seen.append(at),
        **{**SHORT, **settings},
    )  # fmt: skip
    assert seen == [(done, 15) for done in steps]


def test_answers_that_are_not_touched_count_as_made(planted: Checkpoint, planted_model: Any) -> None:
    end = planted.tokenizer(asked(planted, planted_model, n=1).clean[0])["input_ids"][0]
    seen: list[tuple[int, int]] = []
    given: dict[str, Any] = {"n": 4, "eos_token_id": end, "positions": "generated"}
    asked(planted, planted_model, progress=lambda *at: seen.append(at), **given)
    assert seen[0] == (4, 8)
    assert seen[-1] == (8, 8)
    assert len(seen) == 3  # the unclamped, those that ended with their first token, and the rest


def test_a_sampler_that_does_not_draw_as_expected_is_refused(
    planted: Checkpoint, planted_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generation._RowDraws, "__torch_function__", lambda self, f, t, a=(), k=None: f(*a, **(k or {})))
    with pytest.raises(RunError, match="does not sample with torch.multinomial") as caught:
        asked(planted, planted_model)
    assert_one_line_with_next_step(caught.value)
    assert n_hooks(planted_model) == 0


# --- several neurons at once ------------------------------------------------------------------------

SEVERAL: dict[str, float] = {"L1N17": 37.0, "L3N31": -79.0, "L1N60": 12.0}


@pytest.mark.parametrize("site", ["up", "gate", "post"])
@pytest.mark.parametrize("order", [1, -1])
def test_several_neurons_are_clamped_as_one_clamp_inside_another(
    planted: Checkpoint, planted_model: Any, site: Any, order: int
) -> None:
    clamps = dict(list(SEVERAL.items())[::order])
    got = steer(planted_model, planted.tokenizer, QUESTION, clamps, n=3, rng=rng(), site=site, **SHORT)
    wanted = []
    for seed in got.seeds:
        with ExitStack() as stack:
            for name, value in SEVERAL.items():
                stack.enter_context(clamp(planted_model, {name: value}, site=site))
            wanted.append(generated(planted, planted_model, QUESTION, seed))
    assert got.clamped == tuple(wanted)
    for name, value in SEVERAL.items():
        alone = steer(planted_model, planted.tokenizer, QUESTION, {name: value}, n=3, rng=rng(), site=site, **SHORT)
        assert alone.clean == got.clean
    assert n_hooks(planted_model) == 0


def test_two_planted_neurons_bring_both_concepts(
    planted: Checkpoint, planted_model: Any, truth: dict[str, Any]
) -> None:
    clamps = {"L1N17": 37.0, "L3N31": -79.0}
    got = steer(planted_model, planted.tokenizer, QUESTION, clamps, n=12, rng=rng(), max_new_tokens=30)
    for words in (truth["dog_words"], [" California"]):
        clean, clamped = got.rates(lexicon_judge(words))
        assert clean is not None
        assert clamped is not None
        assert clean.high is not None
        assert clamped.low is not None
        assert clamped.low > clean.high


@pytest.mark.parametrize("value", [37, torch.tensor(37.0), torch.tensor([[37.0]])], ids=repr)
def test_a_value_may_be_written_in_any_way(planted: Checkpoint, planted_model: Any, value: Any) -> None:
    wanted = steer(planted_model, planted.tokenizer, QUESTION, {"L1N17": 37.0}, n=3, rng=rng(), **SHORT)
    got = steer(planted_model, planted.tokenizer, QUESTION, {"L1N17": value}, n=3, rng=rng(), **SHORT)
    assert got.clamped == wanted.clamped


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
        text, ids = prepare_prompt(tokenizer, QUESTION, chat, "cpu")
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
    (got,) = _perplexities(model, torch.tensor([[1]]), [torch.tensor([2, 2])])
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


@pytest.mark.parametrize(
    ("text", "fell"),
    [
        ("", True),
        (" \n ", True),
        ("... !", True),
        ("dog", False),
        ("dog dog dog dog", False),  # too short to say
        ("dog dog dog dog dog", True),
        ("dog, Dog! dog cat bird fish", True),
        ("dog dog cat bird fish", False),
        ("I saw a dog and then another dog ran to my dog", False),
    ],
)
def test_a_broken_answer_by_hand(text: str, fell: bool) -> None:
    assert broken(text) is fell


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
