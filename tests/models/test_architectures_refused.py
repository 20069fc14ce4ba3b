"""Every architecture, wrongly described: a layout or a registry entry with one fault is refused at its joint."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest

from fixtures.architectures import ARCHITECTURES, HIDDEN, VOCAB, make
from flashinterp.errors import LayoutError
from flashinterp.models.architectures import FAMILIES
from flashinterp.models.checkpoint import Checkpoint, open_checkpoint
from flashinterp.models.layout import Layout
from flashinterp.models.layout_check import probe
from flashinterp.neuron_index import NeuronIndex
from tests.architecture_cases import DISTINCT, Case, by_kind, entry_of
from tests.by_hand import layers_of
from tests.helpers import assert_one_line_with_next_step, n_hooks

# --- layouts made wrong -----------------------------------------------------------------------------


class _GateForUp(Layout):
    """A layout that takes one for the other, in experts and fused matrices too."""

    def weight(self, kind: Any, where: Any) -> Any:
        return super().weight({"up": "gate", "gate": "up"}.get(kind, kind), where)


class _NextExpert(Layout):
    """A layout that takes each expert for its neighbour."""

    def weight(self, kind: Any, where: Any) -> Any:
        right = super().weight(kind, where)
        return right if right.expert is None else replace(right, expert=(right.expert + 1) % right.shape[0])


def _having(field: str) -> Callable[[str], Any]:
    """Concerns the families that have this in the registry."""
    return lambda name: getattr(entry_of(name), field)


Wrong = Callable[[Layout], Layout]


def _with(**changes: Any) -> Wrong:
    return lambda layout: replace(layout, **changes)


def _entry(**changes: Any) -> Wrong:
    """With another entry in the registry."""
    return lambda layout: replace(layout, family=replace(layout.family, **changes))


def _formula(**changes: Any) -> Wrong:
    return lambda layout: replace(layout, formula=replace(layout.formula, **changes))


def _experts(**changes: bool) -> Wrong:
    return lambda layout: replace(layout, experts={n: own._replace(**changes) for n, own in layout.experts.items()})


def _without(layout: Layout, *endings: str) -> Layout:
    """Without some tensors, as if the model had none."""
    kept = {name: shape for name, shape in layout.shapes.items() if not name.endswith(endings)}
    assert len(kept) < len(layout.shapes)
    return replace(layout, shapes=kept)


def _without_norm(kind: Any, layer: int | None, own: str = "weight") -> Wrong:
    return lambda layout: _without(layout, f"{layout.norm(kind, layer)}.{own}")


def _without_shared(layout: Layout) -> Layout:
    pairs = zip(layout.roster.blocks, layout.roster.widths, strict=True)
    kept = [(b, w) for b, w in pairs if b.expert is not None or b.layer not in layout.experts]
    return replace(layout, roster=NeuronIndex(tuple(b for b, _ in kept), tuple(w for _, w in kept)))


def _is_moe(name: str) -> bool:
    return any("experts" in key for key in ARCHITECTURES[name].config)


def _has_biases(name: str) -> bool:
    """Whether the MLP's matrices have biases: most of those without a gate, and others by their configs."""
    biased = not entry_of(name).gate and ARCHITECTURES[name].model_type not in ("arcee", "nemotron")
    return biased or bool(ARCHITECTURES[name].config.get("mlp_bias"))


_NORMED = "layer 0 (pre_norm|post_norm|residual)"
_SUM = "added, then normed"


@dataclass(frozen=True)
class Fault:
    """One way to be wrong: whom it concerns, the wrong layout, and the joint at which it shows."""

    concerns: Callable[[str], Any]
    wrong: Wrong
    joint: str


