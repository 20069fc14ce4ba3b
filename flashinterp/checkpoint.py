"""Where weight rows come from: a safetensors folder read tensor by tensor, the Hub, or a live model.

Nothing here builds a model to read its weights. Weights are data: safetensors only, no pickle, no remote
code, and a file name out of an index never leaves the model's folder.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from flashinterp.errors import CheckpointError
from flashinterp.layout import Layout, WeightKind, check_family
from flashinterp.tokens import Vocabulary

_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"
_HUB_FILES = ["*.safetensors", "*.json", "*.model", "*.jinja", "*.txt"]
_IDENTITY_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json")


class _Source(Protocol):
    """Named tensors, and what proves which they were."""

    def names(self) -> Iterable[str]: ...
    def tensor(self, name: str) -> Tensor: ...
    def dtype(self, name: str) -> torch.dtype: ...
    def digests(self) -> dict[str, str]: ...


class _SafetensorsFolder:
    """The tensors of a folder: ``model.safetensors``, or the shards that an index names."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shard_of = _read_index(folder) if (folder / _INDEX).is_file() else self._read_single()

    def _read_single(self) -> dict[str, str]:
        if not (self.folder / _SINGLE).is_file():
            pickled = next(self.folder.glob("*.bin"), None)
            told = f" ({pickled.name} is a pickle, which is never loaded)" if pickled else ""
            raise CheckpointError(
                f"{self.folder} holds neither {_SINGLE} nor {_INDEX}{told}: give a model folder with "
                "safetensors weights, as save_pretrained writes it"
            )
        with _open(self.folder / _SINGLE) as file:
            return dict.fromkeys(file.keys(), _SINGLE)

    def names(self) -> Iterable[str]:
        return self.shard_of

    def tensor(self, name: str) -> Tensor:
        shard = self.folder / self.shard_of[name]
        with _open(shard) as file:
            try:
                tensor: Tensor = file.get_tensor(name)
            except (SafetensorError, ValueError) as error:
                raise CheckpointError(
                    f"{shard} does not give tensor {name} ({error}), which its index promises: fetch the model again"
                ) from error
        return tensor

    def digests(self) -> dict[str, str]:
        files = sorted({*self.shard_of.values(), *_IDENTITY_FILES})
        paths = [path for name in files if (path := self.folder / name).is_file()]
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # hashing leaves Python's lock, so shards go side by side
            return {path.name: digest for path, digest in zip(paths, pool.map(_sha256, paths), strict=True)}

    def dtype(self, name: str) -> torch.dtype:
        return self.tensor(name).dtype  # mapped into memory, not read


