"""The tensors on disk behind each tensor of a model: transformers renames and fuses at load, so the names differ.

The rules are transformers' own (`conversion_mapping`), applied to a model without weights. A table of tests compares
what comes of them with ``from_pretrained``, for every architecture and every form of its checkpoints.
"""

from __future__ import annotations

from collections import defaultdict
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor

from flashinterp.errors import CheckpointError
from flashinterp.models.weights.safetensors_folder import Source


class DiskNames:
    """A `Source` of a model's tensors under their names in the model, from one under the names on disk.

    Attributes:
        model: the model without weights.
        source: the tensors on disk.
        tied: names that stand for another tensor, as the head for the embedding.
    """

    def __init__(self, model: Any, source: Source) -> None:
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightConverter, WeightRenaming, dot_natural_key, rename_source_key

        self.model, self.source = model, source
        rules = get_model_conversion_mapping(model)
        renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
        converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
        self._converters: dict[str, Any] = {p: rule for rule in converters for p in rule.source_patterns}
        live, prefix = model.state_dict(), model.base_model_prefix
        self._disk: dict[str, list[tuple[str, str | None]]] = defaultdict(list)  # (name on disk, converter's pattern)
        for disk in sorted(source.names(), key=dot_natural_key):  # the experts' order
            name, pattern = rename_source_key(disk, renamings, converters, prefix, live)
            if name not in live and disk in live:
                name, pattern = rename_source_key(disk, [], [], prefix, live)
            if name in live:
                self._disk[name].append((disk, pattern))
        self._check_experts()
        self.tied: dict[str, str] = {}
        for name, other in (model.all_tied_weights_keys or {}).items():
            # Tied by the config, yet both stored: transformers then ties only what is equal.
            if name in self._disk and other in self._disk and not _equal(self.tensor(name), self.tensor(other)):
                continue
            stored, absent = (name, other) if name in self._disk and other not in self._disk else (other, name)
            self.tied[absent] = stored

    def names(self) -> set[str]:
        """Names in the model."""
        return {*self._disk, *(name for name, stored in self.tied.items() if stored in self._disk)}

    def tensor(self, name: str) -> Tensor:
        """A tensor of the model, fused where the model has it so."""
        disk, pattern = self._found(name)[0]
        return self.source.tensor(disk) if pattern is None else self._converted(name, None)

    def part(self, name: str, i: int) -> Tensor:
        """``tensor(name)[i]``: of experts stored one by one, only the wanted one's are read."""
        disk, pattern = self._found(name)[0]
        return self.source.part(disk, i) if pattern is None else self._converted(name, i)

    def on_disk(self, name: str) -> str:
        """The one name on disk under which a tensor of the model is stored, as it is.

        Raises:
            CheckpointError: it is not there, or is put together from others when it is loaded.
        """
        try:
            found = self._found(name)
        except KeyError as error:
            raise CheckpointError(f"there is no tensor {name} on disk: check that the checkpoint is whole") from error
        if len(found) > 1 or found[0][1] is not None:
            raise CheckpointError(
                f"{name} is put together from {len(found)} stored tensors, among them {found[0][0]}, and has no place "
                "of its own on disk: choose neurons of a dense MLP"
            )
        return found[0][0]

    def dtype(self, name: str) -> torch.dtype:
        """The dtype in which a tensor is stored."""
        return self.source.dtype(self._found(name)[0][0])

    def digests(self) -> dict[str, str]:
        """The source's."""
        return self.source.digests()

    def _found(self, name: str) -> list[tuple[str, str | None]]:
        found = self._disk.get(self.tied.get(name, name))
        if not found:
            raise KeyError(name)
        return found

    def _check_experts(self) -> None:
        """Refuse a tensor made of experts' tensors if one is absent, since the next would be taken for it."""
        for name, found in self._disk.items():
            there = [pattern for _, pattern in found]
            if there[0] is None:
                continue
            experts = self.model.get_parameter(name).shape[0]
            counts = {pattern: there.count(pattern) for pattern in self._converters[there[0]].source_patterns}
            if set(counts.values()) != {experts}:
                told = ", ".join(f"{count} of {pattern}" for pattern, count in counts.items())
                raise CheckpointError(
                    f"{name} is made of {experts} experts, and there are {told}: fetch the model again"
                )

    def _converted(self, name: str, expert: int | None) -> Tensor:
        """Put a tensor together from several, by transformers' own operation; for one expert, from its own alone."""
        found = self._found(name)
        converter = deepcopy(self._converters[str(found[0][1])])
        by_pattern: dict[str | None, list[str]] = defaultdict(list)
        for disk, pattern in found:
            by_pattern[pattern].append(disk)
        for pattern, disks in by_pattern.items():
            for disk in disks if expert is None else [disks[expert]]:
                converter.add_tensor(name, disk, pattern, self.source.tensor(disk))
        whole: Tensor = converter.convert(name, model=self.model, config=self.model.config)[name]
        return whole if expert is None else whole[0]


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.equal(a, b)
