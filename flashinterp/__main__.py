"""``python -m flashinterp`` is the command line."""

from __future__ import annotations

from flashinterp.cli import run

if __name__ == "__main__":
    run()
