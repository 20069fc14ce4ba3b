"""A decode that is killed goes on where it stopped, and several processes share one."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from flashinterp.decoding.decode import decode
from flashinterp.decoding.neuron_map import NeuronMap
from flashinterp.errors import MapError
from flashinterp.models.checkpoint import Checkpoint
from tests.helpers import assert_one_line_with_next_step

_DECODE = """
import os, signal, sys, torch
torch.set_num_threads(1)
import flashinterp
def stop(done, of):
    if done == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
flashinterp.decode(sys.argv[1], save_to=sys.argv[2], progress=stop)
"""


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.slow  # another process imports torch
@pytest.mark.parametrize("after", [1, 3])
def test_killed_and_resumed_gives_the_same_bytes(planted: Checkpoint, tmp_path: Path, after: int) -> None:
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    decode(str(planted.folder), save_to=whole)
    killed = _run("-c", _DECODE, str(planted.folder), str(resumed), str(after))
    assert killed.returncode == -signal.SIGKILL
    assert not resumed.exists()
    kept = sorted(p.name for p in (tmp_path / "resumed.parts").glob("layer-*"))
    assert len(kept) in (after - 1, after)  # the last one may have been computed and not yet written
    done: list[int] = []
    decode(str(planted.folder), save_to=resumed, progress=lambda at, of: done.append(of))
    assert done == [4 - len(kept)] * (4 - len(kept))  # only what was missing
    assert resumed.read_bytes() == whole.read_bytes()
    assert not (tmp_path / "resumed.parts").exists()


@pytest.mark.slow  # another process imports torch
def test_a_part_that_was_cut_short_is_made_again(planted: Checkpoint, tmp_path: Path) -> None:
    target = tmp_path / "map"
    _run("-c", _DECODE, str(planted.folder), str(target), "3")
    part = sorted((tmp_path / "map.parts").glob("layer-*"))[0]
    part.write_bytes(part.read_bytes()[:-5])
    whole = decode(str(planted.folder), save_to=tmp_path / "whole")
    assert (decode(str(planted.folder), save_to=target).top_ids == whole.top_ids).all()


@pytest.mark.slow  # another process imports torch
def test_parts_of_another_decode_are_refused(planted: Checkpoint, tmp_path: Path) -> None:
    target = tmp_path / "map"
    _run("-c", _DECODE, str(planted.folder), str(target), "3")
    with pytest.raises(MapError, match="part of another decode") as caught:
        decode(str(planted.folder), lens="read", save_to=target)
    assert_one_line_with_next_step(caught.value)
    assert not target.exists()


@pytest.mark.slow  # another process imports torch
def test_two_processes_give_the_same_bytes_as_one(planted: Checkpoint, tmp_path: Path) -> None:
    script = tmp_path / "share.py"
    script.write_text(_DECODE)
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    assert _run(str(script), str(planted.folder), str(alone), "-1").returncode == 0
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    run = _run(*launch, str(script), str(planted.folder), str(shared), "-1")
    assert run.returncode == 0, run.stderr
    assert shared.read_bytes() == alone.read_bytes()
    assert isinstance(NeuronMap.load(shared), NeuronMap)


def test_several_processes_need_a_place_to_meet(planted: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flashinterp.decoding.decode._process", lambda device: (0, 2))
    with pytest.raises(MapError, match="give save_to") as caught:
        decode(planted)
    assert_one_line_with_next_step(caught.value)