FAULTS = {
    "gate and up swapped": Fault(_having("gate"), lambda layout: _GateForUp(**vars(layout)), "layer 0 (mlp|experts)"),
    "names of gate and up swapped": Fault(
        lambda name: entry_of(name).gate not in (None, entry_of(name).up) and not _is_moe(name),
        lambda layout: _entry(gate=layout.family.up, up=layout.family.gate)(layout),
        "layer 0 mlp",
    ),
    "gamma before the MLP left out": Fault(_having("pre_norm"), _without_norm("pre", 1), "layer 1 pre_norm"),
    "norm before the MLP left out": Fault(_having("pre_norm"), _entry(pre_norm=None), "layer 0 (stream|residual)"),
    "norm before the attention taken": Fault(
        lambda name: entry_of(name).pre_norm == "post_attention_layernorm",
        _entry(pre_norm="input_layernorm"),
        "layer 0 pre_norm",
    ),
    "bias of the norm before the MLP left out": Fault(
        lambda name: entry_of(name).pre_norm and not entry_of(name).gate and entry_of(name).centred,
        _without_norm("pre", 2, "bias"),
        "layer 2 pre_norm",
    ),
    "gamma after the MLP left out": Fault(
        _having("post_norm"), _without_norm("post", 2), "layer 2 (post_norm|residual)"
    ),
    "norm after the MLP left out": Fault(_having("post_norm"), _entry(post_norm=None), "layer 0 residual"),
    "gamma before the head left out": Fault(_having("final_norm"), _without_norm("final", None), "head"),
    "norm before the head left out": Fault(_having("final_norm"), _entry(final_norm=None), "head"),
    "1 + w read as w": Fault(_having("unit_offset"), _entry(unit_offset=False), _NORMED),
    "w read as 1 + w": Fault(lambda name: not entry_of(name).unit_offset, _entry(unit_offset=True), _NORMED),
    "RMSNorm and LayerNorm confused": Fault(
        lambda name: True, lambda layout: _entry(centred=not layout.family.centred)(layout), _NORMED
    ),
    "another epsilon": Fault(
        lambda name: entry_of(name).final_norm and ARCHITECTURES[name].model_type != "opt",  # whose 1e-5 does not show
        lambda layout: replace(layout, eps={**layout.eps, "final": 3 * layout.eps["final"]}),
        "head",
    ),
    "soft-cap ignored": Fault(_having("softcap"), _with(softcap=None), "head"),
    "soft-cap that is not applied": Fault(lambda name: not entry_of(name).softcap, _with(softcap=30.0), "head"),
    "logit scale ignored": Fault(
        lambda name: entry_of(name).logit_scale or entry_of(name).logit_divisor, _with(logit_scale=1.0), "head"
    ),
    "logit scale the other way round": Fault(
        lambda name: entry_of(name).logit_scale or entry_of(name).logit_divisor,
        lambda layout: replace(layout, logit_scale=1 / layout.logit_scale),
        "head",
    ),
    "bias of the head left out": Fault(
        lambda name: ARCHITECTURES[name].model_type in ("gptj", "phi"),
        lambda layout: _without(layout, "lm_head.bias"),
        "head",
    ),
    "multiplier ignored": Fault(_having("multiplier"), _with(multiplier=1.0), "layer 0 residual"),
    "added, taken for parallel": Fault(
        lambda name: entry_of(name).stream == "added", _entry(stream="parallel"), "layer 0 (stream|residual)"
    ),
    "parallel, taken for added": Fault(
        lambda name: entry_of(name).stream == "parallel", _entry(stream="added"), "layer 0 residual"
    ),
    "norm of the output, taken for one of the sum": Fault(
        lambda name: entry_of(name).post_norm and entry_of(name).stream == "added",
        _entry(stream=_SUM),
        "layer 0 residual",
    ),
    "norm of the sum, taken for one of the output": Fault(
        lambda name: entry_of(name).stream == _SUM, _entry(stream="added"), "layer 0 post_norm"
    ),
    "norm of the sum, taken for parallel": Fault(
        lambda name: entry_of(name).stream == _SUM, _entry(stream="parallel"), "layer 0 (stream|post_norm)"
    ),
    "interleaved experts read as concatenated": Fault(
        _having("swiglu_limit"), _experts(concatenated=True), "layer 0 experts"
    ),
    "concatenated experts read as interleaved": Fault(
        lambda name: _is_moe(name) and not entry_of(name).swiglu_limit,
        _experts(concatenated=False),
        "layer [01] experts",
    ),
    "an expert taken for its neighbour": Fault(
        _is_moe, lambda layout: _NextExpert(**vars(layout)), "layer [01] experts"
    ),
    "shared expert forgotten": Fault(
        lambda name: ARCHITECTURES[name].model_type == "deepseek_v3", _without_shared, "layer 1 mlp"
    ),
    "limits of the experts ignored": Fault(_having("swiglu_limit"), _formula(limit=None), "layer 0 experts"),
    "another limit": Fault(_having("swiglu_limit"), _formula(limit=8.0), "layer 0 experts"),
    "alpha ignored": Fault(_having("swiglu_limit"), _formula(alpha=1.0), "layer 0 experts"),
    "biases of the experts left out": Fault(_having("swiglu_limit"), _experts(biased=False), "layer 0 experts"),
    "bias of the first matrix left out": Fault(
        _has_biases, lambda layout: _without(layout, f"{layout.family.up}.bias"), "layer 0 mlp"
    ),
    "bias of the last matrix left out": Fault(
        _has_biases, lambda layout: _without(layout, f"{layout.family.down}.bias"), "layer 0 mlp"
    ),
    "another activation": Fault(
        lambda name: not entry_of(name).swiglu_limit,
        lambda layout: _formula(activation="silu" if "elu" in layout.formula.activation else "gelu")(layout),
        "layer 0 (mlp|experts)",
    ),
}


