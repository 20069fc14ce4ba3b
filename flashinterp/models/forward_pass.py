"""One forward pass as the hooks in a layer see it: its batch and positions, and which columns this process holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from flashinterp.errors import ClampError
from flashinterp.models.layout import Tap


def input_device(model: Any) -> torch.device:
    """Where token ids go: the model's device, or the CPU where its weights are offloaded, whose hooks move the ids."""
    device: torch.device = model.device
    return torch.device("cpu") if device.type == "meta" else device


class PassShape:
    """The batch and the positions of the pass under way, as a pre-hook on a decoder layer sees them.

    OPT's MLP and every experts module get [batch · positions, d], which says neither.
    """

    def __init__(self) -> None:
        self.shape: tuple[int, int] | None = None

    def __call__(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        hidden = args[0] if args else kwargs["hidden_states"]
        self.shape = int(hidden.shape[0]), int(hidden.shape[1])

    def unflatten(self, x: Tensor) -> Tensor:
        """A view [batch, positions, width] of a tensor that may be [batch · positions, width].

        Raises:
            ClampError: it is flat, and not of a pass through the decoder layer.
        """
        if x.ndim == 3:
            return x
        if self.shape is None or self.shape[0] * self.shape[1] != len(x):
            raise ClampError(
                f"an MLP passes a tensor of shape {tuple(x.shape)}, where batch and positions cannot be told apart: "
                "give the input to the whole model, not to the MLP"
            )
        view: Tensor = x.unflatten(0, self.shape)
        return view


@dataclass(frozen=True)
class Held:
    """The part of a site's columns that passes in this process: all of them, but for a tensor-parallel plan.

    Attributes:
        start, stop: of all the module's columns.
        part: how many of them each process holds, but for the last.
        group: the processes; None for all.
        size: how many processes.
        tap: the site.
    """

    start: int
    stop: int
    part: int
    group: Any
    size: int
    tap: Tap

    @classmethod
    def of(cls, x: Tensor, tap: Tap, module: Any) -> Held:
        """What the last axis of x, which passes the tap's module, holds.

        Raises:
            ClampError: it is neither whole nor this process's part.
        """
        if x.shape[-1] == tap.width:
            return cls(0, tap.width, tap.width, None, 1, tap)
        mesh = getattr(module.weight, "device_mesh", None)  # of a DTensor, which is what transformers' plans make
        group = None if mesh is None else mesh.get_group("tp" if mesh.ndim > 1 else None)
        known = dist.is_available() and dist.is_initialized()
        rank, size = (dist.get_rank(group), dist.get_world_size(group)) if known else (0, 1)
        part = -(-tap.width // size)  # as torch cuts a tensor: only the last part is shorter
        start, stop = min(rank * part, tap.width), min((rank + 1) * part, tap.width)
        if x.shape[-1] != stop - start:
            raise ClampError(
                f"{tap.module} passes {x.shape[-1]} of its {tap.width} columns in process {rank} of {size}, which is "
                "no even part of them: use the model without this parallel plan"
            )
        return cls(start, stop, part, group, size, tap)

    @property
    def neurons(self) -> range:
        """The neurons whose columns are here."""
        wanted = self.tap.columns
        first = max(wanted.start, self.start)
        return range(first - wanted.start, max(min(wanted.stop, self.stop), first) - wanted.start)

    def columns(self, x: Tensor) -> Tensor:
        """The view of x that holds `neurons`, in order."""
        first = self.neurons.start + self.tap.columns.start - self.start
        return x[..., first : first + len(self.neurons)]

    def gather(self, x: Tensor) -> Tensor:
        """All neurons of the site, from every process's part of x."""
        if self.size > 1:
            padded = x.new_zeros(*x.shape[:-1], self.part)
            padded[..., : x.shape[-1]] = x
            parts = [torch.empty_like(padded) for _ in range(self.size)]
            dist.all_gather(parts, padded, group=self.group)
            x = torch.cat(parts, dim=-1)
        return x[..., self.tap.columns]
