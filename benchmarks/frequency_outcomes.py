"""What `benchmarks.frequency` asks of one trained model: where does each name lead, and what does that neuron do?"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.small_training import Trained
from benchmarks.small_world import CLASS_OF, CLASSES, FORMS, IDS, NAMES, NOUNS, about_name, bench_of
from fixtures.build import stream
from flashinterp.decoding.decode import decode
from flashinterp.decoding.lens_rows import token_logits
from flashinterp.evaluation.experiment import Experiment
from flashinterp.models.activations import capture, encode
from flashinterp.models.checkpoint import open_checkpoint
from flashinterp.neuron_index import NeuronIndex
from flashinterp.neurons import POLES
from flashinterp.studies.lens_causality.measure import effects
from flashinterp.studies.word_frequency.concentration import concentration
from flashinterp.studies.word_frequency.concentration_records import spread
from flashinterp.studies.word_frequency.training_records import LENSES, Condition, Sharing, TrainingOutcome
from flashinterp.tokens import Token

Floats = NDArray[np.float64]

WATCHED = (*NAMES, *CLASSES)  # the words whose movement is measured
SHARED = (*WATCHED, *NOUNS[:24])  # the words whose concentration is taken
SHARED_LENSES, SHARED_NULLS = ("paper", "read", "write"), 2
ASKED = (0, 3, 4)  # the sentences about a name from which it follows who it is, before the name is said


def outcomes(number: int, condition: Condition, trained: Trained, model: Any, seed: int) -> list[TrainingOutcome]:
    """The outcomes of all names in one model."""
    checkpoint = open_checkpoint(model)
    bench = _bench(model, checkpoint, seed)
    roster = checkpoint.layout.roster
    words = [Token(IDS[word], word, "by id") for word in WATCHED]
    moved = effects(bench, np.arange(len(roster)), _ranges(bench), words).astype(np.float64)
    present, coming = _readings(bench)
    recall, nats = _recall(bench)
    sharers = spread(moved**2).participation
    found = []
    for lens in LENSES:
        picks = _most_moving(moved) if lens == "effect" else _found(checkpoint, lens)
        for at, name in enumerate(NAMES):
            index, sign, score, best = picks[at]
            own = roster.layer_span(roster.neuron(index).layer)
            driven = sign * moved[index]
            brings = WATCHED[int(driven.argmax())]
            found.append(
                TrainingOutcome(
                    *(number, condition, lens, name, trained.counts[name], int(recall[at]), float(nats[at])),
                    *(str(roster.neuron(index)), "+" if sign > 0 else "-", score, best, kind_of(name, best)),
                    *(float(driven[at]), _percentile(np.abs(moved[own, at]), index - own.start)),
                    *(brings, kind_of(name, brings), float(sharers[at])),
                    *(_percentile(by[own, at], index - own.start) for by in (present, coming)),
                )
            )
    return found


def sharings(number: int, model: Any, seed: int) -> list[Sharing]:
    """How many neurons share each name, class word and some nouns, by scores and by attribution."""
    bench = _bench(model, open_checkpoint(model), seed)
    kinds = concentration(bench, [IDS[word] for word in SHARED], lenses=SHARED_LENSES, nulls=SHARED_NULLS)
    return [
        Sharing(number, kind.mass, word, *(float(x) for x in numbers))
        for kind in kinds
        for word, *numbers in zip(
            SHARED, kind.here.participation, kind.null_participation(), kind.here.top, strict=True
        )
    ]


def _bench(model: Any, checkpoint: Any, seed: int) -> Experiment:
    bench = bench_of(model, checkpoint, seed)
    return replace(bench, profile=replace(bench.profile, rank_prompts=len(bench.prompts.heldout)))


def kind_of(name: str, word: str) -> str:
    """What a word is to a name."""
    names, group = CLASSES[CLASS_OF[name]]
    if word == name:
        return "own"
    if word == CLASS_OF[name] or word in group:
        return "broader"
    return "sibling" if word in names else "noise"


@torch.no_grad()
def changed(model: Any, condition: Condition, seed: int) -> Any:
    """A copy of a trained model, in which what was learnt of its neurons is taken away."""
    copied = copy.deepcopy(model)
    rng = stream(condition, seed=(seed,))
    for layer in copied.model.layers:
        up, down = layer.mlp.up_proj.weight, layer.mlp.down_proj.weight  # [F, d], [d, F]
        if condition == "permuted":
            down.copy_(down[:, torch.from_numpy(rng.permutation(down.shape[1]))])
        else:
            for rows in (up, down.T):
                noise = torch.from_numpy(rng.standard_normal(tuple(rows.shape)).astype(np.float32))
                rows.copy_(noise * (rows.norm(dim=1) / noise.norm(dim=1))[:, None])
    return copied


# --- what is measured ---------------------------------------------------------------------------------


def _found(checkpoint: Any, lens: str) -> list[tuple[int, int, float, str]]:
    """For each name the position of its neuron, the pole's sign, the score, and the neuron's best word."""
    decoded = decode(checkpoint, lens=lens, device="cpu")
    z = token_logits(checkpoint, lens, [IDS[name] for name in NAMES]).astype(np.float64)  # [N, names]
    logs = np.stack([sign * z - decoded.pole_arrays(p)[3][:, None] for sign, p in zip((1, -1), POLES, strict=True)], 1)
    made = []
    for at in range(len(NAMES)):
        index, pole = divmod(int(logs[:, :, at].argmax()), len(POLES))
        word = decoded.words(decoded.neuron(index), 1, POLES[pole])[0].token.text
        made.append((index, (1, -1)[pole], float(np.exp(logs[index, pole, at])), word))
    return made


def _most_moving(moved: Floats) -> list[tuple[int, int, float, str]]:
    """The same by effects [N, words]: the neuron that moves each name most, and the word that it raises most."""
    made = []
    for at in range(len(NAMES)):
        index = int(np.abs(moved[:, at]).argmax())
        sign = 1 if moved[index, at] >= 0 else -1
        made.append((index, sign, float(abs(moved[index, at])), WATCHED[int((sign * moved[index]).argmax())]))
    return made


def _ranges(bench: Experiment) -> NDArray[np.float32]:
    """[N, 2] the least and the largest u of each neuron on the selection texts, which have each name equally often.

    Not percentiles: a name is at one position in two hundred, and what fires for it alone would be cut off.
    """
    parts = [
        np.concatenate([seen[block].up[1:] for seen in _seen(bench)]) for block in bench.checkpoint.layout.roster.blocks
    ]
    up = np.concatenate(parts, axis=1)
    return np.stack([up.min(axis=0), up.max(axis=0)], axis=1)


def _seen(bench: Experiment) -> Any:
    texts = [encode(bench.tokenizer, text) for text in bench.prompts.selection]
    return capture(bench.model, texts, bench.checkpoint.layout.roster.blocks)


def _readings(bench: Experiment) -> tuple[Floats, Floats]:
    """[N, names] twice: how far apart each neuron's mean output is at the name, or before it is due, from other names.

    In the neuron's standard deviations over all those positions, without a sign.
    """
    blocks: NeuronIndex = bench.checkpoint.layout.roster
    texts = [about_name(person, form) for person in range(len(NAMES)) for form in range(FORMS)]
    seen = capture(bench.model, [encode(bench.tokenizer, " ".join(words)) for words in texts], blocks.blocks)
    posts = [np.concatenate([one[block].post for block in blocks.blocks], axis=1) for one in seen]  # [positions, N]
    at = [words.index(NAMES[i // FORMS]) + 1 for i, words in enumerate(texts)]  # <s> is in front
    present = np.stack([post[place] for post, place in zip(posts, at, strict=True)])
    before = np.stack([post[place - 1] for post, place in zip(posts, at, strict=True)])
    shape = len(NAMES), FORMS, -1
    return _apart(present.reshape(shape)), _apart(before.reshape(shape)[:, list(ASKED)])


def _apart(values: NDArray[np.float32]) -> Floats:
    """[N, names] from outputs [names, sentences, N]."""
    x = values.astype(np.float64)
    own = x.mean(axis=1)
    others = (own.sum(axis=0) - own) / (len(own) - 1)
    spread = x.std(axis=(0, 1))
    result: Floats = (np.abs(own - others) / np.maximum(spread, np.finfo(np.float64).tiny)).T
    return result


@torch.no_grad()
def _recall(bench: Experiment) -> tuple[NDArray[np.int64], Floats]:
    """[names] of three sentences, how often the model's first guess is the name; and the mean of -log p."""
    right, nats = np.zeros(len(NAMES), dtype=np.int64), np.zeros(len(NAMES))
    for person, name in enumerate(NAMES):
        for form in ASKED:
            words = about_name(person, form)
            ids = encode(bench.tokenizer, " ".join(words[: words.index(name)]))
            log_p = bench.model(ids, use_cache=False).logits[0, -1].log_softmax(-1)
            right[person] += int(log_p.argmax()) == IDS[name]
            nats[person] -= float(log_p[IDS[name]]) / len(ASKED)
    return right, nats


def _percentile(values: Floats, at: int) -> float:
    """The share of the others that are smaller."""
    return float((np.delete(values, at) < values[at]).mean())
