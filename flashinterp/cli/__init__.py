"""The command line: one command per job, no science (``flashinterp --help``)."""

from flashinterp.cli.entry_point import app, main, run

__all__ = ["app", "main", "run"]
