"""What a user gives on the command line, read: models and maps, clamps, values, layers, tokens."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from flashinterp.cli.output import note

if TYPE_CHECKING:
    from flashinterp.decoding.neuron_map import NeuronMap
    from flashinterp.evaluation.experiment import Experiment
    from flashinterp.models.checkpoint import Checkpoint


_RANGE = re.compile(r"([^:]+):([^:]+):(\d+)")
_MOST_VALUES = 100_000


class Live(NamedTuple):
    """A model's files and the model itself."""

    checkpoint: Checkpoint
    model: Any


def token(text: str) -> str | int:
    """A token as the user means it: its text, or ``id:1234``."""
    match = re.fullmatch(r"id:(\d+)", text)
    return int(match[1]) if match else text


def clamps(pairs: tuple[str, ...]) -> dict[str, float]:
    """``L25N1442=145`` pairs as neuron to value."""
    found: dict[str, float] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise click.ClickException(f"--clamp: {pair!r} has no value: write it as in L25N1442=145")
        if name in found:
            raise click.ClickException(f"--clamp: {name} is named twice: give it one value")
        found[name] = _number(value, "--clamp")
    return found


def values(text: str) -> list[float]:
    """Clamp values, rising: ``-2,0,145``, or ``-500:500:21`` for 21 of them evenly spaced."""
    match = _RANGE.fullmatch(text.strip())
    if match is None:
        return sorted({_number(part, "--values") for part in text.split(",")})
    low, high, n = _number(match[1], "--values"), _number(match[2], "--values"), int(match[3])
    if not 2 <= n <= _MOST_VALUES or low >= high:
        raise click.ClickException(f"--values: {text!r} is no range: give LOW:HIGH:N as in -500:500:21")
    return [low + (high - low) * i / (n - 1) for i in range(n)]


def layers(text: str) -> list[int]:
    """Layers as in ``0-3,7``."""
    found: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"(\d{1,6})(?:-(\d{1,6}))?", part.strip())
        if match is None or int(match[2] or match[1]) < int(match[1]):
            raise click.ClickException(f"--layers: {text!r} is no list of layers: give one as in 0-3,7")
        found |= set(range(int(match[1]), int(match[2] or match[1]) + 1))
    return sorted(found)


def _number(text: str, option: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise click.ClickException(f"{option}: {text!r} is no finite number: give one as in 10.3")
    return number


def checkpoint(place: str, revision: str | None = None) -> Checkpoint:
    """A model's files.

    Raises:
        CheckpointError, LayoutError: as `open_checkpoint`.
    """
    from flashinterp.models.checkpoint import open_checkpoint

    if Path(place).is_file() or (place.endswith(".safetensors") and not Path(place).exists()):
        fact = "is a file" if Path(place).is_file() else "is not there"
        raise click.ClickException(f"{place} {fact}, and a model is wanted: give its folder or a Hub id")
    return open_checkpoint(place, revision=revision)


def neuron_map(
    place: str,
    *,
    lens: str | None = None,
    device: str = "auto",
    revision: str | None = None,
    neurons: Sequence[str] = (),
) -> NeuronMap:
    """A saved map, or a model decoded now, with a bar on stderr; of a model only these neurons' layers, if any.

    Raises:
        MapError, CheckpointError, LayoutError, NeuronError: as `NeuronMap.load` and `decode`.
    """
    from flashinterp.decoding.neuron_map import NeuronMap

    if Path(place).is_file():
        loaded = NeuronMap.load(place)
        if lens not in (None, loaded.meta["lens"]):
            raise click.ClickException(f"{place} is a map of the {loaded.meta['lens']} lens: give the model for {lens}")
        return loaded
    if place.endswith(".safetensors") and not Path(place).exists():
        raise click.ClickException(f"{place} is not there: make the map with `flashinterp map MODEL -o {place}`")
    from flashinterp.decoding.decode import decode  # torch, which reading a map does without

    opened = checkpoint(place, revision)
    only = sorted({opened.layout.roster.check(name).layer for name in neurons})
    return decode(opened, lens=lens or "paper", device=device, layers=only or None)


def live(place: str, *, device: str, dtype: str, revision: str | None) -> Live:
    """A model loaded for running, its layout proved.

    Raises:
        CheckpointError, LayoutError: it cannot be loaded, or does not compute what its layout says.
    """
    import torch
    from transformers.utils import logging

    from flashinterp.models.layout_check import probe

    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    files = checkpoint(place, revision)
    _ = files.vocabulary  # a missing tokenizer shows before the weights are loaded
    on = device_of(device)
    note(f"loading {place} on {on}")
    model = files.load_model(device=on, dtype=None if dtype == "auto" else getattr(torch, dtype))
    probe(files, model)
    return Live(files, model)


def bench(on: Live, prompts: str | None, seed: int = 0) -> Experiment:
    """What is measured on: the model and the texts, the shipped ones or the user's, at the standard profile's sizes."""
    from flashinterp.evaluation.experiment import Experiment
    from flashinterp.evaluation.profiles import PROFILES
    from flashinterp.evaluation.prompts import check_split, read_prompts, shipped

    texts = read_prompts(prompts) if prompts else shipped()
    check_split(texts)
    return Experiment(on.model, on.checkpoint, texts, PROFILES["standard"], seed)


def natural_doses(on: Experiment, neuron: str, concepts: Sequence[int]) -> list[float]:
    """Doses over the neuron's own natural range, as the audit takes them.

    Raises:
        RunError: natural text hardly reaches the neuron's expert.
    """
    from flashinterp.evaluation.natural_range import check_routed, natural_text
    from flashinterp.neurons import NeuronId

    name = NeuronId.parse(neuron)
    block = natural_text(on, [name.block], concepts)[name.block]
    check_routed(name, len(block.up))
    doses: list[float] = block.doses(name.neuron, on.profile.doses).tolist()
    return doses


def check_place(place: str) -> None:
    """Refuse, before anything is computed, a file in a folder that is not there."""
    if not Path(place).absolute().parent.is_dir():
        raise click.ClickException(f"{place} cannot be written: make its folder first, or choose another place")


def write_svg(place: str, svg: str) -> None:
    """A drawing as a file of its own."""
    Path(place).write_text(svg, encoding="utf-8")


def device_of(device: str) -> str:
    """The device by name; auto is a GPU where there is one."""
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # AssertionError: a torch built without CUDA
        raise click.ClickException(f"there is no device {device!r} here: choose auto, cpu, or cuda on a GPU") from error
    return device
