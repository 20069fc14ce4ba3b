"""The run folder: whole files or none, the same bytes for the same values, and a true manifest."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flashinterp._util.json_text import canonical_json
from flashinterp.errors import RunError
from flashinterp.report.table import Table
from flashinterp.runs.folder import run_folder as module
from flashinterp.runs.folder.run_folder import RunFolder, read_arrays
from tests.helpers import assert_one_line_with_next_step

TABLE = Table("paper--words", "Words", ("token", "score"), ((" dog", 1.5),))


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "deep" / "run")


def fill(folder: RunFolder) -> str:
    """Write one of everything, and the manifest."""
    folder.write_json("claims.lock.json", {"claims": []})
    folder.append_event({"test": "a", "outcome": "passed"})
    folder.write_arrays("sweep", {"log_probs": np.arange(6.0).reshape(2, 3)})
    folder.write_table(TABLE)
    folder.write_figure("paper--spikes", "<svg/>")
    folder.write_text("report.md", "# Report\n")
    return folder.write_manifest()


def test_create_makes_parents_and_leaves_no_probe(folder: RunFolder) -> None:
    assert sorted(entry.name for entry in folder.path.iterdir()) == ["figures", "raw", "tables"]


def test_a_path_that_is_a_file_or_under_one_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunError, match="is a file: choose a folder"):
        RunFolder.create(tmp_path / "file")
    with pytest.raises(RunError, match=r"cannot write .*file/run"):
        RunFolder.create(tmp_path / "file" / "run")


def test_an_earlier_run_is_replaced_and_nothing_of_it_remains(folder: RunFolder) -> None:
    fill(folder)
    again = RunFolder.create(folder.path)
    assert [file for file in again.path.rglob("*") if file.is_file()] == []


def test_a_run_that_was_killed_half_way_is_an_earlier_run_too(folder: RunFolder) -> None:
    folder.append_event({"test": "a"})
    (folder.path / "tables" / f".x.md.{os.getpid()}.tmp").write_text("half")
    RunFolder.create(folder.path)
    assert list((folder.path / "tables").iterdir()) == []


@pytest.mark.parametrize("stranger", ["notes.txt", "tables/notes.txt", "raw/deep/x.npz", "probe"])
def test_a_file_that_is_not_a_runs_is_never_touched(folder: RunFolder, stranger: str) -> None:
    fill(folder)
    file = folder.path / stranger
    file.parent.mkdir(exist_ok=True)
    file.write_text("mine")
    before = sorted(folder.path.rglob("*"))
    with pytest.raises(RunError, match="choose an empty folder"):
        RunFolder.create(folder.path)
    assert sorted(folder.path.rglob("*")) == before
    assert file.read_text() == "mine"


def test_known_names_without_a_runs_mark_are_not_a_run(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text("{}")
    with pytest.raises(RunError, match=r"'results.json', not an earlier run's"):
        RunFolder.create(tmp_path)
    assert (tmp_path / "results.json").exists()


def test_a_link_is_not_followed(folder: RunFolder, tmp_path: Path) -> None:
    fill(folder)
    (tmp_path / "elsewhere.svg").write_text("mine")
    (folder.path / "figures" / "x.svg").symlink_to(tmp_path / "elsewhere.svg")
    with pytest.raises(RunError, match="choose an empty folder"):
        RunFolder.create(folder.path)


@pytest.mark.parametrize("name", ["../x.json", "a/b.json", "..", "", "/etc/x", "a\\b", ".hidden"])
def test_a_name_cannot_leave_the_folder(folder: RunFolder, name: str) -> None:
    writes: list[Callable[[], object]] = [
        lambda: folder.write_json(name, {}),
        lambda: folder.write_text(name, ""),
        lambda: folder.write_arrays(name, {}),
        lambda: folder.write_arrays("ok", {name: np.zeros(1)}),
        lambda: folder.write_figure(name, ""),
    ]
    for write in writes:
        with pytest.raises(RunError, match="cannot name a file"):
            write()
    assert not [file for file in folder.path.parent.rglob("*") if file.is_file()]


def test_json_is_canonical(folder: RunFolder) -> None:
    value = {"b": (np.float32(0.5), np.int64(3), np.bool_(True)), "a": "é\u2028", 3: None}
    text = folder.write_json("results.json", value).read_text(encoding="utf-8")
    assert text == '{\n "3": null,\n "a": "é\u2028",\n "b": [\n  0.5,\n  3,\n  true\n ]\n}\n'


def test_json_holds_any_text_and_gives_it_back(folder: RunFolder) -> None:
    hostile = "</script>\x00\ud800\U0001f600\u202e\\\"'" + "x" * 1_000_000
    path = folder.write_json("results.json", {hostile[:9]: hostile})
    assert json.loads(path.read_text(encoding="utf-8")) == {hostile[:9]: hostile}


@pytest.mark.parametrize(
    "bad",
    [float("nan"), float("inf"), np.float32("nan"), np.array([np.nan])],
    ids=["nan", "inf", "float32-nan", "array"],
)
def test_a_non_finite_number_is_refused_with_its_path(bad: Any) -> None:
    with pytest.raises(RunError, match=r"^\$\.verdicts\[1\]\.figures\.p(\[0\])? is (nan|inf)"):
        canonical_json({"verdicts": [{}, {"figures": {"p": bad}}]})


def test_what_json_cannot_hold_is_refused_with_its_path() -> None:
    with pytest.raises(RunError, match=r"\$\.a\[0\] is a set"):
        canonical_json({"a": [{1}]})
    with pytest.raises(RunError, match=r"\$\.a has the key 1\.5"):
        canonical_json({"a": {1.5: 0}})
    with pytest.raises(RunError, match="has the key '1' twice"):
        canonical_json({1: 0, "1": 0})


def test_the_same_arrays_give_the_same_bytes(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    arrays = {"b": rng.normal(size=(3, 4)).astype(np.float32), "a": np.arange(5, dtype=np.int32)}
    first = folder.write_arrays("x", arrays).read_bytes()
    monkeypatch.setattr(time, "time", lambda: 2e9)
    reordered = {"a": arrays["a"], "b": np.asfortranarray(arrays["b"])}
    assert folder.write_arrays("x", reordered).read_bytes() == first
    with np.load(folder.path / "raw" / "x.npz", allow_pickle=False) as loaded:
        assert sorted(loaded) == ["a", "b"]
        np.testing.assert_array_equal(loaded["b"], arrays["b"], strict=True)
        np.testing.assert_array_equal(loaded["a"], arrays["a"], strict=True)


def test_scalar_and_empty_arrays_keep_their_shape(folder: RunFolder) -> None:
    folder.write_arrays("x", {"scalar": np.array(3.0), "empty": np.zeros((0, 4))})
    with np.load(folder.path / "raw" / "x.npz") as loaded:
        assert loaded["scalar"].shape == ()
        assert loaded["empty"].shape == (0, 4)


def test_nan_and_objects_in_arrays_are_refused(folder: RunFolder) -> None:
    with pytest.raises(RunError, match=r"x: array a is NaN at \(1, 2\)"):
        folder.write_arrays("x", {"a": np.array([[0, 0, 0], [0, 0, np.nan]])})
    with pytest.raises(RunError, match="holds Python objects"):
        folder.write_arrays("x", {"a": np.array([object()])})
    folder.write_arrays("x", {"log_prob_of_zero": np.array([-np.inf])})


def test_events_are_on_disk_after_each_call(folder: RunFolder) -> None:
    for i in range(3):
        folder.append_event({"i": i, "text": "line\nbreak\u2028\ud800"})
        lines = (folder.path / "events.jsonl").read_text(encoding="ascii").splitlines()
        assert [json.loads(line)["i"] for line in lines] == list(range(i + 1))
    assert json.loads(lines[0])["text"] == "line\nbreak\u2028\ud800"


def test_an_event_with_nan_is_refused(folder: RunFolder) -> None:
    with pytest.raises(RunError, match=r"\$\.p is nan"):
        folder.append_event({"p": float("nan")})


def test_the_manifest_lists_every_other_file_as_it_is(folder: RunFolder) -> None:
    own = fill(folder)
    manifest = json.loads((folder.path / "manifest.json").read_text())
    paths = [entry["path"] for entry in manifest["files"]]
    on_disk = {p.relative_to(folder.path).as_posix() for p in folder.path.rglob("*") if p.is_file()}
    assert paths == sorted(on_disk - {"manifest.json"})
    for entry in manifest["files"]:
        data = (folder.path / entry["path"]).read_bytes()
        assert entry["sha256"] == hashlib.sha256(data).hexdigest()
        assert entry["size"] == len(data)
    assert own == hashlib.sha256((folder.path / "manifest.json").read_bytes()).hexdigest()
    assert folder.write_manifest() == own


def test_tables_and_figures_are_where_a_reader_looks(folder: RunFolder) -> None:
    assert folder.write_table(TABLE).relative_to(folder.path).as_posix() == "tables/paper--words.md"
    figure = folder.write_figure("paper--spikes", "<svg/>")
    assert figure.relative_to(folder.path).as_posix() == "figures/paper--spikes.svg"
    assert (folder.path / "tables/paper--words.md").read_text().startswith("# Words\n")


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_an_error_half_way_leaves_the_former_file_whole(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    folder.write_text("report.md", "former")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, step, full)
    with pytest.raises(RunError, match=r"cannot write .*report\.md: No space left on device; free"):
        folder.write_text("report.md", "latter")
    assert (folder.path / "report.md").read_text() == "former"
    assert not list(folder.path.glob(".*"))


def test_a_full_disk_is_found_before_anything_is_removed(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(folder)
    before = sorted(folder.path.rglob("*"))

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match="No space left"):
        RunFolder.create(folder.path)
    assert sorted(folder.path.rglob("*")) == before


def test_files_can_be_read_by_others_as_the_umask_says(folder: RunFolder) -> None:
    former = os.umask(0o022)
    try:
        assert folder.write_text("report.md", "x").stat().st_mode & 0o777 == 0o644
    finally:
        os.umask(former)


@pytest.mark.parametrize("message", ["file", "run"])
def test_every_error_is_one_line(tmp_path: Path, message: str) -> None:
    (tmp_path / "file").write_text("x")
    path = tmp_path / "file" if message == "file" else tmp_path
    with pytest.raises(RunError) as caught:
        RunFolder.create(path)
    assert "\n" not in str(caught.value)


# --- reading what was written ---------------------------------------------------------------------------


def test_arrays_are_read_as_they_were_written(folder: RunFolder) -> None:
    arrays = {
        "x": np.arange(6.0).reshape(2, 3),
        "b": np.array([True]),
        "inf": np.array(-np.inf),
        "none": np.zeros((0, 2)),
    }
    found = read_arrays(folder.write_arrays("own", arrays))
    assert set(found) == set(arrays)
    assert all(found[k].dtype == v.dtype and np.array_equal(found[k], v) for k, v in arrays.items())


@pytest.mark.parametrize("content", [b"", b"PK", b"x" * 100], ids=["empty", "short", "no zip"])
def test_what_holds_no_arrays_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(RunError, match=r"x\.npz cannot be read as arrays") as caught:
        read_arrays(tmp_path / "x.npz")
    assert_one_line_with_next_step(caught.value)


def test_a_pickle_is_never_loaded(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.array([{}], dtype=object))
    with pytest.raises(RunError, match="cannot be read as arrays"):
        read_arrays(tmp_path / "x.npz")


def test_a_file_that_claims_to_hold_too_much_is_refused(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    file = folder.write_arrays("own", {"x": np.zeros(1000)})
    monkeypatch.setattr(module, "_LARGEST_ARRAY", 1000)
    with pytest.raises(RunError, match="claims to hold 8,128 bytes"):
        read_arrays(file)


def test_a_disk_without_room_is_an_error_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty file fits on a full disk: the proof that a folder can be written is a megabyte."""
    real = os.fsync

    def full(descriptor: int) -> None:
        if os.fstat(descriptor).st_size >= 1 << 20:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match=r"cannot write .*: No space left on device; free the space") as caught:
        RunFolder.create(tmp_path / "run")
    assert_one_line_with_next_step(caught.value)
    assert list((tmp_path / "run").iterdir()) == []
