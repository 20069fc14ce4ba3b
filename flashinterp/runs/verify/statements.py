"""Checks of what a run says: its results, the claims it locked, the log of its events."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from flashinterp._util.differences import difference
from flashinterp._util.json_text import canonical_json
from flashinterp.errors import RunError
from flashinterp.evaluation.claims import Claim
from flashinterp.evaluation.claims import lock as lock_of
from flashinterp.evaluation.judgement import CLAIMS
from flashinterp.evaluation.verdict import Rule
from flashinterp.runs.folder.rendered_files import encoded
from flashinterp.runs.folder.results_schema import RESULTS, read_json, read_results
from flashinterp.runs.folder.run_folder import EVENTS
from flashinterp.runs.ledger import OUTCOMES, Ledger
from flashinterp.runs.verify.run import NotChecked, RunUnderCheck

LOCK = "claims.lock.json"


def check_results(run: RunUnderCheck) -> str:
    """results.json is in its one form, and follows the schema."""
    results = read_results(run.path)
    if (run.path / RESULTS).read_bytes() != encoded(canonical_json(results)):
        raise RunError(f"{RESULTS} is not in the form that a run writes: it was edited")
    run.results = results
    return f"it follows its schema, version {results['schema_version']}"


def check_claims(run: RunUnderCheck) -> str:
    """The lock's own hash holds, and what was judged is what was locked."""
    ours = [entry for entry in run.results["judgements"] if entry["name"] == CLAIMS]
    if LOCK not in run.listed:
        if ours or run.results["verdicts"] or run.results["claims_sha256"]:
            raise RunError(f"there are verdicts, and no {LOCK}")
        raise NotChecked("no claims were locked")
    lock = read_json(run.path / LOCK)
    if (run.path / LOCK).read_bytes() != encoded(canonical_json(lock)):
        raise RunError(f"{LOCK} is not in the form that a run writes: it was edited")
    digest = lock["sha256"]
    design = {key: value for key, value in lock.items() if key not in ("claims", "sha256")}
    own = lock_of([Claim.from_json(entry) for entry in lock["claims"]], **design)["sha256"]
    for who, known in ((LOCK, own), (RESULTS, run.results["claims_sha256"])):
        if known != digest:
            raise RunError(f"{LOCK} says that its content has sha256 {digest[:16]}…, by {who} it is {str(known)[:16]}…")
    for key in ("claims", "rule", "seed"):
        if ours and (where := difference(lock[key], ours[0][key])):
            raise RunError(f"what was judged is not what was locked: {key}{where}")
    if run.results["seed"] != lock["seed"]:
        raise RunError(f"{RESULTS} has seed {run.results['seed']}, {LOCK} has {lock['seed']}")
    judged = f"{len(lock['claims'])} claims" if ours else f"{len(lock['claims'])} claims, none of them judged"
    return f"{judged}, as locked; {_thresholds(lock['rule'])}"


def _thresholds(rule: Mapping[str, Any]) -> str:
    usual = asdict(Rule())
    changed = [f"{k} {v} (usually {usual.get(k)})" for k, v in rule.items() if v != usual.get(k)]
    return "the thresholds are this release's" if not changed else f"thresholds of its own: {', '.join(changed)}"


def check_events(run: RunUnderCheck) -> str:
    """The log of the run tells the same story as its results."""
    lines = (run.path / EVENTS).read_text(encoding="ascii").splitlines()
    events = [json.loads(line) for line in lines]
    kinds = [event["event"] for event in events]
    if kinds[0] != "begin" or kinds[-1] != "end" or kinds.count("begin") + kinds.count("end") != 2:
        raise RunError(f"{EVENTS} does not run from one beginning to one end")
    if events[-1]["status"] != run.results["status"]:
        raise RunError(f"{EVENTS} ends with {events[-1]['status']!r}, {RESULTS} with {run.results['status']!r}")
    if difference(events[0]["options"], run.results["options"]["passed"]):
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
        if where := difference(ours, theirs):
            raise RunError(f"the {what} of {RESULTS} are not those of {EVENTS}: {what}{where}")
