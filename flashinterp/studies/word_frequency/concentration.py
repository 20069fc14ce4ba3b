"""How many neurons share a concept: one, a few, or all of them (METHOD 7).

The effective number of neurons of a word is the number of equal ones that would be as concentrated: 1 where one neuron
has it all, N where all have the same part. Of what, there are two answers: of the scores that a lens gives (weights
alone), and of what driving each neuron over its natural range does to the word. Both numbers grow with a model by
themselves, so each stands beside that of the same model with random directions in place of what was learnt.

``python -m flashinterp.studies.word_frequency.concentration MODEL [MODEL ...]`` asks it of the sizes of a family, over
words that all have.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from tabulate import tabulate
from torch import Tensor

from flashinterp.decoding.backends.score import SCORE_TOKENS
from flashinterp.decoding.lens_rows import lens_rows
from flashinterp.errors import FlashinterpError, RunError
from flashinterp.evaluation.experiment import Experiment
from flashinterp.evaluation.profiles import PROFILES
from flashinterp.evaluation.prompts import shipped
from flashinterp.interventions.attribution import attribution
from flashinterp.models.activations import encode
from flashinterp.models.checkpoint import Checkpoint, open_checkpoint
from flashinterp.models.forward_pass import input_device
from flashinterp.models.layout_check import probe
from flashinterp.models.norms import cap
from flashinterp.neurons import LENSES
from flashinterp.studies.lens_causality.measure import effects, natural_ranges, ranked_prompts
from flashinterp.studies.lens_causality.pairing_null import repaired
from flashinterp.studies.word_frequency.concentration_records import Concentration, spread
from flashinterp.studies.word_frequency.concentration_tables import CAPTION, HEADERS, rows_of
from flashinterp.tokens import show

Floats = NDArray[np.float64]
How = Literal["attribution", "measured"]
"""What stands for a neuron's effect on a word: one backward pass for each prompt, or a sweep of every neuron."""
_LOGITS = 1 << 24  # logits of some rows at a time: 64 MB


