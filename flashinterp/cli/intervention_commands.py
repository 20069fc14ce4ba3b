"""The commands that run a model or change its weights: sweep, steer, export-clamp, reverse."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from flashinterp.cli import inputs
from flashinterp.cli.options import (
    AS_JSON,
    CLAMPS,
    DEVICE,
    DTYPE,
    PROMPTS,
    REVISION,
    SEED,
    SITE,
    Job,
    PathOrHubId,
    argument,
    count,
    options,
)
from flashinterp.cli.output import note, progress, show

if TYPE_CHECKING:
    from flashinterp.evaluation.experiment import Experiment
    from flashinterp.interventions.answers import Answers
    from flashinterp.interventions.dose_response import Curves
    from flashinterp.report.table import Table


LIVE = (DEVICE, DTYPE, REVISION)


@click.command(
    "sweep",
    cls=Job,
    example=[
        'flashinterp sweep path/to/model L1N17 " dog" --plot dog.svg',
        'flashinterp sweep path/to/model L25N1442 " dog" " cat" --prompt "I took a walk with my" --values -500:500:21',
    ],
)
@argument("model")
@click.argument("neuron")
@click.argument("tokens", nargs=-1, required=True, metavar="TOKEN...")
@click.option("--prompt", "texts", multiple=True, metavar="TEXT", help="May be repeated.  [default: held-out prompts]")
@click.option(
    "--values",
    metavar="LIST",
    help="As in -2,0,145, or -500:500:21 for 21 of them.  [default: seven of the neuron's own natural range]",
)
@click.option("--plot", type=PathOrHubId(), metavar="FILE", help="Draw the curves into an SVG file.")
@options(SITE, PROMPTS, *LIVE, AS_JSON)
def sweep(
    model: str,
    neuron: str,
    tokens: tuple[str, ...],
    texts: tuple[str, ...],
    values: str | None,
    plot: str | None,
    site: Any,
    prompts: str | None,
    device: str,
    dtype: str,
    revision: str | None,
    as_json: bool,
) -> None:
    """Clamp a NEURON at rising values, and measure the log-probability of TOKENs as the next one of each prompt.

    Without --values, the neuron's natural range is measured first, on prompts that the curve is not measured on.
    """
    from flashinterp.interventions.dose_response import sweep

    doses = inputs.values(values) if values else None
    if doses is None and site != "up":
        raise click.ClickException(f"a natural range is known at site up only: give --values for site {site}")
    if plot:
        inputs.check_place(plot)
    live = inputs.live(model, device=device, dtype=dtype, revision=revision)
    wanted = [live.checkpoint.vocabulary.resolve(inputs.token(text)) for text in tokens]
    live.checkpoint.layout.roster.check(neuron)
    bench = inputs.bench(live, prompts)
    if doses is None:
        note(f"measuring the natural range of {neuron}")
        doses = inputs.natural_doses(bench, neuron, [token.id for token in wanted])
    shown = texts or bench.heldout
    note(f"sweeping {neuron}: {len(doses)} values over {len(shown)} prompts")
    with progress(f"sweeping {neuron}", " points") as step:
        curves = sweep(live.model, bench.tokenizer, shown, [neuron], doses, wanted, site=site, progress=step)
    if plot:
        inputs.write_svg(plot, _drawn(curves))
    record = {
        "model": model,
        "neuron": str(curves.neurons[0]),
        "site": site,
        "values": curves.values[0],
        "prompts": list(shown),
        "own": curves.own[0],
        "gate": curves.gate[0],
        "act_gate": curves.act_gate[0],
        "tokens": [
            {"token": t.text, "id": t.id, "clean": curves.clean[:, i], "log_probs": curves.log_probs[0, :, :, i]}
            for i, t in enumerate(curves.tokens)
        ],
        "plot": plot,
    }
    show("sweep", as_json, record, [_curve(curves, i) for i in range(len(wanted))])


def _curve(curves: Curves, i: int) -> Table:
    """One token's curve: a row for each value, and one without a clamp."""
    import numpy as np

    from flashinterp.report.table import Table

    levels = [("none", curves.clean[:, i])]
    levels += [(f"{value:.4g}", curves.log_probs[0, v, :, i]) for v, value in enumerate(curves.values[0])]
    rows = tuple((value, x.mean(), x.min(), x.max(), np.exp(x.astype(np.float64)).mean()) for value, x in levels)
    caption = (
        f"Natural logs, over {len(curves.prompts)} prompts. Unclamped, the neuron is {curves.own[0].mean():.4g} and "
        f"its gate act(g) {curves.act_gate[0].mean():.4g} at the measured position, on average."
    )
    headers = ("clamp", "mean log p", "lowest", "highest", "mean p")
    title = f"{curves.tokens[i]} with {curves.neurons[0]} clamped at site {curves.site}"
    return Table(f"curve-{i}", title, headers, rows, caption)


