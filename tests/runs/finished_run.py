"""A finished run's folder, made in a moment: every kind of file, with hostile text, from evidence made by hand."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from flashinterp._util.files import sha256_of
from flashinterp._util.json_text import canonical_json
from flashinterp.evaluation.claims import Claim, lock
from flashinterp.evaluation.evidence import Evidence
from flashinterp.evaluation.figures import natural_doses
from flashinterp.evaluation.tables import (
    direction_table,
    reading_table,
    verdict_table,
    verdicts_counted,
    why_table,
    writing_table,
)
from flashinterp.evaluation.verdict import Rule, judge
from flashinterp.models.checkpoint import Checkpoint
from flashinterp.neurons import NeuronId
from flashinterp.provenance.recorded import Recorded
from flashinterp.report.charts.neurons import spikes
from flashinterp.report.table import Table
from flashinterp.runs.folder.run_folder import MANIFEST, RunFolder
from flashinterp.runs.options import Options
from flashinterp.runs.session import AuditSession
from flashinterp.studies.finetuning.role_tables import role_table, roles_why_table
from flashinterp.studies.finetuning.roles import Heir, RoleEvidence, judge_roles
from flashinterp.studies.lens_causality.ranking import Pick, Study, World
from flashinterp.studies.lens_causality.tables import lenses_table, nulls_table, parts_rest_table, parts_table
from tests.evidence_by_hand import FLAT, evidence

HOSTILE = "</script><b>\"'&\u202e\x00\x1b[31m\ud800\ufffe\U0001f415"
WRITTEN = HOSTILE.replace("\ud800", "")  # no claim file can hold a lone surrogate
SEED = 3
PROMPTS, DOSES, CONTEXTS, WORDS = 12, 5, 6, 8


def claim(name: str, token: str | int = " dog", neuron: int = 17, **more: Any) -> Claim:
    return Claim(name, token, NeuronId(1, neuron), "+", "paper", None, more.pop("source", "file"), **more)


CLAIMS = (
    claim("dog"),
    claim("a b", 7, 18, source="discovered"),
    claim("a-b", WRITTEN, 19, note=WRITTEN),
    claim("late", " late", 20),
)
EVIDENCE: tuple[Evidence | str, ...] = (
    evidence(),
    evidence(log_odds=FLAT, control_scale_ratio=None),
    evidence(),
    "no time was left",
)


def role_evidence(scale: float = 1.0, heir: Heir | None = None) -> RoleEvidence:
    draw = np.random.default_rng(5)
    rise = 0.5 * np.arange(DOSES) + 0.05 * draw.standard_normal((2, PROMPTS, DOSES))
    absent = draw.normal(0, 0.3, (2, CONTEXTS, WORDS))
    present = 3 + 0.1 * np.arange(CONTEXTS)
    return RoleEvidence(
        np.linspace(-2, 2, DOSES), rise[0], scale * rise[1], 1e-6, present, absent[0], present, absent[1], 5, 6, heir
    )


HEIR = Heir(NeuronId(2, 4), False, 0.1, 30.0, np.array([-1.0, 1.0]), np.zeros(PROMPTS), np.full(PROMPTS, 2.0))


def begun(out: Path, base: Checkpoint, tuned: Checkpoint | None) -> AuditSession:
    options = Options(seed=SEED, profile="smoke", tokens=(" dog", HOSTILE))
    session = AuditSession(options, RunFolder.create(out), base, tuned, True)
    session.eval_files = [Path(__file__)]
    session.begin()
    return session


def finished(out: Path, base: Checkpoint, tuned: Checkpoint | None) -> Path:
    """A run in which two verdicts are clear, one has no evidence, and a role moved."""
    session = begun(out, base, tuned)
    session.lock_claims(lock(CLAIMS, rule=vars(Rule()), seed=SEED, prompts="p" * 64, model=base.digests))
    verdicts = judge(CLAIMS, EVIDENCE, rule=Rule(), seed=SEED)
    session.add_judgement("claims", verdicts, EVIDENCE, rule=Rule(), seed=SEED)
    session.add_judgement("claims-tuned", verdicts, EVIDENCE, rule=Rule(), seed=SEED)
    session.add_verdicts(verdicts)
    told = Recorded("judgements", "claims", "verdicts")
    for name, make in (
        ("verdicts", verdict_table),
        ("writing", writing_table),
        ("reading", reading_table),
        ("direction", direction_table),
        ("why", why_table),
    ):
        session.derive_table(make, f"clamp_causality--{name}", f"Of {name}", told)
    session.derive_figure(natural_doses, "clamp_causality--natural", "Doses", Recorded("judgements", "claims"))
    found: list[RoleEvidence | str] = [role_evidence(), "refuted in the base", role_evidence(0.0, HEIR), "none"]
    roles = judge_roles(verdicts, found)
    words = {5: " dog", 6: HOSTILE}
    session.add_roles("roles", roles, found, base="claims", tuned="claims-tuned", words=words)
    session.add_roles("roles-new concept", roles, found, base="claims", words=words)
    parts = [Recorded("roles", "roles", part) for part in ("roles", "found", "words", "base", "tuned")]
    session.derive_table(role_table, "finetune_preservation--roles", "Of roles", *parts[:3])
    session.derive_table(roles_why_table, "finetune_preservation--roles-why", "Of roles", parts[0], *parts[3:])
    session.add_study("lens_predicts_causality--", small_study(), SEED)
    whole, rest = (Recorded("studies", "lens_predicts_causality--", part) for part in ("found", "results"))
    for name, make, values in (
        ("lenses", lenses_table, (whole, rest)),
        ("nulls", nulls_table, (rest,)),
        ("parts", parts_table, (whole, rest)),
        ("parts-rest", parts_rest_table, (whole, rest)),
    ):
        session.derive_table(make, f"lens_predicts_causality--{name}", f"Of {name}", *values)
    session.add_table(Table("decode_speed--t", HOSTILE, ("word", HOSTILE), ((HOSTILE, 1.5), ("x", None), ("y", True))))
    scores = np.arange(8.0).reshape(2, 4)
    session.derive_figure(spikes, "specialised_neurons--s", HOSTILE, scores, [(3, HOSTILE)])
    session.add_figure(spikes("specialised_neurons--own", "Of their own", scores))
    session.add_arrays("own--raw", {"x": np.arange(3), "inf": np.array([np.inf])})
    session.derive_finding(verdicts_counted, "clamp_causality", 2, HOSTILE, told)
    session.docs = {"own_eval": HOSTILE, "clamp_causality": "What it asks.\n\n### A test\n\n- one\n- two"}
    session.resolved = {"dtype": "float32", "probe": {"head": 0.0}}
    session.ledger["collected"], session.ledger["deselected"] = 5, 0
    for outcome, test, reason, seconds in (
        ("passed", "evals/test_a.py::test_one[cpu]", "", 0.25),
        ("failed", "evals/test_a.py::test_two", HOSTILE, 1.0),
        ("errors", "evals/test_a.py::test_two", "its clean-up too", None),
        ("skipped", "evals/test_b.py::test_three", "no GPU", None),
        ("xfailed", "evals/test_b.py::test_four", "FI-L003", 0.0),
        ("passed", "evals/test_b.py::test_five", "", 0.0),
        ("errors", "evals/test_b.py::test_five", "it broke", 0.0),
    ):
        session.count(outcome, test, reason, seconds)
    session.finish("failed")
    return session.folder.path


def small_study() -> Study:
    """Two layers of five neurons, four words, two lenses, whose order is not the alphabet's."""
    draw = np.random.default_rng(9)
    layers = np.repeat(np.arange(2), 5)

    def world(*lenses: str) -> World:
        effects = draw.normal(size=(10, 4)).astype(np.float32)
        picks = {
            lens: Pick(
                draw.normal(size=(10, 4)).astype(np.float32),
                draw.integers(0, 5, (3, 4)) + np.array([[0], [0], [5]]),
                draw.choice([-1, 1], (3, 4)).astype(np.int8),
            )
            for lens in lenses
        }
        return World(np.arange(10), layers, np.ones(10, bool), np.ones(10, bool), effects, picks)

    nulls = {"permuted": (world(), world())}
    return Study((3, 4, 5, 6), 4, ((0, 1), (0,), (1,)), world("write", "paper"), nulls, {"random": "no time was left"})


def copied(folder: Path, target: Path) -> Path:
    return Path(shutil.copytree(folder, target, symlinks=True))


def files_of(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def edit_json(file: Path, change: Any) -> None:
    """Change a JSON file as a careful forger would: in the form that a run writes."""
    value = json.loads(file.read_text(encoding="utf-8"))
    change(value)
    file.write_text(canonical_json(value), encoding="utf-8")


def list_anew(folder: Path) -> str:
    """Write the manifest that fits the folder as it is now, as a careful forger would; its sha256."""
    (folder / MANIFEST).unlink(missing_ok=True)
    RunFolder(folder).write_manifest()
    return sha256_of(folder / MANIFEST)


def state_of(folder: Path) -> str:
    """One sha256 over all files, to see that nothing was written."""
    told = "".join(f"{name} {sha256_of(folder / name)}\n" for name in files_of(folder))
    return hashlib.sha256(told.encode()).hexdigest()
