"""The commands about the neurons of one model, from its weights alone: map, find, neuron, export."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flashinterp.cli import inputs
from flashinterp.cli.options import (
    AS_JSON,
    DEVICE,
    LENS,
    LENS_OR_ALL,
    POLE,
    REVISION,
    SEED,
    Job,
    PathOrHubId,
    argument,
    count,
    options,
)
from flashinterp.cli.output import progress, show

if TYPE_CHECKING:
    from flashinterp.decoding.neuron_map import NeuronMap
    from flashinterp.decoding.search import Match
    from flashinterp.models.checkpoint import Checkpoint
    from flashinterp.neurons import NeuronId

Found = tuple[dict[str, Any], tuple[str, ...], tuple[tuple[Any, ...], ...]]
"""What a search gives: the record for JSON, and a table's headers and rows."""
_SHOWN = 5  # words of a neuron, in the table


@click.command(
    "map",
    cls=Job,
    example=[
        "flashinterp map meta-llama/Llama-3.1-8B -o llama.safetensors",
        "flashinterp map path/to/model -o late.safetensors --lens write --layers 24-31",
    ],
)
@argument("model")
@click.option("-o", "--out", required=True, type=PathOrHubId(), metavar="FILE", help="Where the map goes.")
@options(LENS, count("--top-k", 100, "Tokens kept per neuron and pole."))
@click.option("--layers", metavar="LIST", help="Which layers, as in 0-3,7; all by default.")
@click.option(
    "--head-of", metavar="MODEL", type=PathOrHubId(), help="Decode with another model's LM head and final norm."
)
@click.option("--rank-in", type=click.Choice(["auto", "float32", "float64"]), default="auto", help="The logits' dtype.")
@options(DEVICE, REVISION, AS_JSON)
def map_(
    model: str,
    out: str,
    lens: str | None,
    n: int,
    layers: str | None,
    head_of: str | None,
    rank_in: str,
    device: str,
    revision: str | None,
    as_json: bool,
) -> None:
    """Decode every neuron of a MODEL into a map, a file that `find`, `neuron`, `compare` and `export` read at once.

    A decode that was interrupted goes on where it stopped when the same command is given again.
    """
    from flashinterp.decoding.decode import decode
    from flashinterp.report.table import Table

    inputs.check_place(out)
    chosen = inputs.layers(layers) if layers else None
    source = inputs.checkpoint(model, revision)
    other = inputs.checkpoint(head_of) if head_of else None
    made = decode(
        source,
        lens=lens or "paper",
        top_k=n,
        layers=chosen,
        device=device,
        dtype=rank_in,
        head_of=other,
        save_to=out,
    )
    size = Path(out).stat().st_size
    record = {"map": out, "bytes": size, "neurons": len(made), "layers": list(made.layers), "meta": made.meta}
    row = (out, len(made), str(made.roster), made.meta["lens"], made.top_ids.shape[1], size / 1e6)
    headers = ("map", "neurons", "of", "lens", "tokens kept", "MB")
    show("map", as_json, record, [Table("map", f"A map of {model}", headers, (row,))])


