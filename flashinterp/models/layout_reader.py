"""Reads a `Layout` from a module tree: a live model's, or one without weights on the meta device (METHOD 1)."""

from __future__ import annotations

import copy
from typing import Any
from weakref import WeakKeyDictionary

import torch

from flashinterp.errors import LayoutError, first_line
from flashinterp.models.architectures import Family, family_of
from flashinterp.models.layout import HEAD, ExpertTensors, Layout, join_path, module_at
from flashinterp.models.mlp_formula import Formula
from flashinterp.neuron_index import NeuronIndex
from flashinterp.neurons import Block

_LAYOUTS: WeakKeyDictionary[Any, Layout] = WeakKeyDictionary()


def skeleton(config: Any) -> Any:
    """The model of a config without its weights, on the meta device: names and shapes, and no memory.

    Raises:
        LayoutError: the architecture is not known here, or transformers cannot make it.
    """
    from transformers import AutoModelForCausalLM

    family_of(config)
    plain = copy.deepcopy(config)
    if getattr(plain, "quantization_config", None) is not None:
        del plain.quantization_config
    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(plain)
    except Exception as error:  # whatever a config with wrong fields makes it raise
        raise LayoutError(
            f"transformers cannot make a {config.model_type} model of this config ({first_line(error)}): fetch "
            "config.json again"
        ) from error


def layout_of(model: Any) -> Layout:
    """The layout of a live model, or of one without weights; made once for each.

    Raises:
        LayoutError: the architecture is not known here, or the model lacks a part that its family has.
    """
    if model not in _LAYOUTS:
        _LAYOUTS[model] = _read(model)
    return _LAYOUTS[model]


def _read(model: Any) -> Layout:
    config: Any = getattr(model, "config", None)
    family = family_of(config)
    text = config.get_text_config()
    shapes = {name: _shape(module, own, p) for name, module, own, p in _parameters(model)}
    layers = module_at(model, family.layers, config.model_type)
    experts = {
        n: _expert_tensors(layer, family) for n, layer in enumerate(layers) if _experts_of(layer, family) is not None
    }
    module_at(model, HEAD, config.model_type)
    return Layout(
        model_type=config.model_type,
        family=family,
        n_layers=len(layers),
        d_model=text.hidden_size,
        vocab_size=shapes[f"{HEAD}.weight"][0],
        roster=_roster(layers, family, config.model_type, shapes),
        formula=_formula(layers, family, text),
        logit_scale=_field(config, family.logit_scale) / _field(config, family.logit_divisor),
        softcap=getattr(config, family.softcap, None) if family.softcap else None,
        multiplier=_field(config, family.multiplier),
        shapes=shapes,
        eps=_epsilons(model, family),
        experts=experts,
    )


def _parameters(model: Any) -> Any:
    for path, module in model.named_modules(remove_duplicate=False):
        for own, parameter in module._parameters.items():
            if parameter is not None:
                yield join_path(path, own), module, own, parameter


def _shape(module: Any, own: str, parameter: Any) -> tuple[int, ...]:
    """A parameter's shape, or what it would be if it were not quantised."""
    if own == "weight" and hasattr(module, "in_features") and hasattr(module, "out_features"):
        return module.out_features, module.in_features
    return tuple(parameter.shape)


def _experts_of(layer: Any, family: Family) -> Any:
    mlp = getattr(layer, family.mlp, None) if family.mlp else None
    return getattr(mlp, family.experts, None)


def _expert_tensors(layer: Any, family: Family) -> ExpertTensors:
    """How the experts' tensors lie: what transformers' own experts modules say of themselves."""
    module = _experts_of(layer, family)
    if getattr(module, "has_post_expert_norm", False) or not getattr(module, "has_gate", True):
        raise LayoutError(
            f"the experts of {type(module).__name__} have a norm of their own, or no gate, which no family here has: "
            "add it to flashinterp/models/layout.py"
        )
    return ExpertTensors(bool(module.is_transposed), bool(module.is_concatenated), bool(module.has_bias))


def _roster(layers: Any, family: Family, model_type: str, shapes: dict[str, tuple[int, ...]]) -> NeuronIndex:
    blocks, widths = [], []
    for number, layer in enumerate(layers):
        mlp = join_path(f"{family.layers}.{number}", family.mlp)
        experts = _experts_of(layer, family)
        dense = mlp if experts is None else join_path(mlp, family.shared)
        names = [join_path(dense, matrix, "weight") for matrix in (family.down, family.up, family.gate) if matrix]
        missing = [name for name in names if name not in shapes]
        if not missing:
            blocks.append(Block(number))
            widths.append(shapes[names[0]][0 if family.transposed else 1])
        elif experts is None:
            raise LayoutError(
                f"layer {number} of this {model_type} model has no {missing[0]}: its parts are "
                f"{', '.join(n for n, _ in layer.named_children())}; add an entry to "
                "flashinterp/models/architectures.py"
            )
        if experts is not None:
            count, *rest = shapes[join_path(mlp, family.experts, "down_proj")]
            blocks += [Block(number, e) for e in range(count)]
            widths += [rest[0 if experts.is_transposed else 1]] * count
    return NeuronIndex(tuple(blocks), tuple(widths))


def _formula(layers: Any, family: Family, text: Any) -> Formula:
    if family.swiglu_limit is None:
        return Formula(_said(text, family.activation), gated=family.gate is not None)
    module = _experts_of(layers[0], family)  # the live values where it has them; older releases fix them
    limit, alpha = (getattr(module, n, d) for n, d in zip(("limit", "alpha"), family.swiglu_limit, strict=True))
    return Formula("silu", gated=True, limit=float(limit), alpha=float(alpha))


def _field(config: Any, name: str) -> float:
    return float(_said(config, name)) if name else 1.0


def _said(config: Any, name: str) -> Any:
    if not hasattr(config, name):
        raise LayoutError(
            f"the config of this {config.model_type} model has no {name}: check the entry in "
            "flashinterp/models/architectures.py"
        )
    return getattr(config, name)


def _epsilons(model: Any, family: Family) -> dict[str, float]:
    """Each norm's own epsilon, which five families keep in four fields of their configs and one in none."""
    paths = {
        "pre": family.pre_norm and f"{family.layers}.0.{family.pre_norm}",
        "post": family.post_norm and f"{family.layers}.0.{family.post_norm}",
        "final": family.final_norm,
    }
    found = {}
    for kind, path in paths.items():
        if path:
            module = module_at(model, path, model.config.model_type)
            found[kind] = float(getattr(module, "variance_epsilon", None) or module.eps)
    return found
