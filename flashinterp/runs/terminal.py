"""What a run says on the terminal: one line before it, and the answers at its end."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator

from flashinterp.models.checkpoint import Checkpoint
from flashinterp.runs.session import AuditSession


def header(audit: AuditSession, devices: Collection[str]) -> str:
    """What is about to be audited: by its files, which are open now, and as asked for."""
    o = audit.options
    model = f"SELF-TEST on the bundled {o.bundled}" if audit.self_test else _named(audit.base)
    tuned = _named(audit.tuned) if audit.tuned and not audit.self_test else "-"
    stored = str(audit.base.weight_dtype()).removeprefix("torch.")
    return (
        f"flashinterp: model {model}, tuned {tuned}, dtype {o.dtype} (stored {stored}), "
        f"device {', '.join(sorted(devices)) or o.device}, seed {o.seed}, profile {o.profile}, out {o.out}"
    )


def _named(checkpoint: Checkpoint) -> str:
    return checkpoint.name + (f" at {checkpoint.revision}" if checkpoint.revision else "")


def title(audit: AuditSession) -> str:
    """The heading of the summary."""
    return "flashinterp" + (" SELF-TEST on bundled models: not an audit of a real model" if audit.self_test else "")


def closing(audit: AuditSession, unwritten: str) -> Iterator[str]:
    """The lines of the summary, the most important last.

    Args:
        audit: the run, at its end.
        unwritten: why there is no report, where there is none.
    """
    yield audit.summary()
    yield ""
    if audit.partial:
        yield "PARTIAL RUN: some evals did not run, so this is no audit"
    if not audit.ledger["passed"]:
        yield "NOTHING PASSED: a run in which no eval passed is no pass"
    yield "ledger: " + ", ".join(f"{n} {outcome}" for outcome, n in sorted(audit.ledger.items()) if n)
    verdicts = [v["verdict"] for v in audit.verdicts]
    if verdicts:
        yield "verdicts: " + ", ".join(f"{verdicts.count(v)} {v}" for v in sorted(set(verdicts)))
    if audit.report is None:
        yield f"NO REPORT: {unwritten}"
    else:
        yield f"report: {os.path.relpath(audit.report)}  (manifest sha256 {audit.manifest})"