@click.command(
    "find",
    cls=Job,
    example=[
        'flashinterp find llama.safetensors " dog" " California"',
        'flashinterp find path/to/model " dog" -n 3 --lens all',
    ],
)
@argument("place", "MODEL_OR_MAP")
@click.argument("tokens", nargs=-1, required=True, metavar="TOKEN...")
@options(count("-n", 10, "Neurons per token."), POLE, LENS_OR_ALL, DEVICE, REVISION)
@click.option(
    "--null",
    type=click.Choice(["normal", "rotation"]),
    default="normal",
    show_default=True,
    help="What p is taken from: a normal, or neurons drawn 99 times at random.",
)
@SEED
@click.option("--no-cache", is_flag=True, help="Neither read nor write the head's statistics in the cache folder.")
@AS_JSON
def find(
    place: str,
    tokens: tuple[str, ...],
    n: int,
    pole: Any,
    lens: str | None,
    device: str,
    revision: str | None,
    null: str,
    seed: int,
    no_cache: bool,
    as_json: bool,
) -> None:
    """Find the neurons that name a TOKEN best.

    A TOKEN is one token's text, as " dog" with its space, or its id, as id:5679. In a model a name of several tokens
    is looked for by the mean of their directions, then by each. In a model, neurons are ranked by
    their contrast for the word, with the probability that the best of all its neurons has such a contrast by chance. In
    a map they are ranked by the paper's score, which the map holds.
    """
    from flashinterp.report.table import Table

    if Path(place).is_file() or place.endswith(".safetensors"):
        neurons = inputs.neuron_map(place, lens=lens)
        record, headers, rows = _found_in_map(neurons, tokens, n, pole)
        title = f"Neurons of {neurons.meta['model']} that name it, lens {neurons.meta['lens']}"
        caption = (
            "Score: the token's probability over the mean of the 100 highest of that neuron. Certain: no neuron that "
            "the map does not list for this token can score as high."
        )
    else:
        from flashinterp.decoding.contrast import Null
        from flashinterp.decoding.search import find_each

        checkpoint = inputs.checkpoint(place, revision)
        with progress("looking for " + ", ".join(tokens), "layer") as step:
            found = find_each(
                checkpoint,
                [inputs.token(text) for text in tokens],
                lens=lens or "paper",
                n=n,
                pole=pole,
                null=Null(seed=seed) if null == "rotation" else None,
                device=device,
                cache=not no_cache,
                progress=step,
            )
        record, headers, rows = _found_in_model(checkpoint, found)
        record |= {"lens": lens or "paper", "null": null}
        title = f"Neurons of {checkpoint.name} that name it"
        caption = (
            "z: how many of the neuron's own standard deviations the token's logit is above its mean over the "
            "vocabulary. Contrast: z over its root mean square across the layer's neurons. p: how often the best of "
            f"all {record['searched']:,} neurons has such a contrast, if none is special to the word. Place: the "
            "token's among the neuron's words."
        )
    show("find", as_json, record, [Table("find", title, headers, rows, caption)])


def _found_in_map(neurons: NeuronMap, tokens: tuple[str, ...], n: int, pole: Any) -> Found:
    wanted = [neurons.vocabulary.resolve(inputs.token(text)) for text in tokens]  # all, before any is looked for
    rows: list[dict[str, Any]] = []
    for token in wanted:
        for rank, hit in enumerate(neurons.find(token, n, pole), 1):
            about = {"score": hit.score, "probability": hit.probability, "certain": hit.certain}
            rows.append({"token": token.text, "id": token.id, "rank": rank, **_neuron(hit.neuron, hit.pole), **about})
    keys = ("rank", "neuron", "pole", "score", "probability", "certain")
    shown = tuple((neurons.vocabulary.show(r["id"]), *(r[key] for key in keys)) for r in rows)
    return {**meta_of(neurons), "found": rows}, ("token", *keys), shown


def _found_in_model(checkpoint: Checkpoint, found: Sequence[Sequence[Match]]) -> Found:
    from flashinterp.tokens import show as show_text

    rows: list[dict[str, Any]] = []
    shown = []
    for matches in found:
        ranks: Counter[str] = Counter()  # of a name of several tokens each part has its own
        for hit in matches:
            ranks[hit.word] += 1
            rank = ranks[hit.word]
            about = {"lens": hit.lens, "z": hit.z, "contrast": hit.contrast, "p": hit.p, "place": hit.rank}
            of_word = {"token": hit.word, "ids": list(hit.ids), "rank": rank}
            rest = {"q": hit.q, "words": list(hit.words)}
            rows.append({**of_word, **_neuron(hit.neuron, hit.pole), **about, **rest})
            words = " ".join(map(show_text, hit.words[:_SHOWN]))
            shown.append((show_text(hit.word), rank, str(hit.neuron), hit.pole, *about.values(), words))
    headers = ("token", "rank", "neuron", "pole", "lens", "z", "contrast", "p", "place", "its words")
    record = {"model": checkpoint.name, "searched": len(checkpoint.layout.roster), "found": rows}
    return record, headers, tuple(shown)


def _neuron(neuron: NeuronId, pole: str) -> dict[str, Any]:
    about = {"neuron": str(neuron), "layer": neuron.layer, "expert": neuron.expert, "index": neuron.neuron}
    return {**about, "pole": pole}


