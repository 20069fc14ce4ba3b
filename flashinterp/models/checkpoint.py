"""A model's weights, norms and head, read on request: from a safetensors folder, the Hub, or a live model.

Nothing here builds a model to read its weights: its modules are made without weights, which tells names and shapes.
No remote code is run.
"""

from __future__ import annotations

import json
import math
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flashinterp.errors import CheckpointError, LayoutError, first_line
from flashinterp.models.architectures import check_family
from flashinterp.models.layout import HEAD, Layout, NormKind
from flashinterp.models.layout_reader import layout_of, skeleton
from flashinterp.models.norms import Norm
from flashinterp.models.weights.live_model import LiveModel
from flashinterp.models.weights.quantization import dequantised, is_plain
from flashinterp.models.weights.safetensors_folder import SafetensorsFolder, Source
from flashinterp.models.weights.tensor_names import DiskNames
from flashinterp.neurons import Block, WeightKind
from flashinterp.tokens import Vocabulary

_HUB_FILES = ["*.safetensors", "*.json", "*.model", "*.jinja", "*.txt"]


class Checkpoint:
    """A model's weights, read on request, with its layout and tokenizer; made by `open_checkpoint`.

    Attributes:
        name: the folder or Hub id as the user gave it, or the live model's class.
        revision: the commit of a Hub snapshot, where known.
        config: the transformers config.
        layout: the names and shape of its parts.
        folder: the folder on disk, None for a live model.
        model: the live model, None for a folder.
    """

    def __init__(
        self,
        name: str,
        source: Source,
        layout: Layout,
        config: Any,
        *,
        folder: Path | None = None,
        model: Any = None,
        revision: str | None = None,
    ) -> None:
        self.name, self.config, self.folder, self.model, self.revision = name, config, folder, model, revision
        self.layout = layout
        self._source = source
        self._check_parts()

    def _check_parts(self) -> None:
        """Find every part that a decode needs before any is read, so that a lack shows at once."""
        have, layout = set(self._source.names()), self.layout
        kinds: tuple[WeightKind, ...] = ("up", "gate", "down") if layout.formula.gated else ("up", "down")
        # Of a layer's experts, which share their tensors, the first speaks for all.
        blocks = [block for block in layout.roster.blocks if not block.expert]
        wanted = [f"{HEAD}.weight", *(layout.weight(kind, block).tensor for block in blocks for kind in kinds)]
        for norm_kind in ("pre", "post", "final"):
            for layer in [None] if norm_kind == "final" else range(layout.n_layers):
                path = layout.norm(norm_kind, layer)
                wanted += [name for own in ("weight", "bias") if (name := f"{path}.{own}") in layout.shapes]
        missing = [name for name in wanted if name not in have]
        if missing:
            raise CheckpointError(
                f"{self.name} lacks {len(missing)} tensors of a {layout.model_type} model, the first of them "
                f"{missing[0]}: the checkpoint is incomplete, or its config.json is another model's; fetch it again"
            )

    def __repr__(self) -> str:
        shape = self.layout
        return (
            f"Checkpoint({self.name!r}, {shape.model_type}, {shape.roster}, hidden size {shape.d_model}, vocabulary "
            f"{shape.vocab_size})"
        )

    def rows(self, kind: WeightKind, where: int | Block) -> Tensor:
        """The vectors of one block's neurons, one a row: [F, d], in the stored dtype.

        For ``down`` these are the columns of W_down. Shapes and values are checked.

        Args:
            kind: ``up``, ``gate`` or ``down``.
            where: a layer's dense MLP, by its number, or a `Block`.

        Raises:
            CheckpointError: wrong shape, not plain floating point, or not finite.
            LayoutError, NeuronError: there is no such matrix or block.
        """
        weight = self.layout.weight(kind, where)
        matrix = self._tensor(weight.tensor, weight.shape, weight.expert)
        vectors = matrix[weight.neurons] if weight.by_row else matrix[:, weight.neurons]
        self._check_finite(weight.tensor, vectors)
        vectors = vectors if weight.by_row else vectors.T
        self._check_shape(weight.tensor, vectors, (self.layout.roster.width(where), self.layout.d_model))
        return vectors

    def bias(self, kind: WeightKind, where: int | Block) -> Tensor | None:
        """What is added to the product: [F] for ``up`` and ``gate``, [d] for ``down``; None without a bias."""
        weight = self.layout.weight(kind, where)
        if weight.bias is None:
            return None
        bias = self._tensor(weight.bias, self.layout.shapes[weight.bias], weight.expert)
        self._check_finite(weight.bias, bias)
        return bias if weight.shared_bias else bias[weight.neurons]

    def norm(self, kind: NormKind, layer: int | None = None) -> Norm | None:
        """The norm in front of a layer's MLP ("pre"), after it ("post") or before the head ("final"); None for none."""
        path, layout = self.layout.norm(kind, layer), self.layout
        if path is None:
            return None
        found = {}
        for own in ("weight", "bias"):
            if (name := f"{path}.{own}") in layout.shapes:
                found[own] = self._tensor(name, (layout.d_model,), None)
                self._check_finite(name, found[own])
        weight = found.get("weight")
        if weight is not None and layout.family.unit_offset:
            weight = 1 + weight.float()
        return Norm(weight, found.get("bias"), layout.eps[kind], layout.family.centred)

    def head(self) -> Tensor:
        """U [V, d]: the LM head, tied or not, times the logit scale, and the projection in front of it if there is one.

        In the stored dtype where that loses nothing; float32 where the scale is not a power of two, or there is a
        projection.
        """
        layout, name = self.layout, f"{HEAD}.weight"
        head = self._tensor(name, layout.shapes[name], None)
        self._check_finite(name, head)
        projection = f"{layout.family.head_projection}.weight"
        if projection in layout.shapes:
            head = head.float() @ self._tensor(projection, layout.shapes[projection], None).float()
        self._check_shape(name, head, (layout.vocab_size, layout.d_model))
        if layout.logit_scale == 1:
            return head
        return (head if self._scale_is_exact else head.float()) * layout.logit_scale

    def head_bias(self) -> Tensor | None:
        """[V] what the model adds to the logits. No lens does: it is the same for every neuron."""
        name = f"{HEAD}.bias"
        return self._tensor(name, (self.layout.vocab_size,), None) if name in self.layout.shapes else None

    @property
    def _scale_is_exact(self) -> bool:
        return math.frexp(self.layout.logit_scale)[0] == 0.5

    def head_dtype(self) -> torch.dtype:
        """The dtype of `head`; nothing of it is read."""
        stored = self._source.dtype(f"{HEAD}.weight")
        projected = f"{self.layout.family.head_projection}.weight" in self.layout.shapes
        return torch.float32 if projected or not self._scale_is_exact else stored

    @cached_property
    def tied(self) -> bool:
        """Whether the head is the embedding matrix: as it is stored, whatever the config says."""
        if isinstance(self._source, DiskNames):
            return bool(self._source.tied)
        embedding = self.model.get_input_embeddings().weight
        return self.model.get_output_embeddings().weight is embedding

    def weight_dtype(self) -> torch.dtype:
        """The dtype in which the first block's W_up is stored."""
        return self._source.dtype(self.layout.weight("up", self.layout.roster.blocks[0]).tensor)

    def _tensor(self, name: str, shape: tuple[int, ...], expert: int | None) -> Tensor:
        """A tensor, or one expert's part of it, of the shape that the model has."""
        try:
            tensor = self._source.tensor(name) if expert is None else self._source.part(name, expert)
        except KeyError as error:
            raise CheckpointError(f"{self.name} lacks {name}: the checkpoint is incomplete; fetch it again") from error
        wanted = shape if expert is None else shape[1:]
        if tuple(tensor.shape) != wanted:
            raise CheckpointError(
                f"{self.name}: {name} has shape {tuple(tensor.shape)}, its config says {wanted}: the weights and "
                "config.json are not of the same model; fetch both again"
            )
        # fp8 is "floating point" to torch, but a code that needs its scales.
        if not is_plain(tensor):
            raise CheckpointError(
                f"{self.name}: {name} is stored as {tensor.dtype}, which is quantised: use the unquantised model"
            )
        return tensor

    def _check_shape(self, name: str, vectors: Tensor, wanted: tuple[int, int]) -> None:
        """A tensor has the model's shape, but what the layout takes for its vectors may not have d entries."""
        if tuple(vectors.shape) != wanted:
            raise LayoutError(
                f"the {self.layout.model_type} layout does not hold for {self.name}: the vectors in {name} come out as "
                f"{tuple(vectors.shape)}, and should be {wanted}; check the entry in "
                "flashinterp/models/architectures.py"
            )

    def _check_finite(self, name: str, tensor: Tensor) -> None:
        if not _is_finite(tensor):
            bad = int((~torch.isfinite(tensor)).sum())
            raise CheckpointError(
                f"{self.name}: {name} holds {bad} values that are NaN or infinite: the weights are damaged, or "
                "were saved from a diverged run; fetch them again, or take an earlier checkpoint"
            )

    @cached_property
    def digests(self) -> dict[str, str]:
        """sha256 of every weight file, the config and the tokenizer (of all tensors, for a live model)."""
        return self._source.digests()

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer in the folder.

        Raises:
            CheckpointError: the folder has none, or it cannot be loaded.
        """
        from transformers import AutoTokenizer  # heavy: only when a tokenizer is wanted

        place = str(self.folder) if self.folder else str(getattr(self.config, "_name_or_path", ""))
        if not place:
            raise CheckpointError(f"{self.name} is a live model without a tokenizer: open its folder instead")
        try:
            return AutoTokenizer.from_pretrained(place, trust_remote_code=False)
        except Exception as error:  # transformers raises a dozen kinds for a bad tokenizer
            raise CheckpointError(
                f"no tokenizer can be loaded from {place} ({first_line(error)}): add the tokenizer's files to it"
            ) from error

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The surface of each of the V ids."""
        return Vocabulary.from_tokenizer(self.tokenizer, self.layout.vocab_size)

    def load_model(self, *, device: str = "cpu", dtype: torch.dtype | None = None) -> Any:
        """Build the transformers model, in eval mode, without gradients; dtype None keeps the stored one.

        Raises:
            CheckpointError: transformers cannot load it.
        """
        if self.model is not None:
            return self.model
        from transformers import AutoModelForCausalLM

        try:
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                str(self.folder),
                dtype=dtype or "auto",
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
        except Exception as error:  # whatever transformers raises, the user's next step is the same
            raise CheckpointError(
                f"transformers cannot load {self.name} ({first_line(error)}): check that the folder is complete"
            ) from error
        model, info = loaded
        if missing := sorted(info["missing_keys"]):  # transformers fills these with random numbers
            raise CheckpointError(
                f"{self.name} lacks {len(missing)} tensors of its model, the first of them {missing[0]}: nothing can "
                "be measured on a model that is partly random; fetch the whole checkpoint"
            )
        return model.to(device).eval().requires_grad_(False)


