"""What a report says, in words and tables, before it is HTML or Markdown; not escaped yet.

All of it comes from results.json, so that a report can be made again from its folder.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flashinterp._util.text import clip
from flashinterp.report.claim_sentences import ClaimInWords, in_words
from flashinterp.report.table import Cell, Table
from flashinterp.report.wording import PARTIAL, SELF_TEST, VERDICTS

# The ledger's counts in the order of a test's life; one that is not named here comes after.
_LEDGER = (
    *("planned", "collected", "deselected", "selected", "run", "passed", "failed"),
    *("errors", "skipped", "xfailed", "xpassed"),
)
# Keys of `results` with a place of their own; every other one is shown under the settings.
_PLACED = frozenset(
    {"self_test", "partial", "status", "ledger", "verdicts", "tables", "limits", "known_limits", "docs", "figures"}
    | {"tests", "judgements", "roles", "model", "tuned", "environment", "seed", "profile", "claims_sha256"}
)
# What a reader asks for first; the rest comes after.
_IDENTITY = (
    *("name", "revision", "digests · model.safetensors", "architecture", "stored_dtype", "layers", "neurons", "mlps"),
    *("hidden_size", "vocabulary", "tied_head"),
)
_CLAIM_COLUMNS = ("claim", "token", "neuron", "verdict", "writes (nats)", "reads (AUC)", "why")


@dataclass(frozen=True)
class KnownLimit:
    """A numbered limit of the method: its id, its title, what is claimed to be so, and its page in the docs."""

    id: str
    title: str
    claim: str
    page: str


@dataclass(frozen=True)
class View:
    """A report's content but for the evals' own sections.

    Attributes:
        title: the document's title.
        banners: (kind, text), what a reader must know first; kinds are self-test, partial, failed, status.
        answer: the verdicts, counted in one sentence.
        counts: (verdict, how often, meaning) for each verdict that was given.
        claims: each claim's verdict in words.
        verdicts: the same in short, one row per claim; None where there are no claims.
        subject: the models and how they were measured, as tables of name and value.
        details: all settings and the environment, likewise.
        ledger: the tests counted, then each list of reasons.
        limits: the limits of the method, one sentence or more each.
        known_limits: those with a number.
    """

    title: str
    banners: list[tuple[str, str]]
    answer: str
    counts: list[tuple[str, int, str]]
    claims: list[ClaimInWords]
    verdicts: Table | None
    subject: list[Table]
    details: list[Table]
    ledger: list[Table]
    limits: list[str]
    known_limits: list[KnownLimit]


def make_view(results: Mapping[str, Any]) -> View:
    """Put results.json into a report's order; a key that is missing leaves its part empty."""
    verdicts = [dict(verdict) for verdict in results.get("verdicts") or []]
    counts, claims = _counts(verdicts), [in_words(verdict) for verdict in verdicts]
    return View(
        title=_title(results),
        banners=_banners(results),
        answer=_answer(counts, len(verdicts)),
        counts=counts,
        claims=claims,
        verdicts=_verdicts(claims),
        subject=_subject(results),
        details=_details(results),
        ledger=_ledger(results.get("ledger") or {}),
        limits=[str(limit) for limit in results.get("limits") or []],
        known_limits=_known_limits(results.get("known_limits") or []),
    )


def _title(results: Mapping[str, Any]) -> str:
    if results.get("self_test"):
        return "flashinterp self-test"
    model = results.get("model") or {}
    name = next((model[key] for key in ("name", "id", "repo", "path") if model.get(key)), "a model")
    return f"flashinterp audit of {clip(str(name), 120)}"


def _banners(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    banners = [("self-test", SELF_TEST)] if results.get("self_test") else []
    banners += [("partial", PARTIAL)] if results.get("partial") else []
    return [*banners, _status(results)]


def _status(results: Mapping[str, Any]) -> tuple[str, str]:
    """The run's end in one line, and whether it is bad news."""
    status = str(results.get("status") or "not recorded")
    ledger = results.get("ledger") or {}
    counts = {name: ledger.get(name) for name in ("passed", "failed", "errors", "skipped", "xfailed", "deselected")}
    told = [f"{count} {name}" for name, count in counts.items() if isinstance(count, int) and count > 0]
    tests = f" Of its tests: {', '.join(told)}." if told else ""
    bad = status == "failed" or bool(counts["failed"] or counts["errors"])
    why = " The ledger says which, and why." if bad else ""
    return "failed" if bad else "status", f"Status: {clip(status, 200)}.{tests}{why}"


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


def _verdicts(claims: Sequence[ClaimInWords]) -> Table | None:
    if not claims:
        return None
    rows = tuple((c.id, c.token, c.neuron, c.verdict, c.effect, c.reads, c.reason) for c in claims)
    note = "Writes: change of the token's log-odds over the neuron's natural range. Brackets: 95 % intervals"
    return Table("verdicts", "Verdicts", _CLAIM_COLUMNS, rows, note)


def _subject(results: Mapping[str, Any]) -> list[Table]:
    """What was audited, model beside model, and how it was measured."""
    models = {
        title: dict(_flatten(results[key]))
        for key, title in (("model", "model"), ("tuned", "tuned model"))
        if results.get(key)
    }
    tables = []
    if models:
        known = dict.fromkeys(name for record in models.values() for name in record)
        names = sorted(known, key=lambda name: _IDENTITY.index(name) if name in _IDENTITY else len(_IDENTITY))
        rows = [(_plain(name), *(record.get(name) for record in models.values())) for name in names]
        tables.append(Table("subject-models", "The weights", ("", *models), _cells(rows)))
    if settings := _measured(results):
        tables.append(Table("subject-measured", "How they were measured", ("", "value"), _cells(settings)))
    return tables


def _measured(results: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """What the figures depend on besides the weights: the few settings that a reader asks for first."""
    options = results.get("options")
    resolved = options.get("resolved") if isinstance(options, Mapping) else None
    resolved = resolved if isinstance(resolved, Mapping) else {}
    environment = results.get("environment")
    environment = environment if isinstance(environment, Mapping) else {}
    packages = environment.get("packages")
    packages = packages if isinstance(packages, Mapping) else {}
    versions = ", ".join(
        f"{name} {packages[name]}" for name in ("flashinterp", "torch", "transformers") if name in packages
    )
    rows = [
        ("dtype", resolved.get("dtype")),
        ("device", environment.get("gpu") or resolved.get("device")),
        ("profile (how many texts, doses, controls)", results.get("profile")),
        ("seed", results.get("seed")),
        ("sha256 of the locked claims", results.get("claims_sha256")),
        ("software", versions or None),
        ("started", environment.get("started")),
        ("finished", environment.get("finished")),
    ]
    return [row for row in rows if row[1] is not None]


def _details(results: Mapping[str, Any]) -> list[Table]:
    settings = {key: value for key, value in results.items() if key not in _PLACED}
    parts = (("All settings", settings), ("Environment", results.get("environment")))
    return [
        Table(f"details-{i}", title, ("name", "value"), _cells(_flatten(value)))
        for i, (title, value) in enumerate(parts)
        if value
    ]


def _plain(name: str) -> str:
    """A key of the identity as a person says it."""
    part, dot, file = name.partition(" · ")
    return f"sha256 of {file}" if dot and part == "digests" else name.replace("_", " ")


def _known_limits(records: Any) -> list[KnownLimit]:
    known = [record for record in records if isinstance(record, Mapping)] if isinstance(records, Sequence) else []
    return [KnownLimit(*(str(record.get(key) or "") for key in ("id", "title", "claim", "page"))) for record in known]


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
