"""The command line: one command per job, no science (``flashinterp --help``)."""

from flashinterp.cli.door import app, main, run

__all__ = ["app", "main", "run"]
