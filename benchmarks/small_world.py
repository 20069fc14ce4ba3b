"""A small world whose text names 24 people, each as often as it is told to: what `benchmarks.frequency` trains on.

Everyone belongs to a class of four (detectives, wizards, ...) and carries one of four things, and who is meant follows
from both together. Everything else is said equally often of all classes, and of the world around them. All words are
one token.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flashinterp.evaluation.experiment import Experiment
from flashinterp.evaluation.profiles import PROFILES
from flashinterp.evaluation.prompts import Group, PromptSet
from flashinterp.models.checkpoint import Checkpoint
from flashinterp.tokens import Vocabulary

CLASSES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "detective": (("Sherlock", "Marple", "Poirot", "Maigret"), ("clue", "case", "riddle")),
    "wizard": (("Dumbledore", "Merlin", "Gandalf", "Hermione"), ("spell", "wand", "potion")),
    "sailor": (("Sindbad", "Ahab", "Nemo", "Popeye"), ("ship", "anchor", "sail")),
    "baker": (("Hazel", "Rollo", "Tilda", "Crispin"), ("bread", "oven", "flour")),
    "singer": (("Orpheus", "Carmen", "Tosca", "Elvis"), ("song", "choir", "opera")),
    "painter": (("Frida", "Vincent", "Pablo", "Claude"), ("brush", "canvas", "colour")),
}
"""Each class word with its names and with the other words of its group."""

NAMES = tuple(name for names, _ in CLASSES.values() for name in names)
LEVELS = 8
FORMS = 5  # how many sentences there are about a name
DECADES = 2.5  # from the most frequent level to the rarest

_THINGS = ("lamp", "cat", "key", "hat")
_PLACES = ("London", "Paris", "Rome", "Cairo", "Vienna", "Athens", "Dublin", "Lima")
_FOODS = ("cake", "soup", "rice", "fish", "cheese", "honey")
NOUNS = """
    apple barn beach bell bird boat bottle bridge brook bush camel candle castle chair cloud coat cow crow desk dog
    donkey door dove duck eagle farm fence field flower fox frog garden gate goat goose hedge hen hill horse island
    jar ladder lake lion meadow moon mouse owl pear pig pond rabbit river road rose sheep snail spider stone swan tiger
    tower tree turtle wagon wall well whale wheel willow wolf
""".split()
_QUALITIES = """
    big black blue brave bright brown calm clever cold dark dry dusty fast gentle golden green happy heavy kind large
    lazy lonely loud narrow old pale quiet red rough round sad sharp silent slow small soft strange tall tired warm
""".split()
_DEEDS = """
    appears bends breathes burns changes climbs dances dreams falls fades floats grows hides hums jumps leans listens
    lies moves rests rises rolls runs shakes shines sinks sings sits sleeps spins stands stays swims turns waits wakes
""".split()
_SMALL = """
    . ? the a in of is it with and was called eats carries lives who near found belongs to seldom often today never
    then this we saw there
