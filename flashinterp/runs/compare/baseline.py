"""An earlier run, read from its folder: what this run, or another folder, is compared with."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from flashinterp._util.files import sha256_of
from flashinterp.errors import NotComparable, RunError
from flashinterp.evaluation.claims import Claim
from flashinterp.neurons import LENSES
from flashinterp.provenance.registry import record
from flashinterp.runs.compare.snapshot import Reference
from flashinterp.runs.folder.results_schema import RESULTS, read_json, read_results
from flashinterp.tokens import show

if TYPE_CHECKING:
    from flashinterp.models.checkpoint import Checkpoint

REFERENCE = "regression--reference"
"""The name of the raw arrays in which a run leaves its `Reference`."""
SHAPE = {
    "architecture": "the architecture",
    "mlps": "the set of neurons",
    "hidden_size": "the hidden size",
    "vocabulary": "the vocabulary's size",
}
"""What must be the same in ``results.json``'s ``model`` for neurons to be the same neurons, with its name."""


@record("runs.finished_run", version=1)
@dataclass(frozen=True)
class FinishedRun:
    """One run, as far as it is compared.

    Attributes:
        name: how it is called where two are told apart: its folder.
        results: the content of ``results.json``.
        lock: the content of ``claims.lock.json``; empty where it is not there.
        reference: every neuron's words and each claim's effects; None where the run recorded none.
        sha256: of ``results.json``; None of a run that is not finished.
    """

    name: str
    results: dict[str, Any]
    lock: dict[str, Any] = field(default_factory=dict)
    reference: Reference | None = None
    sha256: str | None = None

    @property
    def verdicts(self) -> list[dict[str, Any]]:
        """The entries of ``results.json``, one a claim."""
        return cast(list[dict[str, Any]], self.results["verdicts"])


def read_run(folder: str | Path) -> FinishedRun:
    """Read a finished run from its folder.

    Raises:
        RunError: not a run's folder, of another schema, incomplete, or without any verdict, so that nothing in it could
            be lost.
    """
    folder = Path(folder)
    results, path = read_results(folder), folder / RESULTS
    if not results["verdicts"]:
        raise RunError(
            f"{path} holds no verdicts, so nothing could be lost: give the folder of a run in which the claims were "
            "tested"
        )
    return FinishedRun(str(folder), results, _lock(folder), _reference(folder), sha256_of(path))


def _lock(folder: Path) -> dict[str, Any]:
    """``claims.lock.json``, which tells the design; empty where it is not there."""
    path = folder / "claims.lock.json"
    return read_json(path) if path.exists() else {}


def _reference(folder: Path) -> Reference | None:
    path = folder / "raw" / f"{REFERENCE}.npz"
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return Reference.from_arrays({name: arrays[name] for name in arrays.files})
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise RunError(f"{path} cannot be read ({error}): give the folder of a finished run") from error


def check_subject(run: FinishedRun, checkpoint: Checkpoint) -> None:
    """Refuse a model whose neurons are not those of an earlier run, before anything of it is loaded.

    Raises:
        NotComparable: another architecture, shape or vocabulary: neuron by neuron there is nothing to compare.
    """
    layout = checkpoint.layout
    here = {
        "architecture": layout.model_type,
        "mlps": str(layout.roster),
        "hidden_size": layout.d_model,
        "vocabulary": layout.vocab_size,
    }
    then = run.results.get("model") or {}
    for key, name in SHAPE.items():
        if then.get(key) != here[key]:
            raise NotComparable(
                f"{checkpoint.name} cannot be compared with the baseline {run.name}: {name} is {then.get(key)} there "
                f"and {here[key]} here; give the baseline of a model of the same family and size"
            )
    if run.reference is not None:
        check_vocabularies(run.name, run.reference.surfaces, checkpoint.name, checkpoint.vocabulary.surfaces)


def check_vocabularies(name_a: str, a: Sequence[str], name_b: str, b: Sequence[str]) -> None:
    """Refuse to compare neurons that are named by other tokens.

    Raises:
        NotComparable: names the first id that differs.
    """
    if tuple(a) == tuple(b):
        return
    at = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    shown = [show(texts[at]) if at < len(texts) else "nothing" for texts in (a, b)]
    raise NotComparable(
        f"{name_a} and {name_b} are not comparable: their tokenizers differ, first at id {at} ({shown[0]} against "
        f"{shown[1]}); a neuron is named by its tokens: compare runs of models with one tokenizer"
    )


def again(run: FinishedRun, family: Sequence[Claim]) -> tuple[Claim, ...]:
    """The claims of an earlier run to be tested again, neuron for neuron, beside those that are tested anyway.

    All of them where there are no others; else those that were validated and are not among the others, because what is
    not measured cannot be shown to be kept. As discovered ones: what they must come out as is the comparison's to say.

    Args:
        run: the earlier run.
        family: complete claims of this run.

    Raises:
        RunError: a claim's lens is not known here.
    """
    about = {(c.token, c.neuron, c.drive) for c in family}
    ids = {c.id for c in family}
    claims = []
    for verdict in run.verdicts:
        if verdict["neuron"] is None or (family and verdict["verdict"] != "validated"):
            continue
        claim = _claim(run, verdict)
        if (claim.token, claim.neuron, claim.drive) in about:
            continue
        if claim.id in ids:
            claim = replace(claim, id=f"{claim.group}/{claim.neuron}{claim.drive} of the baseline")
        about.add((claim.token, claim.neuron, claim.drive))
        claims.append(claim)
    return tuple(claims)


def _claim(run: FinishedRun, verdict: dict[str, Any]) -> Claim:
    if verdict["lens"] not in LENSES:
        raise RunError(
            f"the baseline's claim {verdict['id']!r} is of the lens {verdict['lens']!r}, which this release has not: "
            "give a baseline that was run with this release"
        )
    about = {key: verdict[key] for key in ("id", "token", "neuron", "pole", "lens", "direction")}
    note = f"a claim of the baseline {run.name}"
    return Claim.from_json({**about, "source": "discovered", "expect": verdict["verdict"], "note": note})