def open_checkpoint(model: str | Path | Any, *, revision: str | None = None) -> Checkpoint:
    """Open a model's weights without loading them.

    Args:
        model: a folder with safetensors weights, a Hub id, a live transformers model, or a `Checkpoint`.
        revision: branch, tag or commit, for a Hub id.

    Raises:
        CheckpointError: no such folder or repository, no safetensors in it, damaged or missing files.
        LayoutError: an architecture that is not known here.
    """
    if isinstance(model, Checkpoint):
        return model
    if isinstance(model, torch.nn.Module):
        live: Any = model
        return Checkpoint(type(model).__name__, LiveModel(model), layout_of(live), live.config, model=model)
    folder = Path(model)
    if not folder.is_dir():
        folder, revision = _download(str(model), revision)
    stored = SafetensorsFolder(folder)
    config = _read_config(folder)
    modules = skeleton(config)
    source = DiskNames(modules, dequantised(stored, getattr(config, "quantization_config", None), str(model)))
    return Checkpoint(str(model), source, layout_of(modules), config, folder=folder, revision=revision)


def _download(repository: str, revision: str | None) -> tuple[Path, str]:
    """Fetch a Hub snapshot (or find it in the cache); returns its folder and its commit."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    looks_like_a_path = repository.count("/") != 1 or repository.startswith((".", "/", "~"))
    if looks_like_a_path:
        raise CheckpointError(f"there is no folder {repository}: give a model folder, or a Hub id like owner/name")
    try:
        folder = Path(snapshot_download(repository, revision=revision, allow_patterns=_HUB_FILES))
    except HFValidationError as error:
        raise CheckpointError(f"{repository!r} is neither a folder nor a Hub id: {first_line(error)}") from error
    except Exception as error:  # network, permission, gate, not found: all end here
        raise CheckpointError(
            f"there is no folder {repository}, and the Hub does not give it ({first_line(error)}): check the "
            "name, log in with `hf auth login` for a gated model, or download it and give the folder"
        ) from error
    return folder, folder.name


def _read_config(folder: Path) -> Any:
    from transformers import AutoConfig

    path = folder / "config.json"
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{folder} has no config.json: give the whole model folder") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read ({first_line(error)}): fetch the model again") from error
    if not isinstance(raw, dict):
        raise CheckpointError(f"{path} is JSON, but no config (a {type(raw).__name__}): fetch the model again")
    check_family(raw.get("model_type"))  # before transformers, whose answer to an unknown one names no next step
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # a field of the wrong kind
        raise CheckpointError(
            f"transformers does not take the config of {folder} ({first_line(error)}): fetch config.json again"
        ) from error


def _is_finite(tensor: Tensor) -> bool:
    """Whether all values are; NaN is passed on by minimum and maximum, and nothing as large as the tensor is made."""
    return not tensor.numel() or bool(torch.isfinite(torch.stack(tensor.aminmax())).all())
