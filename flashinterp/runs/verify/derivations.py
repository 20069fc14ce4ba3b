"""Checks of what follows from what: verdicts from evidence, tables and figures from raw/, reports from results."""

from __future__ import annotations

import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from typing import Any

import numpy as np

from flashinterp._util.differences import difference
from flashinterp._util.text import check_name, clip, safe_text
from flashinterp.errors import RunError, first_line
from flashinterp.evaluation.judgement import CLAIMS
from flashinterp.provenance.derivation import CallValues, Derivation, read
from flashinterp.provenance.registry import UnknownId
from flashinterp.report import paper_answers
from flashinterp.report.charts.canvas import points_only
from flashinterp.report.figure import Figure
from flashinterp.report.paper_answers import Finding, answers_table
from flashinterp.report.table import Table, to_json
from flashinterp.report.wording import READING_ORDER
from flashinterp.runs.folder.rendered_files import encoded, rendered
from flashinterp.runs.folder.results_schema import RESULTS
from flashinterp.runs.folder.run_folder import read_arrays
from flashinterp.runs.verify.judgements import judge_again
from flashinterp.runs.verify.run import NotChecked, RunUnderCheck, other_code
from flashinterp.runs.verify.stored_ids import stored_derivation, stored_record
from flashinterp.studies.finetuning.role_records import role_record
from flashinterp.studies.finetuning.roles import RoleRule


def check_raw(run: RunUnderCheck) -> str:
    """Every file of raw numbers can be read."""
    names = [path for path in run.listed if path.startswith("raw/")]
    for path in names:
        if stat.S_ISREG((run.path / path).lstat().st_mode):
            read_arrays(run.path / path)
    if not names:
        raise NotChecked("the run kept no raw numbers")
    return f"{len(names)} files of raw numbers can be read"


def check_verdicts(run: RunUnderCheck) -> str:
    """Every verdict and role is reached again from raw evidence."""
    results = run.results
    run.again = again = judge_again(results, run.raw)
    for entry in results["judgements"]:
        _same_outcome(entry, [v.record() for v in again.judgements[entry["name"]].verdicts])
    for entry in results["roles"]:
        _same_outcome(entry, [role_record(role) for role in again.roles[entry["name"]].roles])
        if difference(asdict(RoleRule()), entry["rule"]):
            raise RunError(f"the roles {entry['name']!r} were judged by thresholds that are not this release's")
    ours = [one.record() for one in again.judgements[CLAIMS].verdicts] if CLAIMS in again.judgements else []
    # An eval that did not run has handed in no verdicts, though others rested on the same judgement.
    if results["verdicts"] and (where := difference(ours, results["verdicts"])):
        raise RunError(f"the verdicts of {RESULTS} are not those of its evidence: verdicts{where}")
    n_verdicts = sum(len(one.verdicts) for one in again.judgements.values())
    n_roles = sum(len(one.roles) for one in again.roles.values())
    if not n_verdicts:
        raise NotChecked("the run judged nothing")
    return f"{n_verdicts} verdicts and {n_roles} roles, reached again"


def _same_outcome(entry: Mapping[str, Any], again: Sequence[Mapping[str, Any]]) -> None:
    for ours, theirs in zip(again, entry["outcome"], strict=True):
        what = "verdict" if "verdict" in ours else "role"
        if ours[what] != theirs[what]:
            raise RunError(
                f"{entry['name']}: {ours['id']!r} is recorded as {theirs[what]}, and by its evidence it is {ours[what]}"
            )
        if where := difference(ours, theirs):
            raise RunError(f"{entry['name']}: {ours['id']!r} differs from its evidence: {what}{where}")


def check_tables(run: RunUnderCheck) -> str:
    """The tables are made again from raw numbers."""
    tables = {table["name"]: table for table in run.results["tables"]}
    told: list[Finding] = []
    for one, values, outcome in _made_again(run, "table", "finding"):
        if one.kind == "finding":
            told.append(Finding(*values.head, *outcome))
        elif one.name not in tables:
            raise RunError(f"the table {clip(safe_text(one.name), 80)} has its values in raw/, and is not there")
        else:
            (title,), (headers, rows, caption) = values.head, outcome
            made = Table(one.name, title, tuple(headers), tuple(map(tuple, rows)), caption)
            _same_table(run, made, tables[one.name])
    n_findings = sum(entry["kind"] == "finding" for entry in run.results["derivations"])
    if told and len(told) == n_findings and paper_answers.NAME in tables:
        _same_table(run, answers_table(told), tables[paper_answers.NAME])
    if not run.derived:
        raise NotChecked(_first(run) or "no table of this run has its values in raw/")
    return f"{len(run.derived)} of {len(tables)} tables, made again from raw/{_left(run, 0)}"


def _same_table(run: RunUnderCheck, made: Table, kept: Mapping[str, Any]) -> None:
    """Compare a table with the recorded one; but for its words, where another release wrote these."""
    ours = to_json(made)
    if other_code(run):
        ours |= {key: kept[key] for key in ("title", "caption")}
        if made.name == paper_answers.NAME and difference(ours, kept):
            return  # all of it is words, and this release has others: its digest alone speaks for it
    if where := difference(ours, kept):
        raise RunError(f"the table {made.name} is not what raw/ gives: {where.removeprefix('.')}")
    run.derived.add(made.name)


