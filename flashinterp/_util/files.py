"""Files that are written whole or not at all, and their digests."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A scratch file beside the target, which takes its place when the block ends without an error.

    It is flushed to the disk first. After an error the former file is as it was, and the scratch file is gone.

    Raises:
        OSError: the place cannot be written, or the disk is full.
    """
    # Not `tempfile`: only their owner can read its files, and what is written here is there to be shared.
    scratch = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        scratch.touch()
        mode = scratch.stat().st_mode  # what the umask allows; some writers make their files private
        yield scratch
        os.chmod(scratch, mode)
        with open(scratch, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(scratch, target)
    finally:
        # Whatever went wrong is the news, not that its half-written file is stuck too.
        with contextlib.suppress(OSError):
            scratch.unlink(missing_ok=True)


def sha256_of(file: Path) -> str:
    """The sha256 of a file's bytes, in hex."""
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
