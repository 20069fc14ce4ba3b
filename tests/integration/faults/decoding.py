"""Faults in the decode: ids, ties, masses and lenses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from flashinterp.decoding import lens_rows
from flashinterp.models.checkpoint import Checkpoint
from flashinterp.neurons import get_lens
from flashinterp.studies.instrument_checks import decode_check
from tests.integration.faults.faults import Fault, after
from tests.integration.faults.running import DECODE


def shift_ids(poles: Sequence[Any], rows: Any, head: Any, **_: Any) -> Any:
    """Every id is one too high."""
    return tuple(replace(pole, ids=(pole.ids + 1) % len(head)) for pole in poles)


def ties_to_the_higher_id(monkeypatch: pytest.MonkeyPatch) -> None:
    """The head is decoded from its end, so that of equal logits the higher id comes first."""
    sound = decode_check.decode_rows

    def turned(rows: Any, head: Any, **kwargs: Any) -> Any:
        poles = sound(rows, head.flip(0), **kwargs)
        return tuple(replace(pole, ids=len(head) - 1 - pole.ids) for pole in poles)

    monkeypatch.setattr(decode_check, "decode_rows", turned)


def too_much_mass(poles: Sequence[Any], *_: Any, **__: Any) -> Any:
    """The normaliser is off by a thousandth."""
    return tuple(replace(pole, logsumexp=pole.logsumexp + 1e-3) for pole in poles)


def without_norm(rows: Any, checkpoint: Checkpoint, lens: Any, layer: int, **_: Any) -> Any:
    """The write lens is handed to the head as it is."""
    return checkpoint.rows("down", layer).float() if get_lens(lens).name == "write" else rows


FAULTS = {
    "ids shifted": Fault(
        after(decode_check, "decode_rows", shift_ids), DECODE, "test_random_weights", "our logits are off by"
    ),
    "ties to the higher id": Fault(ties_to_the_higher_id, DECODE, "test_random_weights", ""),
    "logsumexp off": Fault(
        after(decode_check, "decode_rows", too_much_mass), DECODE, "test_random_weights", "logsumexp is off by"
    ),
    "lens without its norm": Fault(
        after(lens_rows, "lens_rows", without_norm),
        DECODE,
        "test_every_lens_on_the_model",
        "our logits are off by",
    ),
}
