"""Lasting ids of the functions that `verify` calls again, and of the records that may stand in ``raw/``.

A run's folder names both by id, as in ``finetuning.label_shares/1``, and never by what the code calls them: a function
or a class may be renamed or moved, and old folders can still be verified.

The version rises when the same values give other *numbers*, not when a title or caption is worded otherwise. Values are
kept by name: it also rises when a field of a record or a parameter of a function is renamed, removed, or added without
a default. Where old folders are still to be verified, the old function or record stays, under its old version.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

from flashinterp.errors import RunError

AREAS = frozenset(
    "charts claims concept_erasure decoding evaluation finetuning instrument_checks interventions lens_causality "
    "limitations neurons runs stats steering tokens vocabulary word_frequency".split()
)
"""The first words of this package's own ids. All others are free for functions and records of a user's own."""
_ID = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+/[1-9][0-9]*")
Function = TypeVar("Function", bound=Callable[..., Any])
Class = TypeVar("Class", bound=type)


class UnknownId(RunError):
    """A folder names a function or a record that this release does not have.

    Attributes:
        told: what it names, and what there is.
        foreign: whether it is a user's own, which no release has.
    """

    def __init__(self, told: str, *, foreign: bool) -> None:
        self.told, self.foreign = told, foreign
        step = "run the eval again" if foreign else "verify it with the flashinterp that wrote it (environment.json)"
        super().__init__(f"{told}: {step}")


class _Register:
    """Ids of one kind of thing, each for one thing."""

    def __init__(self, kind: str, verb: str) -> None:
        self._kind, self._verb = kind, verb
        self._things: dict[str, Any] = {}
        self._ids: dict[Any, str] = {}

    def add(self, noun: str, version: int, thing: Any) -> None:
        """Raises RunError: the id has another form, or the id or the thing is registered already."""
        key, place = f"{noun}/{version}", _place(thing)
        if not _ID.fullmatch(key):
            raise RunError(f"{key!r} is no id for {place}: give one as in @{self._kind}('mylab.my_table', version=1)")
        if _is_foreign(key) == place.startswith("flashinterp."):
            raise RunError(
                f"{key!r} is no id for {place}: ids of flashinterp begin with one of {', '.join(sorted(AREAS))}, those "
                "of others do not; choose another first word"
            )
        if thing in self._ids:
            raise RunError(f"{place} has two ids, {self._ids[thing]!r} and {key!r}: give it one")
        if key in self._things:
            before = _place(self._things[key])
            if before != place:
                raise RunError(f"two have the id {key!r}, {before} and {place}: give one of them another id")
            del self._ids[self._things[key]]  # its module was loaded again, or the cell of its notebook run again
        self._things[key], self._ids[thing] = thing, key

    def id_of(self, thing: Any) -> str | None:
        return self._ids.get(thing) if isinstance(thing, Hashable) else None

    def of(self, key: str) -> Any:
        """Raises UnknownId: there is none of this id."""
        if key not in self._things:
            foreign = _is_foreign(key)
            there = "which is not of flashinterp" if foreign else f"this release has {self._like(key)}"
            raise UnknownId(f"{self._verb} {key[:80]}, {there}", foreign=foreign)
        return self._things[key]

    def _like(self, key: str) -> str:
        """Which versions of the same there are."""
        noun = key.rpartition("/")[0]
        versions = sorted(int(k.rpartition("/")[2]) for k in self._things if k.rpartition("/")[0] == noun)
        return ", ".join(f"/{v}" for v in versions) or "none of that name"

    def all(self) -> dict[str, Any]:
        return dict(sorted(self._things.items()))


_derivations, _records = _Register("derivation", "made by"), _Register("record", "made of")


def _place(thing: Any) -> str:
    """Its module and name; of what ``python -m`` runs, the module as others import it."""
    module = thing.__module__
    if module == "__main__" and (spec := getattr(sys.modules["__main__"], "__spec__", None)) is not None:
        module = spec.name
    return f"{module}.{thing.__qualname__}"


def _is_foreign(key: str) -> bool:
    """Whether an id is none of this package's; a text that is no id is never foreign."""
    return _ID.fullmatch(key) is not None and key.partition(".")[0] not in AREAS


def derivation(noun: str, version: int) -> Callable[[Function], Function]:
    """Give a function its id, with which a run's folder names what makes a table, a figure or a finding.

    Args:
        noun: as ``area.noun``: lower-case letters, digits, underscores. In code of your own the first word is your own.
        version: from 1; see above when it rises.

    Raises:
        RunError: there is such an id already, the function has one, or it has another form.
    """

    def registered(make: Function) -> Function:
        _derivations.add(noun, version, make)
        return make

    return registered


def record(noun: str, version: int) -> Callable[[Class], Class]:
    """Give a frozen dataclass or a named tuple its id, with which it stands in ``raw/``; as `derivation`."""

    def registered(kind: Class) -> Class:
        register_record(kind, noun, version)
        return kind

    return registered


def register_record(kind: type, noun: str, version: int) -> None:
    """The same as `record`, of a class whose module must not import this one."""
    frozen = getattr(vars(kind).get("__dataclass_params__"), "frozen", False)  # its own, and not that of a base
    if not frozen and not hasattr(kind, "_fields"):
        raise RunError(
            f"{_place(kind)} is no frozen dataclass or named tuple: use @record above @dataclass(frozen=True)"
        )
    _records.add(noun, version, kind)


def derivation_id(make: Any) -> str | None:
    """The id of a function; None where it has none."""
    return _derivations.id_of(make)


def record_id(kind: type) -> str | None:
    """The id of a class; None where it has none."""
    return _records.id_of(kind)


def derivation_of(key: str) -> Callable[..., Any]:
    """The function of an id.

    Raises:
        UnknownId: this release has none.
    """
    found: Callable[..., Any] = _derivations.of(key)
    return found


def record_of(key: str) -> type:
    """The class of an id; raises as `derivation_of`."""
    found: type = _records.of(key)
    return found


def derivations() -> dict[str, Callable[..., Any]]:
    """All functions by their ids, of the modules that were imported so far."""
    return _derivations.all()


def records() -> dict[str, type]:
    """All classes by their ids, of the modules that were imported so far."""
    return _records.all()
