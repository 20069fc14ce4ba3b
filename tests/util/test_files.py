"""Files written whole or not at all."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from flashinterp._util.files import replacing, sha256_of


def test_the_new_file_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")
    with replacing(target) as scratch:
        scratch.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]
    assert sha256_of(target) == hashlib.sha256(b"new").hexdigest()


@pytest.mark.parametrize("error", [OSError(28, "No space left"), KeyboardInterrupt()], ids=["disk", "interrupt"])
@pytest.mark.parametrize("existed", [True, False])
def test_an_error_leaves_the_former_file_and_nothing_else(tmp_path: Path, error: BaseException, existed: bool) -> None:
    target = tmp_path / "a.txt"
    if existed:
        target.write_text("old")

    def write() -> None:
        with replacing(target) as scratch:
            scratch.write_text("half")
            raise error

    with pytest.raises(type(error)):
        write()
    assert list(tmp_path.iterdir()) == ([target] if existed else [])
    assert not existed or target.read_text() == "old"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask")
def test_the_mode_is_the_umasks_whatever_the_writer_makes_of_it(tmp_path: Path) -> None:
    former = os.umask(0o022)
    try:
        with replacing(tmp_path / "a") as scratch:
            scratch.unlink()
            os.close(os.open(scratch, os.O_CREAT | os.O_WRONLY, 0o600))
    finally:
        os.umask(former)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o644


def test_a_folder_that_is_not_there_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"), replacing(tmp_path / "gone" / "a"):
        pass
