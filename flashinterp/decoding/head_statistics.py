"""Mean and covariance of the LM head's rows: what a neuron's logits are on average, and how far they spread (METHOD 2).

The logits of a vector w over the vocabulary have the mean w · μ and the variance wᵀ C w, exactly, so that neither needs
a product with the whole head. Both are computed once for a head and kept in the user's cache folder.
"""

from __future__ import annotations

import hashlib
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flashinterp._util.arrays import read_arrays, write_arrays
from flashinterp.errors import CheckpointError, MapError
from flashinterp.models.checkpoint import Checkpoint

_ROWS = 4096  # of the head at a time; their product is in float32, the sum of products in float64
_FORM = "1"  # of what is kept; another one is computed anew


@dataclass(frozen=True)
class HeadStatistics:
    """The first two moments of a head's rows over the real tokens: neither special, reserved, unused nor padding.

    Attributes:
        mean: [d] float64, μ.
        factor: [d, d] float64, F with F Fᵀ = C, the covariance (divided by the number of tokens).
        tokens: how many there are.
    """

    mean: NDArray[np.float64]
    factor: NDArray[np.float64]
    tokens: int

    @classmethod
    def of(cls, head: Tensor, excluded: NDArray[np.bool_], device: str = "cpu") -> HeadStatistics:
        """The moments of a head [V, d], without the rows that are excluded [V].

        Raises:
            CheckpointError: there are fewer than two real tokens.
        """
        real = torch.from_numpy(np.flatnonzero(~excluded))
        if len(real) < 2:
            raise CheckpointError(f"this vocabulary has {len(real)} real tokens: a contrast needs at least two")
        mean = torch.zeros(head.shape[1], dtype=torch.float64)
        for part in real.split(_ROWS):
            mean += head[part].double().sum(0)
        mean /= len(real)
        covariance = torch.zeros(head.shape[1], head.shape[1], dtype=torch.float64)
        for part in real.split(_ROWS):
            centred = (head[part].double() - mean).to(device, torch.float32)
            covariance += (centred.T @ centred).to("cpu", torch.float64)
        return cls(mean.numpy(), factor_of(covariance / len(real)).numpy(), len(real))


def head_statistics(checkpoint: Checkpoint, *, device: str = "cpu", cache: bool = True) -> HeadStatistics:
    """The statistics of a model's head, read from the user's cache folder where they were computed before.

    Args:
        checkpoint: the model.
        device: where the products are computed.
        cache: whether to read and write the cache folder, see `cache_folder`. One that cannot be written is left alone.
    """
    head, excluded = checkpoint.head(), checkpoint.vocabulary.excluded
    if not cache:
        return HeadStatistics.of(head, excluded, device)
    path = cache_folder() / f"head-{_key(head, excluded)}.safetensors"
    try:
        arrays, about = read_arrays(path)
        return HeadStatistics(arrays["mean"], arrays["factor"], int(about["tokens"]))
    except (OSError, ValueError, KeyError):  # not there, or cut short: it is computed again
        found = HeadStatistics.of(head, excluded, device)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_arrays(path, {"mean": found.mean, "factor": found.factor}, {"tokens": str(found.tokens)})
    except (OSError, MapError):
        pass  # a read-only home: the next search computes it again
    return found


def cache_folder() -> Path:
    """Where what can be computed again is kept: ``FLASHINTERP_CACHE``, else the platform's folder for caches."""
    if own := os.environ.get("FLASHINTERP_CACHE"):
        return Path(own)
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "flashinterp"


def _key(head: Tensor, excluded: NDArray[np.bool_]) -> str:
    """A digest of the head's own bytes, and of which tokens are real; of nothing else of the model."""
    digest = hashlib.sha256(f"{_FORM} {head.dtype} {tuple(head.shape)}".encode())
    for part in head.split(_ROWS):
        digest.update(part.contiguous().view(torch.uint8).cpu().numpy().data)
    digest.update(np.packbits(excluded).data)
    return digest.hexdigest()[:32]


def factor_of(covariance: Tensor) -> Tensor:
    """F [d, d] with F Fᵀ = C, of a covariance or a second moment in float64.

    ‖w F‖ loses no digits where w lies in a direction of little variance, as wᵀ C w would.
    """
    lower: Tensor
    lower, failed = torch.linalg.cholesky_ex(covariance)
    if int(failed):  # fewer tokens than dimensions, or rows that depend on each other
        values, vectors = torch.linalg.eigh(covariance)
        lower = vectors * values.clamp(min=0).sqrt()
    return lower
