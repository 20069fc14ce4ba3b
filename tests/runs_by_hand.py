"""Small runs made by hand, to be compared: their results, and the reference of a few neurons and words."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flashinterp.models.checkpoint import Checkpoint
from flashinterp.neuron_index import NeuronIndex
from flashinterp.neurons import Block
from flashinterp.runs.compare.baseline import REFERENCE, FinishedRun
from flashinterp.runs.compare.snapshot import WORDS, Reference, Words
from flashinterp.runs.folder.run_folder import RunFolder
from flashinterp.runs.options import Options
from flashinterp.runs.session import AuditSession

SURFACES = (" a", " b", " c", " d", " e", " f", " g", " dog", " cat", "\u202e")
NEURONS = 6  # of two layers
CLEAN = np.array([2.0, 2.2, 1.8, 2.1, 1.9, 2.0])  # effects by prompt, nats


def entry(
    verdict: str = "validated", neuron: str | None = "L1N2", token: str | int = " dog", **more: Any
) -> dict[str, Any]:
    """One verdict as it stands in results.json."""
    figures = {"effect": 2.0, "effect_low": 1.9, "effect_high": 2.1, "noise_floor": 1e-6}
    auc = more.pop("auc", 1.0)
    return {
        "id": "dog",
        "token": token,
        "neuron": neuron,
        "lens": "paper",
        "pole": "+",
        "direction": "+",
        "source": "file",
        "expect": "validated",
        "verdict": verdict,
        "reason": f"it came out as {verdict}",
        "figures": {
            "writes": {"answer": "yes", "p": 0.01, "q": 0.01, "checks": {}, "figures": figures},
            "reads": {"answer": "yes", "p": 0.01, "q": 0.01, "checks": {}, "figures": {"auc": auc}},
            "explained": {},
        },
        **more,
    }


def words(firsts: Sequence[int], lead: float | Sequence[float] = 1.0, seconds: Sequence[int] | None = None) -> Words:
    """Words with these best ids; those whose lead is below a hundredth are near ties."""
    ids = np.full((len(firsts), WORDS), -1, dtype=np.int32)
    ids[:, 0] = firsts
    if seconds is not None:
        ids[:, 1] = seconds
    leads = np.broadcast_to(np.asarray(lead, dtype=np.float32), len(firsts)).copy()
    return Words(ids, leads, leads < 0.01)


def reference(
    verdicts: Sequence[dict[str, Any]],
    labels: Sequence[int] = (0, 1, 2, 3, 4, 7),
    effects: Sequence[Any] = (),
    **more: Any,
) -> Reference:
    """Of six neurons, L0N0 to L1N2, with these best words; each claim's neuron has its label."""
    roster = NeuronIndex((Block(0), Block(1)), (3, 3))
    places = [roster.index(v["neuron"]) for v in verdicts]
    token = [SURFACES.index(v["token"]) if isinstance(v["token"], str) else v["token"] for v in verdicts]
    given = [np.asarray(e, dtype=float) for e in effects] or [CLEAN for _ in verdicts]
    made = {
        "surfaces": SURFACES,
        "roster": roster,
        "words": words(labels),
        "claims": tuple(v["id"] for v in verdicts),
        "claim_words": words([labels[p] for p in places]),
        "best": np.array([labels.index(t) if t in labels else -1 for t in token], dtype=np.int64),
        "measured": np.ones(len(verdicts), dtype=bool),
        "effects": np.array(given).reshape(len(verdicts), -1),
    }
    return Reference(**{**made, **more})


RESULTS: dict[str, Any] = {
    "model": {
        "architecture": "llama",
        "mlps": "layers 0 to 1 with neurons 0 to 2",
        "hidden_size": 4,
        "vocabulary": len(SURFACES),
        "stored_dtype": "float32",
        "digests": {"model.safetensors": "aa", "tokenizer.json": "tt"},
    },
    "self_test": False,
    "partial": False,
    "status": "passed",
    "seed": 0,
    "profile": "smoke",
    "environment": {"packages": {"torch": "2.0", "transformers": "5.0", "flashinterp": "0.1"}},
    "options": {"resolved": {"device": "cpu", "dtype": "float32"}},
}
LOCK = {"prompts": "pp", "rule": {"alpha": 0.05}}


def run(
    *verdicts: dict[str, Any], name: str = "a", said: Reference | None = None, without: bool = False, **results: Any
) -> FinishedRun:
    """A run with these verdicts; with the reference that goes with them, another one, or without any."""
    content = {**copy.deepcopy(RESULTS), "verdicts": list(verdicts), **results}
    return FinishedRun(name, content, copy.deepcopy(LOCK), None if without else said or reference(verdicts), "00")


def finish(folder: Path, checkpoint: Checkpoint, *verdicts: dict[str, Any]) -> Path:
    """A run of a model that ended with these verdicts, made by a session."""
    made = AuditSession(Options(out=str(folder)), RunFolder.create(folder), checkpoint, None, False)
    made.begin()
    made.verdicts += verdicts
    made.finish("passed")
    return folder


def write(folder: Path, finished: dict[str, Any], said: Reference | None = None) -> Path:
    """A finished run's folder with these results."""
    made = RunFolder.create(folder)
    made.append_event({"event": "end", "status": "passed"})
    (folder / "results.json").write_text(json.dumps(finished), encoding="utf-8")
    made.write_json("claims.lock.json", LOCK)
    if said is not None:
        made.write_arrays(REFERENCE, said.arrays())
    made.write_manifest()
    return folder
