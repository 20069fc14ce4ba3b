"""One run of the evals: what was asked, what was recorded, what came out of it.

The pytest plugin's hooks hand everything to this object; it knows nothing of pytest.
"""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from flashinterp.audit.figures import Figure
from flashinterp.audit.folder import RunFolder
from flashinterp.audit.report import ANSWERS, render_html, render_markdown
from flashinterp.audit.tables import Table, to_json, to_text
from flashinterp.checkpoint import Checkpoint
from flashinterp.errors import RunError
from flashinterp.prompts import PromptSet, shipped
from flashinterp.verdict import Verdict

SCHEMA_VERSION = 1

READING_ORDER = (
    "decode_correctness",
    "specialised_neurons",
    "clamp_causality",
    "instrument",
    "lens_predicts_causality",
    "finetune_preservation",
    "concept_steering",
    "concept_removal",
    "limitations",
    "limitations_doses",
    "limitations_trained",
    "vocabulary_alignment",
    "decode_speed",
)
"""How a reader meets the evals, whatever order they ran in."""

_ANSWERS = "Each has its tables, with intervals and controls, under the eval of its name."

LIMITS = (
    "A verdict is about this model, these prompts and this dtype; it says nothing of other texts or retrained models.",
    "A neuron that is refuted as the carrier of a token may carry something else; a token without a neuron may be "
    "carried by several together.",
    "The reading side is tested where the token itself stands. A neuron that fires only before the token, because it "
    "is about to come, is not seen by it.",
    "Intervals come from resampling the prompts; they do not cover the choice of the prompt set, of the dtype or of "
    "the device.",
    "The gate decides whether a clamp can act: where act(g) is near 0, a clamp at up changes nothing, whatever the "
    "neuron writes.",
    "Digests show that the folder has not changed since the run; they do not show that the run was honest.",
)


@dataclass(frozen=True)
class Options:
    """What the user asked for, as passed.

    Attributes:
        model, tuned: folder or Hub id; None for bundled models.
        claims: a claim file.
        tokens: words to look for, as typed.
        out: the run folder.
        baseline: an earlier run folder.
        seed, dtype, device, profile, require_gpu: as the command line's.
        prompts: a file of the user's own prompts.
        bundled: which bundled models, where no model was named.
    """

    model: str | None = None
    tuned: str | None = None
    claims: str | None = None
    tokens: tuple[str, ...] = ()
    out: str = "flashinterp-report"
    baseline: str | None = None
    seed: int = 0
    dtype: str = "auto"
    device: str = "auto"
    profile: str = "standard"
    require_gpu: bool = False
    prompts: str | None = None
    bundled: str | None = None


@dataclass(frozen=True)
class Finding:
    """One result of the paper beside what was found here, in words.

    Attributes:
        order: where it stands among the others.
        paper, here: the result there and here.
        planted: what is true here, on bundled models.
    """

    order: int
    paper: str
    here: str
    planted: str | None = None