@pytest.mark.parametrize(
    ("fault", "name"),
    [one for fault, about in FAULTS.items() for one in by_kind(filter(about.concerns, DISTINCT), fault)],
)
def test_a_layout_made_wrong_is_refused_at_its_joint(fault: str, name: str, case: Callable[[str], Case]) -> None:
    one, about = case(name), FAULTS[fault]
    checkpoint = _with_layout(one.checkpoint, about.wrong(one.checkpoint.layout))
    with pytest.raises(LayoutError, match=rf"at {about.joint} the model and its weights differ") as caught:
        probe(checkpoint, one.model)
    assert_one_line_with_next_step(caught.value)
    assert _tree(one, str(caught.value)) in str(caught.value)
    assert n_hooks(one.model) == 0


def _with_layout(checkpoint: Checkpoint, layout: Layout) -> Checkpoint:
    changed = copy.copy(checkpoint)
    changed.layout = layout
    return changed


def _tree(one: Case, message: str) -> str:
    """The part of the module tree that a message has to show: the MLP, the layer, or what holds the final norm."""
    layout = one.checkpoint.layout
    joint = message.partition(": at ")[2]
    if joint.startswith("head"):
        module = one.model.get_decoder()
    else:
        module, kind = layers_of(one.model)[int(joint.split()[1])], joint.split()[2]
        if kind in ("mlp", "experts") and layout.family.mlp:
            module = module.mlp
    return f"({type(module).__name__} of " + ", ".join(f"{n}: {type(m).__name__}" for n, m in module.named_children())


@pytest.mark.parametrize(
    ("fault", "names"),
    [
        ("gate and up swapped", {"llama", "phi3", "mixtral", "gpt_oss", "deepseek_v3", "gemma3", "llama-bias"}),
        ("gamma before the MLP left out", {"llama", "gpt2", "cohere", "gptj", "gpt_neox", "opt", "gemma2", "gpt_oss"}),
        ("gamma after the MLP left out", {"gemma2", "gemma3", "gemma3_text", "olmo2", "glm4", "opt-postnorm"}),
        ("soft-cap ignored", {"gemma2", "gemma3_text"}),
        ("logit scale ignored", {"cohere", "cohere2", "granite"}),
        ("multiplier ignored", {"granite"}),
        ("interleaved experts read as concatenated", {"gpt_oss"}),
        ("1 + w read as w", {"gemma2", "gemma3", "gemma3_text"}),
        ("parallel, taken for added", {"cohere", "cohere2", "gpt_neox", "gptj"}),
        ("an expert taken for its neighbour", {"mixtral", "qwen3_moe", "olmoe", "deepseek_v3", "gpt_oss"}),
    ],
)
def test_a_fault_is_tried_on_the_families_that_can_have_it(fault: str, names: set[str]) -> None:
    assert names <= {name for name in DISTINCT if FAULTS[fault].concerns(name)}


