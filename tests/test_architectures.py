"""Every architecture: what is read from its checkpoint, against what transformers' own modules hold and compute.

To add one, add a line to ``fixtures/architectures.py`` and, where its parts are called otherwise than Llama's, one to
the functions under "the model's own modules". They say again what the registry says, in float64 and without it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoConfig

from fixtures.architectures import ARCHITECTURES, EPSILON, EXPERT_NEURONS, HIDDEN, NEURONS, VOCAB, build, make
from flashinterp.checkpoint import Checkpoint, open_checkpoint
from flashinterp.decode import lens_rows
from flashinterp.errors import LayoutError
from flashinterp.families import FAMILIES, Family, family_of
from flashinterp.layout import Layout
from flashinterp.neuron import LENSES, Block, NeuronId
from flashinterp.neuron_map import NeuronMap
from flashinterp.probe import probe
from flashinterp.product import cap
from flashinterp.roster import Roster
from flashinterp.scan import decode
from tests.helpers import assert_one_line_with_next_step, log_mean_top, log_sum_exp, n_hooks

# One of each: the other kind of head changes nothing but the head.
DISTINCT = [name for name in ARCHITECTURES if not name.endswith(("-tied", "-untied"))]


CENTRED = ("cohere", "cohere2", "gpt2", "gpt_neox", "gptj", "opt", "phi", "starcoder2", "stablelm", "nemotron")


def _family(name: str) -> Family:
    """An architecture's entry in the registry."""
    one = ARCHITECTURES[name]
    return family_of(AutoConfig.for_model(one.model_type, **one.config))


@dataclass(frozen=True)
class Case:
    """One architecture: its folder, opened, and the model that transformers makes of that folder."""

    name: str
    checkpoint: Checkpoint
    model: Any

    @property
    def kind(self) -> str:
        """The family's name."""
        return ARCHITECTURES[self.name].model_type

    @cached_property
    def live(self) -> Checkpoint:
        """The model, opened."""
        return open_checkpoint(self.model)

    @cached_property
    def parts(self) -> list[Part]:
        """Its MLPs."""
        return list(_parts(self.model))


@pytest.fixture(scope="session")
def case(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Case]:
    """Any architecture by name, built once."""

    @cache
    def built(name: str) -> Case:
        checkpoint = open_checkpoint(build(name, tmp_path_factory.mktemp("architectures") / name))
        return Case(name, checkpoint, checkpoint.load_model())

    return built


# --- the model's own modules ------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """One MLP as the live model has it: vectors [F, d] and the modules of its norms; biases of up, gate and down."""

    block: Block
    up: Tensor
    gate: Tensor | None
    down: Tensor
    biases: tuple[Tensor | None, Tensor | None, Tensor | None]
    pre: Any
    post: Any


def _parts(model: Any) -> Iterator[Part]:
    kind, decoder = model.config.model_type, model.get_decoder()
    for number, layer in enumerate(decoder.h if hasattr(decoder, "h") else decoder.layers):
        norms = _norms(layer, kind, model.config)
        mlp = layer if kind == "opt" else layer.mlp
        dense = getattr(mlp, "shared_experts", None) if hasattr(mlp, "experts") else mlp
        if dense is not None:
            yield Part(Block(number), *_dense(dense, kind), *norms)
        if hasattr(mlp, "experts"):
            for expert in range(mlp.experts.down_proj.shape[0]):
                yield Part(Block(number, expert), *_expert(mlp.experts, expert, kind), *norms)


