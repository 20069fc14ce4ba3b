"""Files, links and names that are no run's are named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flashinterp._util.files import sha256_of
from flashinterp.runs.folder.rendered_files import rendered
from flashinterp.runs.folder.run_folder import MANIFEST, RunFolder
from flashinterp.runs.verify.verify import verify
from tests.runs.finished_run import edit_json, list_anew
from tests.runs.verify.told import drawn, first


def test_a_missing_an_extra_and_a_shortened_file_are_named(run: Path) -> None:
    file = run / "tables" / "decode_speed--t.md"
    text = file.read_bytes()
    file.unlink()
    assert "tables/decode_speed--t.md is listed in manifest.json and is not there" in first(run)
    file.write_bytes(text[:-1])
    assert "tables/decode_speed--t.md has" in first(run)
    file.write_bytes(text)
    for name in ("notes.txt", "raw/own.npz", "raw/deep", ".hidden"):
        (run / name).write_bytes(b"x")
        assert f"{name} is not listed in manifest.json" in first(run)
        (run / name).unlink()
    (run / "more").mkdir()
    assert "more is not listed" in first(run)


def test_links_are_not_followed(run: Path, tmp_path: Path) -> None:
    file = run / "report.md"
    moved = shutil.move(file, tmp_path / "elsewhere.md")
    file.symlink_to(moved)
    assert "report.md is a link" in first(run)
    file.unlink()
    shutil.move(moved, file)
    raw = shutil.move(run / "raw", tmp_path / "raw")
    (run / "raw").symlink_to(raw)
    assert "is a link" in first(run)
    (run / "raw").unlink()
    shutil.move(raw, run / "raw")
    (run / "loop").symlink_to(run)
    assert "loop is not listed" in first(run)
    (run / "loop").unlink()
    shutil.move(run / MANIFEST, tmp_path / MANIFEST)
    (run / MANIFEST).symlink_to(tmp_path / MANIFEST)
    assert "manifest.json is a link" in first(run)


def test_a_folder_that_is_reached_by_a_link_is_a_folder(whole: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(whole)
    assert verify(tmp_path / "link").ok


@pytest.mark.parametrize(
    "path",
    [
        "../x",
        "raw/../results.json",
        "/etc/passwd",
        "raw/a/b.npz",
        "raw\\x.npz",
        "RAW/x.npz",
        "raw/x",
        MANIFEST,
        "",
        7,
        None,
    ]
    + ["tables/..md", "raw/\u202enpz.npz", "raw/x.npz\x00"],
)
def test_a_name_that_is_no_place_of_a_run_is_refused(run: Path, path: Any) -> None:
    edit_json(run / MANIFEST, lambda m: m["files"][0].update(path=path))
    assert "which is no place in a run's folder" in first(run)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.update(schema_version=2),
        lambda m: m.pop("schema_version"),
        lambda m: m.update(signed=True),
        lambda m: m.update(files={}),
        lambda m: m["files"].reverse(),
        lambda m: m["files"].append(m["files"][-1]),
        lambda m: m["files"][0].update(sha256="A" * 64),
        lambda m: m["files"][0].update(size="1"),
        lambda m: m["files"][0].pop("size"),
        lambda m: m["files"].insert(0, 3),
    ],
    ids=["version", "no version", "key", "no list", "order", "twice", "capitals", "size", "no size", "a number"],
)
def test_a_manifest_of_another_form_is_refused(run: Path, change: Callable[[Any], Any]) -> None:
    edit_json(run / MANIFEST, change)
    assert MANIFEST in first(run) or "manifest" in first(run)


def test_a_manifest_that_was_written_anew_is_known_by_its_digest(run: Path) -> None:
    """The one forgery that nothing in the folder can show."""
    told = sha256_of(run / MANIFEST)
    edit_json(run / "results.json", lambda r: r["limits"].clear())
    for path, text in rendered(json.loads((run / "results.json").read_text()), drawn(run)).items():
        RunFolder(run).write_at(path, text)
    list_anew(run)
    assert verify(run).ok
    found = verify(run, told)
    assert not found.ok
    assert "this is another folder" in str(found.first)
