"""What the README shows is run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from flashinterp.evaluation.claims import load_claims
from flashinterp.models.supported import supported

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def _block(language: str) -> str:
    (block,) = re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)
    return str(block)


def test_the_python_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fixtures").symlink_to(ROOT / "fixtures")
    names: dict[str, object] = {}
    exec(compile(_block("python"), "README.md", "exec"), names)
    neurons, curves, log = (names[name] for name in ("neurons", "curves", "log"))
    assert str(neurons.find(" dog", n=3)[0].neuron) == "L1N17"  # type: ignore[attr-defined]
    assert curves.log_probs.shape == (1, 4, 1, 1)  # type: ignore[attr-defined]
    assert log.calls[1] > 1  # type: ignore[attr-defined]
    assert " dog" in capsys.readouterr().out
    assert (tmp_path / "dogs-only" / "model.safetensors").is_file()


def test_the_claim_file_is_one(tmp_path: Path) -> None:
    path = tmp_path / "claims.toml"
    path.write_text(_block("toml"))
    (claim,) = load_claims(path)
    assert (claim.token, str(claim.neuron), claim.expect) == (" dog", "L1N17", "validated")


def test_every_eval_is_listed() -> None:
    evals = {path.stem for path in (Path(__file__).parents[2] / "evals").glob("test_*.py")}
    assert evals == set(re.findall(r"^\| `(test_\w+)` \|", README, re.MULTILINE))


def test_the_table_of_models_is_the_registrys() -> None:
    (shown,) = re.findall(r"<!-- supported models -->\n(.*?)\n<!-- end -->", README, re.DOTALL)
    assert shown == supported(), "print it with python -m flashinterp.models.supported"
