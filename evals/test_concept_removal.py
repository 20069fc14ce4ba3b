"""Can a concept be taken out by reversing the rows that read it (arXiv 2412.10257), and a clamp be made permanent?

Both edit weights on disk. A removal is tested as everything here is: the number of edits is chosen on texts that are
not tested on, and beside it stand as many edits that have nothing to do with the concept. A permanent clamp must give
the clamped model's logits.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from flashinterp import Checkpoint, clamp
from flashinterp.audit.session import AuditSession
from flashinterp.bench import Bench
from flashinterp.capture import encode
from flashinterp.claims import Claim
from flashinterp.errors import ClampError, LayoutError, RunError
from flashinterp.export import export_clamped
from flashinterp.natural import natural_range
from flashinterp.neuron import NeuronId, Site
from flashinterp.passes import input_device
from flashinterp.pytest_plugin import Evidence
from flashinterp.removal import by_direction
from flashinterp.reverse import GONE, MOST_KL, Reversal, reverse

CONCEPTS = {"smoke": 1, "standard": 3, "audit": 8}
LISTED = 4  # ranked rows of each concept in the table
CLEARLY = 0.5  # nats by which a planted concept must fall further than the controls' median; they vary by 0.1 to 0.3
LARGEST = 4e9  # bytes of weights up to which a whole second checkpoint is written and loaded
TEXTS = 4


def test_concepts_removed(
    audit: AuditSession,
    base: Checkpoint,
    tokens: tuple[str, ...],
    model: Any,
    bench: Bench,
    evidence: Evidence,
) -> None:
    """Whether reversing the rows that read a concept takes the concept, and only the concept, out of the model.

    Implementation: TARS. The concept's vector is read from the residual stream over selection texts, and refined by
    noise until the LM head names the concept. The rows of W_up and W_gate with the highest cosine to it are replaced by
    its opposite, as many as selection texts ask for. The concept's probability is taken on held-out texts from four
    directions; gone means a tenth of what it was, or twice chance (2 / V). Text about something else must keep its next
    token (median KL). Controls: the reversed vector at other rows of the same layers
    with the nearest norms, and random directions at the same rows, which takes the readers away without reversing
    them, and so often does much of the work. Verdicts: `removed`; `lowered`, more than by any control on other rows,
    but not gone; `kept`; `not_measured` where the concept was not expected in the first place. A neuron that reads its
    concept with the opposite sign is not found: the paper takes the highest cosines, not the largest.
    On the fixtures: the planted dog row must be among the reversed ones, and dog must fall clearly further than by
    control edits.
    """
    found, unmeasured = [], []
    for token in tokens[: CONCEPTS[bench.profile.name]]:
        try:
            found.append(reverse(bench, token))
        except (LayoutError, RunError) as error:  # no dense MLP, or no number of edits that spares other text
            unmeasured.append([str(base.vocabulary.resolve(token)), "not_measured", str(error)])
    if unmeasured:
        evidence.table("unmeasured", "Concepts that were not reversed", ["concept", "verdict", "reason"], unmeasured)
    if found:
        _record(found, evidence)
    planted = {p["token"]: p["name"] for p in audit.truth["plants"] if p["id"] == "dog"} if audit.truth else {}
    for dog in (r for r in found if r.concept.token.text in planted):
        name, edited = planted[dog.concept.token.text], {str(edit.place.neuron) for edit in dog.edits}
        assert name in edited, f"the planted dog neuron {name} is not among {sorted(edited)}"
        others = float(np.median(dog.controls.rows))
        assert dog.change < others - CLEARLY, f"dog falls by {dog.change:.2f} nats, and by {others:.2f} with other rows"
        assert dog.change < dog.controls.rows.min(), "edits of some other rows take dog away as much as its own row's"


def _record(found: list[Reversal], evidence: Evidence) -> None:
    evidence.table(
        "rows",
        "The rows that read a concept (arXiv 2412.10257)",
        ["concept", "rank", "row", "cosine", "reversed", "refined from p", "to p", "kept"],
        [
            [str(r.concept.token), rank, str(row.place), row.cosine, "yes" if rank <= len(r.edits) else "no"]
            + [r.concept.p_approximate, r.concept.p_refined, r.concept.kept]
            for r in found
            for rank, row in enumerate(r.ranked[: max(LISTED, len(r.edits))], 1)
        ],
        "Cosine: of the stored row with the concept's vector. p: the concept's probability when the vector, before and "
        "after it is refined by noise, goes through the final norm and the LM head. Kept: cosine of the two.",
    )
    evidence.table(
        "removal",
        "Concepts taken out by reversing rows",
        ["concept", "edits", "p before", "p after", "median KL", "95 % KL", "verdict", "number of edits"],
        [
            [str(r.concept.token), len(r.edits), r.before.probability(), r.after.probability()]
            + [float(np.median(r.kl)), float(np.quantile(r.kl, 0.95)), r.verdict, r.reason]
            for r in found
        ],
        "p: the concept's mean probability over held-out texts of all directions. KL: of the next token on text about "
        f"something else, nats; at most {MOST_KL:g} in the median. Removed: p at most {GONE:.0%} of what it was, or "
        "twice chance, and lower than with every control on other rows.",
    )
    evidence.table(
        "controls",
        "The same number of edits that are not the concept's",
        [
            "concept",
            "change",
            "other rows",
            "lowest row",
            "p",
            "random directions",
            "lowest direction",
            "p, directions",
            "KL, other rows",
        ],
        [
            [str(r.concept.token), r.change]
            + [float(np.median(r.controls.rows)), float(r.controls.rows.min()), r.p_rows]
            + [float(np.median(r.controls.directions)), float(r.controls.directions.min()), r.p_directions]
            + [float(np.median(r.controls.rows_kl))]
            for r in found
        ],
        "Change: of the logarithm of the concept's mean probability on held-out texts, nats; median and lowest of "
        f"{len(found[0].controls.rows)} draws. Other rows get the reversed concept; random directions go to the "
        "concept's own rows.",
    )
    evidence.table(
        "directions",
        "From which side the concept still comes",
        ["concept", "direction", "texts", "p before", "p after", "highest after", "change of log-odds"],
        [
            [str(r.concept.token), name, len(r.before.log_probs[name]), *told]
            for r in found
            for name, told in by_direction(r.before, r.after).items()
        ],
        "theme: texts after which a word of its theme may come; anything: any word may; just said: right after the "
        "concept itself; said before: in the sentence after one that ends with it.",
    )
    evidence.table(
        "curve",
        "The concept's probability against the number of edits",
        ["concept", "edits", "p, selection", "p, held out", "KL, selection", "KL, held out", "chosen"],
        [
            [str(r.concept.token), s.edits, s.probability, h.probability, s.kl, h.kl]
            + ["yes" if s.edits == len(r.edits) else "no"]
            for r in found
            for s, h in zip(r.selection, r.heldout, strict=True)
        ],
        "The number is chosen on the selection texts; what it does is told by the held-out ones.",
    )
    evidence.arrays(
        "controls",
        {f"{kind}-{r.concept.token.id}": getattr(r.controls, kind) for r in found for kind in ("rows", "directions")},
    )


def test_exported_clamp(
    base: Checkpoint,
    claims: tuple[Claim, ...],
    bench: Bench,
    tmp_path: Path,
    evidence: Evidence,
) -> None:
    """A clamp written into a checkpoint: whether plain transformers, loading it, gives the clamped model's logits.

    Implementation: the first claims' neurons, each at the high end of its natural range, one alone and all together,
    at every site. The checkpoint is written without building a model, loaded with `AutoModelForCausalLM`, and compared
    at every position of held-out prompts with the model clamped by hooks, both in float32. Allowed is rounding: 64
    steps of float32 at the largest logit, and at `post`, where a sum is stored, one step of the stored dtype.
    Architectures without MLP biases cannot hold a clamp and are not measured.
    """
    neurons = list(dict.fromkeys(c.neuron for c in claims if c.neuron is not None and c.neuron.expert is None))[:3]
    size = sum(path.stat().st_size for path in base.folder.glob("*.safetensors")) if base.folder else 0
    if not neurons:
        _not_measured(evidence, "the claimed neurons are in experts, of which no copy is written")
        return
    if size > LARGEST:
        _not_measured(evidence, f"a copy of {size / 1e9:.0f} GB is not written here: call export_clamped yourself")
        return
    values = {neuron: natural_range(bench, neuron)[1] for neuron in neurons}
    plain = bench.model if bench.model.dtype == torch.float32 else base.load_model(dtype=torch.float32)
    rows: list[list[Any]] = []
    for site in base.layout.sites:
        for clamps in ({neurons[0]: values[neurons[0]]}, values):
            try:
                rows.append(_exported(base, plain, bench, clamps, site, tmp_path / f"{site}-{len(rows)}"))
            except ClampError as error:  # the architecture cannot hold a clamp, or the dtype not this one
                _not_measured(evidence, str(error))
                return
    evidence.table(
        "export",
        "Clamps written into a checkpoint",
        ["site", "neurons", "switched on", "stored in", "moved by clamp", "off by", "allowed", "same"],
        [[*row, _reading(*row[-3:])] for row in rows],
        "Largest difference of any logit at any position: between the clamped and the unclamped model, and between the "
        "exported and the clamped one.",
    )
    for row in rows:
        assert row[-2] <= row[-1], (
            f"exported at {row[0]}: the logits are off by {row[-2]:.2g}, {row[-1]:.2g} is allowed"
        )


def _reading(moved: float, off: float, allowed: float) -> str:
    if off > allowed:
        return "no"
    return "yes" if moved > allowed else "the clamp moves nothing"


@torch.no_grad()
def _exported(
    base: Checkpoint, plain: Any, bench: Bench, clamps: dict[NeuronId, float], site: Site, folder: Path
) -> list[Any]:
    from transformers import AutoModelForCausalLM

    made = export_clamped(base, clamps, folder, site=site)
    exported: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).to(plain.device).eval()
    moved = off = largest = 0.0
    for text in bench.heldout[:TEXTS]:
        ids = encode(bench.tokenizer, text, input_device(plain))
        clean = plain(ids, use_cache=False).logits
        with clamp(plain, made.stored, site=site):
            clamped = plain(ids, use_cache=False).logits
        moved = max(moved, float((clamped - clean).abs().max()))
        off = max(off, float((exported(ids, use_cache=False).logits - clamped).abs().max()))
        largest = max(largest, float(clamped.abs().max()))
    step = 64 * torch.finfo(torch.float32).eps
    if site == "post":
        step += torch.finfo(getattr(torch, made.dtype)).eps
    names = ", ".join(map(str, clamps))
    return [site, names, made.switch or "nothing", made.dtype, moved, off, step * largest]


def _not_measured(evidence: Evidence, reason: str) -> None:
    evidence.table("export", "Clamps written into a checkpoint", ["verdict", "reason"], [["not_measured", reason]])
