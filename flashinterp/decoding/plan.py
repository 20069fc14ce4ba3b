"""What a decode will do, with every "auto" resolved: lens, layers, device, dtype and backend, once and for all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import torch

from flashinterp.decoding.backends.choice import Way, choose_way
from flashinterp.decoding.backends.score import SCORE_TOKENS
from flashinterp.errors import CheckpointError, MapError, NeuronError
from flashinterp.models.checkpoint import Checkpoint, open_checkpoint
from flashinterp.neuron_index import span
from flashinterp.neurons import Lens, get_lens


@dataclass(frozen=True)
class DecodePlan:
    """What is decoded and how.

    Attributes:
        source: the model's weights.
        head_of: the model whose head and final norm are used instead; None for the source's own.
        lens: which vectors, and how they come to the head.
        top_k: tokens to keep per neuron and pole.
        layers: which, ascending.
        device, dtype: where, and what logits are ranked in.
        way: the backend, and why it.
        passed: device and dtype as they were given.
    """

    source: Checkpoint
    head_of: Checkpoint | None
    lens: Lens
    top_k: int
    layers: tuple[int, ...]
    device: str
    dtype: torch.dtype
    way: Way
    passed: dict[str, str]

    @property
    def head_from(self) -> Checkpoint:
        """The model whose head is used."""
        return self.head_of or self.source

    @property
    def meta(self) -> dict[str, Any]:
        """What a map records of where it comes from."""
        return {
            "model": self.source.name,
            "revision": self.source.revision,
            "weights": self.source.digests,
            "head_of": self.head_of.name if self.head_of else None,
            "head_weights": self.head_of.digests if self.head_of else None,
            "lens": self.lens.name,
            "softcap": self.head_from.layout.softcap,
            "top_k": self.top_k,
            "device": self.device,
            "dtype": str(self.dtype).removeprefix("torch."),
            "way": vars(self.way),
            "passed": self.passed,
            "versions": {name: version(name) for name in ("flashinterp", "torch", "transformers", "safetensors")},
        }


def make_plan(
    checkpoint: Any,
    *,
    lens: str | Lens = "paper",
    top_k: int = SCORE_TOKENS,
    layers: Sequence[int] | None = None,
    device: str = "auto",
    dtype: str = "auto",
    head_of: Any = None,
) -> DecodePlan:
    """Open the weights and resolve every argument of `decode`, before anything is computed.

    Raises:
        CheckpointError, LayoutError, NeuronError, MapError: something is not there, or does not fit.
    """
    source = open_checkpoint(checkpoint)
    other = None if head_of is None else open_checkpoint(head_of)
    if other is not None and other.layout.d_model != source.layout.d_model:
        raise MapError(
            f"the head of {other.name} reads {other.layout.d_model} dimensions, {source.name} has "
            f"{source.layout.d_model}: take the head of a model of the same hidden size"
        )
    chosen = get_lens(lens)
    source.layout.weight(chosen.weight, source.layout.roster.blocks[0])  # refuses a gate that is not there
    on, rank_in = _resolve(device, dtype)
    return DecodePlan(
        source=source,
        head_of=other,
        lens=chosen,
        top_k=top_k,
        layers=check_layers(source, layers),
        device=on,
        dtype=rank_in,
        way=_way(other or source, chosen.residual, on, rank_in, top_k, exact_mass=dtype == "float32"),
        passed={"device": device, "dtype": dtype},
    )


def check_layers(checkpoint: Checkpoint, layers: Sequence[int] | None) -> tuple[int, ...]:
    """All layers for None; else the given ones, ascending and in range.

    Raises:
        NeuronError: a layer is out of range, or none is given.
    """
    there = checkpoint.layout.roster.layers
    if layers is None:
        return there
    chosen = tuple(sorted(set(layers)))
    out = [n for n in chosen if n not in there]
    if out or not chosen:
        fact = f"layer {out[0]} is out of range" if out else "no layer was named"
        raise NeuronError(f"{fact}: this model has layers {span(there)}; choose some of these")
    return chosen


def _way(head_from: Checkpoint, residual: bool, device: str, rank_in: torch.dtype, top_k: int, exact_mass: bool) -> Way:
    """The backend of this decode; the residual lenses compute their rows, so these are no longer as stored."""
    layout = head_from.layout
    weights = rank_in if residual else head_from.head_dtype()
    return choose_way(
        device,
        weights,
        rank_in,
        d=layout.d_model,
        vocab=layout.vocab_size,
        top_k=top_k,
        softcap=layout.softcap,
        exact_mass=exact_mass,
    )


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