def _drawn(curves: Curves) -> str:
    from flashinterp.report.charts.dose_response import DosePanel, dose_response

    panels = [
        DosePanel(str(token), curves.values[0], curves.log_probs[0, :, :, i].T, own=float(curves.own[0].mean()))
        for i, token in enumerate(curves.tokens)
    ]
    return dose_response("sweep", f"{curves.neurons[0]} clamped at site {curves.site}", panels).svg


@click.command(
    "steer",
    cls=Job,
    example=[
        'flashinterp steer path/to/model "What did you dream of?" --clamp L1N17=10.3 -n 8',
        'flashinterp steer meta-llama/Llama-3.1-8B-Instruct "Who are you?" --clamp L25N1442=145 --word dog --json',
    ],
)
@argument("model")
@click.argument("prompt")
@options(CLAMPS, count("-n", 4, "Answers on each side."))
@click.option("--word", "words", multiple=True, help="Count the answers that say it; may be repeated.")
@click.option("--new-tokens", type=click.IntRange(1), default=40, show_default=True, help="Length of an answer.")
@click.option(
    "--positions",
    type=click.Choice(["all", "last", "generated"]),
    default="all",
    show_default=True,
    help="Which positions are clamped.",
)
@click.option("--chat/--no-chat", default=None, help="Use the chat template.  [default: where there is one]")
@click.option("--greedy", is_flag=True, help="The likeliest token each time, instead of sampling.")
@options(SITE, SEED, *LIVE, AS_JSON)
def steer(
    model: str,
    prompt: str,
    clamps: tuple[str, ...],
    n: int,
    words: tuple[str, ...],
    new_tokens: int,
    positions: Any,
    chat: bool | None,
    greedy: bool,
    site: Any,
    seed: int,
    device: str,
    dtype: str,
    revision: str | None,
    as_json: bool,
) -> None:
    """Let a MODEL answer a PROMPT without and with neurons clamped, from the same seeds, side by side."""
    import numpy as np

    from flashinterp.interventions.steer import steer

    fixed = inputs.clamps(clamps)
    live = inputs.live(model, device=device, dtype=dtype, revision=revision)
    for name in fixed:
        live.checkpoint.layout.roster.check(name)
    note(f"answering {n} times with and without the clamp")
    with progress("answering", " answers") as step:
        answers = steer(
            live.model,
            live.checkpoint.tokenizer,
            prompt,
            fixed,
            n=n,
            rng=np.random.default_rng(seed),
            site=site,
            positions=positions,
            chat=chat,
            progress=step,
            max_new_tokens=new_tokens,
            do_sample=not greedy,
        )
    rates = _rates(answers, words)
    tables = [_side_by_side(answers, ", ".join(clamps)), *([_rate_table(rates, n)] if rates else [])]
    show("steer", as_json, {"model": model, "clamps": fixed, **vars(answers), "rates": rates}, tables)


def _side_by_side(answers: Answers, clamped: str) -> Table:
    from flashinterp.report.table import Table

    sides = zip(answers.clean, answers.clamped, answers.perplexity_clamped, strict=True)
    rows = tuple((i, *row) for i, row in enumerate(sides, 1))
    caption = "Perplexity of the clamped answer under the unclamped model; --json has the whole texts."
    headers = ("answer", "unclamped", "clamped", "perplexity")
    return Table("answers", f"Answers without a clamp, and with {clamped}", headers, rows, caption)


def _rates(answers: Answers, words: tuple[str, ...]) -> dict[str, Any]:
    """By word, the share of answers that say it, without and with the clamp, each with its interval."""
    from flashinterp.interventions.answer_judges import lexicon_judge

    found = {}
    for word in words:
        sides = zip(("clean", "clamped"), answers.rates(lexicon_judge([word])), strict=True)
        found[word] = {side: None if rate is None else vars(rate) for side, rate in sides}
    return found


