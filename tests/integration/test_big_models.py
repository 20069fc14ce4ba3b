"""Models that are not whole in one place: offloaded to CPU or disk, or cut into parts by a tensor-parallel plan."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import accelerate
import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from fixtures.architectures import ARCHITECTURES, make
from flashinterp import ClampError, NeuronId, Token, clamp, open_checkpoint, probe, sweep
from flashinterp.interventions.clamp_hooks import _Writer
from flashinterp.interventions.clamp_values import RowClamp
from flashinterp.interventions.steer import steer
from flashinterp.models.activations import capture
from flashinterp.models.forward_pass import Held
from flashinterp.models.layout import Tap
from flashinterp.models.layout_reader import layout_of
from tests.by_hand import IDS, Numbers
from tests.helpers import assert_one_line_with_next_step, n_hooks

ROOT = Path(__file__).resolve().parents[2]
PROMPT = " ".join(map(str, IDS[0].tolist()))
SETTINGS = {"do_sample": False, "max_new_tokens": 3, "min_new_tokens": 3}


# --- offload ----------------------------------------------------------------------------------------


def on_cpu(name: str, folder: Path) -> Any:
    return accelerate.cpu_offload(make(ARCHITECTURES[name]), execution_device=torch.device("cpu"))


def on_disk(name: str, folder: Path) -> Any:
    return accelerate.disk_offload(make(ARCHITECTURES[name]), str(folder / "weights"), execution_device="cpu")


def on_both(name: str, folder: Path) -> Any:
    """As from_pretrained does with a device map: one layer on disk, one in CPU memory, one in place."""
    whole = make(ARCHITECTURES[name])
    whole.save_pretrained(folder / "model")
    layers = layout_of(whole).family.layers
    parent, _, own = layers.rpartition(".")
    places = {f"{parent}.{part}": "cpu" for part, _ in whole.get_submodule(parent).named_children() if part != own}
    places |= {f"{layers}.0": "disk", f"{layers}.1": "cpu", f"{layers}.2": "disk", "lm_head": "cpu"}
    return AutoModelForCausalLM.from_pretrained(
        folder / "model", device_map=places, offload_folder=folder / "weights"
    ).eval()


def as_it_fits(name: str, folder: Path) -> Any:
    """As a user has a model that is larger than the memory: accelerate fills the CPU and puts the rest on disk."""
    whole = make(ARCHITECTURES[name])
    whole.save_pretrained(folder / "model")
    room = {"cpu": int(0.9 * whole.get_memory_footprint())}
    model = AutoModelForCausalLM.from_pretrained(
        folder / "model", device_map="auto", max_memory=room, offload_folder=folder / "weights"
    ).eval()
    assert set(model.hf_device_map.values()) == {"cpu", "disk"}
    return model


# transformers before 5.23 warns of ids on another device than meta, where a model is that is offloaded as a whole.
@pytest.mark.filterwarnings("ignore:You are calling .generate:UserWarning")
@pytest.mark.parametrize("name", ["llama", "opt", "mixtral", "gpt_oss"])
@pytest.mark.parametrize("offloaded", [on_cpu, on_disk, on_both, as_it_fits])
def test_an_offloaded_model_is_clamped_as_a_whole_one(
    name: str, offloaded: Callable[[str, Path], Any], tmp_path: Path
) -> None:
    whole, model = make(ARCHITECTURES[name]), offloaded(name, tmp_path)
    assert any(parameter.is_meta for parameter in model.parameters()), "nothing is offloaded"
    assert max(probe(open_checkpoint(model), model).values()) < 1e-5
    blocks = layout_of(whole).roster.of_layers([2]).blocks
    seen = capture(whole, [IDS[:1]], blocks)[0]
    used = next(block for block in blocks if seen[block].weight[-1] > 0)
    neurons = [NeuronId(2, n, used.expert) for n in (3, 9)]
    for site in layout_of(whole).sites:
        got, wanted = (swept(one, neurons, site) for one in (model, whole))
        for what in ("log_probs", "clean", "own", "gate", "act_gate", "routed"):
            np.testing.assert_allclose(getattr(got, what), getattr(wanted, what), atol=1e-6)
        with torch.no_grad(), clamp(model, {neurons[0]: 3.0}, site=site):
            clamped = model(IDS).logits
        with torch.no_grad(), clamp(whole, {neurons[0]: 3.0}, site=site):
            torch.testing.assert_close(clamped, whole(IDS).logits)
    answers = [
        steer(one, Numbers(), PROMPT, {neurons[0]: 50.0}, n=1, rng=np.random.default_rng(0), **SETTINGS)
        for one in (model, whole)
    ]
    assert answers[0] == answers[1]
    assert n_hooks(model) == 0


def swept(model: Any, neurons: list[NeuronId], site: Any) -> Any:
    tokens = [Token(i, str(i), "by id") for i in (2, 300)]
    return sweep(model, Numbers(), [PROMPT], neurons, [2.0, -2.0], tokens, site=site)


# --- tensor parallel --------------------------------------------------------------------------------


def test_models_under_a_tensor_parallel_plan_are_clamped_as_whole_ones(tmp_path: Path) -> None:
    """Two processes of tests/parallel_clamp.py, which compares with the whole model and says so."""
    run = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m",
         "tests.parallel_clamp", str(tmp_path)],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-3000:]
    assert run.stdout.split("\n")[:3] == [f"{name} agrees" for name in ("llama", "phi3", "deepseek_v3")]


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], None]:
    """Be the process of this rank among so many."""

    def become(rank: int, size: int) -> None:
        monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
        monkeypatch.setattr(torch.distributed, "get_rank", lambda group=None: rank)
        monkeypatch.setattr(torch.distributed, "get_world_size", lambda group=None: size)

    return become


TAPS = {"plain": Tap("up_proj", False, slice(0, 10), 10), "fused": Tap("gate_up_proj", False, slice(10, 20), 20)}
MODULE = SimpleNamespace(weight=torch.zeros(1))


@pytest.mark.parametrize("tap", TAPS.values(), ids=TAPS)
@pytest.mark.parametrize("size", [1, 2, 3, 4, 7])
def test_the_parts_of_all_processes_together_are_written_as_the_whole(
    tap: Tap, size: int, process: Callable[[int, int], None]
) -> None:
    """Also where the columns do not divide by the processes, and the last one has fewer, or none."""
    clamps = [RowClamp(NeuronId(0, n), float(n + 1), (row,)) for row, n in enumerate((0, 4, 5, 9))]
    whole = torch.zeros(4, 3, tap.width)
    for one in clamps:
        whole[one.rows, :, tap.columns.start + one.neuron.neuron] = one.value
    parts: list[Tensor] = []
    width = -(-tap.width // size)
    for rank in range(size):
        process(rank, size)
        x = torch.zeros(4, 3, max(0, min(width, tap.width - rank * width)))
        held = Held.of(x, tap, MODULE)
        here = {
            one.neuron: one.neuron.neuron - held.neurons.start for one in clamps if one.neuron.neuron in held.neurons
        }
        assert _Writer(clamps, "all").write(held.columns(x), slice(0, 3), here) == 12, "each process counts all"
        parts.append(x)
    assert torch.equal(torch.cat(parts, dim=-1), whole)


@pytest.mark.parametrize("tap", TAPS.values(), ids=TAPS)
@pytest.mark.parametrize("size", [1, 2, 3, 4, 7])
def test_every_process_gathers_all_neurons(
    tap: Tap, size: int, process: Callable[[int, int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = torch.arange(3.0 * tap.width).reshape(3, tap.width)
    width = -(-tap.width // size)
    parts = whole.split(width, dim=-1)
    parts += (whole[:, :0],) * (size - len(parts))

    def all_gather(into: list[Tensor], own: Tensor, group: Any) -> None:
        for target, part in zip(into, parts, strict=True):
            target[:, : part.shape[-1]] = part

    monkeypatch.setattr(torch.distributed, "all_gather", all_gather)
    for rank, part in enumerate(parts):
        process(rank, size)
        assert torch.equal(Held.of(part, tap, MODULE).gather(part), whole[:, tap.columns])


@pytest.mark.parametrize(("rank", "size", "width"), [(0, 1, 5), (0, 2, 4), (1, 2, 6), (2, 3, 4)])
def test_a_part_of_another_width_is_refused(
    rank: int, size: int, width: int, process: Callable[[int, int], None]
) -> None:
    process(rank, size)
    with pytest.raises(
        ClampError, match=f"up_proj passes {width} of its 10 columns in process {rank} of {size}"
    ) as caught:
        Held.of(torch.zeros(1, 1, width), TAPS["plain"], MODULE)
    assert_one_line_with_next_step(caught.value)
