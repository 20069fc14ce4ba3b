"""From a checkpoint to a `NeuronMap`: every neuron decoded, layer by layer, without building the model."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from flashinterp._util.arrays import Arrays
from flashinterp.decoding.backends.choice import Way, choose_way
from flashinterp.decoding.backends.score import SCORE_TOKENS
from flashinterp.decoding.lens_rows import LayerDecode, check_layers, decode_layers
from flashinterp.decoding.neuron_map import NeuronMap
from flashinterp.decoding.resume import LayerParts
from flashinterp.errors import CheckpointError, MapError
from flashinterp.models.checkpoint import Checkpoint, open_checkpoint
from flashinterp.neurons import get_lens

Progress = Callable[[int, int], None]


def decode(
    checkpoint: Any,
    *,
    lens: str = "paper",
    top_k: int = SCORE_TOKENS,
    layers: Sequence[int] | None = None,
    device: str = "auto",
    dtype: str = "auto",
    head_of: Any = None,
    save_to: str | Path | None = None,
    progress: Progress | None = None,
) -> NeuronMap:
    """Decode every neuron of a model with its LM head (METHOD 2; paper, section 2).

    Under ``accelerate launch`` (or torchrun) the processes share the layers, and ``save_to`` must be a place that
    all of them see.

    Args:
        checkpoint: a `Checkpoint`, or whatever `open_checkpoint` takes.
        lens: ``paper``, ``read``, ``gate``, ``write`` or ``logit-lens``.
        top_k: tokens to keep per neuron and pole, at most V.
        layers: which layers; all by default.
        device: ``auto`` takes a CUDA GPU where there is one.
        dtype: ``float32`` or ``float64``: logits are ranked in it, never rounded before. ``auto`` ranks in float32, and
            where bfloat16 weights meet a processor that multiplies them, finds the candidates that way: the same ids
            and logits, sooner; logsumexp to about 1e-5. ``meta["way"]`` says what was done.
        head_of: another checkpoint whose head and final norm to use, to tell a change of rows from one of
            the head (METHOD 5).
        save_to: where the map goes. Each finished layer is kept beside it until the map is whole, so that a
            decode that was killed goes on where it stopped.
        progress: called with (layers done, layers in all); by default a bar is drawn on a terminal, from the
            second second on.

    Raises:
        CheckpointError, LayoutError, NeuronError, MapError: see each; no map is written.
    """
    plan = _plan(checkpoint, lens, top_k, layers, device, dtype, head_of)
    index, count = _process(plan.device)
    if save_to is None:
        if count > 1:
            raise MapError(f"{count} processes share this decode: give save_to, a file that all of them see")
        return plan.join([_arrays(part) for part in plan.run(plan.layers, progress)])

    target = Path(save_to)
    parts = LayerParts(target, plan.meta)
    missing = [layer for layer in plan.layers[index::count] if parts.load(layer) is None]
    for part in plan.run(missing, progress):
        parts.save(part.layer, _arrays(part))
    _wait(count, plan.device)
    if index == 0:
        plan.join([_whole(parts, layer) for layer in plan.layers]).save(target)
        parts.remove()
    _wait(count, plan.device)
    return NeuronMap.load(target)


@dataclass(frozen=True)
class _Plan:
    """What is decoded and how, with every "auto" resolved."""

    source: Checkpoint
    head_of: Checkpoint | None
    lens: str
    top_k: int
    layers: tuple[int, ...]
    device: str
    dtype: torch.dtype
    way: Way
    meta: dict[str, Any]

    def run(self, layers: Sequence[int], progress: Progress | None) -> Iterator[LayerDecode]:
        """Decode some of the layers."""
        roster = self.source.layout.roster
        # disable=None: no bar where the output is no terminal.
        with tqdm(
            total=len(roster.of_layers(layers)),
            unit="row",
            unit_scale=True,
            delay=2,
            disable=True if progress else None,
        ) as bar:
            for part in decode_layers(
                self.source,
                get_lens(self.lens),
                layers,
                top_k=self.top_k,
                device=self.device,
                dtype=self.dtype,
                way=self.way,
                head_of=self.head_of,
                progress=progress,
            ):
                bar.set_description(f"layer {part.layer}", refresh=False)
                bar.update(len(part.norms))
                yield part

    def join(self, parts: Sequence[Arrays]) -> NeuronMap:
        """Put the layers' arrays together."""
        arrays: dict[str, Any] = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        vocabulary = (self.head_of or self.source).vocabulary
        roster = self.source.layout.roster.of_layers(self.layers)
        return NeuronMap(**arrays, roster=roster, vocabulary=vocabulary, meta=self.meta)


