"""The commands about whole models, from their weights alone: compare, align."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from flashinterp.cli import inputs
from flashinterp.cli.neuron_commands import meta_of
from flashinterp.cli.options import AS_JSON, DEVICE, LENS, REVISION, Job, PathOrHubId, argument, count, options
from flashinterp.cli.output import show

if TYPE_CHECKING:
    from flashinterp.studies.finetuning.compare import Preservation


@click.command(
    "compare",
    cls=Job,
    example=[
        "flashinterp compare meta-llama/Llama-3.1-8B meta-llama/Llama-3.1-8B-Instruct",
        "flashinterp compare base.safetensors tuned.safetensors -n 20 --json",
    ],
)
@argument("place_a", "A")
@argument("place_b", "B")
@options(count("-n", 10, "How many changed neurons to list.", least=0))
@click.option("--pole", type=click.Choice(["+", "-"]), default="+", show_default=True, help="Which sign of the vector.")
@options(LENS, DEVICE, AS_JSON)
def compare(place_a: str, place_b: str, n: int, pole: Any, lens: str | None, device: str, as_json: bool) -> None:
    """Compare two models or maps: which neurons kept their top token, as through fine-tuning from A to B."""
    from flashinterp.studies.finetuning import compare

    map_a = inputs.neuron_map(place_a, lens=lens, device=device)
    result = compare.compare(map_a, inputs.neuron_map(place_b, lens=lens, device=device), pole=pole)
    share, clear = result.share, result.share_clear
    changed = [_changed(result, str(name)) for name in result.most_changed(n)]
    layers: list[dict[str, Any]] = [
        {"layer": part.layer, "neurons": part.n, **_share("kept", part.share), **_counts(result, part.layer)}
        for part in result.per_layer
    ]
    whole: dict[str, Any] = {
        "layer": None,
        "neurons": int(result.labelled.sum()),
        **_share("kept", share),
        **_counts(result),
    }
    record = {
        "a": meta_of(result.map_a),
        "b": meta_of(result.map_b),
        "pole": pole,
        "all": {**whole, **_share("kept_clear", clear)},
        "per_layer": layers,
        "most_changed": changed,
    }
    show("compare", as_json, record, _comparison(place_a, place_b, [*layers, whole], changed))


def _comparison(place_a: str, place_b: str, layers: list[dict[str, Any]], changed: list[dict[str, Any]]) -> list[Any]:
    """The comparison's tables: layer by layer, and the neurons that changed most."""
    from flashinterp.report.table import Table, format_cell
    from flashinterp.tokens import show as show_token

    rows = [
        ("all" if r["layer"] is None else format_cell(r["layer"]), r["neurons"], *_percent(r))
        + tuple(r[k] for k in ("kept", "near tie", "swapped", "changed"))
        for r in layers
    ]
    caption = (
        "Kept: the same top token, with the share's 95 % interval. Near tie: another one, as near within rounding. "
        "Swapped: first and second changed places. Changed: really another."
    )
    headers = ("layer", "neurons", "kept %", "low", "high", "kept", "near tie", "swapped", "changed")
    tables = [Table("layers", f"Labels kept from {place_a} to {place_b}", headers, tuple(rows), caption)]
    if changed:
        words = ([show_token(r[k] or "") for k in ("was", "is")] for r in changed)
        shown = tuple((r["neuron"], *two, r["lead"], r["overlap"]) for r, two in zip(changed, words, strict=True))
        told = ("neuron", "was", "is", "former lead", "overlap of top tokens")
        tables.append(Table("changed", "The clearest labels that were lost", told, shown))
    return tables


def _counts(result: Preservation, layer: int | None = None) -> dict[str, int]:
    """How many labels became what."""
    return {str(change): n for change, n in result.changes(layer).items()}


def _changed(result: Preservation, name: str) -> dict[str, Any]:
    """A neuron whose label changed, with both labels."""
    at = result.map_a.index(name)
    top_a, top_b = (int(top[at]) for top in (result.top_a, result.top_b))
    words = [None if i < 0 else result.map_a.vocabulary.surfaces[i] for i in (top_a, top_b)]
    lead, overlap = float(result.margin_a[at]), float(result.jaccard[at])
    return {"neuron": name, "was": words[0], "is": words[1], "lead": lead, "overlap": overlap}


@click.command(
    "align",
    cls=Job,
    example=["flashinterp align path/to/model", "flashinterp align path/to/model -n 20 --plot alignment.svg"],
)
@argument("model")
@options(count("-n", 10, "How many of the best aligned neurons to list.", least=0))
@click.option("--plot", type=PathOrHubId(), metavar="FILE", help="Draw the layers' distributions into an SVG file.")
@options(DEVICE, REVISION, AS_JSON)
def align(model: str, n: int, plot: str | None, device: str, revision: str | None, as_json: bool) -> None:
    """Measure how strongly each neuron of a MODEL writes one token: max |U · W_down[:, n]|, layer by layer."""
    import numpy as np

    from flashinterp.report.table import Table
    from flashinterp.studies.vocabulary.alignment import alignment_of

    if plot:
        inputs.check_place(plot)
    found = alignment_of(inputs.neuron_map(model, lens="logit-lens", device=device, revision=revision))
    layers = [vars(layer) for layer in found.per_layer]
    best = [
        {
            "neuron": str(found.map.neuron(int(i))),
            "token": found.map.vocabulary.surfaces[found.token_ids[i]],
            "id": int(found.token_ids[i]),
            "sign": int(found.signs[i]),
            "alignment": float(found.max_abs[i]),
        }
        for i in np.argsort(-found.max_abs, kind="stable")[:n]
    ]
    if plot:
        from flashinterp.report.charts.neurons import alignment

        inputs.write_svg(plot, alignment("align", f"Vocabulary alignment in {model}", found.by_layer()).svg)
    headers = ("layer", "mean", "median", "maximum", "skew", "kurtosis")
    rows = tuple(tuple(layer[h] for h in headers) for layer in layers)
    tables = [Table("layers", f"Vocabulary alignment in {found.map.meta['model']}", headers, rows)]
    if best:
        shown = tuple((r["neuron"], found.map.vocabulary.show(r["id"]), r["sign"], r["alignment"]) for r in best)
        headers_best = ("neuron", "token", "sign", "alignment")
        caption = "Sign: whether a positive value of the neuron raises the token's logit, or lowers it."
        tables.append(Table("best", "The best aligned neurons", headers_best, shown, caption))
    show("align", as_json, {**meta_of(found.map), "per_layer": layers, "best": best, "plot": plot}, tables)


def _share(name: str, interval: Any) -> dict[str, Any]:
    """A share and its interval; None where it has none."""
    parts = {f"{name}_share": "estimate", f"{name}_low": "low", f"{name}_high": "high"}
    return {key: getattr(interval, part) if interval else None for key, part in parts.items()}


def _percent(row: dict[str, Any]) -> tuple[float | None, ...]:
    values = (row["kept_share"], row["kept_low"], row["kept_high"])
    return tuple(None if value is None else 100 * value for value in values)


COMMANDS = (compare, align)
