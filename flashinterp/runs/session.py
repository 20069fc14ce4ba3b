"""One run of the evals: what was asked, what was recorded, what came out of it.

The pytest plugin's hooks hand everything to this object; it knows nothing of pytest.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flashinterp._util.json_text import canonical_json
from flashinterp.evaluation.prompts import PromptSet, shipped
from flashinterp.provenance.derivation import Again, Derivation
from flashinterp.report.figure import Figure
from flashinterp.report.paper_answers import NAME as FINDINGS
from flashinterp.report.paper_answers import Finding, answers_table
from flashinterp.report.table import Table, to_json
from flashinterp.report.table_text import to_text
from flashinterp.report.wording import LIMITS, READING_ORDER
from flashinterp.runs.folder.environment import environment, now
from flashinterp.runs.folder.rendered_files import rendered
from flashinterp.runs.folder.results_schema import RESULTS, SCHEMA_VERSION
from flashinterp.runs.folder.run_folder import RunFolder
from flashinterp.runs.ledger import Ledger
from flashinterp.runs.options import Options
from flashinterp.runs.recording import Recording
from flashinterp.studies.limitations.known_limits import LIMITS as KNOWN_LIMITS

if TYPE_CHECKING:
    from flashinterp.models.checkpoint import Checkpoint

_UNFINISHED = """# INCOMPLETE