@pytest.mark.parametrize(("name", "transposed"), [("gpt2", False), ("llama", True)])
def test_matrices_that_lie_the_other_way_are_refused(name: str, transposed: bool, case: Callable[[str], Case]) -> None:
    one = case(name)
    checkpoint = _with_layout(one.checkpoint, _entry(transposed=transposed)(one.checkpoint.layout))
    with pytest.raises(LayoutError, match=r"come out as \(32, 48\), and should be \(48, 32\)") as caught:
        probe(checkpoint, one.model)
    assert_one_line_with_next_step(caught.value)
    assert n_hooks(one.model) == 0


@pytest.mark.parametrize(
    ("name", "transposed", "width"), [("gpt2", False, "n_inner"), ("llama", True, "intermediate_size")]
)
def test_square_matrices_that_lie_the_other_way_are_refused(name: str, transposed: bool, width: str) -> None:
    """Their shapes say nothing, so that only what they compute can."""
    base = ARCHITECTURES[name]
    checkpoint = open_checkpoint(make(replace(base, config={**base.config, width: HIDDEN})))
    probe(checkpoint, checkpoint.model)
    wrong = _with_layout(checkpoint, _entry(transposed=transposed)(checkpoint.layout))
    with pytest.raises(LayoutError, match="at layer 0 mlp the model and its weights differ"):
        probe(wrong, checkpoint.model)


def test_a_projection_before_the_head_that_is_left_out_is_refused(case: Callable[[str], Case]) -> None:
    one = case("opt-postnorm")
    checkpoint = _with_layout(one.checkpoint, _entry(head_projection="")(one.checkpoint.layout))
    with pytest.raises(LayoutError, match=rf"lm_head.weight come out as \({VOCAB}, 24\)"):
        probe(checkpoint, one.model)


@pytest.mark.parametrize(
    ("name", "changes", "told"),
    [
        ("gemma2", {"softcap": ""}, "head"),
        ("granite", {"logit_divisor": ""}, "head"),
        ("granite", {"multiplier": ""}, "layer 0 residual"),
        ("cohere", {"logit_scale": ""}, "head"),
        ("deepseek_v3", {"shared": "common"}, "layer 1 mlp"),
        ("deepseek_v3", {"up": "fc1"}, "no model.layers.0.mlp.fc1.weight"),
        ("gpt_oss", {"swiglu_limit": None}, "layer 0 experts"),
        ("glm4", {"post_norm": "post_self_attn_layernorm"}, "layer 0 post_norm"),
        ("cohere2", {"pre_norm": None}, "layer 0 stream"),
        ("gptj", {"stream": "added"}, "layer 0 residual"),
        ("llama", {"pre_norm": "ln_2"}, "no module 'model.layers.0.ln_2'.*post_attention_layernorm: LlamaRMSNorm"),
        (
            "llama",
            {"mlp": "self_attn"},
            "no model.layers.0.self_attn.down_proj.weight.*self_attn, mlp, input_layernorm",
        ),
        ("mixtral", {"experts": "specialists"}, "no model.layers.0.mlp.down_proj.weight"),
        ("llama", {"activation": "activation_function"}, "config of this llama model has no activation_function"),
        ("granite", {"multiplier": "residual_scale"}, "config of this granite model has no residual_scale"),
        ("llama", {"up": "fc1"}, "no model.layers.0.mlp.fc1.weight"),
        ("llama", {"gate": "fc2"}, "no model.layers.0.mlp.fc2.weight"),
        ("llama", {"gate": None}, "layer 0 mlp"),
        ("gpt_neox", {"attention": "attn"}, "'gpt_neox.layers.0.attn'"),
    ],
)
def test_a_wrong_entry_in_the_registry_is_refused(
    name: str, changes: dict[str, Any], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the entry on, as one who adds an architecture meets it."""
    base = ARCHITECTURES[name]
    monkeypatch.setitem(FAMILIES, base.model_type, replace(entry_of(name), **changes))
    model = make(base)
    with pytest.raises(LayoutError, match=told) as caught:
        probe(open_checkpoint(model), model)
    assert_one_line_with_next_step(caught.value)
    assert n_hooks(model) == 0
