"""A clamp that outlives its hooks: a standard checkpoint whose logits are the clamped model's (METHOD 6).

A neuron is fixed by weights alone. At ``up`` and ``gate`` its row becomes zeros and its bias the value, which gives
exactly that value at every position. At ``post`` its column of W_down becomes zeros, and what it would always write
goes into W_down's bias. Both need a bias that the architecture has, or a switch in its config that gives it one.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flashinterp.errors import ClampError
from flashinterp.models.checkpoint import Checkpoint, open_checkpoint
from flashinterp.models.checkpoint_copy import copy_checkpoint, with_config
from flashinterp.models.layout import Layout, Weight
from flashinterp.models.weights.shard_writer import Changes
from flashinterp.neurons import SITES, Block, NeuronId, Site, WeightKind

SWITCHES = {
    "llama": "mlp_bias",
    "granite": "mlp_bias",
    "nemotron": "mlp_bias",
    "arcee": "mlp_bias",
    "seed_oss": "mlp_bias",
    "smollm3": "mlp_bias",
    "ernie4_5": "use_bias",  # of the attention, too: zeros there
    "starcoder2": "use_bias",
    "opt": "enable_bias",
}
"""Families whose config turns the biases of the MLP on and off; a test compares it with every family's config."""
MOST_ROUNDING = 2.0**-8
"""By how much of itself a value may change when it is stored: a bfloat16 of normal size is off by 2^-9 at most."""
_MATRIX: dict[Site, WeightKind] = {"up": "up", "gate": "gate", "post": "down"}
_Edit = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Exported:
    """A checkpoint in which neurons are fixed.

    Attributes:
        folder: where it is.
        site: where the neurons are fixed.
        asked: each neuron's value as it was given.
        stored: the value that the checkpoint holds, rounded to the dtype of the weights: the copy's logits are those
            of the source clamped at these. A model in that dtype rounds a clamp's value alike.
        dtype: of the weights.
        switch: the field of config.json that was turned on, None where the model had the biases.
    """

    folder: Path
    site: Site
    asked: dict[NeuronId, float]
    stored: dict[NeuronId, float]
    dtype: str
    switch: str | None


def export_clamped(
    checkpoint: Checkpoint | str | Path,
    clamps: Mapping[str, float] | Mapping[NeuronId, float],
    folder: str | Path,
    *,
    site: Site = "up",
) -> Exported:
    """Write a checkpoint that computes at every position what ``clamp(model, clamps, site=site)`` does.

    Equivalent, for site ``up`` and neuron n, to::

        W_up[n], b_up[n] = 0, value                                         # exactly the value, whatever is read

    and for ``post`` to::

        b_down, W_down[:, n] = b_down + value * W_down[:, n], 0             # up to one rounding to the stored dtype

    The other biases that a switch turns on are zeros. No model is built, and one tensor is in memory at a time.

    Args:
        checkpoint: opened, or its folder or Hub id.
        clamps: neuron to value, of any layers. One number each: a checkpoint cannot tell positions apart.
        folder: a new folder; it is loaded with ``AutoModelForCausalLM.from_pretrained``, without flashinterp.
        site: as for `clamp`.

    Raises:
        ClampError: it cannot be exact: the architecture has no bias there and no switch for one, the neuron is an
            expert's, or the weights' dtype does not hold the value within `MOST_ROUNDING` of itself.
        CheckpointError: the source is quantised or a live model, or the folder cannot be written.
        NeuronError, LayoutError: there is no such neuron or site.
    """
    source = open_checkpoint(checkpoint)
    asked = _values(source, clamps, site)
    blocks = sorted({neuron.block for neuron in asked})
    fields = _fields(source, site, blocks)
    layout = with_config(source, fields)
    for block in blocks:
        _check_bias(layout, site, block)
    dtypes = {block: source.rows(_MATRIX[site], block).dtype for block in blocks}
    stored = {neuron: _rounded(neuron, value, dtypes[neuron.block]) for neuron, value in asked.items()}
    note = {
        "what": "export_clamped",
        "site": site,
        "clamps": {str(neuron): value for neuron, value in asked.items()},
        "stored": {str(neuron): value for neuron, value in stored.items()},
        "config": fields,
    }
    made = copy_checkpoint(source, folder, Changes(_edits(source, layout, stored, site), fields, note))
    dtype = ", ".join(sorted({str(dtype).removeprefix("torch.") for dtype in dtypes.values()}))
    return Exported(made, site, asked, stored, dtype, next(iter(fields), None))


