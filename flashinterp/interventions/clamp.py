"""Fix neurons at values, as a context manager over forward hooks that proves it fired (METHOD 3).

Hooks only, never replaced modules. Each hook writes into a copy of the tensor that passes, so nothing of
the model is changed, and the context manager takes every hook away, also when an error leaves it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from flashinterp.errors import ClampError
from flashinterp.interventions.clamp_hooks import ClampHook, ClampPlace, hooks_for
from flashinterp.interventions.clamp_values import ClampLog, NeverRouted, RowClamp, Value, check_values
from flashinterp.models.experts import ExpertRows
from flashinterp.models.forward_pass import PassShape
from flashinterp.models.layout import module_at
from flashinterp.models.layout_reader import layout_of
from flashinterp.neurons import POSITIONS, SITES, NeuronId, Positions, Site


@contextmanager
def clamp(
    model: Any,
    clamps: Mapping[str, Value] | Mapping[NeuronId, Value],
    *,
    site: Site = "up",
    positions: Positions = "all",
) -> Iterator[ClampLog]:
    """Fix neurons at values while the context is open; the model itself is not changed.

    Equivalent, for site ``up``, to this line inside the MLP of layer l, or inside its expert e::

        up = x @ W_up.T; up[..., n] = value; out = (act(x @ W_gate.T) * up) @ W_down.T

    Args:
        model: a live transformers model of a known family.
        clamps: neuron to value, as in ``{"L25N1442": 145.0}``.
        site: ``up`` (W_up's output before the gate; the paper's), ``gate`` (W_gate's output before its
            activation) or ``post`` (the input of W_down; in an expert before the routing weight). An MLP without
            a gate has no ``gate``, and its ``up`` is before the activation.
        positions: ``all`` positions ("permanently clamped"); the ``last`` of each forward pass; or only
            those ``generated`` after the first pass in the context, with or without a KV cache.

    Raises:
        NeuronError: a neuron is not a name or is out of range.
        LayoutError: the model has no such site.
        ClampError: a value is not finite in the model's dtype, there is nothing to clamp, or, on leaving, a
            clamped layer was never run, or no token was routed to a clamped expert.
    """
    if not clamps:
        raise ClampError("there is nothing to clamp: name at least one neuron and its value")
    parsed = [(NeuronId.parse(name), value) for name, value in clamps.items()]
    if len({neuron for neuron, _ in parsed}) < len(parsed):
        raise ClampError("a neuron is named twice in one clamp: give it one value")
    with clamp_rows(model, [RowClamp(n, v) for n, v in parsed], site=site, positions=positions) as log:
        yield log


@contextmanager
def clamp_rows(
    model: Any,
    clamps: Sequence[RowClamp],
    *,
    site: Site = "up",
    positions: Positions = "all",
    unrouted: bool = False,
    experts: ExpertRows | None = None,
) -> Iterator[ClampLog]:
    """`clamp` where each row of a batch may carry its own neurons and values.

    Args:
        model, clamps, site, positions: as for `clamp`.
        unrouted: whether an expert may be clamped that no token is routed to.
        experts: the experts' vectors that were read for an earlier clamp.
    """
    if site not in SITES:
        raise ClampError(f"unknown site {site!r}: choose one of {', '.join(SITES)}")
    if positions not in POSITIONS:
        raise ClampError(f"unknown positions {positions!r}: choose one of {', '.join(POSITIONS)}")
    layout = layout_of(model)
    by_layer: dict[int, list[RowClamp]] = defaultdict(list)
    for one in clamps:
        layout.roster.check(one.neuron)
        by_layer[one.neuron.layer].append(one)
    check_values(clamps, model.dtype)

    log = ClampLog(calls=dict.fromkeys(by_layer, 0), written=dict.fromkeys(by_layer, 0))
    experts = experts or ExpertRows(model)
    hooks: list[ClampHook] = []
    with ExitStack() as hung:
        for layer, wanted in by_layer.items():
            place = ClampPlace(model, layout, layer, site, PassShape(), log)
            whole = module_at(model, layout.layer(layer), layout.model_type)
            hung.enter_context(whole.register_forward_pre_hook(place.shape, with_kwargs=True))
            for hook in hooks_for(place, wanted, positions, experts):
                hooks.append(hook)
                hung.callback(hook.close)
                hung.enter_context(hook.register())
        yield log
    # Reached only when the body did not raise: an error of its own is the one to show.
    _check_fired(hooks, log, site, positions, unrouted)


def _check_fired(hooks: Sequence[ClampHook], log: ClampLog, site: Site, positions: Positions, unrouted: bool) -> None:
    for hook in hooks:
        if not hook.writer.written:
            never = f"never ran{hook.hint}"
            told = "ran, but no position was one of those to clamp" if log.calls[hook.place.layer] else never
            raise ClampError(
                f"the clamp at site {site} of layer {hook.place.layer} did not fire ({told}): run the model inside the "
                f"context; with positions={positions!r} it must also reach such a position"
            )
    silent = [block for hook in hooks for block in hook.silent()]
    if silent and not unrouted:
        raise NeverRouted(silent)