def _dense(mlp: Any, kind: str) -> tuple[Tensor, Tensor | None, Tensor, tuple[Tensor | None, ...]]:
    """up, gate, down and their biases."""
    if kind in ("phi3", "glm4"):
        gate, up = mlp.gate_up_proj.weight.chunk(2)
        return up, gate, mlp.down_proj.weight.T, (None, None, None)
    if kind == "gpt2":  # Conv1D
        return mlp.c_fc.weight.T, None, mlp.c_proj.weight, (mlp.c_fc.bias, None, mlp.c_proj.bias)
    names = {
        "gptj": ("fc_in", "fc_out"),
        "gpt_neox": ("dense_h_to_4h", "dense_4h_to_h"),
        "opt": ("fc1", "fc2"),
        "phi": ("fc1", "fc2"),
        "starcoder2": ("c_fc", "c_proj"),
        "arcee": ("up_proj", "down_proj"),
        "nemotron": ("up_proj", "down_proj"),
    }
    if kind in names:
        first, last = (getattr(mlp, name) for name in names[kind])
        return first.weight, None, last.weight.T, (first.bias, None, last.bias)
    biases = (mlp.up_proj.bias, mlp.gate_proj.bias, mlp.down_proj.bias)
    return mlp.up_proj.weight, mlp.gate_proj.weight, mlp.down_proj.weight.T, biases


def _expert(experts: Any, e: int, kind: str) -> tuple[Tensor, Tensor | None, Tensor, tuple[Tensor | None, ...]]:
    if kind == "gpt_oss":
        both, bias = experts.gate_up_proj[e].T, experts.gate_up_proj_bias[e]
        return both[1::2], both[::2], experts.down_proj[e], (bias[1::2], bias[::2], experts.down_proj_bias[e])
    gate, up = experts.gate_up_proj[e].chunk(2)
    return up, gate, experts.down_proj[e].T, (None, None, None)


def _norms(layer: Any, kind: str, config: Any) -> tuple[Any, Any]:
    """The norm in front of a layer's MLP, and the one after it."""
    if kind in ("gemma2", "gemma3", "gemma3_text"):
        return layer.pre_feedforward_layernorm, layer.post_feedforward_layernorm
    if kind in ("olmo2", "olmo3", "exaone4"):
        return None, layer.post_feedforward_layernorm
    if kind == "opt":
        return (layer.final_layer_norm, None) if config.do_layer_norm_before else (None, layer.final_layer_norm)
    if kind == "stablelm" and config.use_parallel_residual:
        return layer.input_layernorm, None
    first = dict.fromkeys(("cohere", "cohere2", "phi"), "input_layernorm")
    names = {**first, "gpt2": "ln_2", "gptj": "ln_1"}
    return getattr(layer, names.get(kind, "post_attention_layernorm")), getattr(layer, "post_mlp_layernorm", None)


def _final_norm(model: Any) -> Any:
    decoder = model.get_decoder()
    names = ("norm", "ln_f", "final_layer_norm", "final_layernorm")
    return next(getattr(decoder, n) for n in names if hasattr(decoder, n))


def _gamma(norm: Any, kind: str) -> Tensor:
    weight = norm.weight.double()
    return 1 + weight if kind.startswith("gemma") or kind == "nemotron" else weight


def _normed(x: Tensor, norm: Any, kind: str) -> Tensor:
    """A final norm without its bias, as its family's paper writes it."""
    if kind in CENTRED:
        x = x - x.mean(-1, keepdim=True)
    return x / (x.pow(2).mean(-1, keepdim=True) + _epsilon(kind)).sqrt() * _gamma(norm, kind)


def _epsilon(kind: str) -> float:
    return 1e-5 if kind == "opt" else EPSILON


def _head(model: Any) -> Tensor:
    """U [V, d], float64."""
    kind, config, head = model.config.model_type, model.config, model.lm_head.weight.double()
    if kind == "opt" and model.get_decoder().project_out is not None:
        head = head @ model.get_decoder().project_out.weight.double()
    if kind in ("cohere", "cohere2"):
        head = head * config.logit_scale
    return head / config.logits_scaling if kind == "granite" else head


def _softcap(model: Any) -> float | None:
    return model.config.final_logit_softcapping if model.config.model_type in ("gemma2", "gemma3_text") else None


