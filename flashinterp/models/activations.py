"""Natural activations: what neurons do on text when nobody touches them.

Everything causal is measured in units of these: doses, controls' scale, the gate that decides whether a
clamp can act at all.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flashinterp.errors import RunError
from flashinterp.models.experts import ExpertRows, Routing, Vectors, forget, written_in
from flashinterp.models.forward_pass import Held, PassShape, input_device
from flashinterp.models.layout import Layout, module_at
from flashinterp.models.layout_reader import layout_of
from flashinterp.models.mlp_formula import Formula
from flashinterp.neurons import Block, NeuronId, Site

FloatArray = NDArray[np.float32]
_ROWS = 32  # texts of one length that share a pass: bounds memory at rows × positions × F of the captured blocks


@dataclass(frozen=True)
class Activations:
    """One block's neurons on one text.

    Attributes:
        up: [positions, F] u = W_up x̂, with a bias where there is one.
        gate: [positions, F] g = W_gate x̂; u again in an MLP without a gate.
        weight: [positions] what the block's output is multiplied by: the routing weight of an expert, 0 where a
            token is not routed to it; 1 for a dense MLP.
        formula: what the model makes of u and g.
    """

    up: FloatArray
    gate: FloatArray
    weight: FloatArray
    formula: Formula

    @cached_property
    def act(self) -> FloatArray:
        """[positions, F] what multiplies u: the activation of g; without a gate, that of u over u."""
        return self._made(self.formula.opened)

    @cached_property
    def post(self) -> FloatArray:
        """[positions, F] the neuron's output, which multiplies its column of W_down: u · act(g), or act(u)."""
        return self._made(self.formula.output)

    @property
    def written(self) -> FloatArray:
        """[positions, F] what multiplies the column of W_down in the end: the output, times the routing weight."""
        return self.post * self.weight[:, None]

    def _made(self, part: Any) -> FloatArray:
        made: FloatArray = part(torch.from_numpy(self.gate), torch.from_numpy(self.up)).numpy()
        return made


def encode(tokenizer: Any, text: str, device: Any = "cpu") -> Tensor:
    """Token ids [1, positions] of a text, with the special tokens that the tokenizer adds.

    Raises:
        RunError: the text is empty once tokenised.
    """
    ids: Tensor = tokenizer(text, return_tensors="pt", return_token_type_ids=False)["input_ids"]
    if ids.numel() == 0:
        raise RunError(f"the prompt {text!r} has no tokens: give a text of at least one word")
    return ids.to(device)


@torch.no_grad()
def capture(model: Any, sequences: Sequence[Tensor], where: Sequence[int | Block]) -> list[dict[Block, Activations]]:
    """Record u and g of the given blocks on each sequence [1, positions]; those of one length share a pass.

    An expert's neurons have their values at every position, also where no token is routed to them: what they would
    be on what the experts read there.

    Args:
        model: a live transformers model of a known family.
        sequences: token ids.
        where: layers, which stand for their dense or shared MLPs, and blocks.

    Returns:
        For each sequence, block to `Activations`.

    Raises:
        NeuronError: there is no such block.
    """
    layout = layout_of(model)
    blocks = [Block.of(one) for one in where]
    for block in blocks:
        layout.roster.width(block)
    results: list[dict[Block, Activations]] = [{} for _ in sequences]
    routed: list[dict[int, _Routed]] = [{} for _ in sequences]
    for batch in _by_length(sequences):
        with _recorder(model, layout, blocks) as seen:
            together = torch.cat([sequences[i] for i in batch]).to(input_device(model))
            model(together, use_cache=False, logits_to_keep=1)
        for row, i in enumerate(batch):
            results[i] = {block: _of_dense(seen.dense, block, row, layout) for block in blocks if block.expert is None}
            routed[i] = {layer: _Routed(inputs, row) for layer, inputs in seen.routed.items()}
    # Experts outside, texts inside: the rows of one expert at a time.
    for block in (block for block in blocks if block.expert is not None):
        rows = None
        for result, inputs in zip(results, routed, strict=True):
            mine = inputs[block.layer]
            rows = rows or ExpertRows(model).of_block(block, mine.inputs.routing.x.device)
            result[block] = _of_expert(mine, rows, block, layout)
    return results


