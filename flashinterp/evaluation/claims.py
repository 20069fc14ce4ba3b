"""Claims: what is to be tested, fixed and hashed before any causal measurement is made (METHOD 4).

A claim says that one neuron stands for one token. It is written in a TOML file, or made by decoding the
weights and asking for a token's specialised neuron; either way it is complete before a model is run.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from flashinterp.errors import ClaimError, FlashinterpError
from flashinterp.neurons import LENSES, POLES, NeuronId, Pole
from flashinterp.provenance.registry import record
from flashinterp.stats import LEAST_RESAMPLED, smallest_family_p, smallest_ps

VerdictName = Literal["validated", "lever", "detector", "refuted", "inconclusive", "not_measured", "not_comparable"]
VERDICTS: tuple[VerdictName, ...] = (
    "validated", "lever", "detector", "refuted", "inconclusive", "not_measured", "not_comparable"
)  # fmt: skip
Source = Literal["file", "discovered", "fixture"]
_FIELDS = {"id", "token", "neuron", "pole", "lens", "direction", "expect", "note"}


@record("claims.claim", version=1)
@dataclass(frozen=True)
class Claim:
    """One neuron, one token, and which way driving the neuron should move it.

    Attributes:
        id: the claim's name; candidates of one claim share the part before the slash.
        token: the text as a person writes it, or a token id.
        neuron: which neuron; None until the lens has found it.
        pole: the pole that names the token; None until found.
        lens: the lens that selected the neuron, hence the side that is not tested by its own selection.
        direction: "+" if a higher value should make the token likelier; the pole's sign by default.
        source: where the claim comes from. A refuted claim from a file fails the run, a refuted discovery
            is a result.
        expect: the verdict that is claimed.
        note: free text for the report.
    """

    id: str
    token: str | int
    neuron: NeuronId | None
    pole: Pole | None
    lens: str
    direction: Pole | None
    source: Source
    expect: VerdictName = "validated"
    note: str = ""

    @property
    def group(self) -> str:
        """The claim that this is a candidate of."""
        return self.id.split("/")[0]

    @property
    def drive(self) -> Pole:
        """The direction that is tested: as stated, else the pole's."""
        return self.direction or self.pole or "+"

    def as_json(self) -> dict[str, Any]:
        """As it stands in ``claims.lock.json`` and in the judgements of ``results.json``, with the driven direction."""
        return {**asdict(self), "neuron": str(self.neuron) if self.neuron else None, "drive": self.drive}

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> Claim:
        """The claim of an entry that `as_json` gave.

        Raises:
            TypeError: a field is missing, or is none of a claim's.
            NeuronError: the neuron's name is not one.
        """
        values = {key: value for key, value in entry.items() if key not in ("neuron", "drive")}
        return cls(**values, neuron=NeuronId.parse(entry["neuron"]) if entry["neuron"] else None)


def load_claims(path: str | Path) -> tuple[Claim, ...]:
    """Read a claim file.

    Each ``[[claim]]`` has an ``id`` and a ``token``; ``neuron`` (one name, or a list of candidates), ``pole``,
    ``lens``, ``direction``, ``expect`` and ``note`` are optional. Without ``neuron`` the lens finds it.

    Raises:
        ClaimError: not readable, not TOML, or a field is wrong.
    """
    try:
        content = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ClaimError(
            f"the claim file {path} cannot be read ({error}): give a TOML file with [[claim]] tables"
        ) from error
    strange = sorted(content.keys() - {"claim"})
    if strange:
        raise ClaimError(
            f"{path} has {strange[0]!r} beside its claims, which nothing reads: write [[claim]] tables only"
        )
    entries = content.get("claim", [])
    if not isinstance(entries, list) or not entries:
        raise ClaimError(f"{path} holds no claims: write at least one [[claim]] table with an id and a token")
    claims = tuple(claim for entry in entries for claim in _parse(entry, path))
    ids = [c.id for c in claims]
    twice = sorted({i for i in ids if ids.count(i) > 1})
    if twice:
        raise ClaimError(f"{path} names the claim {twice[0]!r} twice: give each its own id")
    return claims


