"""One run's output folder: what is in it is written whole or not at all, and listed by digest."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import stat
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from flashinterp._util.files import replacing, sha256_of
from flashinterp._util.json_text import canonical_json, plain
from flashinterp._util.text import check_name, clip, safe_text
from flashinterp.errors import RunError, first_line
from flashinterp.report.table import Table
from flashinterp.report.table_text import to_markdown

MANIFEST = "manifest.json"
EVENTS = "events.jsonl"
# Any one of these says that a folder is an earlier run's: the first and the last files that a run
# writes, and the one that survives a kill.
MARKS = ("claims.lock.json", EVENTS, MANIFEST)
TOP_FILES = frozenset({*MARKS, "results.json", "environment.json", "report.html", "report.md", "junit.xml"})
SUBFOLDERS = {"tables": ".md", "figures": ".svg", "raw": ".npz"}
_SCRATCH = re.compile(r"\.[A-Za-z0-9_.-]+\.\d+\.tmp")
_PROBE = 1 << 20  # bytes that must fit before a model is loaded; an empty file fits on a full disk
_LARGEST_ARRAY = 1 << 32  # bytes of one array when it is read: a small file can claim to hold any size
_ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time that a zip entry can carry


@dataclass(frozen=True)
class RunFolder:
    """Owns one output folder; `create` makes it fresh, ``RunFolder(path)`` takes one that exists.

    Every write is atomic: a temporary file in the same folder, fsync, `os.replace`. An error leaves
    the former file as it was. All methods raise `RunError` when the disk refuses, or when a name
    has a separator or ".." in it.
    """

    path: Path

    @classmethod
    def create(cls, path: str | os.PathLike[str]) -> RunFolder:
        """Make the folder, prove that it can be written, and clear what an earlier run left in it.

        Mutates the disk. Nothing is removed unless everything in the folder is a run's own.

        Raises:
            RunError: the path is a file, cannot be written, or holds files that are not a run's.
        """
        folder = cls(Path(path))
        if folder.path.exists() and not folder.path.is_dir():
            raise RunError(f"{folder.path} is a file: choose a folder for the run with --out")
        with _disk(folder.path):
            folder.path.mkdir(parents=True, exist_ok=True)
            former = folder._former_run()
            folder._write("probe", bytes(_PROBE))
            (folder.path / "probe").unlink()
            # The manifest first: half-way through, what is left must not look like a run that reached its end.
            for file in sorted(former, key=lambda file: file.name != MANIFEST):
                file.unlink()
            for name in SUBFOLDERS:
                (folder.path / name).mkdir(exist_ok=True)
        return folder

    def _former_run(self) -> list[Path]:
        """The files of an earlier run in the folder, to be removed; empty for an empty folder."""
        entries = sorted(self.path.iterdir())
        ours: list[Path] = []
        strange: list[Path] = []
        for entry in entries:
            suffix = SUBFOLDERS.get(entry.name)
            if suffix is None:
                known = entry.name in TOP_FILES or _SCRATCH.fullmatch(entry.name)
                (ours if known and _is_file(entry) else strange).append(entry)
            elif entry.is_symlink() or not entry.is_dir():
                strange.append(entry)
            else:
                for file in sorted(entry.iterdir()):
                    known = file.suffix == suffix or _SCRATCH.fullmatch(file.name)
                    (ours if known and _is_file(file) else strange).append(file)
        if ours and not any((self.path / mark).exists() for mark in MARKS):
            strange += [file for file in ours if not _SCRATCH.fullmatch(file.name)]
        if strange:
            others = f" and {len(strange) - 1} more" if len(strange) > 1 else ""
            raise RunError(
                f"{self.path} holds {clip(safe_text(strange[0].name), 80)!r}{others}, not an "
                "earlier run's: choose an empty folder with --out"
            )
        return ours

    def write_json(self, name: str, obj: object) -> Path:
        """Write canonical JSON: sorted keys, one space of indent, UTF-8, a newline at the end.

        NumPy scalars and arrays become builtins, tuples lists, and integer keys text.

        Raises:
            RunError: a value is not finite or has no JSON form; the message names its path in obj.
        """
        return self._write(name, canonical_json(obj).encode("utf-8"))

    def write_text(self, name: str, text: str) -> Path:
        """Write text as UTF-8; a lone surrogate, which UTF-8 cannot hold, becomes an escape."""
        return self._write(name, text.encode("utf-8", errors="backslashreplace"))

    def write_arrays(self, name: str, arrays: Mapping[str, npt.NDArray[np.generic]]) -> Path:
        """Write ``raw/<name>.npz``, compressed, such that the same arrays give the same bytes.

        Raises:
            RunError: an array holds objects (they would be pickled) or NaN. Infinities are kept:
                the log of a probability of zero is one.
        """
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            for key in sorted(arrays):
                # np.savez gives no say in the entries' order, time and host system; this does.
                entry = zipfile.ZipInfo(f"{check_name(key)}.npy", date_time=_ZIP_EPOCH)
                entry.compress_type, entry.create_system = zipfile.ZIP_DEFLATED, 3
                entry.external_attr = 0o644 << 16
                archive.writestr(entry, _npy(f"{name}: array {key}", np.asarray(arrays[key], order="C")))
        return self._write(f"{check_name(name)}.npz", buffer.getvalue(), "raw")

    def write_table(self, table: Table) -> Path:
        """Write ``tables/<name>.md``."""
        return self._write(f"{table.name}.md", to_markdown(table, level=1).encode("utf-8"), "tables")

    def write_figure(self, name: str, svg: str) -> Path:
        """Write ``figures/<name>.svg``."""
        return self._write(f"{check_name(name)}.svg", svg.encode("utf-8"), "figures")

    def write_at(self, path: str, text: str) -> Path:
        """Write text, as `write_text` does, to a path of the folder's form: ``report.md``, ``tables/a--b.md``."""
        subfolder, _, name = path.rpartition("/")
        return self._write(name, text.encode("utf-8", errors="backslashreplace"), subfolder)

    def append_event(self, event: Mapping[str, object]) -> None:
        """Add one line to events.jsonl, and hand it to the operating system before returning.

        The file is opened for each event, so a killed run keeps every event before its end.
        """
        # ASCII only: a reader that splits at U+2028 must not find half an event.
        line = json.dumps(plain(event), sort_keys=True, allow_nan=False, separators=(",", ":"))
        with _disk(self.path / EVENTS), open(self.path / EVENTS, "a", encoding="ascii") as file:
            file.write(line + "\n")

    def write_manifest(self) -> str:
        """List every other file with its sha256 and size, sorted by path; write this last.

        Returns:
            The sha256 of manifest.json itself, in hex: the one figure that pins the whole folder.
        """
        with _disk(self.path):
            files = [
                {"path": name, "sha256": sha256_of(file), "size": file.stat().st_size}
                for name, file in sorted(
                    (file.relative_to(self.path).as_posix(), file)
                    for file in self.path.rglob("*")
                    if file.is_file() and not _SCRATCH.fullmatch(file.name)
                )
                if name != MANIFEST
            ]
        return sha256_of(self.write_json(MANIFEST, {"schema_version": 1, "files": files}))

    def _write(self, name: str, data: bytes, subfolder: str = "") -> Path:
        folder = self.path / subfolder
        target = folder / check_name(name)
        with _disk(target):
            folder.mkdir(exist_ok=True)
            with replacing(target) as scratch:
                scratch.write_bytes(data)
        return target


