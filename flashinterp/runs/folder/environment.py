"""What a run's figures may depend on besides the weights: versions, hardware, settings, and the code that ran."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from flashinterp._util.files import sha256_of

PACKAGE = Path(__file__).parents[2]
"""The folder of the package's code."""
PACKAGES = (
    *("flashinterp", "torch", "transformers", "accelerate", "safetensors", "numpy", "scipy"),
    *("pytest", "hypothesis", "matplotlib", "jinja2", "tabulate", "triton"),
)
# Those that can change a figure. No other variable is recorded: many hold secrets.
VARIABLES = (
    *("CUBLAS_WORKSPACE_CONFIG", "CUDA_VISIBLE_DEVICES", "CUDA_LAUNCH_BLOCKING", "NVIDIA_TF32_OVERRIDE"),
    *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "PYTHONHASHSEED", "PYTHONOPTIMIZE"),
    *("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ENABLE_MPS_FALLBACK", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE"),
    *("TRITON_INTERPRET", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"),
)
_PATIENCE = 10.0  # seconds for a command that should take a fraction of one


def environment(started: str, eval_files: Iterable[Path] = ()) -> dict[str, Any]:
    """The environment as results.json holds it; what is not known is None.

    Args:
        started: when the run began.
        eval_files: the eval modules that ran, whose digests are recorded.
    """
    import torch

    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "packages": {name: _version(name) for name in PACKAGES},
        "threads": torch.get_num_threads(),
        **_gpu(),
        "tf32": torch.backends.cuda.matmul.allow_tf32,
        "tf32_cudnn": torch.backends.cudnn.allow_tf32,
        "matmul_precision": torch.get_float32_matmul_precision(),
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "variables": {name: os.environ.get(name) for name in VARIABLES},
        "argv": list(sys.argv),
        "code": {**_git(PACKAGE), "sha256": code_digest()},
        "evals": _digests(eval_files),
        "started": started,
        "finished": now(),
    }


def now() -> str:
    """The time, UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _gpu() -> dict[str, Any]:
    import torch

    cudnn = torch.backends.cudnn.version() if torch.version.cuda else None
    known: dict[str, Any] = {"gpu": None, "gpu_count": 0, "gpu_memory": None, "compute_capability": None}
    if torch.cuda.is_available():
        about = torch.cuda.get_device_properties(torch.cuda.current_device())
        known = {
            "gpu": about.name,
            "gpu_count": torch.cuda.device_count(),
            "gpu_memory": about.total_memory,
            "compute_capability": f"{about.major}.{about.minor}",
        }
    return {**known, "cuda": torch.version.cuda, "cudnn": cudnn, "driver": _driver() if known["gpu"] else None}


def _driver() -> str | None:
    told = _told("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    return told.splitlines()[0].strip() if told else None


def _git(folder: Path) -> dict[str, Any]:
    """The commit of the code that runs, and whether it was changed since; None for an installed package.

    Of the code's own folder and not of the current one, which may be another project's.
    """
    if not _told("git", "-C", str(folder), "ls-files", "--error-unmatch", "__init__.py"):
        return {"commit": None, "dirty": None}
    changed = _told("git", "-C", str(folder), "status", "--porcelain")
    return {
        "commit": _told("git", "-C", str(folder), "rev-parse", "HEAD") or None,
        "dirty": None if changed is None else bool(changed),
    }


def _told(*command: str) -> str | None:
    """What a command prints; None where it is not there, fails or hangs."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE, check=False)
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


@cache
def code_digest() -> str:
    """One sha256 over the package's own code, templates and texts: the same for the same release, installed or not."""
    digest = hashlib.sha256()
    for file in sorted(file for kind in ("*.py", "*.j2", "*.json") for file in PACKAGE.rglob(kind)):
        digest.update(f"{file.relative_to(PACKAGE).as_posix()}\0{_sha256(file)}\n".encode())
    return digest.hexdigest()


def _digests(files: Iterable[Path]) -> dict[str, str | None]:
    """Name in its folder to sha256; None for one that is gone."""
    return {f"{file.parent.name}/{file.name}": _sha256(file) for file in sorted(set(files))}


def _sha256(file: Path) -> str | None:
    try:
        return sha256_of(file)
    except OSError:
        return None
