"""What MLPs and experts compute, by explicit arithmetic in float64 from a live model's own modules.

Nothing here asks the layout where a matrix is: the modules are found by the names that transformers gives them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from flashinterp.neurons import Block

IDS = torch.tensor([[7, 21, 3, 50, 12, 600, 44, 9], [9, 330, 1, 60, 5, 17, 222, 8]])
"""The batch in which `Written` counts rows and positions."""


def off(got: Tensor, wanted: Tensor) -> float:
    """The largest difference, over the largest value."""
    return float((got - wanted).abs().max() / wanted.abs().max())


class Numbers:
    """A tokenizer whose texts are ids."""

    chat_template = None
    pad_token_id = eos_token_id = 1

    def __call__(self, text: str, **kwargs: Any) -> dict[str, Tensor]:
        return {"input_ids": torch.tensor([[int(word) for word in text.split()]])}

    def decode(self, ids: Tensor, **kwargs: Any) -> str:
        return " ".join(str(int(i)) for i in ids)


# What every family calls the matrices of an MLP that are not fused, whatever the registry says.
UP_NAMES = {"up_proj", "c_fc", "dense_h_to_4h", "fc1", "fc_in"}
DOWN_NAMES = {"down_proj", "c_proj", "dense_4h_to_h", "fc2", "fc_out"}


class Written:
    """Values to write into [batch · positions, F], and what was there before."""

    def __init__(self, site: str = "", values: Mapping[int, float | Tensor] | None = None) -> None:
        self.site, self.values, self.where = site, values or {}, slice(None)
        self.seen: dict[str, Tensor] = {}

    def __call__(self, site: str, x: Tensor) -> Tensor:
        self.seen[site] = x
        if site == self.site:
            x = x.reshape(*IDS.shape, -1).clone()
            for neuron, value in self.values.items():
                x[:, self.where, neuron] = value
        return x.flatten(0, -2)


def layers_of(model: Any) -> Any:
    decoder = model.get_decoder()
    return decoder.layers if hasattr(decoder, "layers") else decoder.h


def matrix(module: Any) -> Tensor:
    """The weight [out, in]."""
    return module.weight.T if type(module).__name__ == "Conv1D" else module.weight


def linear(module: Any, x: Tensor) -> Tensor:
    bias = 0 if module.bias is None else module.bias.double()
    return x @ matrix(module).double().T + bias


def named(mlp: Any, names: set[str]) -> Any:
    """The module of an MLP that has one of these names."""
    return next(module for name, module in mlp.named_children() if name in names)


def activation(mlp: Any) -> Any:
    return next(getattr(mlp, name) for name in ("act_fn", "activation_fn", "act") if hasattr(mlp, name))


def dense_by_hand(mlp: Any, x: Tensor, write: Written) -> Tensor:
    """A dense MLP in float64: x [batch · positions, d] to the same."""
    x = x.double().flatten(0, -2)
    if hasattr(mlp, "gate_up_proj"):
        gate, up = linear(mlp.gate_up_proj, x).chunk(2, dim=-1)
    elif hasattr(mlp, "gate_proj"):
        gate, up = linear(mlp.gate_proj, x), linear(mlp.up_proj, x)
    else:
        post = activation(mlp)(write("up", linear(named(mlp, UP_NAMES), x)))
        return linear(named(mlp, DOWN_NAMES), write("post", post))
    post = write("up", up) * activation(mlp)(write("gate", gate))
    return linear(mlp.down_proj, write("post", post))


def expert_by_hand(experts: Any, expert: int, x: Tensor, write: Written) -> Tensor:
    """One expert's output in float64, before its routing weight."""
    first, last = (getattr(experts, name)[expert].double() for name in ("gate_up_proj", "down_proj"))
    if type(experts).__name__ != "GptOssExperts":
        gate, up = (x @ first.T).chunk(2, dim=-1)
        post = write("up", up) * experts.act_fn(write("gate", gate))
        return write("post", post) @ last.T
    both = x @ first + experts.gate_up_proj_bias[expert].double()
    gate, up = write("gate", both[:, ::2]).clamp(max=7), write("up", both[:, 1::2]).clamp(-7, 7)
    post = (up + 1) * gate * torch.sigmoid(1.702 * gate)
    return write("post", post) @ last + experts.down_proj_bias[expert].double()


def experts_by_hand(experts: Any, args: tuple[Tensor, Tensor, Tensor], wanted: int, write: Written) -> Tensor:
    """All experts in float64, one of them written into."""
    x, index, weights = args
    x = x.double()
    out = torch.zeros_like(x)
    for expert in range(len(experts.down_proj)):
        own = expert_by_hand(experts, expert, x, write if expert == wanted else Written())
        out += own * (weights.double() * (index == expert)).sum(-1, keepdim=True)
    return out


@contextmanager
def by_hand(model: Any, block: Block, write: Written) -> Iterator[None]:
    """One block computed by the functions above while the context is open."""
    layer = layers_of(model)[block.layer]
    mlp = getattr(layer, "mlp", layer)
    inputs: list[Tensor] = []
    if block.expert is not None:
        run = lambda module, args, out: experts_by_hand(module, args, block.expert, write).to(out)  # noqa: E731
        handles = [mlp.experts.register_forward_hook(run)]
    else:
        mlp = getattr(mlp, "shared_experts", mlp)
        first, last = named(mlp, {*UP_NAMES, "gate_up_proj"}), named(mlp, DOWN_NAMES)
        run = lambda module, args, out: dense_by_hand(mlp, inputs[-1], write).reshape(out.shape).to(out)  # noqa: E731
        handles = [
            first.register_forward_pre_hook(lambda module, args: inputs.append(args[0])),
            last.register_forward_hook(run),
        ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
