"""What a planted fault is, and the ways of planting one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

Patch = Callable[[pytest.MonkeyPatch], None]


class Fault(NamedTuple):
    """One fault in the library, and the eval that must see it.

    Attributes:
        plant: puts it there.
        where: the file of the eval.
        test: the test that must fail, and no other of those that are run.
        told: what it says of it.
        args: what else the run is given, where the decoys do not show the fault.
    """

    plant: Patch
    where: str
    test: str
    told: str
    args: tuple[str, ...] = ()


def after(place: Any, name: str, change: Callable[..., Any]) -> Patch:
    """A fault in what a function returns: ``change(result, *args, **kwargs)`` in place of the result."""

    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        sound = getattr(place, name)
        monkeypatch.setattr(place, name, lambda *args, **kwargs: change(sound(*args, **kwargs), *args, **kwargs))

    return patch


def instead(place: Any, name: str, fault: Any) -> Patch:
    """A fault in place of a function."""
    return lambda monkeypatch: monkeypatch.setattr(place, name, fault)


def both(*patches: Patch) -> Patch:
    """Two faults at once, where one guard would catch the other."""

    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        for one in patches:
            one(monkeypatch)

    return patch


def patched_property(place: Any, name: str, change: Callable[..., Any]) -> Patch:
    """A fault in what a property gives."""
    sound = getattr(place, name).fget
    return lambda monkeypatch: monkeypatch.setattr(place, name, property(lambda self: change(sound(self), self)))
