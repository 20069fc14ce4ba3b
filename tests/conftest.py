"""What many tests share: the fixture models and the architectures, opened once, and how hard hypothesis tries."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

import tests.examples  # noqa: F401  (hypothesis's profiles)
from fixtures.architectures import build
from fixtures.build import built
from fixtures.build import truth as read_truth
from flashinterp.models.checkpoint import Checkpoint, open_checkpoint
from tests.architecture_cases import Case
from tests.tiers import pytest_fixture_setup, pytest_runtest_call, pytest_runtest_makereport  # noqa: F401  (hooks)

# The tensors are tiny: a second thread gains nothing, and on a busy machine waits for the first ten times over.
torch.set_num_threads(1)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "nightly: too dear for each change; left out with -m 'not nightly'")


@pytest.fixture(scope="session")
def fixture_folder() -> Path:
    """The folder that holds the three fixture models."""
    return built()


@pytest.fixture(scope="session")
def planted(fixture_folder: Path) -> Checkpoint:
    """The fixture with planted neurons."""
    return open_checkpoint(fixture_folder / "planted")


@pytest.fixture(scope="session")
def tuned(fixture_folder: Path) -> Checkpoint:
    """Its fine-tuned sibling, in which a known quarter of the neurons names other tokens."""
    return open_checkpoint(fixture_folder / "tuned")


@pytest.fixture(scope="session")
def unplanted(fixture_folder: Path) -> Checkpoint:
    """The same random model with nothing planted."""
    return open_checkpoint(fixture_folder / "unplanted")


@pytest.fixture(scope="session")
def planted_model(planted: Checkpoint) -> Any:
    """The planted fixture as a live transformers model; tests must leave it as they found it."""
    return planted.load_model()


@pytest.fixture(scope="session")
def truth(fixture_folder: Path) -> dict[str, Any]:
    """What was planted."""
    return read_truth(fixture_folder)


@pytest.fixture(scope="session")
def case(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Case]:
    """Any architecture by name, built once."""

    @cache
    def made(name: str) -> Case:
        checkpoint = open_checkpoint(build(name, tmp_path_factory.mktemp("architectures") / name))
        return Case(name, checkpoint, checkpoint.load_model())

    return made


@pytest.fixture(scope="session")
def bitsandbytes() -> Any:
    """bitsandbytes, which CI must have: it writes what is read here."""
    if not os.environ.get("CI"):
        pytest.importorskip("bitsandbytes")
    return importlib.import_module("bitsandbytes")


@pytest.fixture(scope="session")
def real_model() -> str:
    """The folder of a small trained model, which is not part of the project."""
    folder = os.environ.get("FLASHINTERP_REAL_MODEL")
    if not folder:
        pytest.skip("FLASHINTERP_REAL_MODEL is unset: give it the folder of a small trained Llama to run this test")
    return folder
