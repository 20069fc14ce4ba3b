"""Prove a layout on the loaded model: what is read from the checkpoint must be what the model computes.

One forward pass of a few tokens is recorded at the joints of every layer, and each step between two joints
is computed again from the checkpoint's rows. A layout that swaps gate and up, forgets a norm weight or
takes another head than the model's is refused here, before anything is measured with it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers.activations import ACT2FN

from flashinterp.checkpoint import Checkpoint
from flashinterp.errors import LayoutError
from flashinterp.layout import Layout

# Relative to the largest value of the compared tensor. The recomputation is in float32 from the stored
# weights, so what is allowed is the rounding of the model's own dtype over one step: eps is 1.2e-7 in
# float32, 1e-3 in float16, 8e-3 in bfloat16. Measured in bfloat16: right layouts are off by 0.9 eps at most (the
# fixture, a trained 5-layer Llama, a random one of d = 2,048), gelu in silu's place, a mild fault, by 16 eps.
_EPS_ALLOWED = 8
_FLOAT32_ALLOWED = 1e-4  # float32 sums over d terms in another order


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMSNorm over the last axis: x / sqrt(mean(x²) + eps) · weight."""
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight


def probe(checkpoint: Checkpoint, model: Any) -> dict[str, float]:
    """Compare each layer's MLP, its norm, and the head with a recomputation from the checkpoint's weights.

    Returns:
        The largest relative error per joint: ``pre_norm``, ``mlp``, ``residual``, ``head``.

    Raises:
        LayoutError: a joint differs by more than the rounding of the model's dtype.
    """
    layout = checkpoint.layout
    # Ids spread over the vocabulary, so that a wrong head row cannot hide.
    ids = torch.linspace(0, layout.vocab_size - 1, 6).long()[None].to(next(model.parameters()).device)
    with torch.no_grad(), _joints(model, layout) as seen:
        logits = model(ids, use_cache=False).logits
    dtype = next(model.parameters()).dtype
    allowed = max(_FLOAT32_ALLOWED, _EPS_ALLOWED * torch.finfo(dtype).eps)
    errors = {"pre_norm": 0.0, "mlp": 0.0, "residual": 0.0, "head": 0.0}
    for layer in range(layout.n_layers):
        for joint, (want, got) in _recompute_layer(checkpoint, layer, seen).items():
            errors[joint] = max(errors[joint], _compare(checkpoint, f"layer {layer} {joint}", want, got, allowed))
    normed = rms_norm(seen["final_in"], _weight(checkpoint.final_norm(), seen["final_in"]), layout.norm_eps)
    got = normed @ _weight(checkpoint.head(), normed).T
    errors["head"] = _compare(checkpoint, "head", logits.float(), got, allowed)
    return errors


def _recompute_layer(checkpoint: Checkpoint, layer: int, seen: dict[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """What the model had and what the rows give, at each joint of one layer."""
    residual, x, out = (seen[f"{joint}.{layer}"] for joint in ("residual", "x", "out"))  # each [1, T, d]
    normed = rms_norm(residual, _weight(checkpoint.pre_norm(layer), x), checkpoint.layout.norm_eps)
    up, gate, down = (_weight(checkpoint.rows(k, layer), x) for k in ("up", "gate", "down"))
    value = ACT2FN[checkpoint.layout.activation](x @ gate.T) * (x @ up.T)  # [1, T, F]
    return {
        "pre_norm": (x, normed),
        "mlp": (out, value @ down),
        "residual": (seen[f"layer_out.{layer}"], residual + out),
    }


def _weight(weight: Tensor, like: Tensor) -> Tensor:
    return weight.to(like.device, torch.float32)


def _compare(checkpoint: Checkpoint, joint: str, want: Tensor, got: Tensor, allowed: float) -> float:
    scale = float(want.abs().max())
    error = float((want - got).abs().max()) / (scale or 1.0)
    if not error <= allowed:  # also refuses NaN
        raise LayoutError(
            f"the {checkpoint.layout.model_type} layout does not hold for {checkpoint.name}: at {joint} the "
            f"model and its weights differ by {error:.2g} of the largest value (allowed {allowed:.2g}); nothing "
            "can be measured on this model until its layout is corrected"
        )
    return error


@contextmanager
def _joints(model: Any, layout: Layout) -> Iterator[dict[str, Tensor]]:
    """Record, in float32, the tensors that flow between the parts of each layer."""
    seen: dict[str, Tensor] = {}

    def keep_input(name: str) -> Any:
        return lambda module, args: seen.__setitem__(name, args[0].detach().float())

    def keep_output(name: str) -> Any:
        # Decoder layers return a tensor, or a tuple in older releases.
        return lambda module, args, out: seen.__setitem__(
            name, (out[0] if isinstance(out, tuple) else out).detach().float()
        )

    handles = []
    try:
        for layer in range(layout.n_layers):
            mlp, norm = layout.module(model, "mlp", layer), layout.module(model, "pre_norm", layer)
            handles.append(norm.register_forward_pre_hook(keep_input(f"residual.{layer}")))
            handles.append(mlp.register_forward_pre_hook(keep_input(f"x.{layer}")))
            handles.append(mlp.register_forward_hook(keep_output(f"out.{layer}")))
            decoder_layer = layout.module(model, "decoder_layer", layer)
            handles.append(decoder_layer.register_forward_hook(keep_output(f"layer_out.{layer}")))
        final = layout.module(model, "final_norm")
        handles.append(final.register_forward_pre_hook(keep_input("final_in")))
        yield seen
    finally:
        for handle in handles:
            handle.remove()