def _parse(entry: Any, path: str | Path) -> list[Claim]:
    if not isinstance(entry, dict) or not isinstance(entry.get("id"), str) or not entry["id"]:
        raise ClaimError(f"{path}: a [[claim]] needs an id: {entry!r}")
    name = entry["id"]
    if "/" in name:
        raise ClaimError(f"{path}: claim {name!r} has a slash in its id, which marks candidates: choose another id")

    def one_of(field: str, choices: Sequence[str], default: Any) -> Any:
        value = entry.get(field, default)
        if value is not default and value not in choices:
            raise ClaimError(f"{path}: claim {name!r} has {field} = {value!r}: choose one of {', '.join(choices)}")
        return value

    unknown = sorted(set(entry) - _FIELDS)
    if unknown:
        raise ClaimError(
            f"{path}: claim {name!r} has an unknown field {unknown[0]!r}: known are {', '.join(sorted(_FIELDS))}"
        )
    if not isinstance(entry.get("token"), str | int) or isinstance(entry.get("token"), bool):
        raise ClaimError(f"{path}: claim {name!r} has token = {entry.get('token')!r}: give a text or a token id")
    neurons = entry.get("neuron")
    candidates = [None] if neurons is None else neurons if isinstance(neurons, list) else [neurons]
    if not candidates or not all(n is None or isinstance(n, str) for n in candidates):
        raise ClaimError(
            f'{path}: claim {name!r} has neuron = {neurons!r}: give a name like "L25N1442", or a list of them'
        )
    claims = []
    for candidate in candidates:
        try:
            neuron = None if candidate is None else NeuronId.parse(candidate)
        except FlashinterpError as error:
            raise ClaimError(f"{path}: claim {name!r} has a wrong neuron: {error}") from error
        claims.append(
            Claim(
                id=name if len(candidates) == 1 else f"{name}/{neuron}",
                token=entry["token"],
                neuron=neuron,
                pole=one_of("pole", POLES, None),
                lens=one_of("lens", list(LENSES), "paper"),
                direction=one_of("direction", POLES, None),
                source="file",
                expect=one_of("expect", VERDICTS, "validated"),
                note=str(entry.get("note", "")),
            )
        )
    return claims


def check_design(n_claims: int, sizes: Mapping[str, int], alpha: float) -> None:
    """Refuse a design in which a single true claim of the family could never pass.

    Args:
        n_claims: the family's size.
        sizes: what `flashinterp.stats.smallest_ps` takes: controls, prompts, doses, contexts, absent.
        alpha: the false discovery rate.

    Raises:
        ClaimError: the best q that Benjamini-Hochberg can give is above alpha, or there are too few prompts for an
            interval.
    """
    if min(sizes["prompts"], sizes["contexts"]) < LEAST_RESAMPLED:
        raise ClaimError(
            f"{sizes['prompts']} prompts and {sizes['contexts']} contexts give no interval: take at least "
            f"{LEAST_RESAMPLED} of each"
        )
    test, p = max(smallest_ps(**sizes).items(), key=lambda item: item[1])
    best = smallest_family_p(p, n_claims)
    if best > alpha:
        told = ", ".join(f"{n} {name}" for name, n in sizes.items())
        fewer = f"name at most {int(alpha / p)} claims, or " if p <= alpha else ""
        raise ClaimError(
            f"{n_claims} claims cannot reach significance with {told}: the test of {test} gives p = {p:.2g} at best, "
            f"and the best q of a single true claim is {best:.3f}, above {alpha}; {fewer}take a profile with more"
        )


def lock(claims: Sequence[Claim], **design: Any) -> dict[str, Any]:
    """The claims and the design, with the sha256 of their canonical text: what was fixed before measuring."""
    content = {
        "claims": [claim.as_json() for claim in claims],
        **design,
    }
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return {**content, "sha256": hashlib.sha256(text.encode()).hexdigest()}
