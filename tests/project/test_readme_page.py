"""What the README shows is so: its claim file, its list of evals, its table of models."""

from __future__ import annotations

import re
from pathlib import Path

from flashinterp.evaluation.claims import load_claims
from flashinterp.models.supported import supported
from tests.project.files import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_claim_file_is_one(tmp_path: Path) -> None:
    path = tmp_path / "claims.toml"
    (block,) = re.findall(r"```toml\n(.*?)```", README, re.DOTALL)
    path.write_text(block)
    (claim,) = load_claims(path)
    assert (claim.token, str(claim.neuron), claim.expect) == (" dog", "L1N17", "validated")


def test_every_eval_is_listed() -> None:
    evals = {path.stem for path in (ROOT / "evals").glob("test_*.py")}
    assert evals == set(re.findall(r"^\| `(test_\w+)` \|", README, re.MULTILINE))


def test_the_table_of_models_is_the_registrys() -> None:
    (shown,) = re.findall(r"<!-- supported models -->\n(.*?)\n<!-- end -->", README, re.DOTALL)
    assert shown == supported(), "print it with python -m flashinterp.models.supported"