def _logits(model: Any, parts: list[Part], lens: str) -> NDArray[np.float64]:
    """[N, V] the logits of a lens."""
    kind, final, softcap, rows = model.config.model_type, _final_norm(model), _softcap(model), []
    for part in parts:
        vectors = {"paper": part.up, "read": part.up, "gate": part.gate}.get(lens, part.down)
        assert vectors is not None
        w = vectors.double()
        passed = {"read": part.pre, "gate": part.pre, "write": part.post}.get(lens)
        # opt-350m's second norm is of the whole stream, and no vector passes it alone.
        if passed is not None and not (kind == "opt" and lens == "write"):
            w = w * _gamma(passed, kind)
        rows.append(_normed(w, final, kind) if lens in ("read", "gate", "write") and final is not None else w)
    z = torch.cat(rows) @ _head(model).T
    return (z if softcap is None else softcap * (z / softcap).tanh()).numpy()


# --- folder and live model --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_folder_and_the_live_model_have_the_modules_vectors(name: str, case: Callable[[str], Case]) -> None:
    one = case(name)
    for part in one.parts:
        for checkpoint in (one.checkpoint, one.live):
            for kind, vectors, bias in zip(
                ("up", "gate", "down"), (part.up, part.gate, part.down), part.biases, strict=True
            ):
                if vectors is None:
                    continue
                assert torch.equal(checkpoint.rows(kind, part.block), vectors), (kind, part.block)  # type: ignore[arg-type]
                got = checkpoint.bias(kind, part.block)  # type: ignore[arg-type]
                assert (got is None) == (bias is None), (kind, part.block)
                assert bias is None or torch.equal(got, bias), (kind, part.block)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_folder_and_the_live_model_have_the_modules_norms(name: str, case: Callable[[str], Case]) -> None:
    one = case(name)
    wanted = [("pre", part.block.layer, part.pre) for part in one.parts]
    wanted += [("post", part.block.layer, part.post) for part in one.parts]
    for kind, layer, module in [*wanted, ("final", None, _final_norm(one.model))]:
        for checkpoint in (one.checkpoint, one.live):
            norm = checkpoint.norm(kind, layer)  # type: ignore[arg-type]
            assert (norm is None) == (module is None), (kind, layer)
            if norm is None:
                continue
            assert norm.weight is not None
            torch.testing.assert_close(norm.weight.double(), _gamma(module, one.kind), rtol=1e-6, atol=0)
            bias = getattr(module, "bias", None)
            assert (norm.bias is None) == (bias is None), (kind, layer)
            assert bias is None or torch.equal(norm.bias, bias), (kind, layer)
            assert norm.eps == _epsilon(one.kind), (kind, layer)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_folder_and_the_live_model_have_the_same_head(name: str, case: Callable[[str], Case]) -> None:
    one, tied = case(name), ARCHITECTURES[name].tied
    assert (one.model.get_output_embeddings().weight is one.model.get_input_embeddings().weight) == tied
    for checkpoint in (one.checkpoint, one.live):
        assert checkpoint.tied == tied
        torch.testing.assert_close(checkpoint.head().double(), _head(one.model), rtol=1e-6, atol=1e-7)
        assert checkpoint.head_dtype() == checkpoint.head().dtype
        bias = checkpoint.head_bias()
        assert (bias is None) == (one.model.lm_head.bias is None)
        assert bias is None or torch.equal(bias, one.model.lm_head.bias)
    assert torch.equal(one.checkpoint.head(), one.live.head())


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_roster_has_the_widths_of_the_models_own_modules(name: str, case: Callable[[str], Case]) -> None:
    one = case(name)
    want = Roster(tuple(part.block for part in one.parts), tuple(len(part.up) for part in one.parts))
    assert one.checkpoint.layout.roster == one.live.layout.roster == want
    assert one.checkpoint.layout == one.live.layout


def test_widths_differ_between_the_blocks_of_a_model(case: Callable[[str], Case]) -> None:
    """If all blocks were alike, the tests here could not tell one F from another."""
    roster = case("deepseek_v3").checkpoint.layout.roster
    widths = [roster.width(block) for block in (Block(0), Block(1), Block(1, 3))]
    assert widths == [NEURONS, 2 * EXPERT_NEURONS, EXPERT_NEURONS]
    assert case("gpt2-inner").checkpoint.layout.roster.width(2) == 4 * HIDDEN