def _rate_table(rates: dict[str, Any], n: int) -> Table:
    from flashinterp.report.table import Table

    keys = ("estimate", "low", "high")
    rows = tuple(
        (word, side, *((100 * rate[k] if rate and rate[k] is not None else None) for k in keys))
        for word, sides in rates.items()
        for side, rate in sides.items()
    )
    headers = ("word", "side", "answers %", "low", "high")
    return Table("rates", "Answers that say the word", headers, rows, f"Of {n} on each side, with 95 % intervals.")


@click.command(
    "export-clamp",
    cls=Job,
    example=["flashinterp export-clamp path/to/model --clamp L1N17=10.3 -o dogs-only"],
)
@argument("model")
@CLAMPS
@click.option("-o", "--out", required=True, type=PathOrHubId(), metavar="FOLDER", help="A new folder.")
@options(SITE, REVISION, AS_JSON)
def export_clamp(model: str, clamps: tuple[str, ...], out: str, site: Any, revision: str | None, as_json: bool) -> None:
    """Write a checkpoint with neurons fixed for good: plain transformers loads it, and computes what the clamp does."""
    from flashinterp.interventions.clamp_export import export_clamped
    from flashinterp.report.table import Table

    made = export_clamped(inputs.checkpoint(model, revision), inputs.clamps(clamps), out, site=site)
    fixed = [{"neuron": str(name), "asked": value, "stored": made.stored[name]} for name, value in made.asked.items()]
    record = {"model": model, "folder": str(made.folder), "site": site, "dtype": made.dtype, "switch": made.switch}
    rows = tuple(tuple(row.values()) for row in fixed)
    caption = f"In {made.folder}, stored as {made.dtype}" + (f", with {made.switch} turned on." if made.switch else ".")
    table = Table("clamped", f"Neurons of {model} fixed at site {site}", ("neuron", "asked", "stored"), rows, caption)
    show("export-clamp", as_json, {**record, "clamps": fixed}, [table])


@click.command(
    "reverse",
    cls=Job,
    example=[
        'flashinterp reverse path/to/model " dog" -o no-dogs',
        'flashinterp reverse path/to/model " dog" --edits 8',
    ],
)
@argument("model")
@click.argument("token")
@click.option("-o", "--out", type=PathOrHubId(), metavar="FOLDER", help="A new folder for the edited checkpoint.")
@click.option("--edits", type=click.IntRange(1), help="Rows to reverse.  [default: chosen on selection texts]")
@click.option("--controls", type=click.IntRange(1), default=19, show_default=True, help="Control edits of each kind.")
@options(PROMPTS, SEED, *LIVE, AS_JSON)
def reverse(
    model: str,
    token: str,
    out: str | None,
    edits: int | None,
    controls: int,
    prompts: str | None,
    seed: int,
    device: str,
    dtype: str,
    revision: str | None,
    as_json: bool,
) -> None:
    """Take a concept out of a MODEL: reverse the rows that read its TOKEN (TARS), and measure what that does."""
    from flashinterp.report.table import Table
    from flashinterp.studies.concept_erasure.reverse import reverse

    live = inputs.live(model, device=device, dtype=dtype, revision=revision)
    bench: Experiment = inputs.bench(live, prompts, seed)
    note(f"reversing the rows that read {token!r}, with {controls} controls of each kind")
    with progress(f"reversing {token!r}", " edits") as step:
        made = reverse(bench, inputs.token(token), folder=out, edits=edits, controls=controls, progress=step)
    rows = [{"row": str(row.place), "cosine": row.cosine} for row in made.ranked[: len(made.edits)]]
    summary = {
        "token": made.concept.token.text,
        "verdict": made.verdict,
        "edits": len(made.edits),
        "probability_before": made.before.probability(),
        "probability_after": made.after.probability(),
        "change": made.change,
        "p_rows": made.p_rows,
        "p_directions": made.p_directions,
    }
    told = {"model": model, **summary, "reason": made.reason, "folder": str(made.folder) if made.folder else None}
    caption = f"Number of edits: {made.reason}. Change: of the log-probability, in nats; p: its rank among controls."
    headers = ("word", "verdict", "edits", "p before", "p after", "change", "p rows", "p directions")
    answer = (str(made.concept.token), *list(summary.values())[1:])
    tables = [
        Table("reversal", f"A concept taken out of {model}", headers, (answer,), caption),
        Table("rows", "The rows", ("row", "cosine"), tuple(tuple(row.values()) for row in rows)),
    ]
    show("reverse", as_json, {**told, "rows": rows}, tables)


COMMANDS = (sweep, steer, export_clamp, reverse)