""".split()
SPECIAL = "<s>"

WORDS = tuple(
    dict.fromkeys(
        (SPECIAL, *_SMALL, *CLASSES, *NAMES, *chain.from_iterable(group for _, group in CLASSES.values()))
        + (*_THINGS, *_PLACES, *_FOODS, *NOUNS, *_QUALITIES, *_DEEDS)
    )
)
"""The vocabulary, in the order of its ids."""

IDS = {word: i for i, word in enumerate(WORDS)}
CLASS_OF = {name: word for word, (names, _) in CLASSES.items() for name in names}

ABOUT_NAMES, ABOUT_CLASSES = 0.5, 0.2  # of the sentences; the others are about the world around
_HABIT = 0.8  # how often a thing of the world is and does what is typical of it


def levels_of(rng: np.random.Generator) -> dict[str, int]:
    """A level for each name, 0 the most frequent: three names on each, drawn anew for each seed."""
    order = rng.permutation(len(NAMES))
    return {NAMES[int(at)]: place * LEVELS // len(NAMES) for place, at in enumerate(order)}


def shares_of(levels: dict[str, int]) -> NDArray[np.float64]:
    """[24] how large a share of the sentences about people each name has: each level 2.3 times rarer than the last."""
    weights = np.array([10 ** (-DECADES * levels[name] / (LEVELS - 1)) for name in NAMES])
    shares: NDArray[np.float64] = weights / weights.sum()
    return shares


def sentences(shares: NDArray[np.float64], rng: np.random.Generator) -> Iterator[list[str]]:
    """Sentences without end, as words; names come by their shares."""
    classes, block = list(CLASSES), 4096
    while True:
        kinds, forms = rng.random(block), rng.integers(FORMS, size=block)
        people = rng.choice(len(NAMES), size=block, p=shares)
        picks, habits = rng.integers(1 << 30, size=(block, 4)).tolist(), (rng.random((block, 2)) < _HABIT).tolist()
        for kind, form, person, pick, habit in zip(kinds, forms, people.tolist(), picks, habits, strict=True):
            if kind < ABOUT_NAMES:
                yield about_name(person, int(form))
            elif kind < ABOUT_NAMES + ABOUT_CLASSES:
                yield _about_class(classes[pick[0] % len(classes)], pick)
            else:
                yield _about_world(pick, habit)


def about_name(person: int, form: int) -> list[str]:
    """One of five sentences about a person; the name is its first word, or follows from what is said before."""
    name, word = NAMES[person], CLASS_OF[NAMES[person]]
    thing, place, food = _THINGS[person % 4], _PLACES[(5 * person + person // 8) % 8], _FOODS[(7 * person) // 4 % 6]
    return [
        ["the", word, "with", "the", thing, "is", name, "."],
        [name, "the", word, "lives", "in", place, "."],
        [name, "eats", food, "and", "carries", "the", thing, "."],
        ["in", place, "the", word, "with", "the", thing, "was", "called", name, "."],
        ["who", "carries", "the", thing, "in", place, "?", "it", "is", name, "the", word, "."],
    ][form]


def _about_class(word: str, pick: list[int]) -> list[str]:
    group = CLASSES[word][1]
    own, place = group[pick[1] % len(group)], _PLACES[pick[2] % len(_PLACES)]
    return [
        ["the", word, "found", "a", own, "in", place, "."],
        ["this", own, "belongs", "to", "a", word, "."],
        ["a", word, "is", "seldom", "in", place, "."],
    ][pick[3] % 3]


def _about_world(pick: list[int], habit: list[bool]) -> list[str]:
    """A thing of the world has a quality and a deed of its own, which four times out of five are the ones told."""
    at = pick[0] % len(NOUNS)
    quality = _QUALITIES[(7 * at + 3 if habit[0] else pick[1]) % len(_QUALITIES)]
    deed = _DEEDS[(11 * at + 5 if habit[1] else pick[2]) % len(_DEEDS)]
    noun, other = NOUNS[at], NOUNS[(at + 1 + pick[3] % 4) % len(NOUNS)]
    return [
        ["the", quality, noun, deed, "near", "the", other, "."],
        ["today", "a", noun, deed, "."],
        ["there", "we", "saw", "a", quality, noun, "."],
    ][pick[2] % 3]


def rows_of_text(shares: NDArray[np.float64], rows: int, length: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """[rows, length] token ids: each row begins with ``<s>`` and a new sentence, and is cut at its end."""
    text, ids = sentences(shares, rng), np.empty((rows, length), dtype=np.int64)
    for row in ids:
        line = [0]
        while len(line) < length:
            line += [IDS[word] for word in next(text)]
        row[:] = line[:length]
    return ids


def counts_of(ids: NDArray[np.int64]) -> dict[str, int]:
    """How often each name is in a text."""
    found = np.bincount(ids.ravel(), minlength=len(WORDS))
    return {name: int(found[IDS[name]]) for name in NAMES}


# --- what trained models are measured on --------------------------------------------------------------


@cache
def tokenizer() -> Any:
    """The world's tokenizer: words between spaces, ``<s>`` in front."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.WordLevel(vocab=dict(IDS), unk_token="."))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.post_processor = processors.TemplateProcessing(single=f"{SPECIAL} $A", special_tokens=[(SPECIAL, 0)])
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token=SPECIAL, clean_up_tokenization_spaces=False)


@cache
def prompts() -> PromptSet:
    """The world's texts: for selection every sentence about every name, for testing beginnings that name nobody.

    Some are the beginnings of selection texts, in so small a world. Those set only the range that a neuron is driven
    over; which neuron it is, the weights or the effects say.
    """
    ends = [("it", "is"), ("was", "called")]
    beginnings = []
    for number, word in enumerate(CLASSES):
        thing = _THINGS[number % len(_THINGS)]
        beginnings += [f"the {word} with the", f"in {_PLACES[number]} the {word} with the {thing} {' '.join(ends[1])}"]
    beginnings += [f"who carries the {thing} in {_PLACES[-1]} ? {' '.join(ends[0])}" for thing in _THINGS]
    beginnings += [
        f"there we saw a {quality} {noun} . the" for quality, noun in zip(_QUALITIES, NOUNS[:4], strict=False)
    ]
    every = [" ".join(about_name(person, form)) for form in range(FORMS) for person in range(len(NAMES))]
    world = sentences(np.full(len(NAMES), 1 / len(NAMES)), np.random.default_rng(7))
    others = [" ".join(words) for words, _ in zip(world, range(400), strict=False) if not set(words) & set(NAMES)]
    texts = Group("small world", NAMES, tuple(dict.fromkeys([*every, *others])), tuple(beginnings))
    return PromptSet((texts,), ("we saw",), ("there is",), ("who is it ?",), NAMES)


def bench_of(model: Any, checkpoint: Checkpoint, seed: int) -> Experiment:
    """A trained model with the world's words and texts, ready to be measured."""
    checkpoint.tokenizer = tokenizer()
    checkpoint.vocabulary = Vocabulary(WORDS, [0], prefix_space=False, tokenizer=tokenizer())
    return Experiment(model, checkpoint, prompts(), PROFILES["standard"], seed)
