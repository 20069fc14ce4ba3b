"""A decode holds the head, two layers' rows and its buffers, however large the rest of the checkpoint is."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import pytest

from flashinterp.decoding.neuron_map import NeuronMap

if sys.platform != "linux":
    pytest.skip("only Linux counts a process's memory against RLIMIT_DATA", allow_module_level=True)

from benchmarks.memory import Shape, compare, in_a_process, make, map_of

# Few rows and long ones, so that the map is small beside them.
SHAPE = Shape(layers=3, neurons=2048, d=12288, vocab=500, kv=0)
SHARD = 55_000_000  # one matrix
BUFFERS = 60_000_000  # less than a layer's rows in float32, 101 MB: three of them at once would pass the bound


def test_a_decode_holds_the_head_and_two_layers_of_a_larger_checkpoint() -> None:
    bound = 4 * (SHAPE.head + 2 * SHAPE.rows) + BUFFERS
    assert 4 * SHAPE.parameters() > 3 * bound
    with tempfile.TemporaryDirectory() as work:  # not tmp_path, which is kept for three runs
        folder = Path(work) / "model"
        make(folder, SHAPE, SHARD)
        jobs = in_a_process(folder, bound + SHARD, SHAPE.layers, ["float32"], threads=1)
        assert jobs["float32"].failed == ""
        assert jobs["float32"].peak < bound
        assert "Error" in jobs["whole"].failed  # the control: the limit does bite
        same, difference = compare(folder, NeuronMap.load(map_of(folder, "float32")))
    assert same > 0.99  # neighbours may be closer than float32 tells them apart
    assert difference < 1e-5
