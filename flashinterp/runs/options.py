"""The options of a run, in one table: for pytest, for `flashinterp audit`, and for the record in results.json."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple


class RunOption(NamedTuple):
    """One option as a command line shows it.

    Attributes:
        name: of the field, and with dashes of the option.
        help: one sentence.
        default: None for none.
        metavar: what stands for its value.
        choices: all that it may be; empty for any text.
        is_path: whether it is a path or a Hub id.
        read: turns the text that was given into the field's value; None where it is the value.
    """

    name: str
    help: str
    default: Any
    metavar: str | None
    choices: tuple[str, ...]
    is_path: bool
    read: Callable[[str | None], Any] | None

    @property
    def flag(self) -> str:
        """As it is typed."""
        return f"--{self.name.replace('_', '-')}"

    @property
    def kind(self) -> type:
        """bool for a switch, int for a number, else str."""
        return type(self.default) if isinstance(self.default, bool | int) else str


def split_words(tokens: str | None) -> tuple[str, ...]:
    """Split ``" dog, California"``; the space that belongs to a word is found when it is resolved."""
    return tuple(f" {word.strip()}" for word in (tokens or "").split(",") if word.strip())


def _option(
    default: Any,
    text: str,
    *,
    metavar: str | None = None,
    choices: tuple[str, ...] = (),
    is_path: bool = False,
    read: Callable[[str | None], Any] | None = None,
) -> Any:
    about = {"help": text, "metavar": metavar, "choices": choices, "is_path": is_path, "read": read}
    return field(default=default, metadata=about)


@dataclass(frozen=True)
class Options:
    """What the user asked for, as passed. Each field is an option of pytest and of `flashinterp audit`."""

    model: str | None = _option(
        None,
        "The model to audit: a folder with safetensors, or a Hub id (default: bundled models).",
        metavar="MODEL",
        is_path=True,
    )
    tuned: str | None = _option(None, "Its fine-tune, for preservation and steering.", metavar="MODEL", is_path=True)
    claims: str | None = _option(
        None, "A TOML file of claims; a claim that does not hold fails the run.", metavar="FILE", is_path=True
    )
    tokens: tuple[str, ...] = _option(
        (), 'Words to find neurons for, comma-separated, as in " dog, California".', metavar="LIST", read=split_words
    )
    out: str = _option("flashinterp-report", "Where the run folder goes.", metavar="DIR", is_path=True)
    baseline: str | None = _option(
        None,
        "An earlier run folder; a validated neuron that was lost since fails the run.",
        metavar="DIR",
        is_path=True,
    )
    profile: str = _option("standard", "How much is measured.", choices=("smoke", "standard", "audit"))
    prompts: str | None = _option(
        None, "Your own texts, with the fields of prompts.json.", metavar="FILE", is_path=True
    )
    bundled: str | None = _option(
        "storybook", "Which bundled models to run on without a model.", choices=("storybook", "decoys")
    )
    seed: int = _option(0, "Root of every random stream.")
    dtype: str = _option("auto", "Of the live model.", choices=("auto", "float32", "bfloat16", "float16"))
    device: str = _option("auto", "Where it runs: cpu, cuda, ... (auto: cpu, or cuda under -m gpu).")
    require_gpu: bool = _option(False, "A missing GPU is an error, not a skip.")

    @classmethod
    def of(cls, given: Any) -> Options:
        """The options of a parsed command line, whose attributes have the options' names.

        With a model, no bundled one is recorded.
        """
        values = {}
        for one in run_options():
            value = getattr(given, one.name)
            values[one.name] = one.read(value) if one.read else value
        return cls(**{**values, "out": str(values["out"]), "bundled": None if values["model"] else values["bundled"]})


def run_options() -> Iterator[RunOption]:
    """The table of options, in the order in which help shows them."""
    for one in fields(Options):
        yield RunOption(one.name, default=one.default, **one.metadata)