This run has not reached its end: it is still going on, or it was killed. It is no audit, and nothing in this folder is
a pass. What was measured so far is in `tables/` and `raw/`; `events.jsonl` says how far it came.
"""


@dataclass
class AuditSession(Recording):
    """The run's folder and everything recorded into it.

    Attributes:
        options: as passed.
        folder: where it goes; written to as things are recorded, so that a kill keeps what was measured.
        base, tuned: the models' files.
        self_test: True on bundled models.
        truth: what was planted in them.
        prompts: the texts to measure on.
        eval_files: the eval modules that run, whose digests go into the environment.
    """

    options: Options
    folder: RunFolder
    base: Checkpoint
    tuned: Checkpoint | None
    self_test: bool
    truth: dict[str, Any] | None = None
    prompts: PromptSet = field(default_factory=shipped)
    tables: list[Table] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    verdicts: list[dict[str, Any]] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    docs: dict[str, str] = field(default_factory=dict)
    judgements: list[dict[str, Any]] = field(default_factory=list)
    roles: list[dict[str, Any]] = field(default_factory=list)
    studies: list[dict[str, Any]] = field(default_factory=list)
    derivations: list[Derivation] = field(default_factory=list)
    eval_files: list[Path] = field(default_factory=list)
    resolved: dict[str, Any] = field(default_factory=dict)
    started: str = field(default_factory=now)
    partial: bool = False
    report: Path | None = None
    manifest: str | None = None
    _audited: dict[str, Any] = field(default_factory=dict, init=False, repr=False)
    _entered: Ledger = field(default_factory=Ledger, init=False, repr=False)
    _locked: str | None = field(default=None, init=False, repr=False)
    _arrays: set[str] = field(default_factory=set, init=False, repr=False)
    _held: Again = field(default_factory=lambda: Again({}, {}, {}), init=False, repr=False)

    @property
    def ledger(self) -> Counter[str]:
        """Tests by outcome, and what the plugin counts besides."""
        return self._entered.counts

    @property
    def reasons(self) -> dict[str, list[str]]:
        """Why tests failed or were skipped, by outcome."""
        return self._entered.reasons

    def begin(self) -> None:
        """Leave a first trace, so that a folder of a killed run says that it is not complete.

        What is audited is read from the models' files now: they may be changed or gone when the run ends.
        """
        self.folder.append_event({"event": "begin", "time": self.started, "options": asdict(self.options)})
        self.folder.write_text("report.md", _UNFINISHED)
        self._audited = {
            "model": self._identity(self.base),
            "tuned": self._identity(self.tuned) if self.tuned else None,
        }

    def lock_claims(self, lock: Mapping[str, Any]) -> None:
        """Write down what will be tested, before the model is loaded; the event log keeps the order of the two."""
        self.folder.write_json("claims.lock.json", lock)
        self._locked = str(lock["sha256"])
        self.folder.append_event({"event": "locked", "sha256": self._locked, "time": now()})

    def count(self, outcome: str, test: str, reason: str = "", seconds: float | None = None) -> None:
        """Enter one test's outcome into the ledger and the event log; an error in its clean-up replaces it."""
        self._entered.enter(outcome, test, reason, seconds)
        told = {"event": outcome, "test": test, "reason": reason, "seconds": seconds, "time": now()}
        self.folder.append_event(told)

    def _ordered_docs(self) -> dict[str, str]:
        known = [name for name in READING_ORDER if name in self.docs]
        return {name: self.docs[name] for name in dict.fromkeys([*known, *self.docs])}

    def in_reading_order(self) -> list[Table]:
        """The tables, by eval, in the order in which a reader wants them; the answers first."""
        rank = {name: i for i, name in enumerate(READING_ORDER)}
        tables = sorted(self.tables, key=lambda t: rank.get(t.name.partition("--")[0], len(rank)))
        return [*([answers_table(self.findings)] if self.findings else []), *tables]

    # --- the end ------------------------------------------------------------------------------------

    def results(self, status: str) -> dict[str, Any]:
        """The content of ``results.json``, of a session that has begun."""
        return {
            "schema_version": SCHEMA_VERSION,
            "self_test": self.self_test,
            "partial": self.partial,
            "status": status,
            **self._audited,
            "environment": environment(self.started, self.eval_files),
            "seed": self.options.seed,
            "profile": self.options.profile,
            "options": {"passed": asdict(self.options), "resolved": self.resolved},
            "ledger": {**dict(sorted(self.ledger.items())), "reasons": self.reasons},
            "tests": list(self._entered.tests.values()),
            "claims_sha256": self._locked,
            "verdicts": self.verdicts,
            "judgements": self.judgements,
            "roles": self.roles,
            "studies": self.studies,
            "derivations": [d.record() for d in self.derivations],
            "tables": [to_json(t) for t in self.in_reading_order()],
            "figures": [{"name": f.name, "title": f.title, "alt": f.alt} for f in self.figures],
            "docs": [{"eval": name, "text": text} for name, text in self._ordered_docs().items()],
            "limits": list(LIMITS),
            "known_limits": [{**asdict(limit), "page": limit.page} for limit in KNOWN_LIMITS],
        }

    def _identity(self, checkpoint: Checkpoint) -> dict[str, Any]:
        """What was audited, down to the bytes."""
        layout = checkpoint.layout
        bundled = (
            f"bundled {self.options.bundled or 'model'}, {checkpoint.folder.name}"
            if checkpoint.folder and self.self_test
            else None
        )
        return {
            "name": bundled or checkpoint.name,
            "revision": checkpoint.revision,
            "architecture": layout.model_type,
            "layers": layout.n_layers,
            "neurons": len(layout.roster),
            "mlps": str(layout.roster),
            "hidden_size": layout.d_model,
            "vocabulary": layout.vocab_size,
            "tied_head": checkpoint.tied,
            "stored_dtype": str(checkpoint.weight_dtype()).removeprefix("torch."),
            "digests": checkpoint.digests,
        }

    def finish(self, status: str) -> Path:
        """Write what follows from the results, the results, and, last, the manifest; returns the report's path.

        Everything is made from the results as a reader will have them, so that `verify` makes the same bytes.
        """
        text = canonical_json(self.results(status))
        drawings = {figure.name: figure.svg for figure in self.figures}
        for path, content in rendered(json.loads(text), drawings).items():
            self.folder.write_at(path, content)
        self.folder.write_text(RESULTS, text)
        self.folder.append_event({"event": "end", "status": status, "time": now()})
        self.manifest = self.folder.write_manifest()
        self.report = self.folder.path / "report.html"
        return self.report

    def summary(self) -> str:
        """Every table as text, for the terminal, where the end is what one sees: the answers last."""
        tables = self.in_reading_order()
        answers = [t for t in tables if t.name == FINDINGS]
        return "\n\n".join(to_text(t) for t in [*(t for t in tables if t not in answers), *answers])
