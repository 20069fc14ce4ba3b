"""Layer by layer: a lens's rows read from a checkpoint, and decoded on the fastest exact way there is (METHOD 2)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flashinterp.decoding.backends.choice import PIECE, decode_rows
from flashinterp.decoding.backends.top_tokens import Pole, Scratch
from flashinterp.decoding.plan import DecodePlan
from flashinterp.errors import CheckpointError
from flashinterp.models.checkpoint import Checkpoint
from flashinterp.models.norms import Norm, cap
from flashinterp.neurons import Block, Lens, get_lens


def lens_rows(
    checkpoint: Checkpoint,
    lens: str | Lens,
    where: int | Block,
    *,
    head_of: Checkpoint | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """The vectors of one block as a lens hands them to the head: [F, d], computed in dtype.

    For ``paper`` and ``logit-lens`` they are the weights themselves. The residual lenses take them the way that a
    residual vector takes: the weight of the norm in front of the MLP is folded into the rows that read through it, that
    of a norm after the MLP into the columns that write through it; then comes the final norm, which is that of
    ``head_of``. Norms act without their biases, so that -w decodes to the opposite of w (METHOD 2).

    Args:
        where: a layer's dense MLP, by its number, or a `Block`.

    Raises:
        LayoutError: the model has no such matrix.
        CheckpointError: a vector is too large for dtype.
    """
    lens, block = get_lens(lens), Block.of(where)
    stored = stored_rows(checkpoint, lens, block)
    rows = torch.empty(stored.shape, dtype=dtype, device=stored.device) if lens.residual else stored.to(dtype)
    passed, final = _norms_of(checkpoint, lens, block.layer, head_of or checkpoint)
    for first in range(0, len(stored), PIECE):  # in pieces, so that nothing else of the layer's size is made
        piece = (stored if lens.residual else rows)[first : first + PIECE].to(dtype)
        if not bool(torch.isfinite(torch.linalg.vector_norm(piece, dim=1).square()).all()):
            raise CheckpointError(  # a norm would silently make such a row zero
                f"{checkpoint.name}: a vector of {block} is so large that its norm is beyond {dtype}: the weights "
                "are damaged; fetch them again"
            )
        if lens.residual:
            piece = piece if passed is None else passed.scaled(piece)
            rows[first : first + PIECE] = piece if final is None else final.direction(piece)
    return rows


def _norms_of(checkpoint: Checkpoint, lens: Lens, layer: int, head_of: Checkpoint) -> tuple[Norm | None, Norm | None]:
    """The norm that a residual lens folds in, and the final one; none for the others."""
    if not lens.residual:
        return None, None
    # A norm of the sum is a part of the stream, not of what one MLP writes to it.
    part_of_stream = lens.side == "write" and checkpoint.layout.family.stream == "added, then normed"
    passed = None if part_of_stream else checkpoint.norm("pre" if lens.side == "read" else "post", layer)
    return passed, head_of.norm("final")


def stored_rows(checkpoint: Checkpoint, lens: Lens, where: int | Block) -> Tensor:
    """The weights that a lens looks at, [F, d], as they are stored."""
    return checkpoint.rows(lens.weight, where)


@dataclass(frozen=True)
class LayerDecode:
    """One layer's result, its blocks in order: both poles, and the norms of the decoded vectors, [F] float32."""

    layer: int
    plus: Pole
    minus: Pole
    norms: Tensor

    @classmethod
    def join(cls, parts: Sequence[LayerDecode]) -> LayerDecode:
        """A layer from its blocks."""
        plus, minus = Pole.join([p.plus for p in parts]), Pole.join([p.minus for p in parts])
        return cls(parts[0].layer, plus, minus, torch.cat([p.norms for p in parts]))


def decode_layers(
    plan: DecodePlan, layers: Sequence[int], *, progress: Callable[[int, int], None] | None = None
) -> Iterator[LayerDecode]:
    """Decode layer after layer, reading the next block meanwhile; progress is called with (layers done, in all).

    The rows of two blocks (a dense layer is one, an expert is one) and the head are in memory at a time, whatever the
    size of the model.
    """
    checkpoint, lens, dtype, device = plan.source, plan.lens, plan.dtype, plan.device
    blocks = checkpoint.layout.roster.of_layers(layers).blocks
    if not blocks:
        return
    head, softcap = plan.head_from.head(), plan.head_from.layout.softcap
    # Weights as they are, where they are multiplied exactly and much faster than in float32.
    as_stored = not lens.residual and plan.way.name != "plain" and head.dtype in (torch.float16, torch.bfloat16)
    head = head.to(device) if as_stored else head.to(device, dtype)

    def read(block: Block) -> Tensor:
        if as_stored and (rows := stored_rows(checkpoint, lens, block)).dtype == head.dtype:
            return rows
        return lens_rows(checkpoint, lens, block, head_of=plan.head_of, dtype=dtype)

    parts: list[LayerDecode] = []
    scratch = Scratch()
    with ThreadPoolExecutor(1, thread_name_prefix="read-ahead") as pool:
        coming = pool.submit(read, blocks[0])
        for at, block in enumerate(blocks, 1):
            rows = coming.result().to(device)
            if at < len(blocks):
                coming = pool.submit(read, blocks[at])
            same = rows.dtype == head.dtype  # else a block that is stored otherwise than the head
            poles = decode_rows(
                rows,
                head.to(rows.dtype),
                top_k=plan.top_k,
                softcap=softcap,
                way=plan.way if same else None,
                scratch=scratch,
            )
            parts.append(LayerDecode(block.layer, poles[0], poles[1], _norms(rows)))
            if at == len(blocks) or blocks[at].layer != block.layer:
                yield LayerDecode.join(parts)
                parts = []
                if progress:
                    progress(layers.index(block.layer) + 1, len(layers))


def _norms(rows: Tensor) -> Tensor:
    """[F] float32, without a float32 copy of half-precision rows."""
    wide = torch.float64 if rows.dtype == torch.float64 else torch.float32
    return torch.cat([torch.linalg.vector_norm(piece.to(wide), dim=1).float() for piece in rows.split(PIECE)])


def token_logits(
    checkpoint: Checkpoint, lens: str | Lens, tokens: Sequence[int], *, blocks: Sequence[int | Block] | None = None
) -> Any:
    """The exact logits of a few tokens at every neuron: [N, tokens] float32 numpy, one product a block."""
    lens = get_lens(lens)
    head = checkpoint.head()[list(tokens)].float()
    wanted = checkpoint.layout.roster.blocks if blocks is None else blocks
    z = torch.cat([lens_rows(checkpoint, lens, block) @ head.T for block in wanted])
    return cap(z, checkpoint.layout.softcap).numpy()
