"""What the README shows is run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_python_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fixtures").symlink_to(ROOT / "fixtures")
    names: dict[str, object] = {}
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(compile(example, "README.md", "exec"), names)
    neurons, curves, log = (names[name] for name in ("neurons", "curves", "log"))
    assert str(neurons.find(" dog", n=3)[0].neuron) == "L1N17"  # type: ignore[attr-defined]
    assert curves.log_probs.shape == (1, 4, 1, 1)  # type: ignore[attr-defined]
    assert log.calls[1] > 1  # type: ignore[attr-defined]
    assert " dog" in capsys.readouterr().out
    assert (tmp_path / "dogs-only" / "model.safetensors").is_file()
