"""Prove a layout on the loaded model: what is read from the checkpoint must be what the model computes.

A few tokens go through the model once, and the hidden states at the joints of every layer are kept; each step between
two joints is then computed again from the checkpoint's rows. A layout that swaps gate and up, forgets a norm weight,
leaves a soft-cap out or takes another head than the model's is refused here, before anything is measured with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from flashinterp.errors import LayoutError
from flashinterp.models.checkpoint import Checkpoint
from flashinterp.models.forward_pass import input_device
from flashinterp.models.layout import HEAD, Layout, NormKind, module_at
from flashinterp.models.norms import cap
from flashinterp.neurons import Block, WeightKind

# Relative to the largest value of the compared tensor. The recomputation is in float32 from the stored
# weights, so what is allowed is the rounding of the model's own dtype over one step: eps is 1.2e-7 in
# float32, 1e-3 in float16, 8e-3 in bfloat16. Measured in bfloat16: right layouts are off by 0.9 eps at most (the
# fixture, a trained 5-layer Llama, a random one of d = 2,048), gelu in silu's place, a mild fault, by 16 eps.
_EPS_ALLOWED = 8
_FLOAT32_ALLOWED = 1e-4  # float32 sums over d terms in another order
_TOKENS = 6
Joints = dict[str, Tensor]
Pairs = dict[str, tuple[Tensor, Tensor]]


@torch.no_grad()
def probe(checkpoint: Checkpoint, model: Any) -> dict[str, float]:
    """Compare each layer's norm, MLP and experts, what joins them to the stream, and the head with a recomputation.

    Returns:
        The largest relative error per joint: ``pre_norm``, ``experts``, ``mlp``, ``post_norm``, ``stream``,
        ``residual``, ``head``, as far as the architecture has them.

    Raises:
        LayoutError: a joint differs by more than the rounding of the model's dtype.
    """
    layout = checkpoint.layout
    # Ids spread over the vocabulary, so that a wrong head row cannot hide.
    ids = torch.linspace(0, layout.vocab_size - 1, _TOKENS).long()[None].to(input_device(model))
    with _joints(model, layout) as seen:
        logits = model(ids, use_cache=False).logits
    allowed = max(_FLOAT32_ALLOWED, _EPS_ALLOWED * torch.finfo(model.dtype).eps)
    errors: dict[str, float] = {}
    for layer in range(layout.n_layers):
        for joint, (want, got) in _recompute_layer(checkpoint, layer, seen).items():
            place = layout.mlp(layer) if joint in ("mlp", "experts") else layout.layer(layer)
            error = _compare(checkpoint, model, f"layer {layer} {joint}", [place], want, got, allowed)
            errors[joint] = max(errors.get(joint, 0.0), error)
    got = _recompute_head(checkpoint, seen["final_in"])
    places = [layout.family.layers.rpartition(".")[0], HEAD]  # what holds the final norm, and the head
    errors["head"] = _compare(checkpoint, model, "head", places, logits.float(), got, allowed)
    return errors


def _recompute_layer(checkpoint: Checkpoint, layer: int, seen: Joints) -> Pairs:
    """What the model had and what the rows give, at each joint of one layer."""
    layout = checkpoint.layout
    x, out = seen[f"x.{layer}"], seen[f"out.{layer}"]  # each [T, d]
    pairs: Pairs = {}
    if f"pre_in.{layer}" in seen:
        pairs["pre_norm"] = x, _normed(checkpoint, "pre", layer, seen[f"pre_in.{layer}"])
    mlp = torch.zeros_like(out)
    if Block(layer) in layout.roster.blocks:
        mlp = mlp + _mlp(checkpoint, Block(layer), x)
    if f"experts_out.{layer}" in seen:
        routed = seen[f"experts_out.{layer}"]
        pairs["experts"] = routed, _experts(checkpoint, layer, seen)
        mlp = mlp + routed
    pairs["mlp"] = out, mlp
    return pairs | _recompute_stream(checkpoint, layer, seen)


def _recompute_stream(checkpoint: Checkpoint, layer: int, seen: Joints) -> Pairs:
    """How the MLP's output joins the residual stream."""
    layout, pairs = checkpoint.layout, Pairs()
    stream, added = layout.family.stream, seen[f"out.{layer}"]
    if f"post_out.{layer}" in seen and stream != "added, then normed":
        pairs["post_norm"] = seen[f"post_out.{layer}"], _normed(checkpoint, "post", layer, added)
        added = seen[f"post_out.{layer}"]
    before = seen[f"pre_in.{layer}"] if f"pre_in.{layer}" in seen else seen[f"x.{layer}"]
    if stream == "parallel":  # the MLP, or the norm in front of it, reads what the attention reads
        pairs["stream"] = seen[f"layer_in.{layer}"], before
        before = before + seen[f"attention.{layer}"]
    after = before + layout.multiplier * added
    if stream == "added, then normed":
        after = _normed(checkpoint, "post", layer, after)
    return {**pairs, "residual": (seen[f"layer_out.{layer}"], after)}


def _normed(checkpoint: Checkpoint, kind: NormKind, layer: int | None, x: Tensor) -> Tensor:
    norm = checkpoint.norm(kind, layer)
    return x if norm is None else norm(x)


