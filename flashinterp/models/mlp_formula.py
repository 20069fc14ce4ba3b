"""What a neuron makes of its two values: the formula between W_up, W_gate and W_down (METHOD 1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Formula:
    """One family's neuron.

    Attributes:
        activation: by its name in transformers.
        gated: act(g) · u where True, act(u) where False.
        limit: gpt_oss cuts g at limit and u at ±limit, then adds 1 to u; None elsewhere.
        alpha: its gate is g · sigmoid(alpha · g).
    """

    activation: str
    gated: bool
    limit: float | None = None
    alpha: float = 1.0

    def opened(self, gate: Tensor, up: Tensor) -> Tensor:
        """What multiplies u (u + 1 in gpt_oss): act(g); without a gate act(u) / u, which is not negative for GELU."""
        if self.limit is not None:
            cut = gate.clamp(max=self.limit)
            return cut * (self.alpha * cut).sigmoid()
        act = self._activation()
        if self.gated:
            opened: Tensor = act(gate)
            return opened
        tiny = up.abs() < 1e-6  # where act(u) / u is 0 / 0, its value beside it
        safe = up.masked_fill(tiny, 1e-6)
        factor: Tensor = act(safe) / safe
        return factor

    def output(self, gate: Tensor, up: Tensor) -> Tensor:
        """The neuron's output, which multiplies its column of W_down; ``gate`` is not looked at without one."""
        if self.limit is not None:
            return (up.clamp(-self.limit, self.limit) + 1) * self.opened(gate, up)
        act = self._activation()
        output: Tensor = act(gate) * up if self.gated else act(up)
        return output

    def _activation(self) -> Any:
        from transformers.activations import ACT2FN  # four seconds, for what reading a map does without

        return ACT2FN[self.activation]
