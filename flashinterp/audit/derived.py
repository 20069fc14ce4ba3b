"""Tables, figures and findings as functions of recorded values, so that `verify` makes them again from ``raw/``.

An eval hands in the function and the values. The values are packed, unpacked, and the function called on what came
out: what is shown was made from what is kept. Only functions that `flashinterp.audit.makers` names are ever called.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from flashinterp.audit.makers import MAKERS, TYPES
from flashinterp.audit.packing import Arrays, pack, unpack
from flashinterp.audit.recorded import Recorded
from flashinterp.audit.tables import check_name
from flashinterp.errors import RunError

Kind = Literal["table", "figure", "finding"]


Resolve = Callable[[Recorded], Any]


@dataclass(frozen=True)
class Derivation:
    """One thing to be made again: by which function, and from which file of ``raw/``.

    Attributes:
        kind: what it is.
        name: of the table or figure; of a finding, that of its file.
        make: the function's name among `flashinterp.audit.makers.MAKERS`.
    """

    kind: Kind
    name: str
    make: str

    @property
    def raw(self) -> str:
        """The name of its file in ``raw/``."""
        return check_name(f"{self.name}--{self.kind}")

    def record(self) -> dict[str, str]:
        """As results.json keeps it."""
        return {"kind": self.kind, "name": self.name, "make": self.make, "raw": self.raw}


@dataclass(frozen=True)
class Values:
    """What a function was called with; ``head`` is what names the outcome: a title, or a finding's place and paper."""

    head: tuple[Any, ...]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def called(self, make: Callable[..., Any], resolve: Resolve, *first: Any) -> Any:
        """The outcome of the function, each `Recorded` replaced by what it stands for."""

        def real(value: Any) -> Any:
            return resolve(value) if isinstance(value, Recorded) else value

        return make(*first, *map(real, self.args), **{k: real(v) for k, v in self.kwargs.items()})


def is_known(make: Callable[..., Any]) -> bool:
    """Whether a function is one that `verify` can call."""
    return MAKERS.get(getattr(make, "__name__", "")) is make


def keep(head: tuple[Any, ...], args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Arrays, Values]:
    """The arrays for ``raw/``, and the values as a reader will have them."""
    arrays = pack([head, tuple(args), dict(kwargs)], TYPES)
    return arrays, read(arrays)


def read(arrays: Mapping[str, Any]) -> Values:
    """The values of a file of ``raw/``; raises as `unpack`."""
    head, args, kwargs = unpack(arrays, TYPES)
    return Values(head, args, kwargs)


def keep_value(value: Any) -> tuple[Arrays, Any]:
    """The arrays of one value that several tables and figures rest on, and the value as a reader will have it."""
    arrays = pack(value, TYPES)
    return arrays, unpack(arrays, TYPES)


def read_value(arrays: Mapping[str, Any]) -> Any:
    """The value of `keep_value`; raises as `unpack`."""
    return unpack(arrays, TYPES)


def maker(name: str) -> Callable[..., Any]:
    """The function of a name.

    Raises:
        RunError: there is none of that name in this release.
    """
    if name not in MAKERS:
        raise RunError(f"this release has no {name[:80]!r} to make it with: use the release that wrote the folder")
    return MAKERS[name]
