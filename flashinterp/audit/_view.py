"""What a report says, in words and tables, before it is HTML or Markdown; not escaped yet."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flashinterp.audit.tables import Cell, Table, clip

VERDICTS = {
    "validated": "reads the concept and writes it: a feature neuron of it",
    "lever": "moves the token, does not stand for it",
    "detector": "stands for the concept, moves nothing",
    "refuted": "both tests had the power, and neither found more than the controls show",
    "inconclusive": "underpowered or unstable: no answer either way",
    "not_measured": "no test was run; the reason is given",
    "not_comparable": "the two models cannot be compared neuron by neuron",
}
SELF_TEST = "SELF-TEST on bundled models: not an audit of a real model"
PARTIAL = "PARTIAL RUN: some of the planned tests did not run, so this is not an audit"
HOW_TO_CHECK = (
    "This file is one of a folder. manifest.json lists the sha256 of every other file in it and "
    "was written last; its own sha256 was printed at the end of the run.",
    "`flashinterp verify FOLDER` recomputes every digest and derives every verdict again from "
    "raw/, without a GPU and without the model.",
    "That shows whether anything was changed after the run. It does not show that the run was "
    "honest: for that, run it again with the settings listed above.",
)
# The ledger's counts in the order of a test's life; one that is not named here comes after.
_LEDGER = (
    *("planned", "collected", "deselected", "selected", "run", "passed", "failed"),
    *("errors", "skipped", "xfailed", "xpassed"),
)
# Keys of `results` with a place of their own; every other one is shown under the settings.
_PLACED = frozenset(
    {"self_test", "partial", "status", "ledger", "verdicts", "tables", "limits"} | {"model", "tuned", "environment"}
)
_VERDICT_COLUMNS = ("id", "token", "neuron", "lens", "pole", "verdict", "reason")


@dataclass(frozen=True)
class View:
    """A report's content but for the evals' own sections.

    Attributes:
        title: the document's title.
        banners: (kind, text), what a reader must know first; kinds are self-test, partial, status.
        answer: the verdicts, counted in one sentence.
        counts: (verdict, how often, meaning) for each verdict that was given.
        verdicts: one row per claim; None where there are no claims.
        subject: the models, the settings and the environment, as tables of name and value.
        ledger: the tests counted, then each list of reasons.
        limits: the limits of the method, one sentence or more each.
    """

    title: str
    banners: list[tuple[str, str]]
    answer: str
    counts: list[tuple[str, int, str]]
    verdicts: Table | None
    subject: list[Table]
    ledger: list[Table]
    limits: list[str]


def make_view(results: Mapping[str, Any]) -> View:
    """Put results.json into a report's order; a key that is missing leaves its part empty."""
    verdicts = [dict(verdict) for verdict in results.get("verdicts") or []]
    counts = _counts(verdicts)
    return View(
        title=_title(results),
        banners=_banners(results),
        answer=_answer(counts, len(verdicts)),
        counts=counts,
        verdicts=_verdicts(verdicts),
        subject=_subject(results),
        ledger=_ledger(results.get("ledger") or {}),
        limits=[str(limit) for limit in results.get("limits") or []],
    )


def heading(name: str) -> str:
    """An eval's name as a heading: ``test_dose_response`` is "Dose response"."""
    words = name.removeprefix("test_").replace("_", " ").strip() or "other results"
    return words[0].upper() + words[1:]


def _title(results: Mapping[str, Any]) -> str:
    if results.get("self_test"):
        return "flashinterp self-test"
    model = results.get("model") or {}
    name = next((model[key] for key in ("name", "id", "repo", "path") if model.get(key)), "a model")
    return f"flashinterp audit of {clip(str(name), 120)}"


def _banners(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    banners = [("self-test", SELF_TEST)] if results.get("self_test") else []
    banners += [("partial", PARTIAL)] if results.get("partial") else []
    return [*banners, ("status", f"Status: {results.get('status') or 'not recorded'}")]


def _counts(verdicts: Sequence[Mapping[str, Any]]) -> list[tuple[str, int, str]]:
    given = [str(verdict.get("verdict")) for verdict in verdicts]
    order = [*VERDICTS, *sorted(set(given) - set(VERDICTS))]
    return [(name, given.count(name), VERDICTS.get(name, "")) for name in order if name in given]


def _answer(counts: Sequence[tuple[str, int, str]], total: int) -> str:
    if not total:
        return "No claim was judged: this run gives no verdict on any neuron."
    claims = "1 claim was" if total == 1 else f"{total} claims were"
    parts = [f"{n} {clip(verdict, 40).replace('_', ' ')}" for verdict, n, _ in counts]
    said = parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
    return f"{claims} judged: {said}."


def _verdicts(verdicts: Sequence[Mapping[str, Any]]) -> Table | None:
    if not verdicts:
        return None
    rows = tuple(tuple(_cell(record.get(key)) for key in _VERDICT_COLUMNS) for record in verdicts)
    return Table("verdicts", "Verdicts", _VERDICT_COLUMNS, rows)


def _subject(results: Mapping[str, Any]) -> list[Table]:
    settings = {key: value for key, value in results.items() if key not in _PLACED}
    parts = (
        ("Model", results.get("model")),
        ("Tuned model", results.get("tuned")),
        ("Settings", settings),
        ("Environment", results.get("environment")),
    )
    return [
        Table(f"subject-{i}", title, ("name", "value"), _cells(_flatten(value)))
        for i, (title, value) in enumerate(parts)
        if value
    ]


def _ledger(ledger: Mapping[str, Any]) -> list[Table]:
    rows = _flatten(ledger) if ledger else []
    order = {name: i for i, name in enumerate(_LEDGER)}
    counts = [row for row in rows if not isinstance(row[1], list)]
    counts.sort(key=lambda row: order.get(row[0], len(order)))
    tables = [Table("ledger", "Tests, counted", ("tests", "count"), _cells(counts))]
    for i, (name, reasons) in enumerate(row for row in rows if isinstance(row[1], list)):
        if reasons:
            lines = [(reason,) for reason in reasons]
            title = f"{name.removeprefix('reasons · ')}: the reasons"
            tables.append(Table(f"ledger-{i}", title[0].upper() + title[1:], ("reason",), _cells(lines)))
    return tables if counts else tables[1:]


def _flatten(value: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """Nested records as (name, value) rows, names joined by a dot; a list stays one value."""
    if not isinstance(value, Mapping) or not value:
        return [(prefix, value)]
    rows: list[tuple[str, Any]] = []
    for key, item in value.items():
        rows += _flatten(item, f"{prefix} · {key}" if prefix else str(key))
    return rows


def _cells(rows: Sequence[tuple[Any, ...]]) -> tuple[tuple[Cell, ...], ...]:
    return tuple(tuple(_cell(value) for value in row) for row in rows)


def _cell(value: Any) -> Cell:
    """A value as a cell; a list or a record as JSON, whose quotes show the space of " dog"."""
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    return json.dumps(value, ensure_ascii=False, default=str)
