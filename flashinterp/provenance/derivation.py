"""Tables, figures and findings as functions of recorded values, so that `verify` makes them again from ``raw/``.

An eval hands in the function and the values. The values are packed, unpacked, and the function called on what came
out: what is shown was made from what is kept. Only functions that have an id, `flashinterp.provenance.registry`, are
taken and ever called.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from flashinterp._util.text import check_name, clip
from flashinterp.errors import RunError
from flashinterp.provenance.packing import Arrays, Kinds, pack, unpack
from flashinterp.provenance.recorded import Recorded
from flashinterp.provenance.registry import derivation_id, record_of

Kind = Literal["table", "figure", "finding"]
Resolve = Callable[[Recorded], Any]


@dataclass(frozen=True)
class Derivation:
    """One thing to be made again: by which function, and from which file of ``raw/``.

    Attributes:
        kind: what it is.
        name: of the table or figure; of a finding, that of its file.
        make: the function's id.
    """

    kind: Kind
    name: str
    make: str

    @classmethod
    def by(cls, make: Callable[..., Any], kind: Kind, name: str) -> Derivation:
        """The one by a function.

        Raises:
            RunError: the function has no id, so that a folder could not name it.
        """
        key = derivation_id(make)
        if key is None:
            shown = clip(str(getattr(make, "__qualname__", type(make).__name__)), 80)
            raise RunError(
                f"the {kind} {name} is made by {shown}, which has no id: give it one with "
                "@derivation('mylab.my_table', version=1), from flashinterp.provenance.registry"
            )
        return cls(kind, name, key)

    @property
    def raw(self) -> str:
        """The name of its file in ``raw/``."""
        return check_name(f"{self.name}--{self.kind}")

    def record(self) -> dict[str, str]:
        """As results.json keeps it."""
        return {"kind": self.kind, "name": self.name, "make": self.make, "raw": self.raw}


@dataclass(frozen=True)
class CallValues:
    """What a function was called with; ``head`` is what names the outcome: a title, or a finding's place and paper."""

    head: tuple[Any, ...]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def called(self, make: Callable[..., Any], resolve: Resolve, *first: Any) -> Any:
        """The outcome of the function, each `Recorded` replaced by what it stands for."""

        def real(value: Any) -> Any:
            return resolve(value) if isinstance(value, Recorded) else value

        return make(*first, *map(real, self.args), **{k: real(v) for k, v in self.kwargs.items()})


def keep(head: tuple[Any, ...], args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Arrays, CallValues]:
    """The arrays for ``raw/``, and the values as a reader will have them."""
    arrays = pack([head, tuple(args), dict(kwargs)])
    return arrays, read(arrays)


def read(arrays: Mapping[str, Any], kinds: Kinds = record_of) -> CallValues:
    """The values of a file of ``raw/``; raises as `unpack`."""
    head, args, kwargs = unpack(arrays, kinds)
    return CallValues(head, args, kwargs)


def keep_value(value: Any) -> tuple[Arrays, Any]:
    """The arrays of one value that several tables and figures rest on, and the value as a reader will have it."""
    arrays = pack(value)
    return arrays, unpack(arrays)


def read_value(arrays: Mapping[str, Any], kinds: Kinds = record_of) -> Any:
    """The value of `keep_value`; raises as `unpack`."""
    return unpack(arrays, kinds)


@dataclass(frozen=True)
class Again:
    """Everything of a run that can be judged again, by the names of its records.

    Attributes:
        judgements: each a `Judged`.
        roles: each a `Roles`.
        studies: each a `Studied`.
        values: what several tables and figures rest on.
    """

    judgements: dict[str, Any]
    roles: dict[str, Any]
    studies: dict[str, Any] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)

    def resolve(self, recorded: Recorded) -> Any:
        """What a record of the run holds, judged again.

        Raises:
            RunError: there is no such record.
        """
        among = ("judgements", "roles", "studies", "values")
        found: Mapping[str, Any] = getattr(self, recorded.among) if recorded.among in among else {}
        if recorded.name not in found:
            raise RunError(f"there is no {recorded.name!r} among the {recorded.among} of the run: give a whole folder")
        return recorded.of(found[recorded.name])
