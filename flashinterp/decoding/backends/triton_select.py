"""The best tokens of both poles from a block of logits: the public function, its workspace, its four launches."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, overload

import torch
from torch import Tensor
from triton import JITFunction, next_power_of_2

from flashinterp.decoding.backends.score import SCORE_TOKENS
from flashinterp.decoding.backends.top_tokens import Pole, Poles
from flashinterp.decoding.backends.triton_best import choose_blocks, choose_tokens, finish
from flashinterp.decoding.backends.triton_stats import BLOCK, stats

MAX_KEEP = 1024
"""The most tokens that can be kept: they and their 31 neighbours are in registers at once."""
_BLOCK: int = BLOCK.value
_SORTED_PER_WARP = 256  # 8 int64 a thread


@dataclass(frozen=True)
class Plan:
    """What follows from the sizes alone, resolved once.

    Attributes:
        vocab: how many columns are tokens.
        keep: how many tokens are kept.
        poles: 1 or 2.
        chunk_blocks: blocks of 32 tokens that one program of the statistics pass reads. 128 are 16 KB: 8 loads of 16
            bytes for each of 128 threads, all in flight at once.
        chunk_warps: its warps.
        keys_per_warp: how many keys one warp of a selection searches. 1,024 are 32 a thread, in 116 to 147 registers;
            twice that takes 213 or spills.
    """

    vocab: int
    keep: int
    poles: int = 2
    chunk_blocks: int = 128
    chunk_warps: int = 4
    keys_per_warp: int = 1024

    def __post_init__(self) -> None:
        if not 1 <= self.keep <= min(self.vocab, MAX_KEEP):
            raise ValueError(
                f"keep = {self.keep}: choose 1 to {min(self.vocab, MAX_KEEP)} for a vocabulary of {self.vocab}"
            )
        if self.vocab > 2**20:
            raise ValueError(f"vocab = {self.vocab}: the block maxima of one row fit one program up to {2**20} tokens")

    @property
    def n_top(self) -> int:
        """How many tokens are in log_mean_top."""
        return min(SCORE_TOKENS, self.vocab)

    @property
    def wanted(self) -> int:
        """How many tokens must be exact."""
        return max(self.keep, self.n_top)

    @property
    def room(self) -> int:
        """How many blocks, then tokens, are carried along: a power of two, as shapes must be."""
        return max(int(next_power_of_2(self.wanted)), 16)

    @property
    def n_blocks(self) -> int:
        """Blocks that hold a token."""
        return -(-self.vocab // _BLOCK)

    @property
    def n_chunks(self) -> int:
        """Programs per row of the statistics pass."""
        return -(-self.n_blocks // self.chunk_blocks)

    @property
    def width(self) -> int:
        """Block maxima per row as stored: whole chunks."""
        return self.n_chunks * self.chunk_blocks


@dataclass(frozen=True)
class Workspace:
    """Every buffer of `select`, results included, so that a loop that passes the same one allocates nothing.

    The results of a call are views of it and hold until the next call with it. Contents before a call are
    irrelevant. At 3,584 rows, 128,256 tokens and 100 kept, both poles: 136 MB, of which the block maxima are 117.

    Attributes:
        plan: the sizes that it was made for.
        capacity: how many rows fit.
    """

    plan: Plan
    capacity: int
    peaks: Tensor
    high: Tensor
    mass: Tensor
    blocks: Tensor
    floors: Tensor
    packed: Tensor
    ids: Tensor
    logits: Tensor
    logsumexp: Tensor
    log_mean_top: Tensor

    @classmethod
    def allocate(cls, rows: int, plan: Plan, device: torch.device | str) -> Workspace:
        """A workspace for calls of up to ``rows`` rows."""

        def empty(dtype: torch.dtype, *per_row: int) -> Tensor:
            return torch.empty(plan.poles, rows, *per_row, dtype=dtype, device=device)

        return cls(
            plan=plan,
            capacity=rows,
            peaks=empty(torch.float32, plan.width),
            high=empty(torch.float32, plan.n_chunks),
            mass=empty(torch.float32, plan.n_chunks),
            blocks=empty(torch.int32, plan.room),
            floors=empty(torch.int32),
            packed=empty(torch.int64, plan.room),
            ids=empty(torch.int32, plan.keep),
            logits=empty(torch.float32, plan.keep),
            logsumexp=empty(torch.float32),
            log_mean_top=empty(torch.float32),
        )

    def pole(self, number: int, rows: int) -> Pole:
        """The results of the first rows of one pole, as views."""
        found = (self.ids, self.logits, self.logsumexp, self.log_mean_top)
        return Pole(*(buffer[number, :rows] for buffer in found))


@dataclass(frozen=True)
class Launch:
    """One kernel with all that it is called with; `compile` reads the same description without a GPU."""

    kernel: Any
    grid: tuple[int, ...]
    arguments: dict[str, Any]
    warps: int

    def __call__(self) -> None:
        # Fusion is named because its default is about to change from on to off (Triton 3.10).
        self.kernel[self.grid](**self.arguments, num_warps=self.warps, enable_fp_fusion=True)


def launches(z: Tensor, workspace: Workspace) -> tuple[Launch, Launch, Launch, Launch]:
    """The four kernels of one call, in order: statistics, blocks, tokens, finish."""
    return (
        _stats_launch(z, workspace),
        _blocks_launch(z, workspace),
        _tokens_launch(z, workspace),
        _finish_launch(z, workspace),
    )


def _stats_launch(z: Tensor, w: Workspace) -> Launch:
    plan = w.plan
    arguments = {
        "z": z, "stride": z.shape[1], "vocab": plan.vocab, "peaks": w.peaks, "high": w.high, "mass": w.mass,
        "capacity": w.capacity, "n_chunks": plan.n_chunks, "POLES": plan.poles, "BLOCKS": plan.chunk_blocks,
    }  # fmt: skip
    return Launch(stats, (len(z) * plan.n_chunks,), arguments, plan.chunk_warps)


def _blocks_launch(z: Tensor, w: Workspace) -> Launch:
    plan = w.plan
    warps, shape = _search(plan, plan.n_blocks)
    arguments = {
        "peaks": w.peaks, "blocks": w.blocks, "floors": w.floors, "capacity": w.capacity, "width": plan.width,
        "n_blocks": plan.n_blocks, "wanted": plan.wanted, "ROOM": plan.room, **shape,
    }  # fmt: skip
    return Launch(choose_blocks, (len(z), plan.poles), arguments, warps)


def _tokens_launch(z: Tensor, w: Workspace) -> Launch:
    plan = w.plan
    warps, shape = _search(plan, plan.room * _BLOCK)
    arguments = {
        "z": z, "stride": z.shape[1], "vocab": plan.vocab, "blocks": w.blocks, "floors": w.floors,
        "packed": w.packed, "capacity": w.capacity, "wanted": plan.wanted, "ROOM": plan.room, **shape,
    }  # fmt: skip
    return Launch(choose_tokens, (len(z), plan.poles), arguments, warps)


def _finish_launch(z: Tensor, w: Workspace) -> Launch:
    plan = w.plan
    arguments = {
        "packed": w.packed, "high": w.high, "mass": w.mass, "ids": w.ids, "logits": w.logits,
        "logsumexp": w.logsumexp, "log_mean_top": w.log_mean_top, "capacity": w.capacity, "n_chunks": plan.n_chunks,
        "keep": plan.keep, "n_top": plan.n_top, "ROOM": plan.room, "CHUNKS": next_power_of_2(plan.n_chunks),
    }  # fmt: skip
    return Launch(finish, (len(z), plan.poles), arguments, max(plan.room // _SORTED_PER_WARP, 1))


def _search(plan: Plan, keys: int) -> tuple[int, dict[str, int]]:
    """Warps, and the shape in which they search so many keys: as many columns as threads."""
    keys = next_power_of_2(keys)
    warps = min(max(keys // plan.keys_per_warp, 1), 32)
    columns = 32 * warps
    return warps, {"ROWS": max(keys // columns, 1), "COLUMNS": columns}


@overload
def select(
    z: Tensor, vocab: int, keep: int, *, poles: Literal["both"] = ..., workspace: Workspace | None = ...
) -> tuple[Pole, Pole]: ...


@overload
def select(
    z: Tensor, vocab: int, keep: int, *, poles: Literal["+"], workspace: Workspace | None = ...
) -> tuple[Pole, None]: ...


def select(
    z: Tensor, vocab: int, keep: int, *, poles: Poles = "both", workspace: Workspace | None = None
) -> tuple[Pole, Pole | None]:
    """Take the best tokens of each row of logits, exactly, reading z once and its best blocks once more.

    Equivalent to::

        z = z[:, :vocab] + 0.0
        order = z.sort(dim=1, descending=True, stable=True)
        ids, logits = order.indices[:, :keep], order.values[:, :keep]
        logsumexp = z.logsumexp(1)
        log_mean_top = order.values[:, :100].logsumexp(1) - log(min(100, vocab))

    and the same for -z, + 0.0 again (METHOD section 2). logsumexp is within 2 units in its last place and 2e-6.

    z is assumed finite. An infinite logit or NaN makes logsumexp of one pole or both not finite; what is selected
    from NaN is undefined, but never out of bounds.

    Args:
        z: [R, Vpad] float32, contiguous, on a CUDA device (or on the CPU under TRITON_INTERPRET=1); Vpad is a
            multiple of 32, and what is in the columns from ``vocab`` on is ignored.
        vocab: how many columns are tokens, up to 2**20.
        keep: how many tokens to keep, 1 to min(vocab, 1024).
        poles: "+" leaves the negative pole out.
        workspace: buffers to use, made by `Workspace.allocate` for the same plan; the results are then views of it,
            overwritten by the next call. None allocates.

    Returns:
        The positive and the negative pole.

    Raises:
        ValueError: z, keep, vocab or the workspace is not as described.
    """
    if poles not in ("both", "+"):
        raise ValueError(f"poles = {poles!r}: choose 'both' or '+'")
    _check_logits(z, vocab)
    plan = Plan(vocab, keep, 2 if poles == "both" else 1)
    if workspace is None:
        workspace = Workspace.allocate(len(z), plan, z.device)
    _check_workspace(workspace, plan, z)
    if len(z):
        with _on(z.device):
            for launch in launches(z, workspace):
                launch()
    plus = workspace.pole(0, len(z))
    return plus, workspace.pole(1, len(z)) if plan.poles == 2 else None


def _check_logits(z: Tensor, vocab: int) -> None:
    if z.dtype != torch.float32 or z.ndim != 2 or not z.is_contiguous():
        raise ValueError(
            f"z must be [R, Vpad] float32 and contiguous, not {z.dtype} {tuple(z.shape)}: use .contiguous()"
        )
    if not 1 <= vocab <= z.shape[1] or z.shape[1] % _BLOCK:
        raise ValueError(
            f"z has {z.shape[1]} columns for a vocabulary of {vocab}: use the next multiple of {_BLOCK}, at least"
        )
    if z.device.type != "cuda" and isinstance(stats, JITFunction):
        raise ValueError(f"z is on {z.device}: use a CUDA device, or set TRITON_INTERPRET=1 before triton is imported")


def _check_workspace(workspace: Workspace, plan: Plan, z: Tensor) -> None:
    same = (workspace.plan.vocab, workspace.plan.keep, workspace.plan.poles) == (plan.vocab, plan.keep, plan.poles)
    if not same or workspace.capacity < len(z) or workspace.peaks.device != z.device:
        raise ValueError(
            f"the workspace is for {workspace.capacity} rows of {workspace.plan} on {workspace.peaks.device}, not for "
            f"{len(z)} rows of {plan} on {z.device}: use Workspace.allocate"
        )


def _on(device: torch.device) -> AbstractContextManager[Any]:
    """Triton launches on the current device, whatever the tensors' own."""
    enter: Callable[[torch.device], AbstractContextManager[Any]] = torch.cuda.device
    return enter(device) if device.type == "cuda" else nullcontext()
