"""What two runs have in common and what not: where they cannot be compared, and what a difference means."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flashinterp.errors import NotComparable
from flashinterp.runs.compare.baseline import SHAPE, FinishedRun, check_vocabularies
from flashinterp.tokens import show


@dataclass(frozen=True)
class Condition:
    """Something that the runs do not have in common, and what that means for the comparison."""

    what: str
    before: str
    after: str
    means: str


def check_comparable(a: FinishedRun, b: FinishedRun) -> None:
    """Refuse where a neuron or a token of one run is not that of the other.

    Raises:
        NotComparable: what differs, with both values.
    """
    in_a, in_b = (run.results.get("model") or {} for run in (a, b))
    for key, name in SHAPE.items():
        if in_a.get(key) != in_b.get(key):
            raise NotComparable(
                f"{a.name} and {b.name} are not comparable: {name} is {in_a.get(key)} in one and {in_b.get(key)} in "
                "the other; compare runs of models of one family and size"
            )
    if a.reference and b.reference:
        check_vocabularies(a.name, a.reference.surfaces, b.name, b.reference.surfaces)
    elif _at(a, _TOKENIZER) != _at(b, _TOKENIZER):
        raise NotComparable(
            f"{a.name} and {b.name} are not comparable: their tokenizer files differ, and one of the runs did not "
            "record its vocabulary; take runs in which test_regression took part"
        )


_TOKENIZER = "results.model.digests.tokenizer\\.json"
_UNPAIRED = "effects are not compared prompt by prompt"
_RANGES = "natural ranges are measured on texts with the claimed words, so that effects may be some per cent apart"
_SHOWN = "figures may differ for this reason alone"
# What is compared beside the models' shapes: its name, where it stands, and what a difference means.
_COMPARED: tuple[tuple[str, str, str], ...] = (
    ("profile", "results.profile", _UNPAIRED),
    ("seed", "results.seed", _UNPAIRED),
    ("prompts", "lock.prompts", _UNPAIRED),
    ("decision rule", "lock.rule", "verdicts were reached by other thresholds"),
    ("live dtype", "results.options.resolved.dtype", _SHOWN),
    ("device", "results.options.resolved.device", _SHOWN),
    ("stored dtype", "results.model.stored_dtype", _SHOWN),
    ("flashinterp", "results.environment.packages.flashinterp", _SHOWN),
    ("torch", "results.environment.packages.torch", _SHOWN),
    ("transformers", "results.environment.packages.transformers", _SHOWN),
    ("tokenizer file", _TOKENIZER, "its texts may be cut into other tokens"),
    ("self-test", "results.self_test", "one of the runs is of bundled models"),
    ("partial", "results.partial", "one of the runs left evals out"),
)


def conditions(a: FinishedRun, b: FinishedRun) -> list[Condition]:
    """What else differs between two runs that can be compared."""
    found = []
    for what, path, means in _COMPARED:
        in_a, in_b = (_at(run, path) for run in (a, b))
        if in_a != in_b:
            found.append(Condition(what, _short(in_a), _short(in_b), means))
    words_a, words_b = (sorted({str(v["token"]) for v in run.verdicts}) for run in (a, b))
    if words_a != words_b:
        in_a, in_b = (_short(", ".join(map(show, words))) for words in (words_a, words_b))
        found.append(Condition("claimed words", in_a, in_b, _RANGES))
    for run in (a, b):
        if run.reference is None:
            found.append(Condition("words", "", "", f"{run.name} did not record its neurons' words: not compared"))
    if _at(a, "results.model.digests") == _at(b, "results.model.digests"):
        found.append(Condition("weights", "the same", "the same", "both runs are of the same files"))
    return found


def _at(run: FinishedRun, path: str) -> Any:
    """A value by its path; None where there is no such place."""
    head, _, rest = path.replace("\\.", "\0").partition(".")
    value: Any = getattr(run, head)
    for key in rest.split("."):
        value = value.get(key.replace("\0", ".")) if isinstance(value, dict) else None
    return value


def _short(value: Any) -> str:
    text = "not recorded" if value is None else str(value)
    return text if len(text) <= 60 else text[:16] + "…" if " " not in text else text[:59] + "…"


def paired(a: FinishedRun, b: FinishedRun) -> bool:
    """Whether a prompt of one run is that of the other."""
    places = [path for _, path, means in _COMPARED if means == _UNPAIRED]
    return all(_at(a, path) is not None and _at(a, path) == _at(b, path) for path in places)
