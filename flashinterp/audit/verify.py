"""Is a run folder what its run wrote, and does what it says follow from what it measured? Without model and evals.

Each check says what it proves and what it does not. None of them proves that the run was honest: whoever can write the
whole folder can write another. What pins it is the sha256 of manifest.json, told from elsewhere than the folder.
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from flashinterp.audit.environment import code_digest
from flashinterp.audit.folder import EVENTS, MANIFEST, SUBFOLDERS, TOP_FILES, canonical_json, read_arrays, sha256_of
from flashinterp.audit.judged import CLAIMS, Again, Arrays, claim_of, judge_again, role_record, tables_again
from flashinterp.audit.ledger import OUTCOMES, Ledger
from flashinterp.audit.render import encoded, rendered
from flashinterp.audit.schema import INCOMPLETE, RESULTS, read_json, read_results, status_of
from flashinterp.audit.tables import Table, check_name, clip, safe_text, to_json
from flashinterp.claims import lock as lock_of
from flashinterp.errors import RunError, first_line
from flashinterp.roles import RoleRule
from flashinterp.verdict import Rule

State = Literal["ok", "differs", "not checked"]
LOCK = "claims.lock.json"
_SHA256 = re.compile("[0-9a-f]{64}")
# Another processor may round a sum differently in its last places; a verdict is never that near to its threshold
# without saying so.
_TOLERANCE = 1e-9


@dataclass(frozen=True)
class Check:
    """One check's answer.

    Attributes:
        name: what was checked.
        state: ok, differs, or not checked.
        told: what was compared; or the first thing that differs; or why it was not checked.
        proves, leaves: what a check that is ok shows, and what it does not.
    """

    name: str
    state: State
    told: str
    proves: str
    leaves: str


@dataclass(frozen=True)
class Verification:
    """What became of all checks of one folder.

    Attributes:
        folder: its path.
        status: how the run ended by its own word: passed, failed, incomplete ...
        manifest: sha256 of manifest.json, to be compared with the one that the run printed; None where there is none.
        checks: in the order in which they were made.
        derived: tables that were made again from raw evidence.
        covered: tables that are covered by digests and by results.json only.
    """

    folder: str
    status: str
    manifest: str | None
    checks: tuple[Check, ...]
    derived: tuple[str, ...] = ()
    covered: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether nothing differs; an incomplete run is never ok."""
        return all(check.state != "differs" for check in self.checks)

    @property
    def first(self) -> str | None:
        """The first thing that differs, in one line."""
        return next((f"{c.name}: {c.told}" for c in self.checks if c.state == "differs"), None)

    def record(self) -> dict[str, Any]:
        """Everything as plain values, for JSON."""
        return {**asdict(self), "ok": self.ok, "first": self.first}

    def table(self) -> Table:
        """The checks as a table for a terminal."""
        rows = tuple((c.name, c.state, c.told, c.proves, c.leaves) for c in self.checks)
        return Table("verification", f"Verification of {safe_text(self.folder)}", _COLUMNS, rows, self.said())

    def said(self) -> str:
        """The outcome, and what rests on what, in a few sentences."""
        outcome = "Nothing differs." if self.ok else f"It differs. {self.first}."
        again = f"Made again from raw evidence: {', '.join(self.derived) or 'no table'}."
        rest = f"Covered by digests only: {', '.join(self.covered) or 'no table'}."
        return f"{outcome} {again} {rest} {_HONESTY}"


_COLUMNS = ("check", "", "told", "shows", "does not show")
_HONESTY = (
    "This shows that the folder has not changed since its manifest was written and that its verdicts follow from its "
    "evidence. It does not show that the run was honest: for that, run it again."
)


@dataclass
class _Run:
    """A folder under verification, read as far as the checks have come. Mutable: each check leaves what it read."""

    path: Path
    expected: str | None
    manifest: str | None = None
    listed: dict[str, dict[str, Any]] = field(default_factory=dict)
    results: dict[str, Any] = field(default_factory=dict)
    again: Again | None = None
    derived: list[str] = field(default_factory=list)

    def raw(self, name: str) -> Arrays:
        """The arrays of a file of ``raw/`` that the manifest lists."""
        path = f"raw/{check_name(name)}.npz"
        if path not in self.listed:
            raise RunError(f"{path} is evidence of a verdict, and is not there")
        return read_arrays(self.path / path)


