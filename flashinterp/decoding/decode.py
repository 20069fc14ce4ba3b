"""From a checkpoint to a `NeuronMap`: every neuron decoded, layer by layer, without building the model."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from flashinterp._util.arrays import Arrays
from flashinterp.decoding.backends.score import SCORE_TOKENS
from flashinterp.decoding.lens_rows import LayerDecode, decode_layers
from flashinterp.decoding.neuron_map import NeuronMap
from flashinterp.decoding.plan import DecodePlan, make_plan
from flashinterp.decoding.resume import LayerParts
from flashinterp.errors import MapError

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
    plan = make_plan(checkpoint, lens=lens, top_k=top_k, layers=layers, device=device, dtype=dtype, head_of=head_of)
    index, count = _process(plan.device)
    if save_to is None:
        if count > 1:
            raise MapError(f"{count} processes share this decode: give save_to, a file that all of them see")
        return _join(plan, [_arrays(part) for part in _run(plan, plan.layers, progress)])

    target = Path(save_to)
    parts = LayerParts(target, plan.meta)
    missing = [layer for layer in plan.layers[index::count] if parts.load(layer) is None]
    for part in _run(plan, missing, progress):
        parts.save(part.layer, _arrays(part))
    _wait(count, plan.device)
    if index == 0:
        _join(plan, [_whole(parts, layer) for layer in plan.layers]).save(target)
        parts.remove()
    _wait(count, plan.device)
    return NeuronMap.load(target)


def _run(plan: DecodePlan, layers: Sequence[int], progress: Progress | None) -> Iterator[LayerDecode]:
    """Decode some of a plan's layers, with a bar on a terminal."""
    roster = plan.source.layout.roster
    # disable=None: no bar where the output is no terminal.
    with tqdm(
        total=len(roster.of_layers(layers)), unit="row", unit_scale=True, delay=2, disable=True if progress else None
    ) as bar:
        for part in decode_layers(plan, layers, progress=progress):
            bar.set_description(f"layer {part.layer}", refresh=False)
            bar.update(len(part.norms))
            yield part


def _join(plan: DecodePlan, parts: Sequence[Arrays]) -> NeuronMap:
    """Put the layers' arrays together."""
    arrays: dict[str, Any] = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    roster = plan.source.layout.roster.of_layers(plan.layers)
    return NeuronMap(**arrays, roster=roster, vocabulary=plan.head_from.vocabulary, meta=plan.meta)


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