@click.command(
    "neuron",
    cls=Job,
    example=[
        "flashinterp neuron llama.safetensors L25N1442",
        "flashinterp neuron path/to/model L1N17 L2N31 --pole + -n 5",
    ],
)
@argument("place", "MODEL_OR_MAP")
@click.argument("names", nargs=-1, required=True, metavar="NEURON...")
@options(count("-n", 10, "Words per pole."), POLE, LENS, DEVICE, REVISION, AS_JSON)
def neuron(
    place: str,
    names: tuple[str, ...],
    n: int,
    pole: str,
    lens: str | None,
    device: str,
    revision: str | None,
    as_json: bool,
) -> None:
    """Show what a NEURON names: the best tokens of its weight vector and of its opposite."""
    from flashinterp.neurons import POLES
    from flashinterp.report.table import Table

    neurons = inputs.neuron_map(place, lens=lens, device=device, revision=revision, neurons=names)
    rows: list[dict[str, Any]] = [
        {
            "neuron": str(neurons.neuron(neurons.index(name))),
            "pole": side,
            "rank": rank,
            "token": word.token.text,
            "id": word.token.id,
            "logit": word.logit,
            "score": word.score,
            "probability": word.probability,
        }
        for name in names
        for side in POLES
        if pole in ("both", side)
        for rank, word in enumerate(neurons.words(name, n, side), 1)
    ]
    shown = tuple(
        (r["neuron"], r["pole"], r["rank"], neurons.vocabulary.show(r["id"]), r["logit"], r["score"], r["probability"])
        for r in rows
    )
    headers = ("neuron", "pole", "rank", "token", "logit", "score", "probability")
    title = f"What it names in {neurons.meta['model']}, lens {neurons.meta['lens']}"
    show("neuron", as_json, {**meta_of(neurons), "words": rows}, [Table("neuron", title, headers, shown)])


@click.command(
    "export",
    cls=Job,
    example=[
        "flashinterp export llama.safetensors -o labels.csv",
        "flashinterp export path/to/model -o labels.parquet -n 5 --lens write",
    ],
)
@argument("place", "MODEL_OR_MAP")
@click.option(
    "-o", "--out", required=True, type=PathOrHubId(), metavar="FILE", help="Ends in .csv, .jsonl or .parquet."
)
@options(count("-n", 10, "Words per neuron and pole."), POLE, LENS, DEVICE, REVISION, AS_JSON)
def export(
    place: str, out: str, n: int, pole: Any, lens: str | None, device: str, revision: str | None, as_json: bool
) -> None:
    """Write every neuron's labels as CSV, JSONL or Parquet, one row for each neuron and pole.

    Columns: layer, expert, neuron (each from 0; expert is empty in a dense MLP), name, pole, word, score, probability,
    and the lists token_ids, words, logits, scores, probabilities, best first. In CSV words and lists are JSON, which
    keeps the space of " dog" and which no spreadsheet takes for a formula. Parquet needs `pip install
    'flashinterp[parquet]'`.
    """
    from flashinterp.decoding.label_export import check_format, write_labels
    from flashinterp.neurons import POLES
    from flashinterp.report.table import Table

    kind = check_format(out)  # before the model is decoded
    inputs.check_place(out)
    neurons = inputs.neuron_map(place, lens=lens, device=device, revision=revision)
    with progress(f"writing {out}") as step:
        rows = write_labels(neurons, out, n=n, poles=POLES if pole == "both" else (pole,), progress=step)
    size = Path(out).stat().st_size
    record = {**meta_of(neurons), "file": out, "format": kind, "rows": rows, "bytes": size}
    headers = ("file", "format", "neurons", "rows", "MB")
    row = (out, kind, len(neurons), rows, size / 1e6)
    show("export", as_json, record, [Table("export", f"Labels of {neurons.meta['model']}", headers, (row,))])


def meta_of(neurons: NeuronMap) -> dict[str, Any]:
    """What a map is of."""
    return {key: neurons.meta.get(key) for key in ("model", "revision", "lens", "head_of")}


COMMANDS = (map_, find, neuron, export)