@torch.no_grad()
def score_mass(
    checkpoint: Checkpoint,
    lens: str,
    ids: Sequence[int],
    *,
    rng: np.random.Generator | None = None,
    device: str = "cpu",
) -> Floats:
    """[N, T] each neuron's score of each word, of the two poles the higher (METHOD 2).

    Equivalent to ``exp(max(z - log_mean_top, -z - bottom_log_mean_top))``. ``logit-lens`` is scored as the others are.

    Args:
        checkpoint: whose weights.
        lens: its name.
        ids: T tokens.
        rng: takes random directions of the same norms in place of the vectors that the head meets: the null.
        device: where the product runs: of all neurons with all of the head, as in a decode.
    """
    layout = checkpoint.layout
    head = checkpoint.head().to(device, torch.float32)
    parts = []
    for block in layout.roster.blocks:
        rows = lens_rows(checkpoint, lens, block).to(head)
        if rng is not None:
            noise = torch.as_tensor(rng.standard_normal(tuple(rows.shape)), dtype=head.dtype, device=head.device)
            rows = noise * (rows.norm(dim=1) / noise.norm(dim=1))[:, None]
        for chunk in rows.split(max(1, _LOGITS // len(head))):
            parts.append(_scores(cap(chunk @ head.T, layout.softcap), list(ids)).cpu().numpy())
    return np.concatenate(parts)


def _scores(z: Tensor, ids: list[int]) -> Tensor:
    """[rows, T] float64 from all logits [rows, V] of the positive pole."""
    count = min(SCORE_TOKENS, z.shape[1])

    def log_score(logits: Tensor) -> Tensor:
        best = logits.topk(count, dim=1).values.double()
        return logits[:, ids].double() - (best.logsumexp(1, keepdim=True) - math.log(count))

    return torch.maximum(log_score(z), log_score(-z)).exp()


def effect_mass(
    bench: Experiment, ids: Sequence[int], *, how: How = "attribution", rng: np.random.Generator | None = None
) -> Floats:
    """[N, T] the square of each neuron's effect on each word's log-odds, over its own natural range.

    The square, because variances add where effects do not: a neuron's share is then its part of what all neurons would
    make the word's log-odds vary, if each went its own way. (By absolute effects, the small ones of a thousand neurons
    outweigh one that is planted to be the word's.) Natural ranges are the 1st to 99th percentile of u on the selection
    texts; effects are means over held-out prompts. A neuron that natural text does not reach has none, and counts as 0.

    Args:
        bench: the live model, its texts and sizes.
        ids: T tokens.
        how: ``attribution`` is exact to first order, and costs one backward pass for each prompt and batch of words;
            ``measured`` clamps every neuron at both ends, on every prompt.
        rng: the same with W_down's columns in random directions of the same norms: the null. The model is put back.

    Raises:
        RunError: the model cannot be differentiated, or its W_down not be changed.
    """
    if rng is not None:
        with repaired(bench.model, "random", rng):
            return effect_mass(bench, ids, how=how)
    neurons = np.arange(len(bench.checkpoint.layout.roster))
    ranges = natural_ranges(bench, neurons)
    if how == "measured":
        values = effects(bench, neurons, ranges, [bench.checkpoint.vocabulary.resolve(int(i)) for i in ids])
    else:
        texts = [encode(bench.tokenizer, prompt, input_device(bench.model)) for prompt in ranked_prompts(bench)]
        values = attribution(bench.model, texts, ids, ranges)
    return np.nan_to_num(values.astype(np.float64) ** 2)  # NaN: no natural range, hence no effect


def concentration(
    bench: Experiment,
    ids: Sequence[int],
    *,
    lenses: Sequence[str] = ("paper", "write"),
    how: Sequence[How] = ("attribution",),
    nulls: int = 3,
) -> list[Concentration]:
    """The effective number of neurons per word by each lens's scores and by effect, each with its null.

    Args:
        bench: the live model, its weights, texts and sizes.
        ids: T tokens.
        lenses: of the score masses; those that the model lacks are left out.
        how: of the effect masses.
        nulls: repetitions of each null.

    Raises:
        RunError: no words, or as in `effect_mass`.
    """
    if not len(ids):
        raise RunError("no words to look for: name some with --tokens")
    checkpoint = bench.checkpoint
    there = {lens.name for lens in checkpoint.layout.lenses}
    shown = tuple(checkpoint.vocabulary.show(int(i)) for i in ids)

    device = str(input_device(bench.model))

    def made(mass: str, take: Callable[..., Floats]) -> Concentration:
        null = tuple(spread(take(rng=bench.rng(f"concentration, {mass}, null {i}"))) for i in range(nulls))
        return Concentration(mass, len(checkpoint.layout.roster), shown, spread(take(rng=None)), null)

    by_score = [
        made(f"score, {lens}", partial(score_mass, checkpoint, lens, ids, device=device))
        for lens in lenses
        if lens in there
    ]
    return by_score + [made(f"effect, {one}", partial(effect_mass, bench, ids, how=one)) for one in how]


def common_words(checkpoints: Sequence[Checkpoint], n: int, seed: int) -> tuple[str, ...]:
    """Up to n words, drawn from those that are single tokens in all of these models.

    So that the sizes of a family are compared on the same words.

    Raises:
        RunError: they have none in common.
    """
    benches = [Experiment(None, checkpoint, shipped(), PROFILES["smoke"], seed) for checkpoint in checkpoints]
    shared = set.intersection(*({b.checkpoint.vocabulary.surfaces[i] for i in b.words()} for b in benches))
    if not shared:
        raise RunError("these models have no single-token word in common: name models of one family, or --tokens")
    pool = sorted(shared)
    chosen = np.random.default_rng(seed).choice(len(pool), size=min(n, len(pool)), replace=False)
    return tuple(pool[int(i)] for i in chosen)


def main(arguments: Sequence[str] | None = None) -> None:
    """``python -m flashinterp.studies.word_frequency.concentration MODEL [MODEL ...]``."""
    parser = argparse.ArgumentParser(
        prog="python -m flashinterp.studies.word_frequency.concentration",
        description="How many neurons share a word, in each of some models: the sizes of a family, say.",
        epilog="for example: %(prog)s EleutherAI/pythia-70m EleutherAI/pythia-410m",
    )
    parser.add_argument("models", nargs="+", metavar="MODEL", help="a folder with safetensors, or a Hub id")
    parser.add_argument("--tokens", help='words, comma-separated, as in " dog, California" (default: drawn ones)')
    parser.add_argument("--words", type=int, default=64, help="how many are drawn, of those that all models have")
    parser.add_argument("--lens", action="append", choices=[*LENSES], help="of the scores; may be given again")
    parser.add_argument("--measured", action="store_true", help="also clamp every neuron, which is exact and slow")
    parser.add_argument("--nulls", type=int, default=3, help="repetitions of each null")
    parser.add_argument("--profile", choices=PROFILES, default="smoke", help="how many texts")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", action="store_true", help="print JSON, and no table")
    options = parser.parse_args(arguments)
    try:
        rows, words = _asked(options)
    except FlashinterpError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    if options.json:
        keys = ["model", "neurons", "mass", "effective", "effective_low", "effective_high", "null", "times_null"]
        keys += ["times_null_low", "times_null_high", "by_entropy", "first_share"]
        found = [dict(zip(keys, row, strict=True)) for row in rows]
        print(json.dumps({"words": words, "seed": options.seed, "found": found}, indent=1, allow_nan=False))
    else:
        print(tabulate(rows, HEADERS, tablefmt="github", floatfmt=".3g", missingval="–"))
        print(f"\n{CAPTION}\nOver {len(words)} words: {', '.join(map(show, words))}.")


def _asked(options: argparse.Namespace) -> tuple[list[list[Any]], tuple[str, ...]]:
    """The rows of all models, and the words."""
    if options.words < 1 or options.nulls < 0 or options.seed < 0:
        raise RunError("--words is at least 1, --nulls and --seed are not negative: give other numbers")
    checkpoints = [open_checkpoint(model) for model in options.models]
    if options.tokens:
        words = tuple(f" {word.strip()}" for word in options.tokens.split(",") if word.strip())
    else:
        words = common_words(checkpoints, options.words, options.seed)
    ids = [[checkpoint.vocabulary.resolve(word).id for word in words] for checkpoint in checkpoints]
    how: tuple[How, ...] = ("attribution", "measured") if options.measured else ("attribution",)
    rows: list[list[Any]] = []
    for checkpoint, own in zip(checkpoints, ids, strict=True):
        model = checkpoint.load_model(device=options.device)
        probe(checkpoint, model)
        bench = Experiment(model, checkpoint, shipped(), PROFILES[options.profile], options.seed)
        lenses = options.lens or ("paper", "write")
        kinds = concentration(bench, own, lenses=lenses, how=how, nulls=options.nulls)
        rows += rows_of(checkpoint.name, kinds, bench.rng("concentration, intervals"))
    return rows, words


if __name__ == "__main__":
    main()
