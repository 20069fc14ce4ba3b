"""A command whose help ends with an example, and the options that several commands share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

Function = TypeVar("Function", bound=Callable[..., Any])


class Job(click.Command):
    """A command with examples, each a line that can be run."""

    def __init__(self, *args: Any, example: Sequence[str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.example = tuple(example)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Example" if len(self.example) == 1 else "Examples"):
            formatter.write("".join(f"{'':{formatter.current_indent}}{line}\n" for line in self.example))


class PathOrHubId(click.ParamType[str]):
    """A path or a Hub id: a text whose completion is a file's."""

    name = "text"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return [CompletionItem(incomplete, type="file")]


def argument(name: str, metavar: str | None = None, **rest: Any) -> Callable[[Function], Function]:
    """A model, a map or a folder."""
    return click.argument(name, type=PathOrHubId(), metavar=metavar or name.upper(), **rest)


def options(*chosen: Callable[[Function], Function]) -> Callable[[Function], Function]:
    """Several options, in the order in which the help shows them."""

    def add(function: Function) -> Function:
        for option in reversed(chosen):
            function = option(function)
        return function

    return add


AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
LENS = click.option(
    "--lens",
    type=click.Choice(["paper", "read", "gate", "write", "logit-lens"]),
    help="Which weight vector is decoded, and how.  [default: paper, or the map's own]",
)
LENS_OR_ALL = click.option(
    "--lens",
    type=click.Choice(["paper", "read", "gate", "write", "logit-lens", "all"]),
    help="Which weight vector meets the head, and how.  [default: paper, or the map's own]",
)
POLE = click.option(
    "--pole", type=click.Choice(["both", "+", "-"]), default="both", show_default=True, help="Which sign of the vector."
)
DEVICE = click.option("--device", default="auto", show_default=True, help="cpu, cuda, ...; auto takes a GPU if any.")
REVISION = click.option("--revision", help="Branch, tag or commit of a Hub model.")
DTYPE = click.option(
    "--dtype",
    type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
    default="auto",
    show_default=True,
    help="Of the live model; auto keeps the stored one.",
)
SITE = click.option(
    "--site", type=click.Choice(["up", "gate", "post"]), default="up", show_default=True, help="Where the clamp is."
)
SEED = click.option("--seed", type=int, default=0, show_default=True, help="Root of every random stream.")
PROMPTS = click.option(
    "--prompts", metavar="FILE", type=PathOrHubId(), help="Your own texts, with prompts.json's fields."
)
CLAMPS = click.option(
    "--clamp", "clamps", metavar="NEURON=VALUE", multiple=True, required=True, help="A neuron's value; may be repeated."
)


def count(name: str, default: int, text: str, least: int = 1) -> Callable[[Function], Function]:
    """An option that is a number of things."""
    return click.option(name, "n", type=click.IntRange(least), default=default, show_default=True, help=text)
