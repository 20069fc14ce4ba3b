"""The gate on trained models: a fine-tune that has lost a neuron fails, by that neuron's name; a sound one passes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from flashinterp.models.checkpoint import Checkpoint
from flashinterp.runs.compare.diff import diff
from flashinterp.runs.compare.diff_tables import diff_tables
from tests.helpers import DOWN, GATE, UP, edited_copy, import_all
from tests.integration.faults.running import ROOT, Run

pytest_plugins = ["pytester"]

MODELS = ROOT / "fixtures" / "storybook" / "models"
PROMPTS = str(MODELS / "prompts.json")
CLAIMED = {"california": "L2N31", "sherlock": "L2N5", "lion": "L1N61"}
CLAIMS = "".join(
    f'[[claim]]\nid = "{word.lower()}"\ntoken = " {word}"\n' for word in ("California", "Sherlock", "lion")
)


@dataclass(frozen=True)
class Gated(Run):
    """One run of the gate and of the claims' verdicts."""

    errors: str
    printed: str = ""

    @property
    def told(self) -> str:
        """What the gate says of its failure."""
        return self.red.get("test_nothing_is_lost_since_the_baseline", "")

    @property
    def failure(self) -> list[str]:
        """The lines of its failure as pytest prints them."""
        _, _, below = self.printed.partition("_ test_nothing_is_lost_since_the_baseline[cpu] _")
        return below.partition("\n")[2].partition("\n===")[0].splitlines()

    def rows(self, table: str) -> dict[str, list[Any]]:
        """A table of the comparison, by its first column."""
        found = [t for t in self.results["tables"] if t["name"] == f"regression--{table}"]
        return {row[0]: row for t in found for row in t["rows"]}


Gate = Callable[..., Gated]


def given(model: Path, *args: str, out: str) -> list[str]:
    """What pytest is given for the gate on a model."""
    evals = [str(ROOT / "evals" / f"test_{name}.py") for name in ("clamp_causality", "regression")]
    fixed = ["-p", "no:cacheprovider", f"--rootdir={ROOT}", "-c", str(ROOT / "pyproject.toml"), "--profile", "smoke"]
    return [*fixed, "--prompts", PROMPTS, "--model", str(model), "--out", out, *args, *evals]


@pytest.fixture(scope="module", autouse=True)
def imported(planted_model: Any) -> None:
    """What pytester would forget after each run and import again is imported before the first."""
    assert planted_model is not None
    import_all()


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Gated:
    """The audit of the planted model, by claims that leave the neuron to the lens, in a process of its own."""
    folder = tmp_path_factory.mktemp("before")
    (folder / "claims.toml").write_text(CLAIMS)
    command = [sys.executable, "-m", "pytest", *given(MODELS / "planted", "--claims", "claims.toml", out="before")]
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True
    )
    found = Gated(done.returncode, folder / "before", done.stderr)
    assert found.code == 0, done.stdout
    return found


@pytest.fixture
def gate(pytester: pytest.Pytester, before: Gated) -> Gate:
    """Runs the gate on a model, against the audit of the planted one."""

    def run(model: Path, *args: str) -> Gated:
        result = pytester.runpytest_inprocess(*given(model, "--baseline", str(before.out), *args, out="after"))
        return Gated(int(result.ret), pytester.path / "after", str(result.stderr), str(result.stdout))

    return run


def test_a_run_without_a_baseline_leaves_its_record(before: Gated) -> None:
    assert {v["id"]: (v["neuron"], v["verdict"]) for v in before.results["verdicts"]} == {
        name: (neuron, "validated") for name, neuron in CLAIMED.items()
    }
    assert before.rows("roles") == {}
    assert before.rows("reference")["sherlock"][:2] == ["sherlock", "L2N5"]
    assert diff(before.out, before.out).exit_code == 0


def without_sherlock(tensors: dict[str, torch.Tensor]) -> None:
    """Sherlock's neuron is overwritten with another's rows, as if trained for something else."""
    for kind in (UP, GATE):
        tensors[kind.format(2)][5] = tensors[kind.format(2)][6]
    tensors[DOWN.format(2)][:, 5] = tensors[DOWN.format(2)][:, 6]