def _values(
    checkpoint: Checkpoint, clamps: Mapping[str, float] | Mapping[NeuronId, float], site: Site
) -> dict[NeuronId, float]:
    """The neurons, which exist, and their values, which are numbers."""
    if site not in SITES:
        raise ClampError(f"unknown site {site!r}: choose one of {', '.join(SITES)}")
    if not clamps:
        raise ClampError("there is nothing to export: name at least one neuron and its value")
    values: dict[NeuronId, float] = {}
    for name, given in clamps.items():
        neuron = checkpoint.layout.roster.check(NeuronId.parse(name))
        if neuron in values:
            raise ClampError(f"{neuron} is named twice: give it one value")
        if neuron.expert is not None:
            raise ClampError(
                f"{neuron} cannot be exported: it is in an expert of a {checkpoint.layout.model_type} model, and only "
                "neurons of dense MLPs are; use `clamp`, which takes any"
            )
        checkpoint.layout.weight(_MATRIX[site], neuron.block)  # there is no gate, in some
        values[neuron] = _number(neuron, given)
    return values


def _number(neuron: NeuronId, given: Any) -> float:
    try:
        value = float(given)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ClampError(
            f"{neuron} cannot be exported at {given!r}: give one number, a checkpoint has the same value at every "
            "position"
        ) from error
    if not math.isfinite(value):
        raise ClampError(f"{neuron} cannot be exported at {value}: give a finite number")
    return value


def _rounded(neuron: NeuronId, value: float, dtype: torch.dtype) -> float:
    """The value as the dtype holds it."""
    stored = float(torch.tensor(value, dtype=torch.float64).to(dtype))
    if not math.isfinite(stored) or abs(stored - value) > MOST_ROUNDING * abs(value):
        raise ClampError(
            f"{neuron} cannot be exported at {value:g}: these weights are {dtype}, which would store {stored:g}, off "
            f"by more than {MOST_ROUNDING:.1%}; choose a value in its range, or a checkpoint in float32"
        )
    return stored


def _fields(checkpoint: Checkpoint, site: Site, blocks: list[Block]) -> dict[str, Any]:
    """The switch to turn on, where a bias is wanted that is not there."""
    switch = SWITCHES.get(checkpoint.layout.model_type)
    there = all(checkpoint.layout.weight(_MATRIX[site], block).bias for block in blocks)
    return {} if there or switch is None else {switch: True}


def _check_bias(layout: Layout, site: Site, block: Block) -> None:
    if layout.weight(_MATRIX[site], block).bias is None:
        raise ClampError(
            f"a clamp at {site} cannot be exported: the MLP of a {layout.model_type} model has no bias there that "
            "could hold the value, and its config no switch for one; use `clamp`, which needs none (exact are "
            f"{', '.join(sorted(SWITCHES))}, gpt2, gpt_neox, gptj and phi)"
        )


def _edits(checkpoint: Checkpoint, layout: Layout, values: Mapping[NeuronId, float], site: Site) -> dict[str, _Edit]:
    """For each block with clamped neurons, what becomes of its matrix at the site, and of the bias there."""
    by_block: dict[Block, dict[int, float]] = defaultdict(dict)
    for neuron, value in values.items():
        by_block[neuron.block][neuron.neuron] = value
    edits: dict[str, _Edit] = {}
    for block, fixed in by_block.items():
        weight = layout.weight(_MATRIX[site], block)
        assert weight.bias is not None  # checked
        edits[weight.tensor] = _zeroed(weight, fixed)
        edits[weight.bias] = _written(checkpoint, block, fixed) if site == "post" else _set(weight, fixed)
    return edits


def vector_of(tensor: Tensor, weight: Weight, neuron: int) -> Tensor:
    """The view of a stored matrix that holds one dense neuron's vector [d]."""
    size = tensor.shape[0 if weight.by_row else 1]
    at = range(*weight.neurons.indices(size))[neuron]
    return tensor[at] if weight.by_row else tensor[:, at]


def _zeroed(weight: Weight, fixed: Mapping[int, float]) -> _Edit:
    def edit(tensor: Tensor) -> Tensor:
        for neuron in fixed:
            vector_of(tensor, weight, neuron).zero_()
        return tensor

    return edit


def _set(weight: Weight, fixed: Mapping[int, float]) -> _Edit:
    def edit(bias: Tensor) -> Tensor:
        places = range(*weight.neurons.indices(len(bias)))
        for neuron, value in fixed.items():
            bias[places[neuron]] = value
        return bias

    return edit


def _written(checkpoint: Checkpoint, block: Block, fixed: Mapping[int, float]) -> _Edit:
    def edit(bias: Tensor) -> Tensor:
        columns = checkpoint.rows("down", block)  # one neuron a row
        total = bias.double()
        for neuron, value in fixed.items():
            total += value * columns[neuron].double()
        new = total.to(bias.dtype)
        if not bool(torch.isfinite(new).all()):
            raise ClampError(
                f"the clamps in {block} cannot be exported: what they write is beyond {bias.dtype}; choose smaller "
                "values, or a checkpoint in float32"
            )
        return new

    return edit
