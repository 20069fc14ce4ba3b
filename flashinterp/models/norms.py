"""The norms that stand before an MLP, after it, and before the LM head."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Norm:
    """RMSNorm, or LayerNorm where ``centred``.

    Attributes:
        weight: γ [d]; (1 + w) where a family multiplies by that; None for a norm without one.
        bias: [d], or None.
        eps: epsilon, inside the root.
        centred: whether the mean is taken away first.
    """

    weight: Tensor | None
    bias: Tensor | None
    eps: float
    centred: bool

    def __call__(self, x: Tensor) -> Tensor:
        """The norm of hidden states [..., d], in x's dtype."""
        y = self.direction(x)
        return y if self.bias is None else y + self.bias.to(x)

    def direction(self, x: Tensor) -> Tensor:
        """The norm without its bias, so that the opposite vector gives the opposite result."""
        if self.centred:
            x = x - x.mean(-1, keepdim=True)
        return self.scaled(x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps))

    def scaled(self, x: Tensor) -> Tensor:
        """γ ⊙ x, and nothing else of the norm."""
        return x if self.weight is None else x * self.weight.to(x)


def cap(z: Tensor, softcap: float | None) -> Tensor:
    """c · tanh(z / c), in place; z itself without a soft-cap c."""
    return z if softcap is None else z.div_(softcap).tanh_().mul_(softcap)