class _LiveModel:
    """The tensors of a model in memory."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.tensors = {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers())}

    def names(self) -> Iterable[str]:
        return self.tensors

    def tensor(self, name: str) -> Tensor:
        tensor = self.tensors[name].detach()
        if tensor.is_meta:
            raise CheckpointError(f"tensor {name} is offloaded: open the model's folder instead of the live model")
        return tensor

    def dtype(self, name: str) -> torch.dtype:
        return self.tensors[name].dtype

    def digests(self) -> dict[str, str]:
        whole = hashlib.sha256()
        for name in sorted(self.tensors):
            data = self.tensors[name].detach().cpu().contiguous()
            whole.update(f"{name} {data.dtype} {tuple(data.shape)}\n".encode())
            whole.update(data.flatten().view(torch.uint8).numpy().tobytes())
        return {"live model": whole.hexdigest()}


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
        source: _Source,
        config: Any,
        *,
        folder: Path | None = None,
        model: Any = None,
        revision: str | None = None,
    ) -> None:
        self.name, self.config, self.folder, self.model, self.revision = name, config, folder, model, revision
        self._source = source
        self.layout = Layout.of(config)
        self._check_parts()

    def _check_parts(self) -> None:
        """Find every part that a decode needs before any is read, so that a lack shows at once."""
        have = set(self._source.names())
        layout = self.layout
        parts = [layout.path(p, n) for n in range(layout.n_layers) for p in ("up", "gate", "down", "pre_norm")]
        missing = [f"{p}.weight" for p in [layout.head, layout.path("final_norm"), *parts] if f"{p}.weight" not in have]
        if missing:
            raise CheckpointError(
                f"{self.name} lacks {len(missing)} tensors of a {layout.model_type} model, the first of them "
                f"{missing[0]}: the checkpoint is incomplete, or its config.json is another model's; fetch it again"
            )

    def __repr__(self) -> str:
        shape = self.layout
        return (
            f"Checkpoint({self.name!r}, {shape.model_type}, {shape.n_layers} layers x {shape.n_neurons} neurons, "
            f"hidden size {shape.d_model}, vocabulary {shape.vocab_size})"
        )

    def rows(self, kind: WeightKind, layer: int) -> Tensor:
        """The vectors of one layer's neurons, one a row: [F, d], in the stored dtype.

        For ``down`` these are the columns of W_down. Shapes and values are checked.

        Raises:
            CheckpointError: wrong shape, not plain floating point, or not finite.
        """
        name = f"{self.layout.path(kind, layer)}.weight"
        weight = self._checked(name, (self.layout.d_model, self.layout.n_neurons)[:: 1 if kind == "down" else -1])
        return weight.T if kind == "down" else weight

    def pre_norm(self, layer: int) -> Tensor:
        """γ_l [d], the weight of the norm in front of the layer's MLP."""
        return self._checked(f"{self.layout.path('pre_norm', layer)}.weight", (self.layout.d_model,))

    def final_norm(self) -> Tensor:
        """γ_f [d], the weight of the norm in front of the head."""
        return self._checked(f"{self.layout.path('final_norm')}.weight", (self.layout.d_model,))

    def head(self) -> Tensor:
        """U [V, d], the LM head, tied or not."""
        return self._checked(f"{self.layout.head}.weight", (self.layout.vocab_size, self.layout.d_model))

    def head_dtype(self) -> torch.dtype:
        """The dtype in which the LM head is stored; nothing of it is read."""
        return self._source.dtype(f"{self.layout.head}.weight")

    def _checked(self, name: str, shape: tuple[int, ...]) -> Tensor:
        tensor = self._source.tensor(name)
        if tuple(tensor.shape) != shape:
            raise CheckpointError(
                f"{self.name}: {name} has shape {tuple(tensor.shape)}, its config says {shape}: the weights and "
                "config.json are not of the same model; fetch both again"
            )
        # fp8 is "floating point" to torch, but a code that needs its scales.
        if not tensor.is_floating_point() or tensor.element_size() < 2:
            raise CheckpointError(
                f"{self.name}: {name} is stored as {tensor.dtype}, which is quantised: use the unquantised model"
            )
        if not _is_finite(tensor):
            bad = int((~torch.isfinite(tensor)).sum())
            raise CheckpointError(
                f"{self.name}: {name} holds {bad} values that are NaN or infinite: the weights are damaged, or "
                "were saved from a diverged run; fetch them again, or take an earlier checkpoint"
            )
        return tensor

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
                f"no tokenizer can be loaded from {place} ({_first_line(error)}): add the tokenizer's files to it"
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
                f"transformers cannot load {self.name} ({_first_line(error)}): check that the folder is complete"
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
        config: Any = getattr(model, "config", None)
        return Checkpoint(type(model).__name__, _LiveModel(model), config, model=model)
    folder = Path(model)
    if not folder.is_dir():
        folder, revision = _download(str(model), revision)
    return Checkpoint(str(model), _SafetensorsFolder(folder), _read_config(folder), folder=folder, revision=revision)


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
        raise CheckpointError(f"{repository!r} is neither a folder nor a Hub id: {_first_line(error)}") from error
    except Exception as error:  # network, permission, gate, not found: all end here
        raise CheckpointError(
            f"there is no folder {repository}, and the Hub does not give it ({_first_line(error)}): check the "
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
        raise CheckpointError(f"{path} cannot be read ({_first_line(error)}): fetch the model again") from error
    if not isinstance(raw, dict):
        raise CheckpointError(f"{path} is JSON, but no config (a {type(raw).__name__}): fetch the model again")
    check_family(raw.get("model_type"))  # before transformers, whose answer to an unknown one names no next step
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # a field of the wrong kind
        raise CheckpointError(
            f"transformers does not take the config of {folder} ({_first_line(error)}): fetch config.json again"
        ) from error


def _read_index(folder: Path) -> dict[str, str]:
    """The shard of each tensor, with every shard's name and presence checked."""
    path = folder / _INDEX
    try:
        weight_map = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        shard_of = {str(name): str(shard) for name, shard in weight_map.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is not a weight index ({_first_line(error)}): fetch the model again") from error
    for shard in sorted(set(shard_of.values())):
        # A hostile index could name ../../etc/passwd: only a bare file name is followed.
        if shard != Path(shard).name or shard in ("", ".", ".."):
            raise CheckpointError(f"{path} names the shard {shard!r}, which leaves the folder: do not trust this model")
        if not (folder / shard).is_file():
            raise CheckpointError(f"{path} names the shard {shard!r}, which is not there: finish the download")
        with _open(folder / shard) as file:
            absent = sorted({n for n, s in shard_of.items() if s == shard} - set(file.keys()))
        if absent:
            raise CheckpointError(f"{folder / shard} lacks {absent[0]!r}, which its index promises: fetch it again")
    return shard_of


def _open(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} is not a whole safetensors file ({_first_line(error)}): fetch it again"
        ) from error


def _is_finite(tensor: Tensor) -> bool:
    """Whether all values are; NaN is passed on by minimum and maximum, and nothing as large as the tensor is made."""
    return not tensor.numel() or bool(torch.isfinite(torch.stack(tensor.aminmax())).all())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