def _mlp(checkpoint: Checkpoint, block: Block, x: Tensor) -> Tensor:
    """One block's output [T, d] for inputs x [T, d], in float32 from the stored rows."""
    formula = checkpoint.layout.formula
    up = _affine(checkpoint, "up", block, x)
    gate = _affine(checkpoint, "gate", block, x) if formula.gated else up
    out = formula.output(gate, up) @ _weight(checkpoint.rows("down", block), x)
    bias = checkpoint.bias("down", block)
    return out if bias is None else out + _weight(bias, x)


def _affine(checkpoint: Checkpoint, kind: WeightKind, block: Block, x: Tensor) -> Tensor:
    y, bias = x @ _weight(checkpoint.rows(kind, block), x).T, checkpoint.bias(kind, block)
    return y if bias is None else y + _weight(bias, x)


def _experts(checkpoint: Checkpoint, layer: int, seen: Joints) -> Tensor:
    """The routed experts' sum [T, d]; only experts that a token was sent to are read."""
    x, index, weight = (seen[f"{part}.{layer}"] for part in ("experts_in", "index", "weight"))
    out = torch.zeros_like(x)
    for expert in index.unique().long().tolist():
        share = (weight * (index == expert)).sum(-1, keepdim=True)
        at = share[:, 0] != 0
        out[at] += share[at] * _mlp(checkpoint, Block(layer, expert), x[at])
    return out


def _recompute_head(checkpoint: Checkpoint, x: Tensor) -> Tensor:
    """Logits [T, V] from what goes into the final norm."""
    logits = _normed(checkpoint, "final", None, x) @ _weight(checkpoint.head(), x).T
    bias = checkpoint.head_bias()
    return cap(logits if bias is None else logits + _weight(bias, x), checkpoint.layout.softcap)


def _weight(weight: Tensor, like: Tensor) -> Tensor:
    return weight.to(like.device, torch.float32)


def _compare(
    checkpoint: Checkpoint, model: Any, joint: str, paths: Sequence[str], want: Tensor, got: Tensor, allowed: float
) -> float:
    got = got.to(want.device).view(want.shape)  # a model on several devices gives its logits on the first
    scale = float(want.abs().max())
    error = float((want - got).abs().max()) / (scale or 1.0)
    if not error <= allowed:  # also refuses NaN
        there = ", ".join(_tree(module_at(model, path, checkpoint.layout.model_type), path) for path in paths)
        raise LayoutError(
            f"the {checkpoint.layout.model_type} layout does not hold for {checkpoint.name}: at {joint} the "
            f"model and its weights differ by {error:.2g} of the largest value (allowed {allowed:.2g}); nothing "
            f"can be measured on this model until its layout is corrected: check the entry in "
            f"flashinterp/models/architectures.py against {there}"
        )
    return error


def _tree(module: Any, path: str) -> str:
    """As in "model.layers.0.mlp (LlamaMLP of gate_proj: Linear, up_proj: Linear, down_proj: Linear, act_fn: SiLU)"."""
    parts = ", ".join(f"{name}: {type(part).__name__}" for name, part in module.named_children())
    return f"{path} ({type(module).__name__}{f' of {parts}' if parts else ''})"


@contextmanager
def _joints(model: Any, layout: Layout) -> Iterator[Joints]:
    """Record, in float32 and as [T, d], the tensors that flow between the parts of each layer."""
    seen: Joints = {}
    with ExitStack() as hooks:

        def at(path: str | None, *, into: str = "", out: str = "", also: tuple[str, ...] = ()) -> None:
            if path is None:
                return
            module = module_at(model, path, layout.model_type)
            if into:
                hooks.enter_context(
                    module.register_forward_pre_hook(_keep_inputs(seen, (into, *also)), with_kwargs=True)
                )
            if out:
                hooks.enter_context(module.register_forward_hook(_keep_output(seen, out)))

        for n in range(layout.n_layers):
            family = layout.family
            at(layout.layer(n), into=f"layer_in.{n}", out=f"layer_out.{n}")
            at(layout.norm("pre", n), into=f"pre_in.{n}")
            at(layout.norm("post", n), out=f"post_out.{n}")
            if family.stream == "parallel":
                at(f"{layout.layer(n)}.{family.attention}", out=f"attention.{n}")
            if n in layout.experts:
                routed = (f"index.{n}", f"weight.{n}")
                at(layout.experts_module(n), into=f"experts_in.{n}", out=f"experts_out.{n}", also=routed)
            if family.mlp:
                at(layout.mlp(n), into=f"x.{n}", out=f"out.{n}")
            else:  # the layer itself holds the two matrices
                at(f"{layout.layer(n)}.{family.up}", into=f"x.{n}")
                at(f"{layout.layer(n)}.{family.down}", out=f"out.{n}")
        last = layout.layer(layout.n_layers - 1)
        at(layout.norm("final"), into="final_in")
        if layout.norm("final") is None:
            at(last, out="final_in")
        yield seen


def _keep_inputs(seen: Joints, names: tuple[str, ...]) -> Callable[..., None]:
    """A pre-hook that keeps the first inputs, given by place or, as hidden states may be, by name."""

    def keep(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        for name, value in zip(names, args or (kwargs["hidden_states"],), strict=False):
            seen[name] = _flat(value)

    return keep


def _keep_output(seen: Joints, name: str) -> Callable[..., None]:
    """A hook that keeps the output, the first of a tuple where it is one."""
    return lambda module, args, out: seen.__setitem__(name, _flat(out[0] if isinstance(out, tuple) else out))


def _flat(x: Tensor) -> Tensor:
    """[T, d] of [1, T, d] or [T, d], in float32."""
    return x.detach().reshape(-1, x.shape[-1]).float()