def test_a_damaged_fine_tune_fails_by_the_name_of_the_neuron_that_was_lost(
    gate: Gate, before: Gated, tmp_path: Path
) -> None:
    damaged = edited_copy(MODELS / "planted", tmp_path / "damaged", without_sherlock)
    after = gate(damaged)
    assert after.code == 1
    assert after.results["ledger"]["failed"] == 1
    assert after.told == "since the baseline LOST 1 of 3 validated neurons: sherlock (␣Sherlock at L2N5)"
    assert {name: row[3] for name, row in after.rows("roles").items()} == {
        "california": "kept", "sherlock": "lost", "lion": "kept"
    }  # fmt: skip
    assert {name: row[2] for name, row in after.rows("words").items()} == {
        "california": "kept", "sherlock": "lost", "lion": "kept"
    }  # fmt: skip
    (clearest,) = [row for row in after.rows("foremost").values() if row[0] == "L2N5"]
    assert clearest[2].startswith("␣Sherlock, ")
    # Who runs the tests sees a line for each neuron, with what became of it, and what to do.
    first, neuron, step = after.failure
    assert first.startswith("since the baseline LOST 1 of 3")
    assert re.fullmatch(
        r"  sherlock \(␣Sherlock at L2N5\) is now \w+: effect .+, was .+ nats \(change -.+, margin .+\)"
        r"; AUC .+, was .+",
        neuron,
    )
    assert step.startswith("Next: ")
    assert max(map(len, after.failure)) < 160
    # The neuron is named wherever somebody looks: the report for a pull request, and what a CI server shows.
    for name in ("report.md", "junit.xml"):
        told = (after.out / name).read_text(encoding="utf-8")
        assert re.search(r"LOST 1 of 3 validated neurons: sherlock .*L2N5", told), name
    # And the two folders tell the same without the models.
    again = diff(before.out, after.out)
    assert [r.id for r in again.losses] == ["sherlock"]
    assert [list(row) for row in diff_tables(again)[0].rows] == list(after.rows("roles").values())


def test_the_same_model_passes_with_all_kept(gate: Gate) -> None:
    after = gate(MODELS / "planted")
    assert after.code == 0
    assert {row[3] for row in after.rows("roles").values()} == {"kept"}
    assert after.rows("labels")[1280][1] == 1280  # words kept
    assert after.rows("foremost") == {}
    # Without a claim file the baseline's claims are tested again, neuron for neuron.
    assert {v["id"]: v["neuron"] for v in after.results["verdicts"]} == CLAIMED
    assert {v["source"] for v in after.results["verdicts"]} == {"discovered"}


def test_a_light_fine_tune_passes(gate: Gate) -> None:
    after = gate(MODELS / "light")
    assert after.code == 0
    assert {row[3] for row in after.rows("roles").values()} <= {"kept", "changed"}
    assert 0 < after.rows("labels")[1280][4] < 100  # some neurons without a claim have lost their words


def test_a_claim_that_is_found_elsewhere_does_not_hide_a_loss(gate: Gate, pytester: pytest.Pytester) -> None:
    """The lens finds another neuron for the name in the heavy fine-tune; the old one is tested beside it."""
    pytester.path.joinpath("claims.toml").write_text('[[claim]]\nid = "sherlock"\ntoken = " Sherlock"\n')
    after = gate(MODELS / "heavy", "--claims", "claims.toml")
    assert after.code == 1
    found = {v["id"]: v["neuron"] for v in after.results["verdicts"]}
    assert found.pop("sherlock") != "L2N5"
    assert sorted(found.values()) == sorted(CLAIMED.values())
    assert "sherlock (␣Sherlock at L2N5)" in after.told
    assert [line for line in after.failure if line.startswith("  sherlock (␣Sherlock at L2N5) is now refuted: effect ")]


def test_another_model_is_refused_before_anything_is_written(gate: Gate, planted: Checkpoint) -> None:
    assert planted.folder is not None
    after = gate(planted.folder)
    assert after.code == pytest.ExitCode.USAGE_ERROR
    assert "cannot be compared with the baseline" in after.errors
    assert len(after.errors.strip().splitlines()) == 1
    assert not after.out.exists()