def check_figures(run: RunUnderCheck) -> str:
    """The figures are drawn again from raw numbers."""
    figures = {figure["name"]: figure for figure in run.results["figures"]}
    same_words = other_code(run) is None
    to_the_byte = same_words and _same_drawing(run)
    before = len(run.not_checked)
    with nullcontext() if to_the_byte else points_only():
        for one, _, made in _made_again(run, "figure"):
            _same_figure(run, one.name, made, figures, same_words=same_words, to_the_byte=to_the_byte)
    if not run.drawn:
        raise NotChecked(_first(run, before) or "no figure of this run has its values in raw/")
    how = "to the last byte" if to_the_byte else "point by point; its strokes only by the release that drew"
    return f"{len(run.drawn)} of {len(figures)} figures, drawn again from raw/, {how}{_left(run, before)}"


def _same_figure(
    run: RunUnderCheck,
    name: str,
    made: Figure,
    figures: Mapping[str, Any],
    *,
    same_words: bool,
    to_the_byte: bool,
) -> None:
    """Compare a figure with the recorded one: its points; its words and its strokes where this release drew it."""
    if name not in figures:
        raise RunError(f"the figure {clip(safe_text(name), 80)} has its values in raw/, and is not there")
    _same_points(name, made.data, run.raw(name))
    said = {"name": name, "title": made.title, "alt": made.alt}
    if same_words and (where := difference(said, figures[name])):
        raise RunError(f"the figure {name} is not described as it is: {where.removeprefix('.')}")
    if to_the_byte and encoded(made.svg) != (run.path / "figures" / f"{name}.svg").read_bytes():
        raise RunError(f"figures/{name}.svg does not show the points that raw/ gives")
    run.drawn.add(name)


def _made_again(run: RunUnderCheck, *kinds: str) -> Iterator[tuple[Derivation, CallValues, Any]]:
    """The derivations of some kinds, with their values, and with what comes of these."""
    if run.again is None:
        raise NotChecked("the verdicts could not be reached again")
    for entry in run.results["derivations"]:
        if entry["kind"] not in kinds:
            continue
        one = Derivation(entry["kind"], check_name(entry["name"]), entry["make"])
        if one.raw != entry["raw"]:
            raise RunError(f"{one.kind} {one.name} rests on {clip(safe_text(entry['raw']), 80)}, not on {one.raw}")
        try:
            make, values = stored_derivation(one.make), read(run.raw(one.raw), stored_record)
            first = (one.name, *values.head) if one.kind == "figure" else ()
            outcome = values.called(make, run.resolve, *first)
        except UnknownId as error:
            _leave(run, one, error)
        except Exception as error:
            why = f"{type(error).__name__}: {first_line(error)}"
            raise RunError(f"the {one.kind} {one.name} cannot be made from raw/{one.raw}.npz ({why})") from error
        else:
            yield one, values, outcome


def _leave(run: RunUnderCheck, one: Derivation, error: UnknownId) -> None:
    """Note that something cannot be made again by this release, and why.

    This very code writes ids that it has, but for a function of a user's own in an eval of their own: any other is a
    forger's, who would have the check left out.
    """
    ours = not error.foreign or one.name.partition("--")[0] in READING_ORDER
    if ours and other_code(run) is None:
        raise RunError(clip(safe_text(f"the {one.kind} {one.name} is {error.told}, and this very code wrote it"), 400))
    run.not_checked.append(clip(safe_text(f"{one.name}: {error}"), 400))


def _first(run: RunUnderCheck, start: int = 0) -> str:
    """The first thing that was left since; "" where nothing was."""
    return next(iter(run.not_checked[start:]), "")


def _left(run: RunUnderCheck, start: int) -> str:
    """How many were left since, as the end of a sentence."""
    n = len(run.not_checked) - start
    return f"; {n} not checked" if n else ""


def _same_points(name: str, ours: Mapping[str, Any], kept: Mapping[str, Any]) -> None:
    if ours.keys() != kept.keys():
        raise RunError(f"raw/{name}.npz has the series {sorted(kept)}, the figure {sorted(ours)}")
    for series, points in ours.items():
        if points.shape != kept[series].shape or not np.allclose(
            points, kept[series], rtol=1e-9, atol=0, equal_nan=True
        ):
            raise RunError(f"raw/{name}.npz: the points of {series} are not those that the figure draws")


def _same_drawing(run: RunUnderCheck) -> bool:
    """Whether the same matplotlib draws here, so that strokes can be compared."""
    import matplotlib

    return bool(run.results["environment"]["packages"].get("matplotlib") == matplotlib.__version__)


def check_files(run: RunUnderCheck) -> str:
    """Tables, report, junit.xml and environment.json are what results.json and the drawings give, byte for byte."""
    names = [figure["name"] for figure in run.results["figures"]]
    drawn = {name: (run.path / "figures" / f"{check_name(name)}.svg").read_bytes().decode() for name in names}
    made = rendered(run.results, drawn)
    known = {*made, *(f"figures/{name}.svg" for name in names)}
    strange = [p for p in run.listed if p.startswith(("tables/", "figures/")) and p not in known]
    if strange:
        raise RunError(f"{strange[0]} is in the folder, and {RESULTS} knows nothing of it")
    for path, text in made.items():
        if path not in run.listed:
            raise RunError(f"{path} follows from {RESULTS} and is not there")
        if (run.path / path).read_bytes() != encoded(text):
            if other := other_code(run):
                raise NotChecked(f"{path} is worded otherwise by this release: {other}")
            raise RunError(f"{path} is not what {RESULTS} gives")
    return f"{len(made)} files, made again from {RESULTS}, byte for byte"
