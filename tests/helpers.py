"""What the tests build by hand: small models, quantised codes, small maps, and the messages of errors."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig

import flashinterp
from flashinterp.decoding.neuron_map import NeuronMap
from flashinterp.models.checkpoint import Checkpoint, open_checkpoint
from flashinterp.neuron_index import NeuronIndex
from flashinterp.neurons import Block
from flashinterp.tokens import Vocabulary

UP = "model.layers.{}.mlp.up_proj.weight"
GATE = "model.layers.{}.mlp.gate_proj.weight"
DOWN = "model.layers.{}.mlp.down_proj.weight"

_STEP = re.compile(
    r"[:;,(] (?:or )?(add|ask|check|choose|compare|decode|download|fetch|finish|give|log in|name|open|run|take|use"
    r"|verify|write)\b"
    r"|do not trust|needs an entry"
)


def assert_one_line_with_next_step(error: BaseException) -> None:
    """Every error that a user meets is one line that says what to do."""
    message = str(error)
    assert message
    assert len(message.splitlines()) == 1, message
    assert _STEP.search(message), f"no next step in: {message}"


# --- model folders ----------------------------------------------------------------------------------


def edited_copy(
    source: Path,
    target: Path,
    tensors: Callable[[dict[str, Tensor]], Any] | None = None,
    config: dict[str, Any] | None = None,
) -> Path:
    """Copy a model folder, with its tensors edited in place by a function and its config updated."""
    shutil.copytree(source, target)
    if tensors is not None:
        loaded = load_file(target / "model.safetensors")
        tensors(loaded)
        save_file(
            {name: tensor.contiguous().clone() for name, tensor in loaded.items()},
            target / "model.safetensors",
            metadata={"format": "pt"},
        )
    if config is not None:
        path = target / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **config}))
    return target


def shard(folder: Path, parts: int = 3) -> dict[str, str]:
    """Split ``model.safetensors`` of a folder into shards with an index; returns the index's weight map."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    shard_of = {}
    for part in range(parts):
        file = f"model-{part + 1:05}-of-{parts:05}.safetensors"
        own = names[part::parts]
        save_file({name: tensors[name] for name in own}, folder / file, metadata={"format": "pt"})
        shard_of |= dict.fromkeys(own, file)
    write_index(folder, shard_of)
    return shard_of


def write_index(folder: Path, shard_of: dict[str, str]) -> None:
    """Write a weight index."""
    text = json.dumps({"metadata": {}, "weight_map": shard_of})
    (folder / "model.safetensors.index.json").write_text(text)


# --- small live models ------------------------------------------------------------------------------


def word_vocabulary(size: int, excluded: Sequence[int] = ()) -> Vocabulary:
    """`` w0``, `` w1``, ... without a tokenizer."""
    return Vocabulary([f" w{i}" for i in range(size)], excluded, prefix_space=False)


def small_checkpoint(
    rng: np.random.Generator,
    *,
    layers: int = 2,
    neurons: int = 6,
    hidden: int = 4,
    vocab: int = 40,
    integers: bool = False,
    excluded: Sequence[int] = (),
    config: dict[str, Any] | None = None,
) -> Checkpoint:
    """A live random Llama; with ``integers`` all its weights are small integers, so that products are exact."""
    shape = LlamaConfig(
        vocab_size=vocab,
        hidden_size=hidden,
        intermediate_size=neurons,
        num_hidden_layers=layers,
        num_attention_heads=1,
        num_key_value_heads=1,
        tie_word_embeddings=False,
        **(config or {}),
    )
    model = AutoModelForCausalLM.from_config(shape).eval().requires_grad_(False)
    for parameter in model.parameters():
        values = rng.integers(-2, 3, parameter.shape) if integers else rng.standard_normal(parameter.shape)
        parameter.copy_(torch.as_tensor(values))
    checkpoint = open_checkpoint(model)
    checkpoint.vocabulary = word_vocabulary(vocab, excluded)
    return checkpoint


def paper_logits(checkpoint: Checkpoint) -> NDArray[np.float64]:
    """[N, V] U · W_up[n] in float64, the whole matrix at once."""
    rows = torch.cat([checkpoint.rows("up", layer) for layer in range(checkpoint.layout.n_layers)])
    product: NDArray[np.float64] = (rows.double() @ checkpoint.head().double().T).numpy()
    return product


def log_sum_exp(z: NDArray[np.float64]) -> NDArray[np.float64]:
    """Over the last axis, in float64."""
    high = z.max(axis=-1, keepdims=True)
    total: NDArray[np.float64] = high[..., 0] + np.log(np.exp(z - high).sum(axis=-1))
    return total


def log_mean_top(z: NDArray[np.float64], count: int = 100) -> NDArray[np.float64]:
    """logmeanexp of the ``count`` highest of the last axis, or of all of them."""
    best = -np.sort(-z, axis=-1)[..., :count]
    return log_sum_exp(best) - np.log(best.shape[-1])


def n_hooks(model: torch.nn.Module) -> int:
    """How many forward hooks and forward pre-hooks hang on a model."""
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


# --- codes ------------------------------------------------------------------------------------------


def fp8_codes(*shape: int, seed: int = 0) -> Tensor:
    """Random fp8 numbers of all magnitudes, none of them NaN."""
    codes = torch.randint(0, 255, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return torch.where(codes & 127 == 127, 0, codes).to(torch.uint8).view(torch.float8_e4m3fn)


def scales(*shape: int, seed: int = 1) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) + 0.1


# --- maps by hand -----------------------------------------------------------------------------------


def map_by_hand(
    ids: Sequence[Sequence[int]],
    logits: Sequence[Sequence[float]] | None = None,
    *,
    layers: tuple[int, ...] = (0,),
    vocab: int = 10,
    excluded: Sequence[int] = (),
    **meta: Any,
) -> NeuronMap:
    """A map with these top ids (and logits k, k - 1, ... where none are given); the negative pole mirrors it."""
    top = np.array(ids, dtype=np.int32)
    n, k = top.shape
    z = np.array(logits if logits is not None else [range(k, 0, -1)] * n, dtype=np.float32)
    lse = log_sum_exp(z.astype(np.float64)).astype(np.float32)
    return NeuronMap(
        top_ids=top,
        top_logits=z,
        bottom_ids=top.copy(),
        bottom_logits=-z,
        logsumexp=lse,
        log_mean_top=lse - np.float32(np.log(k)),
        bottom_logsumexp=lse,
        bottom_log_mean_top=lse - np.float32(np.log(k)),
        norms=np.ones(n, dtype=np.float32),
        roster=NeuronIndex(tuple(Block(layer) for layer in layers), (n // len(layers),) * len(layers)),
        vocabulary=word_vocabulary(vocab, excluded),
        meta={"model": "by hand", "lens": "paper", "weights": {}, "head_of": None, **meta},
    )


def import_all() -> None:
    """Import every module of the package, before a run of pytest inside this one.

    pytester forgets what such a run imports. It would then come anew, with new classes, which the registry refuses.
    """
    for module in walk_packages(flashinterp.__path__, "flashinterp."):
        if ".triton_" not in module.name and module.name not in ("flashinterp.__main__", "flashinterp._evals"):
            import_module(module.name)