def read_arrays(file: Path) -> dict[str, npt.NDArray[Any]]:
    """The arrays of a file that `RunFolder.write_arrays` wrote; nothing in it is run.

    Raises:
        RunError: it is damaged, not such a file, or holds objects.
    """
    try:
        arrays = {}
        with zipfile.ZipFile(file) as archive:
            for entry in archive.infolist():
                if entry.file_size > _LARGEST_ARRAY:
                    raise ValueError(f"{entry.filename!r} claims to hold {entry.file_size:,} bytes")
                with archive.open(entry) as stream:
                    arrays[entry.filename.removesuffix(".npy")] = np.lib.format.read_array(stream, allow_pickle=False)
        return arrays
    except (OSError, ValueError, EOFError, KeyError, RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error,
            ) as error:  # fmt: skip
        raise RunError(
            f"{file} cannot be read as arrays ({first_line(error)}): give a finished run's folder"
        ) from error


def _npy(what: str, array: npt.NDArray[np.generic]) -> bytes:
    if array.dtype.hasobject:
        raise RunError(f"{what} holds Python objects, which only a pickle can: give it a number dtype")
    if np.issubdtype(array.dtype, np.inexact) and np.isnan(array).any():
        first = tuple(int(i) for i in np.argwhere(np.isnan(array))[0])
        raise RunError(f"{what} is NaN at {first}: leave the entry out, or write a mask beside it")
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _is_file(path: Path) -> bool:
    return stat.S_ISREG(path.lstat().st_mode)  # a link is nobody's file: following it is not ours to do


@contextlib.contextmanager
def _disk(path: Path) -> Iterator[None]:
    """Turn what the operating system refuses into one line with the next step."""
    try:
        yield
    except OSError as error:
        raise RunError(
            f"cannot write {path}: {error.strerror or error}; free the space, correct the rights, "
            "or choose another folder with --out"
        ) from error
