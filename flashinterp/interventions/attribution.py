"""What one backward pass says of every neuron: the first-order effect of driving it, for many tokens at once.

It costs a few passes where the measured effects cost one for each neuron, so it is what a lens, which costs none, has
to be compared with. It is exact to first order in what the neuron writes, and blind to all that comes after that.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flashinterp.errors import RunError, first_line
from flashinterp.models.activations import Activations, capture
from flashinterp.models.checkpoint import open_checkpoint
from flashinterp.models.forward_pass import input_device
from flashinterp.models.layout import Layout, module_at
from flashinterp.models.layout_reader import layout_of
from flashinterp.neurons import Block

Floats = NDArray[np.float32]
_GRAPH_NUMBERS = 1 << 28  # what a backward pass may keep: 1 GB in float32


class _Port(NamedTuple):
    """Where neurons write: a layer's dense down projection, or all its routed experts together."""

    layer: int
    routed: bool

    @classmethod
    def of(cls, block: Block) -> _Port:
        return cls(block.layer, block.expert is not None)


def attribution(model: Any, sequences: Sequence[Tensor], tokens: Sequence[int], ranges: Floats) -> Floats:
    """The first-order change of each token's log-odds when each neuron goes from low to high: [N, tokens].

    Equivalent, for neuron n and token t, to the mean over the sequences of this sum over positions p::

        G[p] = d log_odds(t, last position) / d (what the MLP's down projection gives at p)      # [d]
        (G[p] @ W_down[:, n]) * weight[p] * (h(high[n], g[p]) - h(low[n], g[p]))

    with h the family's formula, g the natural gate and weight the routing weight of an expert, 1 elsewhere. Norms and
    multipliers behind the MLP are in G.

    Args:
        model: a live transformers model of a known family, in eval mode. No parameter gets a ``.grad``.
        sequences: token ids [1, positions].
        tokens: T ids.
        ranges: [N, 2] low and high of each neuron's u, in the roster's order; NaN gives NaN.

    Raises:
        RunError: the model's weights are offloaded or split among processes, or it cannot be differentiated.
    """
    _check(model)
    layout, weights = layout_of(model), open_checkpoint(model)
    total = np.zeros((len(layout.roster), len(tokens)), dtype=np.float32)
    for ids in sequences:
        seen = capture(model, [ids], layout.roster.blocks)[0]
        gradients = _gradients(model, layout, ids, tokens)
        for block in layout.roster.blocks:
            span = layout.roster.span(block)
            driven = _driven(seen[block], ranges[span])
            if driven.any():  # NaN is; an expert that no token is routed to is not
                total[span] += _written(gradients[_Port.of(block)], weights.rows("down", block), driven)
    return total / np.float32(len(sequences))


def _check(model: Any) -> None:
    for name, parameter in model.named_parameters():
        if parameter.is_meta or hasattr(parameter, "full_tensor"):
            how = "offloaded" if parameter.is_meta else "split among processes"
            raise RunError(
                f"no attribution: {name} is {how}, and a backward pass needs it in place; load the model whole on one "
                "device, or take a smaller one"
            )


def _driven(seen: Activations, ends: Floats) -> Tensor:
    """[positions, F] how far each neuron's output, times the routing weight, goes from low to high."""
    gate = torch.from_numpy(seen.gate)
    low, high = (torch.from_numpy(np.ascontiguousarray(end)).expand_as(gate) for end in ends.T)
    change = seen.formula.output(gate, high) - seen.formula.output(gate, low)
    return change * torch.from_numpy(seen.weight)[:, None]


def _written(gradient: Tensor, down: Tensor, driven: Tensor) -> Floats:
    """[F, T] from gradients [T, positions, d], W_down's vectors [F, d] and [positions, F]."""
    down = down.to(gradient)
    total = gradient.new_zeros(len(down), len(gradient))
    for along, change in zip(gradient.unbind(1), driven.to(gradient).unbind(0), strict=True):
        total += change[:, None] * (down @ along.T)
    result: Floats = total.float().cpu().numpy()
    return result


def _gradients(model: Any, layout: Layout, ids: Tensor, tokens: Sequence[int]) -> dict[_Port, Tensor]:
    """[T, positions, d] for each port, in float32 at least; the tokens are rows of a batch, as many as memory takes."""
    positions = ids.shape[1]
    width = max(layout.roster.widths)
    kept = layout.n_layers * positions * (8 * layout.d_model + 4 * width) + layout.vocab_size  # of one row
    rows = max(1, _GRAPH_NUMBERS // kept)
    parts = [_backward(model, layout, ids, tokens[i : i + rows]) for i in range(0, len(tokens), rows)]
    return {port: torch.cat([part[port] for part in parts]) for port in parts[0]}


@torch.enable_grad()
def _backward(model: Any, layout: Layout, ids: Tensor, tokens: Sequence[int]) -> dict[_Port, Tensor]:
    batch = ids.to(input_device(model)).expand(len(tokens), -1)
    try:
        with _leaves(model, layout) as leaves:
            logits = model(batch, use_cache=False, logits_to_keep=1).logits[:, -1]
        # Of the leaves alone: no parameter is touched, whether it asks for a gradient or not.
        gradients = torch.autograd.grad(_log_odds(logits, tokens).sum(), list(leaves.values()))
    except (RuntimeError, NotImplementedError) as error:  # a kernel without a backward, or no memory for it
        raise RunError(
            f"no attribution: {type(model).__name__} cannot be differentiated here ({first_line(error)}); load it "
            "unquantised, with kernels that have a backward pass, or take a smaller one"
        ) from error
    wide = torch.promote_types(logits.dtype, torch.float32)
    shape = len(tokens), ids.shape[1], layout.d_model  # some families' MLPs pass [batch · positions, d]
    return {port: g.reshape(shape).to(wide) for port, g in zip(leaves, gradients, strict=True)}


def _log_odds(logits: Tensor, tokens: Sequence[int]) -> Tensor:
    """[rows] of token t in row t: z_t - logsumexp of the others, which has no 1 - p to lose digits in."""
    z = logits.to(torch.promote_types(logits.dtype, torch.float32))
    own = torch.tensor(tokens, device=z.device)[:, None]
    others = z.scatter(1, own, -torch.inf)
    return z.gather(1, own)[:, 0] - others.logsumexp(1)


@contextmanager
def _leaves(model: Any, layout: Layout) -> Iterator[dict[_Port, Tensor]]:
    """Add a zero that wants a gradient to what each port gives, in the pass that is run meanwhile."""
    leaves: dict[_Port, Tensor] = {}
    with ExitStack() as hooks:

        def hang(port: _Port, path: str) -> None:
            def add(module: Any, args: Any, out: Tensor) -> Tensor:
                leaves[port] = torch.zeros_like(out, requires_grad=True)
                return out + leaves[port]

            hooks.enter_context(module_at(model, path, layout.model_type).register_forward_hook(add))

        for port in dict.fromkeys(map(_Port.of, layout.roster.blocks)):
            at_experts = layout.experts_module(port.layer) if port.routed else layout.tap("post", port.layer).module
            hang(port, at_experts)
        yield leaves