class _NotChecked(Exception):
    """There is nothing to check, and why."""


def verify(folder: str | os.PathLike[str], manifest: str | None = None) -> Verification:
    """Check a run folder without its model: digests, schema, claims, verdicts, tables, reports.

    Args:
        folder: a run's output folder.
        manifest: the sha256 of manifest.json as it was told elsewhere: printed at the end of the run, signed, filed.

    Raises:
        RunError: the folder is not there or is no run's, or the sha256 is none.
    """
    path = Path(folder)
    status = _status(path)
    if manifest is not None and not _SHA256.fullmatch(manifest.strip().lower()):
        raise RunError(f"{clip(safe_text(manifest), 80)!r} is no sha256: give the 64 hex digits that the run printed")
    run = _Run(path, manifest.strip().lower() if manifest else None)
    checks: list[Check] = []
    stopped = ""
    for name, (check, stops, proves, leaves) in _CHECKS.items():
        state, told = _answer(check, run) if not stopped else ("not checked", stopped)
        checks.append(Check(name, state, told, proves, leaves))
        if stops and state == "differs":
            stopped = f"after what differs under {name!r}, there is nothing to compare with"
    tables = [str(table["name"]) for table in run.results.get("tables", [])]
    covered = tuple(name for name in tables if name not in run.derived)
    return Verification(str(path), status, run.manifest, tuple(checks), tuple(run.derived), covered)


def _status(path: Path) -> str:
    try:
        return status_of(path)
    except RunError:
        if (path / EVENTS).is_file() or (path / MANIFEST).is_file():
            return INCOMPLETE  # results.json cannot be read, which a check will say
        raise


def _answer(check: Callable[[_Run], str], run: _Run) -> tuple[State, str]:
    try:
        return "ok", check(run)
    except _NotChecked as reason:
        return "not checked", str(reason)
    except RunError as error:
        return "differs", _line(str(error))
    except Exception as error:  # whatever a forged file breaks is a difference to report, and no crash
        return "differs", _line(f"cannot be made again ({type(error).__name__}: {first_line(error)})")


def _line(text: str) -> str:
    return clip(safe_text(text), 500)


# --- files ----------------------------------------------------------------------------------------------


def _complete(run: _Run) -> str:
    """The run reached its end."""
    missing = [name for name in (EVENTS, RESULTS, MANIFEST) if not (run.path / name).is_file()]
    if missing:
        raise RunError(
            f"the run is {INCOMPLETE}: it has no {missing[0]}, so it was killed or could not write its report"
        )
    return "the run reached its end and wrote its manifest"


def _manifest(run: _Run) -> str:
    """manifest.json is in its one form, and lists what can be in a run's folder."""
    path = run.path / MANIFEST
    if path.is_symlink():
        raise RunError(f"{MANIFEST} is a link")
    found = read_json(path)
    if found.get("schema_version") != 1 or set(found) != {"schema_version", "files"}:
        raise RunError(f"{MANIFEST} is not of this release's form: it should have schema_version 1 and files")
    for entry in found["files"]:
        if (
            set(entry) != {"path", "sha256", "size"}
            or type(entry["size"]) is not int
            or not _SHA256.fullmatch(entry["sha256"])
        ):
            raise RunError(f"{MANIFEST} has an entry without a path, a size and a sha256: {clip(repr(entry), 120)}")
        if not _is_place(entry["path"]):
            raise RunError(f"{MANIFEST} lists {clip(repr(entry['path']), 120)}, which is no place in a run's folder")
    if path.read_bytes() != encoded(canonical_json(found)):
        raise RunError(f"{MANIFEST} is not in the form that a run writes: it was edited")
    run.listed = {entry["path"]: entry for entry in found["files"]}
    if list(run.listed) != sorted(run.listed) or len(run.listed) != len(found["files"]):
        raise RunError(f"{MANIFEST} lists a file twice or out of order: it was edited")
    run.manifest = sha256_of(path)
    return f"it lists {len(run.listed)} files"


def _is_place(path: Any) -> bool:
    """Whether a path is one that a run writes: nothing with "..", nothing absolute, no folder of its own."""
    if not isinstance(path, str):
        return False
    folder, slash, name = path.rpartition("/")
    if not slash:
        return name in TOP_FILES - {MANIFEST}
    suffix = SUBFOLDERS.get(folder)
    if suffix is None or not name.endswith(suffix):
        return False
    try:
        check_name(name)
    except RunError:
        return False
    return True


