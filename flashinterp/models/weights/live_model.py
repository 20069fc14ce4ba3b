"""The tensors of a model in memory, whole and as weights: quantised, offloaded or sharded ones too."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from flashinterp.models.weights.quantization import is_plain, live_weight


class LiveModel:
    """A `Source` of a live model's parameters and buffers."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.model: Any = model
        self.parameters = dict(model.named_parameters(remove_duplicate=False))
        self.tensors: dict[str, Tensor] = {**self.parameters, **dict(model.named_buffers())}

    def names(self) -> Iterable[str]:
        return self.tensors

    def tensor(self, name: str) -> Tensor:
        if name not in self.parameters:
            return self.tensors[name].detach()
        offloaded = self.tensors[name].is_meta
        tensor = self._offloaded(name) if offloaded else live_weight(self.model, name).detach()
        # Under a tensor-parallel plan each process holds a part of it.
        return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor

    def _offloaded(self, name: str) -> Tensor:
        """A weight that accelerate keeps elsewhere (CPU or disk) and puts in place for its module's forward only."""
        from accelerate.utils import align_module_device

        path, _, own = name.rpartition(".")
        module = self.model.get_submodule(path)
        with align_module_device(module, execution_device="cpu"):
            return live_weight(module, own).detach().clone()

    def part(self, name: str, i: int) -> Tensor:
        return self.tensor(name)[i]

    def dtype(self, name: str) -> torch.dtype:
        tensor = self.tensors[name]
        return tensor.dtype if is_plain(tensor) or tensor.is_meta else self.tensor(name).dtype

    def digests(self) -> dict[str, str]:
        whole = hashlib.sha256()
        for name in sorted(self.tensors):
            data = self.tensor(name).cpu().contiguous()
            whole.update(f"{name} {data.dtype} {tuple(data.shape)}\n".encode())
            whole.update(data.flatten().view(torch.uint8).numpy().tobytes())
        return {"live model": whole.hexdigest()}
