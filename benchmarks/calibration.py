"""Is the judge any good? How often it validates where nothing is planted, and how often it finds what is.

``python -m benchmarks.calibration --models 200 --seed 1 --processes 2 --out docs/calibration`` measures and judges
neurons of random models, half of them with tied heads, and then of as many in which neurons were planted. One line a
claim goes into ``null.csv`` and ``power.csv`` as soon as its model is done, so that a run that was killed goes on where
it stopped; the number of processes changes no byte. At the end it prints the tables of docs/CALIBRATION.md, and draws
``power.svg``.
"""

from __future__ import annotations

import argparse
import csv
import json
import multiprocessing
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, astuple, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate
from tqdm import tqdm

from fixtures.build import stream
from fixtures.random_models import STRENGTHS, Graded, draw_plants, draw_words, write_model
from flashinterp import decode, open_checkpoint
from flashinterp.errors import FlashinterpError, RunError
from flashinterp.evaluation.claim_resolution import resolve_claim
from flashinterp.evaluation.claims import Claim
from flashinterp.evaluation.experiment import Experiment
from flashinterp.evaluation.measure import measure
from flashinterp.evaluation.profiles import PROFILES, Profile
from flashinterp.evaluation.prompts import shipped
from flashinterp.evaluation.verdict import Rule, Verdict, judge
from flashinterp.neurons import LENSES, NeuronId
from flashinterp.report.charts.canvas import drawing, head
from flashinterp.report.palette import BLUE, MUTED, VERMILION
from flashinterp.stats import wilson

RULE = Rule()
WORDS = 4  # claims in a family where nothing is planted: one for each word
KINDS = {"null": WORDS * len(LENSES), "power": 2 * len(STRENGTHS) + 2}  # and the lines of each model
SIZES = ("selection", "prompts", "contexts", "absent", "doses", "controls", "unrelated", "unrelated_texts")
VERDICTS = ("lever", "detector", "refuted", "inconclusive", "not_measured")  # beside `validated`


@dataclass(frozen=True)
class Outcome:
    """What became of one claim: one line of the CSV files.

    Attributes:
        model, tied: the random model's number, and whether its embedding is its head.
        lens, token, neuron, pole: the claim.
        family, planted, strength: which plants were judged together, which sides were planted, and how much; empty
            where nothing was.
        reads, writes, verdict: the answers.
        reads_rank_p, writes_rank_p: the rank among the controls.
        reads_q, writes_q: false discovery over the family.
        effect: mean change of the token's log-odds over the natural range, in the claimed direction.
    """

    model: int
    tied: bool
    lens: str
    token: str
    neuron: str
    pole: str
    family: str
    planted: str
    strength: float | None
    reads: str
    writes: str
    verdict: str
    reads_rank_p: float | None
    reads_q: float | None
    writes_rank_p: float | None
    writes_q: float | None
    effect: float | None

    @classmethod
    def of(cls, model: int, tied: bool, found: Verdict, plant: Graded | None = None) -> Outcome:
        """The line of a verdict."""
        claim, reads, writes = found.claim, found.reads, found.writes
        sides = (
            "" if plant is None else "both" if plant.reads and plant.writes else "reads" if plant.reads else "writes"
        )
        return cls(
            *(model, tied, claim.lens, str(claim.token), str(claim.neuron), str(claim.pole)),
            *((plant.family, sides, plant.strength) if plant else ("", "", None)),
            *(reads.answer if reads else "", writes.answer if writes else "", found.verdict),
            *((reads.figures["rank_p"], reads.q) if reads else (None, None)),
            *((writes.figures["rank_p"], writes.q, writes.figures["effect"]) if writes else (None, None, None)),
        )

    def cells(self) -> list[str]:
        """The line as texts: six digits, which rounding does not reach."""
        return [
            ""
            if v is None
            else f"{v:.6g}"
            if isinstance(v, float)
            else str(v).lower()
            if isinstance(v, bool)
            else str(v)
            for v in astuple(self)
        ]

    @classmethod
    def parse(cls, cells: dict[str, str]) -> Outcome:
        """The inverse of `cells`."""
        made: dict[str, Any] = dict(cells)
        made["model"], made["tied"] = int(cells["model"]), cells["tied"] == "true"
        for name in ("strength", "reads_rank_p", "reads_q", "writes_rank_p", "writes_q", "effect"):
            made[name] = float(cells[name]) if cells[name] else None
        return cls(**made)