def _digests(run: _Run) -> str:
    """Every file is there, is a plain file, has its digest, and there is no other."""
    for name, entry in run.listed.items():
        file = run.path / name
        if any(part.is_symlink() for part in (file, file.parent) if part != run.path):
            raise RunError(f"{name} is a link")
        if not file.is_file():
            raise RunError(f"{name} is listed in {MANIFEST} and is not there")
        if (size := file.stat().st_size) != entry["size"]:
            raise RunError(f"{name} has {size:,} bytes, {MANIFEST} says {entry['size']:,}")
        if (digest := sha256_of(file)) != entry["sha256"]:
            raise RunError(f"{name} was changed: its sha256 is {digest[:16]}…, {MANIFEST} says {entry['sha256'][:16]}…")
    for name in _found(run.path):
        if name not in run.listed and name != MANIFEST:
            raise RunError(f"{name} is not listed in {MANIFEST}: it came later")
    return f"{len(run.listed)} files are as {MANIFEST} lists them, and there is no other"


def _found(folder: Path) -> Iterator[str]:
    """Everything in the folder that is not one of its own subfolders, links included and not followed."""
    for place, folders, files in os.walk(folder):
        here = Path(place).relative_to(folder)
        links = [name for name in folders if (Path(place) / name).is_symlink()]
        known = SUBFOLDERS if place == str(folder) else {}
        strange = [name for name in folders if name not in known]
        yield from sorted((here / name).as_posix() for name in {*files, *links, *strange})
        folders[:] = [name for name in folders if name in known and name not in links]


def _pinned(run: _Run) -> str:
    """manifest.json is the one that was told elsewhere."""
    if run.expected is None:
        raise _NotChecked(
            f"its sha256 is {run.manifest}: compare it with the one that the run printed, or give it with --manifest"
        )
    if run.expected != run.manifest:
        raise RunError(
            f"the sha256 of {MANIFEST} is {run.manifest}, and was to be {run.expected}: this is another folder"
        )
    return f"its sha256 is the one given, {run.manifest}"


# --- what it says ---------------------------------------------------------------------------------------


def _results(run: _Run) -> str:
    """results.json is in its one form, and follows the schema."""
    results = read_results(run.path)
    if (run.path / RESULTS).read_bytes() != encoded(canonical_json(results)):
        raise RunError(f"{RESULTS} is not in the form that a run writes: it was edited")
    run.results = results
    return f"it follows its schema, version {results['schema_version']}"


def _claims(run: _Run) -> str:
    """The lock's own hash holds, and what was judged is what was locked."""
    ours = [entry for entry in run.results["judgements"] if entry["name"] == CLAIMS]
    if LOCK not in run.listed:
        if ours or run.results["verdicts"] or run.results["claims_sha256"]:
            raise RunError(f"there are verdicts, and no {LOCK}")
        raise _NotChecked("no claims were locked")
    lock = read_json(run.path / LOCK)
    if (run.path / LOCK).read_bytes() != encoded(canonical_json(lock)):
        raise RunError(f"{LOCK} is not in the form that a run writes: it was edited")
    digest = lock["sha256"]
    design = {key: value for key, value in lock.items() if key not in ("claims", "sha256")}
    own = lock_of([claim_of(entry) for entry in lock["claims"]], **design)["sha256"]
    for who, known in ((LOCK, own), (RESULTS, run.results["claims_sha256"])):
        if known != digest:
            raise RunError(f"{LOCK} says that its content has sha256 {digest[:16]}…, by {who} it is {str(known)[:16]}…")
    for key in ("claims", "rule", "seed"):
        if ours and (where := _difference(lock[key], ours[0][key])):
            raise RunError(f"what was judged is not what was locked: {key}{where}")
    if run.results["seed"] != lock["seed"]:
        raise RunError(f"{RESULTS} has seed {run.results['seed']}, {LOCK} has {lock['seed']}")
    judged = f"{len(lock['claims'])} claims" if ours else f"{len(lock['claims'])} claims, none of them judged"
    return f"{judged}, as locked; {_thresholds(lock['rule'])}"