def _plan(
    checkpoint: Any, lens: str, top_k: int, layers: Sequence[int] | None, device: str, dtype: str, head_of: Any
) -> _Plan:
    """Open the weights and resolve every argument, before anything is computed."""
    source = open_checkpoint(checkpoint)
    other = None if head_of is None else open_checkpoint(head_of)
    if other is not None and other.layout.d_model != source.layout.d_model:
        raise MapError(
            f"the head of {other.name} reads {other.layout.d_model} dimensions, {source.name} has "
            f"{source.layout.d_model}: take the head of a model of the same hidden size"
        )
    wanted = check_layers(source, layers)
    chosen = get_lens(lens)
    source.layout.weight(chosen.weight, source.layout.roster.blocks[0])  # refuses a gate that is not there
    on, rank_in = _resolve(device, dtype)
    way = _way(other or source, chosen.residual, on, rank_in, top_k, exact_mass=dtype == "float32")
    meta = {
        "model": source.name,
        "revision": source.revision,
        "weights": source.digests,
        "head_of": other.name if other else None,
        "head_weights": other.digests if other else None,
        "lens": chosen.name,
        "softcap": (other or source).layout.softcap,
        "top_k": top_k,
        "device": on,
        "dtype": str(rank_in).removeprefix("torch."),
        "way": vars(way),
        "passed": {"device": device, "dtype": dtype},
        "versions": {name: version(name) for name in ("flashinterp", "torch", "transformers", "safetensors")},
    }
    return _Plan(source, other, chosen.name, top_k, wanted, on, rank_in, way, meta)


def _way(head_from: Checkpoint, residual: bool, device: str, rank_in: torch.dtype, top_k: int, exact_mass: bool) -> Way:
    """How this decode is done; the residual lenses compute their rows, so these are no longer as stored."""
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


def _arrays(part: LayerDecode) -> Arrays:
    """One layer's arrays under the map's names."""
    arrays = {"norms": part.norms}
    for prefix, pole in (("", part.plus), ("bottom_", part.minus)):
        pole_arrays = {f"{prefix}logsumexp": pole.logsumexp, f"{prefix}log_mean_top": pole.log_mean_top}
        arrays |= {f"{prefix or 'top_'}ids": pole.ids, f"{prefix or 'top_'}logits": pole.logits, **pole_arrays}
    arrays["bottom_logits"] = -arrays["bottom_logits"]  # as of +w
    return {
        name: tensor.cpu().numpy().astype(np.int32 if name.endswith("ids") else np.float32, copy=False)
        for name, tensor in arrays.items()
    }


def _whole(parts: LayerParts, layer: int) -> Arrays:
    arrays = parts.load(layer)
    if arrays is None:
        raise MapError(f"layer {layer} is missing from {parts.folder}: run the same decode again, it goes on there")
    return arrays


def _process(device: str) -> tuple[int, int]:
    """This process's index and their number, as a launcher says them; (0, 1) without one."""
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if launched == 1:
        return 0, 1
    state = _state(device)
    if state.num_processes != launched:
        raise MapError(
            f"{launched} processes were launched and {state.num_processes} found each other: use one launcher"
        )
    return state.process_index, launched


def _wait(count: int, device: str) -> None:
    if count > 1:
        _state(device).wait_for_everyone()


def _state(device: str) -> Any:
    """The process group, joined at the first call; without a word on the CPU, accelerate would not join one there."""
    from accelerate import PartialState

    return PartialState(cpu=device == "cpu")


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
