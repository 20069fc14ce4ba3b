"""From a checkpoint to a `NeuronMap`: every neuron decoded, layer by layer, without building the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from flashinterp.checkpoint import open_checkpoint
from flashinterp.decode import SCORE_TOKENS, Pole, check_layers, decode_layers
from flashinterp.errors import CheckpointError, MapError
from flashinterp.neuron import get_lens
from flashinterp.neuron_map import NeuronMap


def decode(
    checkpoint: Any,
    *,
    lens: str = "paper",
    top_k: int = SCORE_TOKENS,
    layers: Sequence[int] | None = None,
    device: str = "auto",
    dtype: str = "auto",
    head_of: Any = None,
    progress: Callable[[int, int], None] | None = None,
) -> NeuronMap:
    """Decode every neuron of a model with its LM head (METHOD 2; paper, section 2).

    Args:
        checkpoint: a `Checkpoint`, or whatever `open_checkpoint` takes.
        lens: ``paper``, ``read``, ``gate``, ``write`` or ``logit-lens``.
        top_k: tokens to keep per neuron and pole, at most V.
        layers: which layers; all by default.
        device: ``auto`` takes a CUDA GPU where there is one.
        dtype: ``float32`` (also ``auto``) or ``float64``; logits are ranked in it, never rounded before.
        head_of: another checkpoint whose head and final norm to use, to tell a change of rows from one of
            the head (METHOD 5).
        progress: called with (layers done, layers in all).

    Raises:
        CheckpointError, LayoutError, NeuronError, MapError: see each; nothing is written.
    """
    source = open_checkpoint(checkpoint)
    other = None if head_of is None else open_checkpoint(head_of)
    if other is not None and other.layout.d_model != source.layout.d_model:
        raise MapError(
            f"the head of {other.name} reads {other.layout.d_model} dimensions, {source.name} has "
            f"{source.layout.d_model}: take the head of a model of the same hidden size"
        )
    chosen = get_lens(lens)
    wanted = check_layers(source, layers)
    resolved = _resolve(device, dtype)
    vocabulary = (other or source).vocabulary
    parts = list(
        decode_layers(
            source, chosen, wanted, top_k=top_k, device=resolved[0], dtype=resolved[1], head_of=other, progress=progress
        )
    )
    arrays = {"norms": np.concatenate([p.norms.cpu().numpy() for p in parts])}
    for prefix, side in (("", "plus"), ("bottom_", "minus")):
        poles = [getattr(p, side) for p in parts]
        arrays[f"{prefix or 'top_'}ids"] = _numpy(poles, "ids", np.int32)
        arrays[f"{prefix or 'top_'}logits"] = _numpy(poles, "logits", np.float32)
        arrays[f"{prefix}logsumexp"] = _numpy(poles, "logsumexp", np.float32)
        arrays[f"{prefix}log_mean_top"] = _numpy(poles, "log_mean_top", np.float32)
    arrays["bottom_logits"] = -arrays["bottom_logits"]  # as of +w
    meta = {
        "model": source.name,
        "revision": source.revision,
        "weights": source.digests,
        "head_of": other.name if other else None,
        "head_weights": other.digests if other else None,
        "lens": chosen.name,
        "top_k": top_k,
        "device": resolved[0],
        "dtype": str(resolved[1]).removeprefix("torch."),
        "passed": {"device": device, "dtype": dtype},
        "versions": {name: version(name) for name in ("flashinterp", "torch", "transformers", "safetensors")},
    }
    return NeuronMap(**arrays, layers=wanted, n_neurons=source.layout.n_neurons, vocabulary=vocabulary, meta=meta)


def _numpy(poles: list[Pole], field: str, dtype: Any) -> NDArray[Any]:
    return np.concatenate([getattr(p, field).cpu().numpy() for p in poles]).astype(dtype, copy=False)


def _resolve(device: str, dtype: str) -> tuple[str, torch.dtype]:
    """Turn "auto" into a device and a dtype, once."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # AssertionError: a torch built without CUDA
        raise CheckpointError(f"there is no device {device!r} here: choose auto, cpu, or cuda on a GPU") from error
    dtypes = {"auto": torch.float32, "float32": torch.float32, "float64": torch.float64}
    if dtype not in dtypes:
        raise CheckpointError(f"logits cannot be ranked in {dtype!r}: choose auto, float32 or float64")
    return device, dtypes[dtype]
