"""Per architecture: where up, gate, down, the norms and the head are (METHOD 1).

A layout is a claim about a model. `probe.py` proves it on the loaded model before anything is measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from flashinterp.errors import LayoutError
from flashinterp.neuron import Site

WeightKind = Literal["up", "gate", "down"]


@dataclass(frozen=True)
class Names:
    """Module paths of one family; a module's tensor on disk is its path with ``.weight`` after it."""

    up: str = "model.layers.{layer}.mlp.up_proj"
    gate: str = "model.layers.{layer}.mlp.gate_proj"
    down: str = "model.layers.{layer}.mlp.down_proj"
    mlp: str = "model.layers.{layer}.mlp"
    decoder_layer: str = "model.layers.{layer}"
    pre_norm: str = "model.layers.{layer}.post_attention_layernorm"
    final_norm: str = "model.norm"
    embedding: str = "model.embed_tokens"
    head: str = "lm_head"


LLAMA = Names()

# Each of these is RMSNorm -> down(act(gate x) * up x) -> add, with a final RMSNorm and a plain head.
FAMILIES: dict[str, Names] = {"llama": LLAMA, "mistral": LLAMA, "qwen2": LLAMA, "qwen3": LLAMA}


def check_family(model_type: Any) -> str:
    """Return an architecture's name if its layout is known.

    Raises:
        LayoutError: it is not.
    """
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise LayoutError(
            f"architecture {model_type!r} is not known: known are {', '.join(sorted(FAMILIES))}; "
            "a model of another family needs an entry in flashinterp/layout.py"
        )
    return model_type


@dataclass(frozen=True)
class Layout:
    """One model's shape and the names of its parts.

    Attributes:
        model_type: the family's name in the model's config.
        n_layers: L.
        n_neurons: F, MLP width.
        d_model: d, hidden size.
        vocab_size: V, rows of the LM head.
        activation: the gate's activation function, by its name in transformers.
        norm_eps: the epsilon of every RMSNorm.
        tied: whether the LM head is the embedding matrix.
    """

    model_type: str
    n_layers: int
    n_neurons: int
    d_model: int
    vocab_size: int
    activation: str
    norm_eps: float
    tied: bool
    names: Names

    @classmethod
    def of(cls, config: Any) -> Layout:
        """Make the layout of a transformers config.

        Raises:
            LayoutError: the architecture is not one of those known here, or is a quantised variant.
        """
        model_type = check_family(getattr(config, "model_type", None))
        quantisation = getattr(config, "quantization_config", None)  # a dict from a file, an object on a live model
        if quantisation:
            method = quantisation.get("quant_method") if isinstance(quantisation, dict) else type(quantisation).__name__
            raise LayoutError(
                f"this {model_type} checkpoint is quantised ({method}): its tensors are codes, not weights; "
                "use the unquantised repository that it was made from"
            )
        return cls(
            model_type=model_type,
            n_layers=config.num_hidden_layers,
            n_neurons=config.intermediate_size,
            d_model=config.hidden_size,
            vocab_size=config.vocab_size,
            activation=config.hidden_act,
            norm_eps=config.rms_norm_eps,
            tied=config.tie_word_embeddings,
            names=FAMILIES[model_type],
        )

    @property
    def head(self) -> str:
        """The path whose weight is the unembedding U."""
        return self.names.embedding if self.tied else self.names.head

    def path(self, part: str, layer: int | None = None) -> str:
        """The module path of a part, as in ``path("up", 25)``."""
        template: str = getattr(self.names, part)
        return template.format(layer=layer)

    def module(self, model: Any, part: str, layer: int | None = None) -> Any:
        """The module of a part on a live model.

        Raises:
            LayoutError: the model has no such module.
        """
        path = self.path(part, layer)
        try:
            return model.get_submodule(path)
        except AttributeError as error:
            raise LayoutError(
                f"this {type(model).__name__} has no module {path!r}, which the {self.model_type} layout "
                f"needs; its top modules are {', '.join(name for name, _ in model.named_children())}"
            ) from error

    def site_module(self, model: Any, site: Site, layer: int) -> Any:
        """The module at whose output (up, gate) or input (post) a neuron's value is found."""
        return self.module(model, "down" if site == "post" else site, layer)
