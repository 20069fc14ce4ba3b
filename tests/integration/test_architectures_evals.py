"""The whole eval suite, in its smoke profile, on a tiny random model of every architecture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fixtures.architectures import ARCHITECTURES, build
from tests.architecture_cases import by_kind
from tests.helpers import import_all
from tests.integration.faults.running import Evals

pytest_plugins = ["pytester"]

FAMILIES = [name for name in ARCHITECTURES if "-" not in name]
# Of the whole suite, these need what a tiny random model has not: the bundled controls, and a fine-tune.
SKIPPED = {
    "test_nothing_is_found_where_nothing_is_planted",
    "test_lenses_know_nothing_where_nothing_was_learnt",
    "test_top_tokens_kept",
    "test_causal_role_kept",
    "test_fine_tunes_told_apart",
    "test_frequency_in_the_training_text",
    "test_capacity",
}


@pytest.fixture(scope="module", autouse=True)
def imported(planted_model: Any) -> None:
    """What pytester would forget after each run and import again is imported before the first."""
    assert planted_model is not None
    import_all()


@pytest.mark.parametrize("name", by_kind(FAMILIES))
def test_the_suite_runs_on_every_architecture(name: str, pytester: pytest.Pytester, tmp_path: Path) -> None:
    model = build(name, tmp_path / name)
    # One word: a family of claims that 47 neurons of a layer can be controls for.
    run = Evals(pytester)("", "--model", str(model), "--tokens", " dog")
    results = run.results
    assert run.code == 0, run.red
    assert (results["status"], results["self_test"]) == ("passed", False)
    assert results["model"]["architecture"] == ARCHITECTURES[name].model_type
    ledger = results["ledger"]
    assert ledger["passed"] + ledger["skipped"] == ledger["collected"] > 10
    skipped = {reason.partition("::")[2].partition("[")[0].partition(":")[0] for reason in ledger["reasons"]["skipped"]}
    assert skipped == SKIPPED
    (verdict,) = results["verdicts"]
    assert verdict["verdict"] in ("lever", "detector", "refuted", "inconclusive")  # nothing was learnt here
    assert verdict["figures"]["writes"]["figures"]["identity_error"] <= 1e-5