@dataclass
class AuditSession:
    """The run's folder and everything recorded into it.

    Attributes:
        options: as passed.
        folder: where it goes; written to as things are recorded, so that a kill keeps what was measured.
        base, tuned: the models' files.
        self_test: True on bundled models.
        truth: what was planted in them.
        prompts: the texts to measure on.
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
    ledger: Counter[str] = field(default_factory=Counter)
    reasons: dict[str, list[str]] = field(default_factory=dict)
    resolved: dict[str, Any] = field(default_factory=dict)
    started: str = field(default_factory=lambda: _now())
    partial: bool = False
    report: Path | None = None
    manifest: str | None = None
    _audited: dict[str, Any] = field(default_factory=dict, init=False, repr=False)
    _outcomes: dict[str, str] = field(default_factory=dict, init=False, repr=False)

    def begin(self) -> None:
        """Leave a first trace, so that a folder of a killed run says that it is not complete.

        What is audited is read from the models' files now: they may be changed or gone when the run ends.
        """
        self.folder.append_event({"event": "begin", "time": self.started, "options": asdict(self.options)})
        self._audited = {
            "model": self._identity(self.base),
            "tuned": self._identity(self.tuned) if self.tuned else None,
        }

    def lock_claims(self, lock: Mapping[str, Any]) -> None:
        """Write down what will be tested, before the model is loaded."""
        self.folder.write_json("claims.lock.json", lock)

    # --- what the evals record ----------------------------------------------------------------------

    def add_table(self, table: Table) -> None:
        """Keep a table.

        Raises:
            RunError: there is one of this name already, and it would be lost.
        """
        if any(t.name == table.name for t in self.tables):
            raise RunError(f"two tables are named {table.name!r}: give each its own name within the eval")
        self.folder.write_table(table)
        self.tables.append(table)

    def add_figure(self, figure: Figure) -> None:
        self.folder.write_figure(figure.name, figure.svg)
        self.folder.write_arrays(figure.name, figure.data)
        self.figures.append(figure)

    def add_arrays(self, name: str, arrays: Mapping[str, NDArray[Any]]) -> None:
        self.folder.write_arrays(name, arrays)

    def add_verdicts(self, verdicts: Sequence[Verdict]) -> None:
        self.verdicts += [v.record() for v in verdicts]

    def add_finding(self, finding: Finding) -> None:
        self.findings.append(finding)

    def count(self, outcome: str, test: str, reason: str = "") -> None:
        """Enter one test's outcome into the ledger and the event log; an error in its clean-up replaces it."""
        former = self._outcomes.get(test)
        if former != "failed":  # a clean-up that goes wrong too does not hide the failure
            self._outcomes[test] = outcome
            self.ledger[outcome] += 1
            if former is not None:
                self.ledger[former] -= 1
        if reason:
            self.reasons.setdefault(outcome, []).append(f"{test}: {reason}")
        self.folder.append_event({"event": outcome, "test": test, "reason": reason, "time": _now()})

    def _ordered_docs(self) -> dict[str, str]:
        known = [name for name in READING_ORDER if name in self.docs]
        return {name: self.docs[name] for name in dict.fromkeys([*known, *self.docs])}

    def in_reading_order(self) -> list[Table]:
        """The tables, by eval, in the order in which a reader wants them; the answers first."""
        rank = {name: i for i, name in enumerate(READING_ORDER)}
        tables = sorted(self.tables, key=lambda t: rank.get(t.name.partition("--")[0], len(rank)))
        return [*self._answers(), *tables]

    def _answers(self) -> list[Table]:
        """The paper's results beside those found here, as far as the evals that ran found any."""
        if not self.findings:
            return []
        known = any(f.planted is not None for f in self.findings)
        headers = ("in the paper (Llama 3.1 8B)", "in this model", *(["planted"] if known else []))
        ordered = sorted(self.findings, key=lambda f: f.order)
        rows = tuple((f.paper, f.here, *([f.planted] if known else [])) for f in ordered)
        return [Table(f"{ANSWERS}--paper", "The paper's results, and this model's", headers, rows, _ANSWERS)]

    # --- the end ------------------------------------------------------------------------------------

    def results(self, status: str) -> dict[str, Any]:
        """The content of ``results.json``, of a session that has begun."""
        return {
            "schema_version": SCHEMA_VERSION,
            "self_test": self.self_test,
            "partial": self.partial,
            "status": status,
            **self._audited,
            "environment": environment(self.started),
            "seed": self.options.seed,
            "profile": self.options.profile,
            "options": {"passed": asdict(self.options), "resolved": self.resolved},
            "ledger": {**dict(sorted(self.ledger.items())), "reasons": self.reasons},
            "verdicts": self.verdicts,
            "tables": [to_json(t) for t in self.in_reading_order()],
            "limits": list(LIMITS),
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
        """Write results, report and, last, the manifest; returns the report's path."""
        for table in self._answers():
            self.folder.write_table(table)
        results = self.results(status)
        self.folder.write_json("results.json", results)
        self.folder.write_text("report.md", render_markdown(results, self.in_reading_order()))
        self.folder.write_text(
            "report.html", render_html(results, self.in_reading_order(), self.figures, self._ordered_docs())
        )
        self.folder.append_event({"event": "end", "status": status, "time": _now()})
        self.manifest = self.folder.write_manifest()
        self.report = self.folder.path / "report.html"
        return self.report

    def summary(self) -> str:
        """Every table as text, for the terminal, where the end is what one sees: the answers last."""
        tables = self.in_reading_order()
        answers = [t for t in tables if t.name.startswith(f"{ANSWERS}--")]
        return "\n\n".join(to_text(t) for t in [*(t for t in tables if t not in answers), *answers])


def environment(started: str) -> dict[str, Any]:
    """What the figures may depend on besides the weights, and the times, which they do not."""
    import torch

    names = (
        "flashinterp",
        "torch",
        "transformers",
        "accelerate",
        "safetensors",
        "numpy",
        "scipy",
        "pytest",
    )
    gpu = torch.cuda.is_available()
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "packages": {name: version(name) for name in names},
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if gpu else None,
        "cuda": torch.version.cuda,
        "tf32": torch.backends.cuda.matmul.allow_tf32,
        "started": started,
        "finished": _now(),
    }


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