def _thresholds(rule: Mapping[str, Any]) -> str:
    usual = asdict(Rule())
    changed = [f"{k} {v} (usually {usual.get(k)})" for k, v in rule.items() if v != usual.get(k)]
    return "the thresholds are this release's" if not changed else f"thresholds of its own: {', '.join(changed)}"


def _events(run: _Run) -> str:
    """The log of the run tells the same story as its results."""
    lines = (run.path / EVENTS).read_text(encoding="ascii").splitlines()
    events = [json.loads(line) for line in lines]
    kinds = [event["event"] for event in events]
    if kinds[0] != "begin" or kinds[-1] != "end" or kinds.count("begin") + kinds.count("end") != 2:
        raise RunError(f"{EVENTS} does not run from one beginning to one end")
    if events[-1]["status"] != run.results["status"]:
        raise RunError(f"{EVENTS} ends with {events[-1]['status']!r}, {RESULTS} with {run.results['status']!r}")
    if _difference(events[0]["options"], run.results["options"]["passed"]):
        raise RunError(f"{EVENTS} begins with other options than {RESULTS} has")
    locked = [event["sha256"] for event in events if event["event"] == "locked"]
    if locked != [digest for digest in [run.results["claims_sha256"]] if digest]:
        raise RunError(f"{EVENTS} has the claims locked as {locked}, {RESULTS} as {run.results['claims_sha256']}")
    _compare_ledger(events, run.results)
    return f"{len(events)} events, which give the same ledger and the same end"


def _compare_ledger(events: Sequence[Mapping[str, Any]], results: Mapping[str, Any]) -> None:
    entered = Ledger()
    for event in events:
        if event["event"] in OUTCOMES:
            entered.enter(event["event"], event["test"], event["reason"], event["seconds"])
    told = Counter({k: n for k, n in results["ledger"].items() if k in OUTCOMES})
    if +told != +entered.counts:
        raise RunError(f"{EVENTS} counts {dict(+entered.counts)}, {RESULTS} {dict(+told)}")
    for what, ours, theirs in (
        ("tests", list(entered.tests.values()), results["tests"]),
        ("reasons", entered.reasons, results["ledger"]["reasons"]),
    ):
        if where := _difference(ours, theirs):
            raise RunError(f"the {what} of {RESULTS} are not those of {EVENTS}: {what}{where}")


# --- what follows from what -----------------------------------------------------------------------------


def _verdicts(run: _Run) -> str:
    """Every verdict and role is reached again from raw evidence."""
    results = run.results
    run.again = again = judge_again(results, run.raw)
    for entry in results["judgements"]:
        _same_outcome(entry, [v.record() for v in again.verdicts[entry["name"]]])
    for entry in results["roles"]:
        _same_outcome(entry, [role_record(role) for role in again.roles[entry["name"]].roles])
        if _difference(asdict(RoleRule()), entry["rule"]):
            raise RunError(f"the roles {entry['name']!r} were judged by thresholds that are not this release's")
    ours = [one.record() for one in again.verdicts.get(CLAIMS, [])]
    # An eval that did not run has handed in no verdicts, though others rested on the same judgement.
    if results["verdicts"] and (where := _difference(ours, results["verdicts"])):
        raise RunError(f"the verdicts of {RESULTS} are not those of its evidence: verdicts{where}")
    n_verdicts = sum(map(len, again.verdicts.values()))
    n_roles = sum(len(one.roles) for one in again.roles.values())
    if not n_verdicts:
        raise _NotChecked("the run judged nothing")
    return f"{n_verdicts} verdicts and {n_roles} roles, reached again"


def _same_outcome(entry: Mapping[str, Any], again: Sequence[Mapping[str, Any]]) -> None:
    for ours, theirs in zip(again, entry["outcome"], strict=True):
        what = "verdict" if "verdict" in ours else "role"
        if ours[what] != theirs[what]:
            raise RunError(
                f"{entry['name']}: {ours['id']!r} is recorded as {theirs[what]}, and by its evidence it is {ours[what]}"
            )
        if where := _difference(ours, theirs):
            raise RunError(f"{entry['name']}: {ours['id']!r} differs from its evidence: {what}{where}")