def _sides(plant: Graded) -> str:
    return "both" if plant.reads and plant.writes else "reads" if plant.reads else "writes"


COLUMNS = [f.name for f in fields(Outcome)]


def main() -> None:
    """Measure what is missing, then print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.calibration", description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=int, default=200, help="random models of each kind")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--profile", choices=PROFILES, default="smoke")
    parser.add_argument("--out", type=Path, default=Path("docs/calibration"))
    options = parser.parse_args()
    if min(options.models, options.processes) < 1 or options.seed < 0:
        sys.exit("models and processes are at least 1, and the seed is not negative")
    try:
        for kind in KINDS:
            run(kind, options.models, options.seed, options.out, PROFILES[options.profile], options.processes)
        null, power = (load(options.out, kind)[: options.models * lines] for kind, lines in KINDS.items())
    except (FlashinterpError, OSError) as error:
        sys.exit(str(error))
    (options.out / "power.svg").write_text(power_figure(power), encoding="utf-8")
    print(tables(null, power))


# --- the run ----------------------------------------------------------------------------------------


def run(kind: str, models: int, seed: int, out: Path, profile: Profile, processes: int = 1) -> None:
    """Append the outcomes of the models that a folder's file of one kind lacks, in the order of their numbers.

    Raises:
        RunError: the folder holds the outcomes of another design.
    """
    _check_design(out, seed, profile)
    path = out / f"{kind}.csv"
    done = _whole_models(path, KINDS[kind])
    work = partial(outcomes, kind, seed, profile)
    with path.open("a", encoding="utf-8", newline="") as file:
        lines = csv.writer(file, lineterminator="\n")
        if not done:
            lines.writerow(COLUMNS)
        results = _in_order(work, range(done, models), processes)
        for result in tqdm(results, desc=kind, initial=min(done, models), total=models, unit="model"):
            lines.writerows(one.cells() for one in result)
            file.flush()


def load(out: Path, kind: str) -> list[Outcome]:
    """The outcomes in a folder's file of one kind."""
    with (out / f"{kind}.csv").open(encoding="utf-8", newline="") as file:
        return [Outcome.parse(cells) for cells in csv.DictReader(file)]


def _check_design(out: Path, seed: int, profile: Profile) -> None:
    """Write down what the outcomes rest on; a folder holds those of one design."""
    sizes = {name: getattr(profile, name) for name in SIZES}
    design = {"seed": seed, "rule": asdict(RULE), "sizes": sizes, "prompts": shipped().digest}
    text = json.dumps(design, indent=1) + "\n"
    path = out / "design.json"
    out.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        path.write_text(text, encoding="utf-8")
    elif path.read_text(encoding="utf-8") != text:
        raise RunError(
            f"{path} is of another seed, rule, profile or prompt set: name another folder with --out, or remove it"
        )


def _whole_models(path: Path, lines_each: int) -> int:
    """How many models a file holds whole; what a killed run left of another one is cut off."""
    if not path.exists():
        return 0
    header, *lines = path.read_bytes().splitlines(keepends=True) or [b""]
    whole = sum(line.endswith(b"\n") for line in lines) // lines_each if header.endswith(b"\n") else 0
    kept = [header, *lines[: whole * lines_each]] if whole else []
    with path.open("r+b") as file:
        file.truncate(sum(map(len, kept)))
    return whole


def _in_order(work: Callable[[int], list[Outcome]], numbers: Sequence[int], processes: int) -> Iterator[list[Outcome]]:
    """The results of the numbers, in their order."""
    if processes == 1 or not numbers:
        yield from map(work, numbers)
        return
    # A fork of a process in which torch has run threads may hang.
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        yield from pool.imap(work, numbers)


# --- one model --------------------------------------------------------------------------------------


