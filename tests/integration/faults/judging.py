"""Faults in what a verdict stands on: curves, doses, prompts, controls, and the judgement itself."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from flashinterp.evaluation import measure, verdict
from flashinterp.evaluation.experiment import Experiment
from flashinterp.interventions import dose_response as sweep
from flashinterp.tokens import Token
from tests.integration.faults.faults import Fault, after, instead, patched_property
from tests.integration.faults.running import CAUSALITY, INSTRUMENT


def validated(verdicts: list[Any], *_: Any, **__: Any) -> list[Any]:
    """A judge who says yes to everything."""
    return [replace(v, verdict="validated") for v in verdicts]


def smallest_rank(value: float, controls: Any, **_: Any) -> float | None:
    """Any neuron beats all its controls."""
    return 1 / (1 + len(controls)) if len(controls) else None


def turned_curve(curves: Any, *_: Any, **__: Any) -> Any:
    """The doses of a curve are in the wrong order."""
    return replace(curves, log_probs=np.ascontiguousarray(curves.log_probs[:, ::-1]))


def stale_recording(monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers are called again as they were called for the first prompt, whatever the prompt is."""
    sound, kept = sweep.prepare, {}

    def prepare(model: Any, ids: Any, layers: Any) -> Any:
        fresh = sound(model, ids, layers)
        return replace(fresh, forward=kept.setdefault(tuple(layers), fresh).forward)

    monkeypatch.setattr(sweep, "prepare", prepare)


def next_ids(tokens: Any, *_: Any) -> Any:
    """A sweep looks at the tokens after those it was asked for."""
    return tuple(Token(t.id + 1, t.text, t.form) for t in tokens)


def dead_controls(controls: Any, scale: Any, target: int, n: int, duplicates: Any) -> Any:
    """The quietest neurons of the layer, said to match as well as the right ones."""
    quiet = np.argsort(scale.output, kind="stable")
    return replace(controls, neurons=tuple(int(i) for i in quiet if i != target)[: len(controls.neurons)])


def turned_sign(curves: Any, *_: Any, **__: Any) -> Any:
    """What rises is taken for what falls."""
    return replace(curves, log_probs=np.ascontiguousarray(2 * curves.clean - curves.log_probs))


def leaked(heldout: tuple[str, ...], bench: Any) -> tuple[str, ...]:
    """Effects are measured on a text that has set the doses."""
    return (bench.prompts.selection[0], *heldout[1:])


def range_of_the_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """Doses are taken from the held-out texts."""
    monkeypatch.setattr(Experiment, "selection", property(lambda bench: bench.heldout))


SINGLE = "test_curves_are_those_of_single_passes"
CONTROL = "test_nothing_is_found_where_nothing_is_planted"

FAULTS = {
    "curve turned round": Fault(
        after(measure, "sweep", turned_curve),
        CAUSALITY,
        "test_claims",
        "a planted neuron was misjudged: dog is",
    ),
    "layers called as for another prompt": Fault(
        stale_recording, INSTRUMENT, SINGLE, "dog: the judged curve is off by"
    ),
    "another token's curve": Fault(
        after(sweep, "_tokens", next_ids), INSTRUMENT, SINGLE, "dog: the judged curve is off by"
    ),
    "sign turned": Fault(after(measure, "sweep", turned_sign), INSTRUMENT, SINGLE, "dog: the judged curve is off by"),
    "sign turned, and judged": Fault(after(measure, "sweep", turned_sign), CAUSALITY, "test_claims", "dog is"),
    "doses from the held-out texts": Fault(
        range_of_the_test,
        INSTRUMENT,
        SINGLE,
        "dog: its doses are not its natural range",
    ),
    "prompts leaked": Fault(
        patched_property(Experiment, "heldout", leaked),
        INSTRUMENT,
        "test_selection_and_test_are_apart",
        "texts that select are also tested on",
    ),
    "prompts leaked, and measured": Fault(
        patched_property(Experiment, "heldout", leaked),
        INSTRUMENT,
        SINGLE,
        "dog: the judged curve is off by",
    ),
    "dead controls": Fault(
        after(measure, "matched_controls", dead_controls),
        INSTRUMENT,
        "test_controls_are_fit",
        "controls are dead neurons",
    ),
    "judge says yes": Fault(
        after(measure, "judge", validated), CAUSALITY, CONTROL, "validated where nothing was planted"
    ),
    "controls ignored": Fault(
        instead(verdict, "rank_p", smallest_rank),
        CAUSALITY,
        "test_claims",
        "ocean-crowd is validated",
    ),
    "shape ignored": Fault(
        instead(verdict, "isotonic_violation", lambda *_: 0.0),
        CAUSALITY,
        "test_claims",
        "honey-collapse is validated",
    ),
}
