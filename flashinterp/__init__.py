"""Read a language model's neurons from its weights, clamp them, and put claims about them to the test."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the public names, which stand in flashinterp/api.py
    from flashinterp.api import *  # noqa: F403
    from flashinterp.api import __all__

_FUNCTIONS = frozenset({"alignment", "clamp", "concentration", "decode", "probe", "reverse", "steer", "sweep"})
"""The public functions that share their module's name."""


def __getattr__(name: str) -> Any:
    """Give a public name. The first one imports torch and all else, so that ``flashinterp --help`` need not wait."""
    # A module is asked for by `from flashinterp import gpu`, which then imports it; importing all of them here would
    # come back to the module that asks.
    private = name.startswith("_") and name != "__all__"
    if not private and (name in _FUNCTIONS or find_spec(f"flashinterp.{name}") is None):
        api = import_module("flashinterp.api")
        if name == "__all__" or name in api.__all__:
            return getattr(api, name)
    raise AttributeError(f"module 'flashinterp' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(import_module("flashinterp.api").__all__)


class _Package(ModuleType):
    """The package, in which ``clamp`` is the function.

    The import system binds the module ``flashinterp.clamp`` to that name when something first imports it.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _FUNCTIONS and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