def outcomes(kind: str, seed: int, profile: Profile, number: int) -> list[Outcome]:
    """The outcomes on one random model, which depend on nothing but these four."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # how many may change the last digit
    try:
        return {"null": _null, "power": _power}[kind](seed, profile, number)
    finally:
        torch.set_num_threads(threads)


def _null(seed: int, profile: Profile, number: int) -> list[Outcome]:
    """Nothing is planted: a family of drawn words for each lens, with the neurons that the lens names."""
    tied = number % 2 == 0
    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder), seed, number, tied=tied)
        bench = _bench(folder, seed, profile, number)
        maps = {lens: decode(bench.checkpoint, lens=lens, device="cpu") for lens in LENSES}
        words = draw_words(seed, number, WORDS)
        families = [
            [
                resolve_claim(Claim(word.strip(), word, None, None, lens, None, "discovered"), maps, bench.checkpoint)
                for word in words
            ]
            for lens in LENSES
        ]
        # What is measured is one neuron and one word, whichever lenses name it.
        named = list({(c.neuron, c.token): c for family in families for c in family}.values())
        evidence = {(c.neuron, c.token): e for c, e in zip(named, measure(bench, named), strict=True)}
    judged = [judge(f, [evidence[c.neuron, c.token] for c in f], rule=RULE, seed=bench.seed) for f in families]
    return [Outcome.of(number, tied, verdict) for verdicts in judged for verdict in verdicts]


def _power(seed: int, profile: Profile, number: int) -> list[Outcome]:
    """Planted neurons, measured together and judged by family."""
    plants = draw_plants(seed, number)
    claims = [
        Claim(p.id, p.token, NeuronId(p.layer, p.neuron), "-" if p.pole == "-" else "+", p.lens, None, "fixture")
        for p in plants
    ]
    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder), seed, number, plants=plants)
        bench = _bench(folder, seed, profile, number)
        evidence = measure(bench, claims)
    lines = []
    for family in dict.fromkeys(plant.family for plant in plants):
        own = [i for i, plant in enumerate(plants) if plant.family == family]
        found = judge([claims[i] for i in own], [evidence[i] for i in own], rule=RULE, seed=bench.seed)
        lines += [Outcome.of(number, False, verdict, plants[i]) for i, verdict in zip(own, found, strict=True)]
    return lines


def _bench(folder: str, seed: int, profile: Profile, number: int) -> Experiment:
    checkpoint = open_checkpoint(folder)
    own = int(stream("bench", seed=(seed, number)).integers(2**32))
    return Experiment(checkpoint.load_model(), checkpoint, shipped(), profile, own)


# --- tables and figure ------------------------------------------------------------------------------


def tables(null: Sequence[Outcome], power: Sequence[Outcome]) -> str:
    """The tables of docs/CALIBRATION.md."""
    titled = [
        ("Nothing planted: the verdicts", null_table(null)),
        ("Nothing planted: each side alone", sides_table(null)),
        ("Planted on both sides: power in a family of one strength", power_table(power, "alike")),
        ("Planted on both sides: power in a family of all strengths", power_table(power, "mixed")),
        ("Planted on one side only", one_sided_table(power)),
    ]
    return "\n\n".join(f"### {title}\n\n{table}" for title, table in titled)


def null_table(null: Sequence[Outcome]) -> str:
    """By lens and head: false `validated`, and the other verdicts."""
    rows = []
    for lens, tied in _heads(null):
        own = [o for o in null if (o.lens, o.tied) == (lens, tied)]
        families = {o.model for o in own}
        hit = {o.model for o in own if o.verdict == "validated"}
        rows.append(
            [_code(lens), "tied" if tied else "untied", len(own), *_validated(own)]
            + [f"{len(hit)} of {len(families)}", *_others(own)]
        )
    header = ["lens", "head", "claims", *_VALIDATED, "families with one", *VERDICTS]
    return _markdown(header, rows)


def sides_table(null: Sequence[Outcome]) -> str:
    """By lens and head: how often each side said yes, and its rank among controls was in the best twentieth."""
    rows = []
    for lens, tied in _heads(null):
        own = [o for o in null if (o.lens, o.tied) == (lens, tied)]
        row: list[Any] = [_code(lens), LENSES[lens].side + "s", "tied" if tied else "untied"]
        for answers, ranks in (
            ([o.reads for o in own], [o.reads_rank_p for o in own]),
            ([o.writes for o in own], [o.writes_rank_p for o in own]),
        ):
            first = sum(p is not None and p <= RULE.alpha for p in ranks)
            row += [_share(answers.count("yes"), len(own)), _share(first, len(own))]
        rows.append(row)
    header = ["lens", "chosen by what it", "head", "reads: yes", f"rank p ≤ {RULE.alpha:g}", "writes: yes"]
    return _markdown([*header, f"rank p ≤ {RULE.alpha:g}"], rows)


def power_table(power: Sequence[Outcome], family: str) -> str:
    """By strength: `validated`, each side, and the other verdicts."""
    rows = []
    for strength in STRENGTHS:
        own = [o for o in power if o.family == family and o.strength == strength]
        sides = [
            _share(answers.count("yes"), len(own)) for answers in ([o.reads for o in own], [o.writes for o in own])
        ]
        rows.append([f"{strength:g}", len(own), *_validated(own), *sides, *_others(own)])
    return _markdown(["strength", "claims", *_VALIDATED, "reads: yes", "writes: yes", *VERDICTS], rows)


def one_sided_table(power: Sequence[Outcome]) -> str:
    """By planted side and strength: how often the verdict names the side."""
    rows = []
    for planted, wanted in (("reads", "detector"), ("writes", "lever")):
        for strength in STRENGTHS:
            own = [o for o in power if o.planted == planted and o.strength == strength]
            counts = Counter(o.verdict for o in own)
            rest = [counts[name] for name in ("validated", *VERDICTS)]
            rows.append(
                [f"{planted} only", f"{strength:g}", len(own), f"`{wanted}`", *_of(counts[wanted], len(own)), *rest]
            )
    return _markdown(["planted", "strength", "claims", "is", "share", "95 % interval", "validated", *VERDICTS], rows)


def power_figure(power: Sequence[Outcome]) -> str:
    """The power curves as SVG: `validated` in both kinds of family with Wilson intervals, and each side alone."""

    def at(family: str, strength: float) -> list[Outcome]:
        return [o for o in power if o.family == family and o.strength == strength]

    drawn = [s for s in STRENGTHS if at("alike", s) and at("mixed", s)]
    with drawing("power") as (canvas, svg):
        axes = canvas.add_subplot()
        curves: tuple[tuple[str, str, str, str, Callable[[Outcome], bool]], ...] = (
            ("writes: yes", "alike", MUTED, "s--", lambda o: o.writes == "yes"),
            ("reads: yes", "alike", MUTED, "^:", lambda o: o.reads == "yes"),
            ("validated, family of one strength", "alike", BLUE, "o-", lambda o: o.verdict == "validated"),
            ("validated, family of all strengths", "mixed", VERMILION, "D-", lambda o: o.verdict == "validated"),
        )
        for name, family, colour, style, yes in curves:
            counts = [(sum(map(yes, own)), len(own)) for own in (at(family, s) for s in drawn)]
            axes.plot(drawn, [k / n for k, n in counts], style, color=colour, label=name, markersize=4, linewidth=1.4)
            if colour != MUTED:
                intervals = [wilson(k, n) for k, n in counts]
                low, high = ([getattr(i, end) for i in intervals] for end in ("low", "high"))
                axes.fill_between(drawn, low, high, color=colour, alpha=0.15, linewidth=0)
        axes.axhline(0.95, color=BLUE, linewidth=0.8, linestyle=":")
        axes.set_xticks(drawn, [f"{s:g}" for s in drawn])
        axes.set_ylim(-0.02, 1.02)
        axes.set_xlabel("strength of what was planted (1: as in the fixtures)")
        axes.set_ylabel("share of claims")
        axes.legend(loc="lower right")
        head(canvas, "Planted neurons that the judge finds")
        return svg((6.4, 3.6))


_VALIDATED = ["validated", "share", "95 % interval"]


def _heads(null: Sequence[Outcome]) -> list[tuple[str, bool]]:
    there = {(o.lens, o.tied) for o in null}
    return [(lens, tied) for lens in LENSES for tied in (False, True) if (lens, tied) in there]


def _validated(own: Sequence[Outcome]) -> list[Any]:
    count = sum(o.verdict == "validated" for o in own)
    return [count, *_of(count, len(own))]


def _others(own: Sequence[Outcome]) -> list[int]:
    counts = Counter(o.verdict for o in own)
    return [counts[name] for name in VERDICTS]


def _of(count: int, n: int) -> tuple[str, str]:
    """A share and its Wilson interval, in words; dashes where there is nothing to take it of."""
    interval = wilson(count, n)
    if interval is None or interval.low is None or interval.high is None:
        return "–", "–"
    return _share(count, n), f"{100 * interval.low:.1f} to {100 * interval.high:.1f} %"


def _share(count: int, n: int) -> str:
    return f"{100 * count / n:.1f} %" if n else "–"


def _code(name: str) -> str:
    return f"`{name}`"


def _markdown(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    names = [_code(name) if name in ("validated", *VERDICTS) else name for name in header]
    return tabulate(rows, names, tablefmt="github", disable_numparse=True)


if __name__ == "__main__":
    main()