# --- decode -----------------------------------------------------------------------------------------


def _assert_decoded(m: NeuronMap, z: NDArray[np.float64]) -> None:
    """A map is the best tokens of logits [N, V], within the rounding of float32 over d terms."""
    error = 1e-5 * np.abs(z).max()
    for pole, sign in (("+", 1.0), ("-", -1.0)):
        ids, logits, lse, mean = m.pole_arrays(pole)  # type: ignore[arg-type]
        exact = sign * z
        best = -np.sort(-exact, axis=1)
        top = best[:, : ids.shape[1]]
        np.testing.assert_allclose(logits, top, rtol=0, atol=error)
        np.testing.assert_allclose(np.take_along_axis(exact, ids.astype(np.int64), axis=1), top, rtol=0, atol=error)
        np.testing.assert_allclose(lse, log_sum_exp(exact), rtol=0, atol=error + 1e-5)
        np.testing.assert_allclose(mean, log_mean_top(best[:, :100]), rtol=0, atol=error + 1e-5)


@pytest.mark.parametrize("lens", LENSES)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_each_lens_is_what_the_method_says(name: str, lens: str, case: Callable[[str], Case]) -> None:
    one = case(name)
    if lens == "gate" and one.parts[0].gate is None:
        with pytest.raises(LayoutError, match="no gate: choose a lens of paper, read, write, logit-lens") as caught:
            decode(one.checkpoint, lens=lens)
        assert_one_line_with_next_step(caught.value)
        return
    assert lens in {known.name for known in one.checkpoint.layout.lenses}
    _assert_decoded(decode(one.checkpoint, lens=lens, top_k=50), _logits(one.model, one.parts, lens))


@pytest.mark.parametrize("lens", ["paper", "write"])
@pytest.mark.parametrize("name", DISTINCT)
def test_bfloat16_weights_are_ranked_in_float32(name: str, lens: str, case: Callable[[str], Case]) -> None:
    """Neither the logit scale nor the projection, nor a γ, may be rounded to the weights' dtype."""
    half = open_checkpoint(_half(case(name)))
    half.vocabulary = case(name).checkpoint.vocabulary
    assert half.rows("up", half.layout.roster.blocks[0]).dtype == torch.bfloat16
    _assert_decoded(decode(half, lens=lens, top_k=50), _logits(half.model, list(_parts(half.model)), lens))


def _half(one: Case) -> Any:
    return copy.deepcopy(one.model).to(torch.bfloat16)


@pytest.mark.parametrize("name", DISTINCT)
def test_every_neuron_has_a_name_that_leads_back_to_it(name: str, case: Callable[[str], Case]) -> None:
    one = case(name)
    m = decode(one.checkpoint, top_k=20)
    names = [str(m.neuron(i)) for i in range(len(m))]
    assert names == [
        str(NeuronId(part.block.layer, n, part.block.expert)) for part in one.parts for n in range(len(part.up))
    ]
    assert [m.index(neuron) for neuron in names] == list(range(len(m)))
    assert ("L2E3N39" in names) == any(part.block == Block(2, 3) for part in one.parts)


@pytest.mark.parametrize("name", DISTINCT)
def test_words_and_find_are_of_the_neuron_that_is_named(name: str, case: Callable[[str], Case], tmp_path: Path) -> None:
    """In every MLP of the model, also after the map was saved and loaded."""
    one = case(name)
    m = decode(one.checkpoint, save_to=tmp_path / "map.safetensors")
    assert m.roster == one.checkpoint.layout.roster
    z = _logits(one.model, one.parts, "paper")
    scores = np.stack([sign * z - log_mean_top(sign * z)[:, None] for sign in (1, -1)], axis=1)  # [N, 2, V]
    start = 0
    for part in one.parts:
        n = len(part.up) - 1
        neuron, i = NeuronId(part.block.layer, n, part.block.expert), start + n
        word = m.words(str(neuron), 1, excluded=True)[0]
        assert abs(z[i, word.token.id] - z[i].max()) <= 1e-5 * np.abs(z).max()
        for asked in ({}, {"checkpoint": one.checkpoint}):
            found = m.find(word.token.id, n=1, **asked)[0]  # type: ignore[arg-type]
            at = (m.index(found.neuron), "+-".index(found.pole))
            best = scores[..., word.token.id].max()
            assert scores[(*at, word.token.id)] == pytest.approx(best, abs=1e-4)
            assert np.log(found.score) == pytest.approx(best, abs=1e-4)
        start += len(part.up)