def _by_length(sequences: Sequence[Tensor]) -> Iterator[list[int]]:
    """The places of sequences of one length, up to a passful of them at a time: nothing is padded."""
    places: dict[int, list[int]] = defaultdict(list)
    for place, ids in enumerate(sequences):
        places[ids.shape[1]].append(place)
    for same in places.values():
        yield from (same[i : i + _ROWS] for i in range(0, len(same), _ROWS))


def _of_dense(seen: dict[tuple[Block, Site], FloatArray], block: Block, row: int, layout: Layout) -> Activations:
    up = seen[block, "up"][row]
    gate = seen[block, "gate"][row] if (block, "gate") in seen else up
    return Activations(up, gate, np.ones(len(up), dtype=np.float32), layout.formula)


@dataclass(frozen=True)
class _Inputs:
    """What one layer's experts got in one pass, and what clamps around the capture wrote there."""

    routing: Routing
    written: list[Any]


@dataclass(frozen=True)
class _Routed:
    """One text's part of a pass."""

    inputs: _Inputs
    row: int


@dataclass(frozen=True)
class _Seen:
    """One pass: u and g [rows, positions, F] of dense blocks, and what the experts of each layer got."""

    dense: dict[tuple[Block, Site], FloatArray]
    routed: dict[int, _Inputs]


def _of_expert(seen: _Routed, vectors: Vectors, block: Block, layout: Layout) -> Activations:
    routing, at = seen.inputs.routing, slice(seen.row, seen.row + 1)
    values = vectors.values(routing.x[at])
    columns = {NeuronId(block.layer, n, block.expert): n for n in range(layout.roster.width(block))}
    for theirs, outer in seen.inputs.written:
        values.take(columns, outer.rows(at), theirs)
    weight = routing.weight(vectors.experts)[at]
    up, gate, share = (part[0].cpu().numpy() for part in (values.up, values.gate, weight[..., 0]))
    return Activations(up, gate, share, layout.formula)


@contextmanager
def _recorder(model: Any, layout: Layout, blocks: Sequence[Block]) -> Iterator[_Seen]:
    """Keep what passes: u and g of dense blocks, and what the experts of a layer got."""
    seen = _Seen({}, {})
    with ExitStack() as hooks:

        def keep_dense(block: Block, site: Site, shape: PassShape) -> None:
            tap = layout.tap(site, block.layer)
            module = module_at(model, tap.module, layout.model_type)

            def keep(_: Any, args: Any, out: Tensor) -> None:
                values = Held.of(out, tap, module).gather(shape.unflatten(out))
                # A copy: the model may go on to write into its own tensor.
                seen.dense[block, site] = values.to("cpu", torch.float32, copy=True).contiguous().numpy()

            hooks.enter_context(module.register_forward_hook(keep))

        def keep_routed(layer: int, shape: PassShape) -> None:
            def keep(module: Any, args: tuple[Any, ...], out: Tensor) -> None:
                seen.routed[layer] = _Inputs(Routing.of(module, args, shape, out.device), written_in(module, args))

            module = module_at(model, layout.experts_module(layer), layout.model_type)
            hooks.callback(forget, module)
            hooks.enter_context(module.register_forward_hook(keep))

        for layer in sorted({block.layer for block in blocks}):
            shape = PassShape()
            whole = module_at(model, layout.layer(layer), layout.model_type)
            hooks.enter_context(whole.register_forward_pre_hook(shape, with_kwargs=True))
            if Block(layer) in blocks:
                for site in (site for site in layout.sites if site != "post"):
                    keep_dense(Block(layer), site, shape)
            if any(block.layer == layer and block.expert is not None for block in blocks):
                keep_routed(layer, shape)
        yield seen
