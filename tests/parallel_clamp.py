"""Run in several processes by test_big_models: clamp, sweep and capture of models that a plan cuts into parts."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import distributed as dist
from transformers import AutoModelForCausalLM
from transformers.distributed import DistributedConfig

from fixtures.architectures import ARCHITECTURES, PADDED, make
from flashinterp import NeuronId, Token, sweep
from flashinterp.interventions.clamp import clamp_rows
from flashinterp.interventions.clamp_values import RowClamp
from flashinterp.models.activations import capture
from flashinterp.models.layout_reader import layout_of
from tests.by_hand import IDS, Numbers, off

PROMPT = " ".join(map(str, IDS[0].tolist()))


@torch.no_grad()
def compare(model: Any, whole: Any) -> None:
    """The same logits, counts, curves and activations, with a neuron of each process's part in each block."""
    layout = layout_of(whole)
    blocks = layout.roster.blocks
    neurons = [NeuronId(b.layer, n, b.expert) for b in blocks for n in (3, layout.roster.width(b) - 3)]
    for site in layout.sites:
        clamps = [RowClamp(neuron, 2.5) for neuron in neurons]
        with clamp_rows(model, clamps, site=site, unrouted=True) as log:
            got = model(IDS).logits
        with clamp_rows(whole, clamps, site=site, unrouted=True) as wanted_log:
            wanted = whole(IDS).logits
        assert off(got, wanted) < 1e-5
        assert off(wanted, whole(IDS).logits) > 0.1
        assert log == wanted_log
        curves, wanted_curves = (
            sweep(one, Numbers(), [PROMPT], neurons, [2.0, -2.0], [Token(5, "5", "by id")], site=site)
            for one in (model, whole)
        )
        for what in ("log_probs", "own", "gate", "act_gate", "routed"):
            np.testing.assert_allclose(getattr(curves, what), getattr(wanted_curves, what), atol=2e-5, rtol=1e-4)
    seen, wanted_seen = (capture(one, [IDS[:1]], blocks)[0] for one in (model, whole))
    for block in blocks:
        np.testing.assert_allclose(seen[block].written, wanted_seen[block].written, atol=2e-5, rtol=1e-4)


def main(folder: Path) -> None:
    """Load each model under its own plan, in as many parts as there are processes."""
    dist.init_process_group("gloo")
    for name in ("llama", "phi3", "deepseek_v3"):
        whole = make(replace(ARCHITECTURES[name], vocab=PADDED))  # the head is cut, too, in equal parts
        if dist.get_rank() == 0:
            whole.save_pretrained(folder / name)
        dist.barrier()
        plan = DistributedConfig(tp_size=dist.get_world_size(), tp_plan="auto")
        model = AutoModelForCausalLM.from_pretrained(folder / name, distributed_config=plan).eval()
        assert any(hasattr(parameter, "device_mesh") for parameter in model.model.layers[2].mlp.parameters())
        compare(model, whole)
        dist.barrier()
        if dist.get_rank() == 0:
            print(f"{name} agrees", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