@pytest.mark.parametrize("name", DISTINCT)
def test_one_layer_alone_is_that_part_of_the_map(name: str, case: Callable[[str], Case]) -> None:
    one = case(name)
    whole, part = decode(one.checkpoint, top_k=20), decode(one.checkpoint, top_k=20, layers=[1])
    own = whole.roster.layer_span(1)
    assert part.roster == whole.roster.of_layers([1])
    assert part.neuron(0) == whole.neuron(own.start)
    np.testing.assert_array_equal(part.top_ids, whole.top_ids[own])


# --- the head alone ---------------------------------------------------------------------------------


@contextmanager
def _last_layer_gives(model: Any, h: Tensor) -> Iterator[None]:
    """Hidden states [1, T, d] in place of what the last decoder layer gives."""
    decoder = model.get_decoder()
    last = (decoder.h if hasattr(decoder, "h") else decoder.layers)[-1]
    handle = last.register_forward_hook(lambda module, args, out: (h, *out[1:]) if isinstance(out, tuple) else h)
    try:
        yield
    finally:
        handle.remove()


@torch.no_grad()
def _models_logits(model: Any, h: Tensor) -> Tensor:
    """[T, V] what a model makes of hidden states [T, d], by its own final norm, projection, head, scale and cap."""
    with _last_layer_gives(model, h[None]):
        logits: Tensor = model(torch.arange(5, 5 + len(h))[None], use_cache=False).logits[0]
    return logits


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_head_alone_gives_the_models_logits(name: str, case: Callable[[str], Case]) -> None:
    one = case(name)
    h = 3 * torch.randn(7, HIDDEN, generator=torch.Generator().manual_seed(1)) + 0.5
    want = _models_logits(one.model, h)
    for checkpoint in (one.checkpoint, one.live):
        norm, bias = checkpoint.norm("final"), checkpoint.head_bias()
        z = (h if norm is None else norm(h)) @ checkpoint.head().T
        got = cap(z if bias is None else z + bias, checkpoint.layout.softcap)
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["gemma2", "gemma3_text", "cohere", "granite", "opt-postnorm", "llama"])
def test_a_write_lens_is_what_the_model_says_of_that_vector(name: str, case: Callable[[str], Case]) -> None:
    """Up to the biases, a neuron's write lens is the model's answer to its column in the residual stream."""
    one = case(name)
    part = one.parts[-1]
    column = part.down if part.post is None or one.kind == "opt" else part.down * _gamma(part.post, one.kind).float()
    norm, layout = one.checkpoint.norm("final"), one.checkpoint.layout
    assert norm is None or norm.bias is None
    got = lens_rows(one.checkpoint, "write", part.block) @ one.checkpoint.head().T
    torch.testing.assert_close(cap(got, layout.softcap), _models_logits(one.model, column), rtol=1e-4, atol=1e-5)


def test_the_multimodal_wrapper_does_not_apply_the_softcap_of_its_text_config() -> None:
    base = ARCHITECTURES["gemma3"]
    capped = {**base.config, "text_config": {**base.config["text_config"], "final_logit_softcapping": 1.0}}
    checkpoint = open_checkpoint(make(replace(base, config=capped)))
    assert checkpoint.layout.softcap is None
    assert max(probe(checkpoint, checkpoint.model).values()) < 1e-4