def _tables(run: _Run) -> str:
    """The tables of verdicts and roles are made again from raw evidence."""
    if run.again is None:
        raise _NotChecked("the verdicts could not be reached again")
    tables = {table["name"]: table for table in run.results["tables"]}
    other = _other_code(run)
    for name, (headers, rows, caption) in tables_again(run.again).items():
        if name not in tables:
            continue  # of an eval that did not run
        table = tables[name]
        said = table["caption"] if other else caption
        made = to_json(Table(name, table["title"], tuple(headers), tuple(map(tuple, rows)), said))
        if where := _difference(made, table):
            raise RunError(f"the table {name} is not what its evidence gives: {where.removeprefix('.')}")
        run.derived.append(name)
    if not run.derived:
        raise _NotChecked("no table of this run rests on recorded verdicts")
    return f"{len(run.derived)} of {len(tables)} tables, made again from raw evidence"


def _files(run: _Run) -> str:
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
            if other := _other_code(run):
                raise _NotChecked(f"{path} is worded otherwise by this release: {other}")
            raise RunError(f"{path} is not what {RESULTS} gives")
    return f"{len(made)} files, made again from {RESULTS}, byte for byte"


def _other_code(run: _Run) -> str | None:
    """What to verify with, where other code than this wrote the folder, in other words perhaps; None for the same."""
    environment = run.results["environment"]
    if environment["code"]["sha256"] == code_digest():
        return None
    wrote = environment["packages"].get("flashinterp")
    return f"verify it with the one that wrote it, flashinterp {wrote}, code {environment['code']['sha256'][:16]}…"


def _raw(run: _Run) -> str:
    """Every file of raw numbers can be read."""
    names = [path for path in run.listed if path.startswith("raw/")]
    for path in names:
        if stat.S_ISREG((run.path / path).lstat().st_mode):
            read_arrays(run.path / path)
    if not names:
        raise _NotChecked("the run kept no raw numbers")
    return f"{len(names)} files of raw numbers can be read"


def _difference(a: Any, b: Any, where: str = "") -> str | None:
    """Where two plain values first differ, as ``[3].figures.p: 0.01, and 0.02``; None where they do not.

    Numbers may differ by what another processor rounds. A tuple is a list, an integer key its text.
    """
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        a, b = {str(k): v for k, v in a.items()}, {str(k): v for k, v in b.items()}
        if a.keys() != b.keys():
            odd = sorted(a.keys() ^ b.keys())[0]
            return f"{where}.{clip(odd, 80)}: there on one side only"
        return next(filter(None, (_difference(a[key], b[key], f"{where}.{key}") for key in a)), None)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        if len(a) != len(b):
            return f"{where}: {len(a)} entries, and {len(b)}"
        both = enumerate(zip(a, b, strict=True))
        return next(filter(None, (_difference(x, y, f"{where}[{i}]") for i, (x, y) in both)), None)
    return None if _alike(a, b) else f"{where}: {clip(repr(a), 80)}, and {clip(repr(b), 80)}"


def _alike(a: Any, b: Any) -> bool:
    numbers = all(isinstance(x, int | float) and not isinstance(x, bool) for x in (a, b))
    if numbers:
        return math.isclose(a, b, rel_tol=_TOLERANCE, abs_tol=1e-300)
    return isinstance(a, bool) == isinstance(b, bool) and bool(a == b)


# name → the check, whether later ones need it, what it shows, what it does not.
_CHECKS: dict[str, tuple[Callable[[_Run], str], bool, str, str]] = {
    "complete": (_complete, True, "the run was not killed", "that it passed: see its status"),
    "manifest": (_manifest, True, "the list of files is in its one form", "that it is the run's own list"),
    "digests": (_digests, True, "no file was changed, added or removed since the list", "when the list was written"),
    "manifest's digest": (_pinned, False, "this is the folder of which the digest was told", "who told it, and when"),
    "results": (_results, True, "every figure is finite and in its place", "that the figures are true"),
    "claims": (
        _claims,
        False,
        "the verdicts are on the claims that were locked, with their rule and seed",
        "that nothing was measured before the lock",
    ),
    "events": (_events, False, "no test was dropped from the ledger or changed in it", "that no run was thrown away"),
    "raw": (_raw, False, "the raw numbers are readable arrays", "that they were measured"),
    "verdicts": (_verdicts, False, "verdicts follow from raw numbers by the rule", "that these were measured"),
    "tables": (_tables, False, "these tables say what the raw numbers say", "anything of the other tables"),
    "files": (
        _files,
        False,
        "tables, report and junit.xml say what results.json says",
        "that a drawing shows its points",
    ),
}
