"""One model's layout: its neurons, and for each of them the tensors, rows and modules where it is (METHOD 1).

It is made from the module tree of a live model, or of one without weights on the meta device, and the family's entry
in `architectures`. A layout is a claim about a model. `layout_check` proves it on the loaded model before anything is
measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from flashinterp.errors import LayoutError
from flashinterp.models.architectures import Family
from flashinterp.models.mlp_formula import Formula
from flashinterp.neuron_index import NeuronIndex
from flashinterp.neurons import LENSES, Block, Lens, Site, WeightKind

NormKind = Literal["pre", "post", "final"]
HEAD = "lm_head"
"""The path of the LM head, the same in every family."""


@dataclass(frozen=True)
class Weight:
    """Where the vectors of one block's neurons are stored.

    Attributes:
        tensor: the tensor's name in the model.
        shape: its whole shape.
        bias: the name of the bias tensor, None without one.
        expert: the index on its first axis, where it holds all experts.
        neurons: which rows of the matrix, or columns of W_down, are the neurons', in order.
        by_row: whether a neuron is a row of the matrix (of the expert's part) as it is stored, not a column.
        shared_bias: whether the bias is the MLP's, as W_down's [d], and not the neurons' [F].
    """

    tensor: str
    shape: tuple[int, ...]
    bias: str | None
    expert: int | None
    neurons: slice
    by_row: bool
    shared_bias: bool


@dataclass(frozen=True)
class Tap:
    """The module at which a site of a dense block is seen, and which columns of what passes are its neurons.

    Attributes:
        module: path.
        at_input: whether it is the module's input, not its output.
        columns: of the last axis.
        width: columns in all.
    """

    module: str
    at_input: bool
    columns: slice
    width: int


class ExpertTensors(NamedTuple):
    """How the tensors that hold all experts of a layer lie.

    Attributes:
        transposed: an expert's part is [in, out], not [out, in].
        concatenated: gate first, then up; else they take turns.
        biased: whether there are biases beside them.
    """

    transposed: bool
    concatenated: bool
    biased: bool


@dataclass(frozen=True)
class Layout:
    """One model's shape and the places of its parts.

    Attributes:
        model_type: the family's name in the model's config.
        family: its entry in the registry.
        n_layers: L.
        d_model: d, hidden size.
        vocab_size: V, rows of the LM head.
        roster: its blocks and their widths.
        formula: what a neuron computes.
        logit_scale: what the head's product is multiplied by.
        softcap: c of c · tanh(z / c), None without one.
        multiplier: what the MLP's output is multiplied by before it is added to the stream.
        shapes: of every parameter.
        eps: the epsilon of the norms in front of the MLP ("pre"), after it ("post") and before the head ("final").
        experts: how the experts' tensors lie, for each layer that has them.
    """

    model_type: str
    family: Family
    n_layers: int
    d_model: int
    vocab_size: int
    roster: NeuronIndex
    formula: Formula
    logit_scale: float
    softcap: float | None
    multiplier: float
    shapes: dict[str, tuple[int, ...]]
    eps: dict[str, float]
    experts: dict[int, ExpertTensors]

    @property
    def lenses(self) -> tuple[Lens, ...]:
        """The lenses that this model has: all, but for `gate` where there is no gate."""
        return tuple(lens for lens in LENSES.values() if lens.weight != "gate" or self.formula.gated)

    @property
    def sites(self) -> tuple[Site, ...]:
        """The sites at which a neuron can be clamped."""
        return ("up", "gate", "post") if self.formula.gated else ("up", "post")

    def layer(self, layer: int) -> str:
        """The path of a decoder layer."""
        return f"{self.family.layers}.{layer}"

    def mlp(self, layer: int) -> str:
        """The path of a layer's MLP; of the layer itself where there is no module for it."""
        return join_path(self.layer(layer), self.family.mlp)

    def experts_module(self, layer: int) -> str:
        """The path of a layer's routed experts."""
        return join_path(self.mlp(layer), self.family.experts)

    def norm(self, kind: NormKind, layer: int | None = None) -> str | None:
        """The path of a norm; None where the family has none."""
        if kind == "final":
            return self.family.final_norm
        name = self.family.pre_norm if kind == "pre" else self.family.post_norm
        return None if name is None or layer is None else join_path(self.layer(layer), name)

    def weight(self, kind: WeightKind, where: int | Block) -> Weight:
        """Where the vectors of a block's neurons are stored.

        Raises:
            NeuronError: there is no such block.
            LayoutError: the model has no such matrix: a gate, where there is none.
        """
        block = Block.of(where)
        width = self.roster.width(block)
        if kind == "gate" and not self.formula.gated:
            raise LayoutError(
                f"a {self.model_type} MLP has no gate: choose a lens of {', '.join(x.name for x in self.lenses)}, or a "
                f"site of {', '.join(self.sites)}"
            )
        if block.expert is not None:
            return self._expert_weight(kind, block, width)
        name = {"up": self.family.up, "gate": self.family.gate, "down": self.family.down}[kind]
        path = join_path(self._dense(block.layer), str(name))
        tensor, bias = f"{path}.weight", f"{path}.bias"
        fused = self.family.up == self.family.gate and kind != "down"
        neurons = slice(width, 2 * width) if fused and kind == "up" else slice(0, width)
        return Weight(
            tensor,
            self.shapes[tensor],
            bias if bias in self.shapes else None,
            None,
            neurons,
            (kind != "down") != self.family.transposed,
            kind == "down",
        )

    def _expert_weight(self, kind: WeightKind, block: Block, width: int) -> Weight:
        stored = self.experts[block.layer]
        name = "down_proj" if kind == "down" else "gate_up_proj"
        tensor = join_path(self.experts_module(block.layer), name)
        if kind == "down":
            neurons = slice(0, width)
        elif stored.concatenated:
            neurons = slice(0, width) if kind == "gate" else slice(width, 2 * width)
        else:
            neurons = slice(0 if kind == "gate" else 1, 2 * width, 2)
        bias = f"{tensor}_bias" if stored.biased else None
        by_row = (kind != "down") != stored.transposed
        return Weight(tensor, self.shapes[tensor], bias, block.expert, neurons, by_row, kind == "down")

    def tap(self, site: Site, layer: int) -> Tap:
        """The module at whose output (up, gate) or input (post) a dense neuron's value is seen."""
        weight = self.weight("down" if site == "post" else site, layer)
        module = weight.tensor.removesuffix(".weight")
        if site == "post":
            width = self.roster.width(layer)
            return Tap(module, True, slice(0, width), width)
        out = weight.shape[0] if weight.by_row else weight.shape[1]
        return Tap(module, False, weight.neurons, out)

    def _dense(self, layer: int) -> str:
        """The path of what holds a layer's dense matrices."""
        return join_path(self.mlp(layer), self.family.shared) if layer in self.experts else self.mlp(layer)


def module_at(model: Any, path: str, model_type: str) -> Any:
    """The module at a path.

    Raises:
        LayoutError: the model has none, with the part of its tree where it should be.
    """
    try:
        return model.get_submodule(path)
    except AttributeError as error:
        raise LayoutError(
            f"this {type(model).__name__} has no module {path!r}, which the {model_type} layout needs; "
            f"{_tree(model, path)}; check that it is the whole model, or add an entry to "
            "flashinterp/models/architectures.py"
        ) from error


def _tree(model: Any, path: str) -> str:
    """What there is instead: the children of the deepest module on the way."""
    at, seen = model, type(model).__name__
    for name in path.split("."):
        below = dict(at.named_children())
        if name not in below:
            return f"{seen} has {', '.join(f'{n}: {type(m).__name__}' for n, m in below.items()) or 'no parts'}"
        at, seen = below[name], f"{name}: {type(below[name]).__name__}"
    return f"{seen} is there"


def join_path(*parts: str) -> str:
    """A module path from its parts, the empty ones left out."""
    return ".".join(part for part in parts if part)