# --- the probe accepts ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_probe_accepts_the_folder_and_the_live_model(name: str, case: Callable[[str], Case]) -> None:
    one = case(name)
    family, layout = _family(name), one.checkpoint.layout
    joints = {"mlp", "residual", "head"}
    joints |= {"pre_norm"} if family.pre_norm else set()
    joints |= {"post_norm"} if family.post_norm and family.stream == "added" else set()
    joints |= {"stream"} if family.stream == "parallel" else set()
    joints |= {"experts"} if layout.experts else set()
    for checkpoint in (one.checkpoint, one.live):
        errors = probe(checkpoint, one.model)
        assert set(errors) == joints
        assert all(0 <= error < 1e-4 for error in errors.values()), errors
    assert n_hooks(one.model) == 0


@pytest.mark.parametrize("name", DISTINCT)
def test_the_probe_accepts_bfloat16(name: str, case: Callable[[str], Case]) -> None:
    model = _half(case(name))
    assert max(probe(open_checkpoint(model), model).values()) < 8 * torch.finfo(torch.bfloat16).eps


# --- the probe refuses ------------------------------------------------------------------------------


class _GateForUp(Layout):
    """A layout that takes one for the other, in experts and fused matrices too."""

    def weight(self, kind: Any, where: Any) -> Any:
        return super().weight({"up": "gate", "gate": "up"}.get(kind, kind), where)


class _NextExpert(Layout):
    """A layout that takes each expert for its neighbour."""

    def weight(self, kind: Any, where: Any) -> Any:
        right = super().weight(kind, where)
        return right if right.expert is None else replace(right, expert=(right.expert + 1) % right.shape[0])


def _entry(layout: Layout, **changes: Any) -> Layout:
    """With another entry in the registry."""
    return replace(layout, family=replace(layout.family, **changes))


def _without(layout: Layout, *endings: str) -> Layout:
    """Without some tensors, as if the model had none."""
    kept = {name: shape for name, shape in layout.shapes.items() if not name.endswith(endings)}
    assert len(kept) < len(layout.shapes)
    return replace(layout, shapes=kept)


def _without_norm(layout: Layout, kind: Any, layer: int | None, own: str = "weight") -> Layout:
    return _without(layout, f"{layout.norm(kind, layer)}.{own}")


def _with_formula(layout: Layout, **changes: Any) -> Layout:
    return replace(layout, formula=replace(layout.formula, **changes))


def _with_experts(layout: Layout, *, concatenated: bool) -> Layout:
    flags = {n: (transposed, concatenated, bias) for n, (transposed, _, bias) in layout.experts.items()}
    return replace(layout, experts=flags)


def _without_shared(layout: Layout) -> Layout:
    pairs = zip(layout.roster.blocks, layout.roster.widths, strict=True)
    kept = [(b, w) for b, w in pairs if b.expert is not None or b.layer not in layout.experts]
    return replace(layout, roster=Roster(tuple(b for b, _ in kept), tuple(w for _, w in kept)))


def _is_moe(name: str) -> bool:
    return any("experts" in key for key in ARCHITECTURES[name].config)


def _has_biases(name: str) -> bool:
    """Whether the MLP's matrices have biases: most of those without a gate, and others by their configs."""
    biased = not _family(name).gate and ARCHITECTURES[name].model_type not in ("arcee", "nemotron")
    return biased or bool(ARCHITECTURES[name].config.get("mlp_bias"))


_NORMED = "layer 0 (pre_norm|post_norm|residual)"
_SUM = "added, then normed"


@dataclass(frozen=True)
class Fault:
    """One way to be wrong: whom it concerns, the wrong layout, and the joint at which it shows."""

    concerns: Callable[[str], Any]
    wrong: Callable[[Layout], Layout]
    joint: str


