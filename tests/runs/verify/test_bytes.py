"""Any byte that is not what the run wrote is noticed, and its file named."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashinterp.runs.folder.run_folder import MANIFEST
from flashinterp.runs.verify.verify import verify
from tests.examples import examples
from tests.runs.finished_run import copied, files_of, list_anew
from tests.runs.verify.told import first


@pytest.fixture(scope="module")
def flippable(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy in which one byte at a time is turned and turned back."""
    return copied(whole, tmp_path_factory.mktemp("flip") / "run")


def flips(file: Path, places: Iterator[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Turn one byte at a time; while the caller has it, it is turned."""
    whole = file.read_bytes()
    try:
        for place, mask in places:
            file.write_bytes(whole[:place] + bytes([whole[place] ^ mask]) + whole[place + 1 :])
            yield place, mask
    finally:
        file.write_bytes(whole)


def test_a_flipped_byte_of_any_file_is_noticed_and_the_file_named(flippable: Path) -> None:
    draw = np.random.default_rng(1)
    for name in files_of(flippable):
        file = flippable / name
        size = file.stat().st_size
        places = {0, size - 1, *draw.integers(0, size, 6).tolist()}
        for place, mask in flips(file, ((place, int(draw.integers(1, 256))) for place in sorted(places))):
            told = first(flippable)
            assert name in told, f"byte {place} of {name} ^ {mask}: {told}"
    assert verify(flippable).ok


@examples(60)
@given(data=st.data())
def test_any_flip_anywhere_is_noticed(flippable: Path, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(files_of(flippable)), "file")
    file = flippable / name
    place = data.draw(st.integers(0, file.stat().st_size - 1), "byte")
    mask = data.draw(st.integers(1, 255), "mask")
    for _ in flips(file, iter([(place, mask)])):
        assert name in first(flippable)


def test_every_byte_of_the_manifest_counts(flippable: Path) -> None:
    """Without its digest: what it lists is checked against the folder, and its form against the one form."""
    file = flippable / MANIFEST
    size = file.stat().st_size
    for place, _ in flips(file, ((place, 1 << place % 8) for place in range(0, size, 7))):
        told = first(flippable)
        assert MANIFEST in told, f"byte {place}: {told}"


@pytest.mark.parametrize("name", ["results.json", "claims.lock.json", MANIFEST])
@pytest.mark.parametrize(
    "change",
    [lambda b: b + b"\n", lambda b: b.replace(b'": ', b'":  ', 1), lambda b: b.replace(b"\n", b"\r\n", 1)],
    ids=["line at the end", "space", "CR LF"],
)
def test_space_that_no_reader_sees_counts(run: Path, name: str, change: Callable[[bytes], bytes]) -> None:
    """Also where the forger lists it anew: each of these files has one form."""
    file = run / name
    changed = change(file.read_bytes())
    file.write_bytes(changed)
    if name != MANIFEST:
        list_anew(run)
    assert f"{name} is not in the form that a run writes" in first(run)
