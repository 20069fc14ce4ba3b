"""TARS, the parent method (arXiv 2412.10257): take a concept out of a model by reversing the rows that read it.

The rows of W_up and W_gate read the residual stream. Those whose direction is nearest to the concept's vector are
replaced by the opposite of that vector, in their own norm: what the concept used to switch on, it now switches off.
How many are replaced is decided on selection texts, what that does is measured on held-out ones, and beside it stand
the same number of edits that have nothing to do with the concept.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flashinterp._util.progress import Progress, Tally
from flashinterp.errors import RunError
from flashinterp.evaluation.experiment import Experiment
from flashinterp.interventions.clamp_export import vector_of
from flashinterp.interventions.row_edits import RowEdit
from flashinterp.interventions.row_place import RowPlace
from flashinterp.models.checkpoint import Checkpoint
from flashinterp.models.checkpoint_copy import copy_checkpoint
from flashinterp.models.layout import Weight
from flashinterp.models.weights.shard_writer import Changes
from flashinterp.stats import rank_p
from flashinterp.studies.concept_erasure.concept_vector import ConceptVector, concept_vector
from flashinterp.studies.concept_erasure.measure import Measured, Texts, measure_removal
from flashinterp.studies.concept_erasure.reading_rows import ReadingRows
from flashinterp.studies.concept_erasure.removal import (
    ErasureControls,
    Floats,
    Point,
    RankedRow,
    Verdict,
    change,
    choose,
    verdict,
)
from flashinterp.tokens import Token

_COUNTS = (1, 2, 4, 8, 16, 32, 64)
_LISTED = 64  # ranked rows that are kept


@dataclass(frozen=True)
class Reversal:
    """A concept taken out.

    Attributes:
        concept: its vector.
        ranked: the nearest rows of the model, nearest first.
        edits: the rows that are replaced, and by what.
        selection: what each number of edits does on selection texts; the first is none.
        heldout: the same on held-out texts, which decided nothing.
        reason: by which rule the number was chosen, in words.
        before, after: the held-out measurement without and with the edits.
        controls: what edits do that are not the concept's.
        p_rows, p_directions: the change's rank among its controls.
        folder: the edited copy; None if none was asked for.
    """

    concept: ConceptVector
    ranked: tuple[RankedRow, ...]
    edits: tuple[RowEdit, ...]
    selection: tuple[Point, ...]
    heldout: tuple[Point, ...]
    reason: str
    before: Measured
    after: Measured
    controls: ErasureControls
    p_rows: float | None
    p_directions: float | None
    folder: Path | None

    @property
    def change(self) -> float:
        """By how many nats the log of the concept's mean probability on held-out texts changes."""
        return change(self.before.log_probs, self.after.log_probs)

    @property
    def kl(self) -> Floats:
        """[positions] what the edits change of held-out text about something else, in nats."""
        return self.after.kl(self.before)

    @property
    def verdict(self) -> Verdict:
        """What the held-out texts say: see `flashinterp.studies.concept_erasure.removal.verdict`."""
        before, after = self.before.log_probs, self.after.log_probs
        return verdict(before, after, self.kl, self.before.other.shape[-1], self.p_rows)


def reverse(
    bench: Experiment,
    concept: str | int | Token,
    *,
    folder: str | Path | None = None,
    edits: int | None = None,
    centred: bool = False,
    controls: int = 19,
    rng: np.random.Generator | None = None,
    progress: Progress | None = None,
) -> Reversal:
    """Find the rows that read a concept, reverse them, and measure what that does; the live model is not changed.

    Equivalent, for the m rows w of W_up and W_gate with the highest cosine to the concept's vector v, to::

        w[:] = -v * norm(w) / norm(v)

    Args:
        bench: the model, its files and the texts.
        concept: one token.
        folder: a new folder for an edited copy of the checkpoint, which plain transformers loads.
        edits: m; None chooses it on selection texts: the smallest of 1, 2, 4, … 64 after which the concept is
            `gone`, with a median KL on other text of at most `MOST_KL`; where there is none, the one within that bound
            that leaves the least.
        centred: as for `concept_vector`.
        controls: draws of each kind.
        rng: noise and controls; by default the bench's stream for this concept.
        progress: called with (models measured, models in all): on each part of the texts each number of edits and
            none, and each control edit.

    Raises:
        TokenError: the concept is not one token.
        LayoutError: the model has no dense MLP.
        RunError: no number of edits leaves other text as it is, or fewer rows are there than edits were asked for.
        CheckpointError: the copy cannot be written.
    """
    token = bench.checkpoint.vocabulary.resolve(concept)
    rng = bench.rng(f"reverse {token.id}") if rng is None else rng
    vector = concept_vector(bench, token, rng=rng, centred=centred)
    rows = ReadingRows.of(bench.checkpoint, vector.refined)
    ranked = rows.best(max(_LISTED, edits or 0))
    if edits is not None and not 1 <= edits <= len(ranked):
        raise RunError(f"{edits} edits cannot be made: choose 1 to {len(ranked)}, which is how many rows are there")
    counts = [m for m in _COUNTS if m <= len(ranked)] if edits is None else [edits]
    tally = Tally(progress, 2 * (1 + len(counts) + controls))  # two parts of the texts, two kinds of control
    selection, _ = _curve(bench, vector, ranked, counts, Texts.of(bench, token, "selection"), tally)
    chosen, reason = (
        choose(selection, bench.checkpoint.layout.vocab_size)
        if edits is None
        else (edits, f"{edits} edits were asked for")
    )
    texts = Texts.of(bench, token, "heldout")
    heldout, states = _curve(bench, vector, ranked, counts, texts, tally)
    drawn = _controls(bench, texts, states[0], vector, ranked[:chosen], rows, controls, rng, tally)
    moved = change(states[0].log_probs, states[chosen].log_probs)
    made = reversed_rows(vector, ranked[:chosen])
    written = None
    if folder is not None:
        written = write_rows(bench.checkpoint, made, folder, _note(token, ranked[:chosen], reason))
    return Reversal(
        concept=vector,
        ranked=tuple(ranked),
        edits=tuple(made),
        selection=selection,
        heldout=heldout,
        reason=reason,
        before=states[0],
        after=states[chosen],
        controls=drawn,
        p_rows=rank_p(-moved, -drawn.rows),
        p_directions=rank_p(-moved, -drawn.directions),
        folder=written,
    )