FAULTS = {
    "gate and up swapped": Fault(
        lambda name: _family(name).gate,
        lambda layout: _GateForUp(**vars(layout)),
        "layer 0 (mlp|experts)",
    ),
    "names of gate and up swapped": Fault(
        lambda name: _family(name).gate not in (None, _family(name).up) and not _is_moe(name),
        lambda layout: _entry(layout, gate=layout.family.up, up=layout.family.gate),
        "layer 0 mlp",
    ),
    "gamma before the MLP left out": Fault(
        lambda name: _family(name).pre_norm,
        lambda layout: _without_norm(layout, "pre", 1),
        "layer 1 pre_norm",
    ),
    "norm before the MLP left out": Fault(
        lambda name: _family(name).pre_norm,
        lambda layout: _entry(layout, pre_norm=None),
        "layer 0 (stream|residual)",
    ),
    "norm before the attention taken": Fault(
        lambda name: _family(name).pre_norm == "post_attention_layernorm",
        lambda layout: _entry(layout, pre_norm="input_layernorm"),
        "layer 0 pre_norm",
    ),
    "bias of the norm before the MLP left out": Fault(
        lambda name: _family(name).pre_norm and not _family(name).gate and _family(name).centred,
        lambda layout: _without_norm(layout, "pre", 2, "bias"),
        "layer 2 pre_norm",
    ),
    "gamma after the MLP left out": Fault(
        lambda name: _family(name).post_norm,
        lambda layout: _without_norm(layout, "post", 2),
        "layer 2 (post_norm|residual)",
    ),
    "norm after the MLP left out": Fault(
        lambda name: _family(name).post_norm,
        lambda layout: _entry(layout, post_norm=None),
        "layer 0 residual",
    ),
    "gamma before the head left out": Fault(
        lambda name: _family(name).final_norm,
        lambda layout: _without_norm(layout, "final", None),
        "head",
    ),
    "norm before the head left out": Fault(
        lambda name: _family(name).final_norm,
        lambda layout: _entry(layout, final_norm=None),
        "head",
    ),
    "1 + w read as w": Fault(
        lambda name: _family(name).unit_offset,
        lambda layout: _entry(layout, unit_offset=False),
        _NORMED,
    ),
    "w read as 1 + w": Fault(
        lambda name: not _family(name).unit_offset,
        lambda layout: _entry(layout, unit_offset=True),
        _NORMED,
    ),
    "RMSNorm and LayerNorm confused": Fault(
        lambda name: True,
        lambda layout: _entry(layout, centred=not layout.family.centred),
        _NORMED,
    ),
    "another epsilon": Fault(
        lambda name: _family(name).final_norm and ARCHITECTURES[name].model_type != "opt",  # whose 1e-5 does not show
        lambda layout: replace(layout, eps={**layout.eps, "final": 3 * layout.eps["final"]}),
        "head",
    ),
    "soft-cap ignored": Fault(
        lambda name: _family(name).softcap,
        lambda layout: replace(layout, softcap=None),
        "head",
    ),
    "soft-cap that is not applied": Fault(
        lambda name: not _family(name).softcap,
        lambda layout: replace(layout, softcap=30.0),
        "head",
    ),
    "logit scale ignored": Fault(
        lambda name: _family(name).logit_scale or _family(name).logit_divisor,
        lambda layout: replace(layout, logit_scale=1.0),
        "head",
    ),
    "logit scale the other way round": Fault(
        lambda name: _family(name).logit_scale or _family(name).logit_divisor,
        lambda layout: replace(layout, logit_scale=1 / layout.logit_scale),
        "head",
    ),
    "bias of the head left out": Fault(
        lambda name: ARCHITECTURES[name].model_type in ("gptj", "phi"),
        lambda layout: _without(layout, "lm_head.bias"),
        "head",
    ),
    "multiplier ignored": Fault(
        lambda name: _family(name).multiplier,
        lambda layout: replace(layout, multiplier=1.0),
        "layer 0 residual",
    ),
    "added, taken for parallel": Fault(
        lambda name: _family(name).stream == "added",
        lambda layout: _entry(layout, stream="parallel"),
        "layer 0 (stream|residual)",
    ),
    "parallel, taken for added": Fault(
        lambda name: _family(name).stream == "parallel",
        lambda layout: _entry(layout, stream="added"),
        "layer 0 residual",
    ),
    "norm of the output, taken for one of the sum": Fault(
        lambda name: _family(name).post_norm and _family(name).stream == "added",
        lambda layout: _entry(layout, stream=_SUM),
        "layer 0 residual",
    ),
    "norm of the sum, taken for one of the output": Fault(
        lambda name: _family(name).stream == _SUM,
        lambda layout: _entry(layout, stream="added"),
        "layer 0 post_norm",
    ),
    "norm of the sum, taken for parallel": Fault(
        lambda name: _family(name).stream == _SUM,
        lambda layout: _entry(layout, stream="parallel"),
        "layer 0 (stream|post_norm)",
    ),
    "interleaved experts read as concatenated": Fault(
        lambda name: _family(name).swiglu_limit,
        lambda layout: _with_experts(layout, concatenated=True),
        "layer 0 experts",
    ),
    "concatenated experts read as interleaved": Fault(
        lambda name: _is_moe(name) and not _family(name).swiglu_limit,
        lambda layout: _with_experts(layout, concatenated=False),
        "layer [01] experts",
    ),
    "an expert taken for its neighbour": Fault(
        _is_moe,
        lambda layout: _NextExpert(**vars(layout)),
        "layer [01] experts",
    ),
    "shared expert forgotten": Fault(
        lambda name: ARCHITECTURES[name].model_type == "deepseek_v3",
        _without_shared,
        "layer 1 mlp",
    ),
    "limits of the experts ignored": Fault(
        lambda name: _family(name).swiglu_limit,
        lambda layout: _with_formula(layout, limit=None),
        "layer 0 experts",
    ),
    "another limit": Fault(
        lambda name: _family(name).swiglu_limit,
        lambda layout: _with_formula(layout, limit=8.0),
        "layer 0 experts",
    ),
    "alpha ignored": Fault(
        lambda name: _family(name).swiglu_limit,
        lambda layout: _with_formula(layout, alpha=1.0),
        "layer 0 experts",
    ),
    "biases of the experts left out": Fault(
        lambda name: _family(name).swiglu_limit,
        lambda layout: replace(layout, experts={n: (t, c, False) for n, (t, c, _) in layout.experts.items()}),
        "layer 0 experts",
    ),
    "bias of the first matrix left out": Fault(
        _has_biases,
        lambda layout: _without(layout, f"{layout.family.up}.bias"),
        "layer 0 mlp",
    ),
    "bias of the last matrix left out": Fault(
        _has_biases,
        lambda layout: _without(layout, f"{layout.family.down}.bias"),
        "layer 0 mlp",
    ),
    "another activation": Fault(
        lambda name: not _family(name).swiglu_limit,
        lambda layout: _with_formula(layout, activation="silu" if "elu" in layout.formula.activation else "gelu"),
        "layer 0 (mlp|experts)",
    ),
}


