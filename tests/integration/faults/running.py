"""The real evals, run in this process, and what one run of them left."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]

DECODE = "test_decode_correctness.py"
CAUSALITY = "test_clamp_causality.py"
NEURONS = "test_specialised_neurons.py"
PRESERVATION = "test_finetune_preservation.py"
STEERING = "test_concept_steering.py"
REMOVAL = "test_concept_removal.py"
ALIGNMENT = "test_vocabulary_alignment.py"
INSTRUMENT = "test_instrument.py"
REGRESSION = "test_regression.py"


@dataclass(frozen=True)
class Run:
    """One run of real evals: its exit code and its folder."""

    code: int
    out: Path

    @property
    def results(self) -> dict[str, Any]:
        loaded: dict[str, Any] = json.loads((self.out / "results.json").read_text(encoding="utf-8"))
        return loaded

    @property
    def red(self) -> dict[str, str]:
        """The tests that failed or could not be set up, each with the reason."""
        reasons = self.results["ledger"]["reasons"]
        split = (r.partition("::")[2].partition(": ") for kind in ("failed", "errors") for r in reasons.get(kind, []))
        return {test.partition("[")[0]: reason for test, _, reason in split}

    @property
    def verdicts(self) -> dict[str, str]:
        return {v["id"]: v["verdict"] for v in self.results["verdicts"]}


@dataclass(frozen=True)
class Evals:
    """The real evals, run in this process."""

    pytester: pytest.Pytester

    def __call__(self, where: str, *args: str, out: str = "run") -> Run:
        for name in [n for n in sys.modules if n.partition(".")[0] == "evals"]:
            del sys.modules[name]  # another test has imported it: what it holds was bound before a fault was planted
        given = ["-p", "no:cacheprovider", f"--rootdir={ROOT}", "-c", str(ROOT / "pyproject.toml")]
        given += ["--profile", "smoke", "--bundled", "decoys", "--out", out, *args, str(ROOT / "evals" / where)]
        return Run(int(self.pytester.runpytest_inprocess(*given).ret), self.pytester.path / out)
