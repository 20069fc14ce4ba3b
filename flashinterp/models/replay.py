"""A prompt's forward pass, called again from a layer on: what lies before a clamped layer is computed once.

The calls of the decoder layers are recorded in one clean pass, and the same modules are called with the same arguments
and more rows. So every hook fires as in a whole pass, and nothing of the model is built a second time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from flashinterp.errors import FlashinterpError, first_line
from flashinterp.models.layout import HEAD, Layout, module_at
from flashinterp.models.layout_reader import layout_of
from flashinterp.models.norms import cap

_PROOF_ROWS = 2  # what does not broadcast over rows fails with two as it would with many
Forward = Callable[[int, int], Tensor]
"""From a layer and a number of rows to log-probabilities [rows, V] at the last position."""


@dataclass(frozen=True)
class Prompt:
    """One prompt, ready to be run many times from a layer on.

    Attributes:
        ids: [1, positions].
        clean: [V] log-probabilities at the last position, unclamped, float32.
        whole: why each pass is a whole one; None where only the layers from the given one on are called.
        forward: log-probabilities [rows, V] of a pass in which the layers from the given one on see these many rows.
    """

    ids: Tensor
    clean: Tensor
    whole: str | None
    forward: Forward


def last_log_probs(model: Any, ids: Tensor) -> Tensor:
    """log softmax [batch, V] in float32 at the last position of sequences [batch, positions]."""
    logits: Tensor = model(ids, use_cache=False, logits_to_keep=1).logits[:, -1]
    return logits.float().log_softmax(-1)


@torch.no_grad()
def prepare(model: Any, ids: Tensor, layers: Sequence[int]) -> Prompt:
    """Record a prompt [1, positions] for passes from the given layers on, and prove that they give the model's logits.

    Two rows from the first of the layers are compared with a whole pass of two rows. They must agree within what the
    batch size alone changes, and two units in the last place of the largest logit; where they do not, or where the
    layers cannot be called by themselves, every pass is a whole one, and says why.

    Args:
        model: a live transformers model of a known family, in eval mode.
        ids: token ids.
        layers: where passes will begin.
    """
    with _recorder(model, sorted(set(layers))) as calls:
        clean = last_log_probs(model, ids)
    try:
        reason = _difference(model, calls, ids, min(layers), clean)
    except FlashinterpError:
        raise
    except Exception as error:  # whatever a layer raises that is not meant to be called by itself
        reason = f"its layers cannot be called by themselves ({first_line(error)})"

    def plain(layer: int, rows: int) -> Tensor:
        return last_log_probs(model, ids.expand(rows, -1))

    return Prompt(ids, clean[0], reason, calls.forward if reason is None else plain)


def _difference(model: Any, calls: _Calls, ids: Tensor, layer: int, clean: Tensor) -> str | None:
    """What speaks against calling the layers by themselves; None if nothing does."""
    replayed = calls.forward(layer, _PROOF_ROWS)
    whole = last_log_probs(model, ids.expand(_PROOF_ROWS, -1))
    step = torch.finfo(model.dtype).eps * float(whole.abs().max())
    # More than that is no rounding, whatever the batch size does.
    allowed = min(float((whole - clean).abs().max()), 64 * step) + 2 * step
    error = float((replayed - whole).abs().max())
    # Not <=, so that NaN is a difference, too.
    return None if error <= allowed else f"its layers by themselves give other logits, by {error:.2g} nats"


@dataclass
class _Calls:
    """The calls of one clean pass: each layer's arguments but its hidden states, and those where passes begin."""

    model: Any
    layout: Layout
    hidden: dict[int, Tensor] = field(default_factory=dict)
    rest: dict[int, tuple[tuple[Any, ...], dict[str, Any], bool]] = field(default_factory=dict)

    def forward(self, layer: int, rows: int) -> Tensor:
        x = self.hidden[layer].repeat(rows, 1, 1)  # a copy: a layer may write into what it gets
        for n in range(layer, self.layout.n_layers):
            args, kwargs, by_name = self.rest[n]
            module = module_at(self.model, self.layout.layer(n), self.layout.model_type)
            out = module(hidden_states=x, **kwargs) if by_name else module(x, *args, **kwargs)
            x = out[0] if isinstance(out, tuple) else out
        return self._logits(x[:, -1:])[:, -1].float().log_softmax(-1)

    def _logits(self, x: Tensor) -> Tensor:
        """The model's logits [rows, 1, V] from what leaves the last layer."""
        for path in (self.layout.norm("final"), self.layout.family.head_projection, HEAD):
            if path and self._has(path):
                x = module_at(self.model, path, self.layout.model_type)(x)
        scale = self.layout.logit_scale
        return cap(x if scale == 1 else x * scale, self.layout.softcap)

    def _has(self, path: str) -> bool:
        return path == HEAD or any(name.startswith(f"{path}.") for name in self.layout.shapes)


@contextmanager
def _recorder(model: Any, layers: Sequence[int]) -> Iterator[_Calls]:
    """Record the layers' calls in the pass that is run meanwhile, from the first of the given layers on."""
    layout = layout_of(model)
    calls = _Calls(model, layout)

    def record(layer: int) -> Callable[..., None]:
        def keep(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            by_name = not args
            named = {name: value for name, value in kwargs.items() if name != "hidden_states"}
            calls.rest[layer] = args[1:], named, by_name
            if layer in layers:
                calls.hidden[layer] = (kwargs["hidden_states"] if by_name else args[0]).clone()

        return keep

    with ExitStack() as hooks:
        for layer in range(layers[0], layout.n_layers):
            module = module_at(model, layout.layer(layer), layout.model_type)
            hooks.enter_context(module.register_forward_pre_hook(record(layer), with_kwargs=True))
        yield calls