@pytest.mark.parametrize(
    ("fault", "name"), [(fault, name) for fault, about in FAULTS.items() for name in DISTINCT if about.concerns(name)]
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
        number, kind = int(joint.split()[1]), joint.split()[2]
        decoder = one.model.get_decoder()
        module = (decoder.h if hasattr(decoder, "h") else decoder.layers)[number]
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
    checkpoint = _with_layout(one.checkpoint, _entry(one.checkpoint.layout, transposed=transposed))
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
    wrong = _with_layout(checkpoint, _entry(checkpoint.layout, transposed=transposed))
    with pytest.raises(LayoutError, match="at layer 0 mlp the model and its weights differ"):
        probe(wrong, checkpoint.model)


def test_a_projection_before_the_head_that_is_left_out_is_refused(case: Callable[[str], Case]) -> None:
    one = case("opt-postnorm")
    checkpoint = _with_layout(one.checkpoint, _entry(one.checkpoint.layout, head_projection=""))
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
    monkeypatch.setitem(FAMILIES, base.model_type, replace(_family(name), **changes))
    model = make(base)
    with pytest.raises(LayoutError, match=told) as caught:
        probe(open_checkpoint(model), model)
    assert_one_line_with_next_step(caught.value)
    assert n_hooks(model) == 0
