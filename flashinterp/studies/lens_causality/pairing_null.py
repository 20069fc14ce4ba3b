"""The pairing null: the same model, in which what a neuron reads no longer goes with what it writes (METHOD 4).

What a model has learnt about a neuron is that the one belongs to the other. With the columns of W_down exchanged, or
turned in random directions, every matrix keeps its norms and every layer its size, and only that is gone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flashinterp.errors import RunError
from flashinterp.models.layout import Weight
from flashinterp.models.layout_reader import layout_of
from flashinterp.models.weights.quantization import is_plain
from flashinterp.studies.lens_causality.ranking import Kind


@contextmanager
def repaired(model: Any, kind: Kind, rng: np.random.Generator) -> Iterator[None]:
    """Change W_down of every block while the context is open: this mutates the live model, and puts it back.

    Equivalent, in each block with its vectors ``down`` [F, d], to::

        down[:] = down[rng.permutation(F)]                                               # permuted
        noise = rng.standard_normal((F, d))
        down[:] = noise * (norm(down, axis=1) / norm(noise, axis=1))[:, None]            # random

    Biases stay. The parameters are the same objects all the time; they get other storage, and their own back on
    leaving, also when the body raises. It takes the memory of a second W_down.

    Args:
        model: a live transformers model of a known family.
        kind: ``permuted``, for lenses that select by what a neuron reads, or ``random``, for those that look at W_down.
        rng: decides the permutations or directions, block by block in the roster's order.

    Raises:
        RunError: W_down is quantised, offloaded or split among processes, or does not fit the memory twice.
    """
    layout = layout_of(model)
    parts: dict[str, list[Weight]] = defaultdict(list)  # the experts of a layer share one tensor
    for block in layout.roster.blocks:
        weight = layout.weight("down", block)
        parts[weight.tensor].append(weight)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name in parts:
        _check(name, parameters.get(name))
    own = {name: parameters[name].data for name in parts}
    try:
        for name, weights in parts.items():
            parameters[name].data = _changed(own[name], weights, kind, rng)
        yield
    finally:
        for name, tensor in own.items():
            parameters[name].data = tensor


def _check(name: str, parameter: Any) -> None:
    """A parameter whose numbers are the weights, whole and in memory."""
    told = ""
    if parameter is None:
        told = "is not stored under this name"
    elif parameter.is_meta:
        told = "is offloaded"
    elif hasattr(parameter, "full_tensor"):
        told = "is split among processes"
    elif not is_plain(parameter) or type(parameter) not in (torch.nn.Parameter, Tensor):
        told = f"is quantised (a {type(parameter).__name__} of {parameter.dtype})"
    if told:
        raise RunError(
            f"no pairing null: {name} {told}, so that its columns cannot be exchanged; load the model unquantised and "
            "whole on one device, or take a smaller one"
        )


def _changed(tensor: Tensor, weights: list[Weight], kind: Kind, rng: np.random.Generator) -> Tensor:
    """A copy of a tensor, changed in every block that it holds."""
    try:
        copy = tensor.clone()
    except torch.OutOfMemoryError as error:
        raise RunError(
            f"no pairing null: a second {weights[0].tensor}, {tuple(tensor.shape)}, does not fit the memory; use a "
            "device with more of it"
        ) from error
    for weight in weights:
        matrix = copy if weight.expert is None else copy[weight.expert]
        vectors = matrix[weight.neurons] if weight.by_row else matrix[:, weight.neurons].T  # a view [F, d]
        vectors.copy_(_permuted(vectors, rng) if kind == "permuted" else _turned(vectors, rng))
    return copy


def _permuted(vectors: Tensor, rng: np.random.Generator) -> Tensor:
    return vectors[torch.from_numpy(rng.permutation(len(vectors))).to(vectors.device)]


def _turned(vectors: Tensor, rng: np.random.Generator) -> Tensor:
    """Random directions, each with the norm of its vector; what is zero stays so."""
    drawn = torch.from_numpy(rng.standard_normal(tuple(vectors.shape), dtype=np.float32))
    noise = drawn.to(vectors.device, torch.promote_types(vectors.dtype, torch.float32))
    norms = torch.linalg.vector_norm(vectors.to(noise.dtype), dim=1, keepdim=True)
    turned: Tensor = noise * (norms / torch.linalg.vector_norm(noise, dim=1, keepdim=True))
    return turned