def _curve(
    bench: Experiment,
    concept: ConceptVector,
    ranked: Sequence[RankedRow],
    counts: Sequence[int],
    texts: Texts,
    tally: Tally,
) -> tuple[tuple[Point, ...], dict[int, Measured]]:
    """Each number of edits, and none, on one part of the texts."""
    states, points = {}, []
    for m in (0, *counts):
        states[m] = measure_removal(bench.model, texts, concept.token, reversed_rows(concept, ranked[:m]))
        kl = float(np.median(states[m].kl(states[0])))
        points.append(Point(m, states[m].probability(), change(states[0].log_probs, states[m].log_probs), kl))
        tally.add()
    return tuple(points), states


def reversed_rows(concept: ConceptVector, rows: Sequence[RankedRow]) -> list[RowEdit]:
    """The opposite of the concept's vector in the place of each row, in its norm."""
    return [_turned(row.place, -concept.refined, row.norm) for row in rows]


def _turned(place: RowPlace, vector: Tensor, norm: float) -> RowEdit:
    return RowEdit(place, (vector * (norm / vector.norm())).float())


def _controls(
    bench: Experiment,
    texts: Texts,
    clean: Measured,
    concept: ConceptVector,
    edits: Sequence[RankedRow],
    rows: ReadingRows,
    draws: int,
    rng: np.random.Generator,
    tally: Tally,
) -> ErasureControls:
    """Measure edits that are not the concept's: of other rows, and in other directions."""
    found: dict[str, list[tuple[float, float]]] = {"rows": [], "directions": []}
    for _ in range(draws):
        random = torch.as_tensor(rng.standard_normal(len(concept.refined)), dtype=torch.float32)
        drawn = {
            "rows": reversed_rows(concept, rows.matched([edit.place for edit in edits], rng)),
            "directions": [_turned(edit.place, random, edit.norm) for edit in edits],
        }
        for kind, made in drawn.items():
            state = measure_removal(bench.model, texts, concept.token, made)
            found[kind].append((change(clean.log_probs, state.log_probs), float(np.median(state.kl(clean)))))
            tally.add()
    table = {kind: np.array(values, dtype=np.float64).reshape(-1, 2) for kind, values in found.items()}
    return ErasureControls(
        table["rows"][:, 0], table["directions"][:, 0], table["rows"][:, 1], table["directions"][:, 1]
    )


def write_rows(checkpoint: Checkpoint, edits: Sequence[RowEdit], folder: str | Path, note: Mapping[str, Any]) -> Path:
    """Write a copy of a checkpoint with rows replaced, in the stored dtype.

    Raises:
        CheckpointError: as for `copy_checkpoint`.
    """
    by_tensor: dict[str, list[tuple[Weight, RowEdit]]] = defaultdict(list)  # up and gate may be fused
    for edit in edits:
        weight = checkpoint.layout.weight(edit.place.kind, edit.place.neuron.block)
        by_tensor[weight.tensor].append((weight, edit))
    return copy_checkpoint(checkpoint, folder, Changes({name: _set(own) for name, own in by_tensor.items()}, note=note))


def _set(edits: Sequence[tuple[Weight, RowEdit]]) -> Callable[[Tensor], Tensor]:
    def edit(tensor: Tensor) -> Tensor:
        for weight, one in edits:
            vector_of(tensor, weight, one.place.neuron.neuron).copy_(one.row)
        return tensor

    return edit


def _note(token: Token, rows: Sequence[RankedRow], reason: str) -> dict[str, Any]:
    return {
        "what": "reverse",
        "concept": token.text,
        "token": token.id,
        "rows": [{"row": str(row.place), "cosine": row.cosine} for row in rows],
        "number": reason,
    }
