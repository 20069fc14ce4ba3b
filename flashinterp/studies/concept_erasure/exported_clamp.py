"""A clamp written into a checkpoint, loaded by plain transformers, beside the same clamp by hooks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flashinterp.evaluation.experiment import Experiment
from flashinterp.evaluation.natural_range import natural_range
from flashinterp.interventions.clamp import clamp
from flashinterp.interventions.clamp_export import export_clamped
from flashinterp.models.activations import encode
from flashinterp.models.checkpoint import Checkpoint
from flashinterp.models.forward_pass import input_device
from flashinterp.neurons import NeuronId, Site
from flashinterp.studies.concept_erasure.records import ClampKept

LARGEST = 4e9
"""Bytes of weights up to which a whole second checkpoint is written and loaded."""
TEXTS = 4


def why_not_exported(checkpoint: Checkpoint, neurons: list[NeuronId]) -> str:
    """Why no copy is written with these neurons clamped; empty where one is."""
    folder = checkpoint.folder
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors")) if folder else 0
    if not neurons:
        return "the claimed neurons are in experts, of which no copy is written"
    return f"a copy of {size / 1e9:.0f} GB is not written here: call export_clamped yourself" if size > LARGEST else ""


def compare_exports(bench: Experiment, neurons: list[NeuronId], folder: Path) -> list[ClampKept]:
    """At every site, the first neuron alone and all together, each at the high end of its natural range.

    Args:
        bench: the model, its weights and its texts.
        neurons: dense ones.
        folder: where the copies go.

    Raises:
        ClampError: the architecture cannot hold a clamp, or the dtype not this one.
    """
    values = {neuron: natural_range(bench, neuron)[1] for neuron in neurons}
    is_plain = bench.model.dtype == torch.float32
    plain = bench.model if is_plain else bench.checkpoint.load_model(dtype=torch.float32)
    found: list[ClampKept] = []
    for site in bench.checkpoint.layout.sites:
        for clamps in ({neurons[0]: values[neurons[0]]}, values):
            found.append(compare_export(bench, plain, clamps, site, folder / f"{site}-{len(found)}"))
    return found


@torch.no_grad()
def compare_export(
    bench: Experiment, plain: Any, clamps: Mapping[NeuronId, float], site: Site, folder: Path
) -> ClampKept:
    """One exported clamp beside the clamp by hooks, at every position of held-out prompts, both in float32.

    Args:
        bench: the weights and the texts.
        plain: the model in float32.
        clamps: neuron to value.
        site: where they are fixed.
        folder: where the copy goes.
    """
    from transformers import AutoModelForCausalLM

    made = export_clamped(bench.checkpoint, clamps, folder, site=site)
    exported: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).to(plain.device).eval()
    found: list[list[float]] = []
    for text in bench.heldout[:TEXTS]:
        ids = encode(bench.tokenizer, text, input_device(plain))
        clean = plain(ids, use_cache=False).logits
        with clamp(plain, made.stored, site=site):
            clamped = plain(ids, use_cache=False).logits
        wrong = exported(ids, use_cache=False).logits - clamped
        found.append([float(x.abs().max()) for x in (clamped - clean, wrong, clamped)])
    moved, off, largest = np.array(found).T
    return ClampKept(site, tuple(clamps), made.switch, made.dtype, moved, off, largest)
