"""Checks of a run's files: that all are there, as they were listed, and no others."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flashinterp._util.files import sha256_of
from flashinterp._util.json_text import canonical_json
from flashinterp._util.text import check_name, clip
from flashinterp.errors import RunError
from flashinterp.runs.folder.rendered_files import encoded
from flashinterp.runs.folder.results_schema import INCOMPLETE, RESULTS, read_json
from flashinterp.runs.folder.run_folder import EVENTS, MANIFEST, SUBFOLDERS, TOP_FILES
from flashinterp.runs.verify.run import NotChecked, RunUnderCheck

SHA256 = re.compile("[0-9a-f]{64}")


def check_complete(run: RunUnderCheck) -> str:
    """The run reached its end."""
    missing = [name for name in (EVENTS, RESULTS, MANIFEST) if not (run.path / name).is_file()]
    if missing:
        raise RunError(
            f"the run is {INCOMPLETE}: it has no {missing[0]}, so it was killed or could not write its report"
        )
    return "the run reached its end and wrote its manifest"


def check_manifest(run: RunUnderCheck) -> str:
    """manifest.json is in its one form, and lists what can be in a run's folder."""
    path = run.path / MANIFEST
    if path.is_symlink():
        raise RunError(f"{MANIFEST} is a link")
    found = read_json(path)
    if found.get("schema_version") != 1 or set(found) != {"schema_version", "files"}:
        raise RunError(f"{MANIFEST} is not of this release's form: it should have schema_version 1 and files")
    for entry in found["files"]:
        if (
            set(entry) != {"path", "sha256", "size"}
            or type(entry["size"]) is not int
            or not SHA256.fullmatch(entry["sha256"])
        ):
            raise RunError(f"{MANIFEST} has an entry without a path, a size and a sha256: {clip(repr(entry), 120)}")
        if not _is_place(entry["path"]):
            raise RunError(f"{MANIFEST} lists {clip(repr(entry['path']), 120)}, which is no place in a run's folder")
    if path.read_bytes() != encoded(canonical_json(found)):
        raise RunError(f"{MANIFEST} is not in the form that a run writes: it was edited")
    run.listed = {entry["path"]: entry for entry in found["files"]}
    if list(run.listed) != sorted(run.listed) or len(run.listed) != len(found["files"]):
        raise RunError(f"{MANIFEST} lists a file twice or out of order: it was edited")
    run.manifest = sha256_of(path)
    return f"it lists {len(run.listed)} files"


def _is_place(path: Any) -> bool:
    """Whether a path is one that a run writes: nothing with "..", nothing absolute, no folder of its own."""
    if not isinstance(path, str):
        return False
    folder, slash, name = path.rpartition("/")
    if not slash:
        return name in TOP_FILES - {MANIFEST}
    suffix = SUBFOLDERS.get(folder)
    if suffix is None or not name.endswith(suffix):
        return False
    try:
        check_name(name)
    except RunError:
        return False
    return True


def check_digests(run: RunUnderCheck) -> str:
    """Every file is there, is a plain file, has its digest, and there is no other."""
    for name, entry in run.listed.items():
        file = run.path / name
        if any(part.is_symlink() for part in (file, file.parent) if part != run.path):
            raise RunError(f"{name} is a link")
        if not file.is_file():
            raise RunError(f"{name} is listed in {MANIFEST} and is not there")
        if (size := file.stat().st_size) != entry["size"]:
            raise RunError(f"{name} has {size:,} bytes, {MANIFEST} says {entry['size']:,}")
        if (digest := sha256_of(file)) != entry["sha256"]:
            raise RunError(f"{name} was changed: its sha256 is {digest[:16]}…, {MANIFEST} says {entry['sha256'][:16]}…")
    for name in _found(run.path):
        if name not in run.listed and name != MANIFEST:
            raise RunError(f"{name} is not listed in {MANIFEST}: it came later")
    return f"{len(run.listed)} files are as {MANIFEST} lists them, and there is no other"


def _found(folder: Path) -> Iterator[str]:
    """Everything in the folder that is not one of its own subfolders, links included and not followed."""
    for place, folders, files in os.walk(folder):
        here = Path(place).relative_to(folder)
        links = [name for name in folders if (Path(place) / name).is_symlink()]
        known = SUBFOLDERS if place == str(folder) else {}
        strange = [name for name in folders if name not in known]
        yield from sorted((here / name).as_posix() for name in {*files, *links, *strange})
        folders[:] = [name for name in folders if name in known and name not in links]


def check_pinned(run: RunUnderCheck) -> str:
    """manifest.json is the one that was told elsewhere."""
    if run.expected is None:
        raise NotChecked(
            f"its sha256 is {run.manifest}: compare it with the one that the run printed, or give it with --manifest"
        )
    if run.expected != run.manifest:
        raise RunError(
            f"the sha256 of {MANIFEST} is {run.manifest}, and was to be {run.expected}: this is another folder"
        )
    return f"its sha256 is the one given, {run.manifest}"
