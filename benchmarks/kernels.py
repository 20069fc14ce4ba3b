"""What the kernels cost beside the bare matrix product, on this machine's GPU.

``python -m benchmarks.kernels`` prints a table, ``--json`` the same numbers as JSON, ``--sweep`` other shapes of the
programs. One chunk of rows is timed as `flashinterp` would decode it: product, statistics, selections, all of it.
The steps take turns, so that a clock that drifts drifts for all, and the median counts. Weights are random: on zeros
an H200 multiplies 13 % faster.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from tabulate import tabulate
from torch import Tensor

_COPY_BYTES = 2 << 30  # several times any L2, read and written


@dataclass(frozen=True)
class Sizes:
    """One chunk: rows [rows, width] times a head [vocab, width], of which the best ``keep`` tokens are kept."""

    rows: int
    width: int
    vocab: int
    keep: int
    rounds: int


@dataclass(frozen=True)
class Timing:
    """One step.

    Attributes:
        step: what was timed.
        ms: median of the rounds, in milliseconds.
        low, high: the quartiles.
        ratio: ms over that of the bare product.
        gb_per_s: bytes that the step must move over its time, where memory is what bounds it.
        share_of_copy: that over the rate of a plain copy on the same machine.
    """

    step: str
    ms: float
    low: float
    high: float
    ratio: float
    gb_per_s: float | None = None
    share_of_copy: float | None = None


@dataclass(frozen=True)
class Step:
    """Something to time, and the bytes that it must move (0: not bound by memory)."""

    name: str
    run: Callable[[], Any]
    moved: int = 0


def measure(steps: list[Step], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each step in each round; the steps take turns, after three rounds that do not count."""
    times: dict[str, list[float]] = {step.name: [] for step in steps}
    for number in range(rounds + 3):
        for step in steps:
            start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            step.run()
            stop.record()
            stop.synchronize()
            if number >= 3:
                times[step.name].append(start.elapsed_time(stop))
    return times


def timings(steps: list[Step], rounds: int) -> list[Timing]:
    """Medians and quartiles of all steps; the first is the bare product, the second the copy."""
    times = measure(steps, rounds)
    medians = {name: statistics.median(values) for name, values in times.items()}
    bare, copied = medians[steps[0].name], steps[1].moved / medians[steps[1].name]
    found = []
    for step in steps:
        low, _, high = statistics.quantiles(times[step.name], n=4)
        ms = medians[step.name]
        rate = step.moved / ms if step.moved else None  # bytes per millisecond
        found.append(Timing(step.name, ms, low, high, ms / bare, rate and rate / 1e6, rate and rate / copied))
    return found


def chunk_steps(sizes: Sizes) -> list[Step]:
    """The steps of one chunk: bare product, copy, then both poles and one pole, kernel by kernel and whole."""
    from flashinterp.decoding.backends.triton_select import Plan, Workspace, launches

    rows, head, z = _data(sizes)
    logits = z[:, : sizes.vocab]

    def product() -> None:
        torch.mm(rows, head.T, out_dtype=torch.float32, out=logits)

    source = torch.empty(_COPY_BYTES, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    steps = [Step("product", product), Step("copy", lambda: target.copy_(source), 2 * _COPY_BYTES)]
    for label, poles in (("both poles", 2), ("one pole", 1)):
        workspace = Workspace.allocate(sizes.rows, Plan(sizes.vocab, sizes.keep, poles), "cuda")
        parts = launches(z, workspace)
        for part in parts:
            moved = _stats_bytes(sizes, workspace) if part.kernel.__name__ == "stats" else 0
            steps.append(Step(f"{part.kernel.__name__}, {label}", part, moved))

        def selection(parts: tuple[Callable[[], None], ...] = parts) -> None:
            for part in parts:
                part()

        def whole(selection: Callable[[], None] = selection) -> None:
            product()
            selection()

        steps += [Step(f"select, {label}", selection), Step(f"product and select, {label}", whole)]
    return steps


def sweep_steps(sizes: Sizes) -> list[Step]:
    """Other shapes of the programs, both poles: how much one reads, and how many keys a warp searches."""
    from flashinterp.decoding.backends.triton_select import Plan, Workspace, launches

    chosen = chunk_steps(sizes)[:2]
    z = _data(sizes)[2]
    z.normal_()
    for blocks, warps in ((32, 1), (64, 1), (64, 2), (128, 2), (128, 4), (128, 8), (256, 4), (256, 8)):
        workspace = Workspace.allocate(sizes.rows, Plan(sizes.vocab, sizes.keep, 2, blocks, warps), "cuda")
        moved = _stats_bytes(sizes, workspace)
        chosen.append(Step(f"stats, {blocks} blocks, {warps} warps", launches(z, workspace)[0], moved))
    for keys in (256, 512, 1024, 2048):
        workspace = Workspace.allocate(sizes.rows, Plan(sizes.vocab, sizes.keep, keys_per_warp=keys), "cuda")
        parts = launches(z, workspace)
        for part in parts[:2]:
            part()
        chosen += [Step(f"{part.kernel.__name__}, {keys} keys per warp", part) for part in parts[1:3]]
    return chosen


def _data(sizes: Sizes) -> tuple[Tensor, Tensor, Tensor]:
    """Random weights of the usual scale, and a logit buffer padded to whole blocks."""
    generator = torch.Generator("cuda").manual_seed(0)

    def random(n: int) -> Tensor:
        values = torch.randn(n, sizes.width, generator=generator, device="cuda") * 0.02
        return values.bfloat16()

    padded = -(-sizes.vocab // 32) * 32
    return random(sizes.rows), random(sizes.vocab), torch.empty(sizes.rows, padded, device="cuda")


def _stats_bytes(sizes: Sizes, workspace: Any) -> int:
    """Each logit read once; block maxima and masses written once."""
    written: int = sum(t.nbytes for t in (workspace.peaks, workspace.high, workspace.mass))
    return 4 * sizes.rows * sizes.vocab + written


def _table(found: list[Timing]) -> str:
    rows = [
        (t.step, t.ms, f"{t.low:.3f} to {t.high:.3f}", f"{t.ratio:.4f}", t.gb_per_s, t.share_of_copy) for t in found
    ]
    headers = ("step", "ms", "quartiles", "of product", "GB/s", "of copy")
    return tabulate(rows, headers=headers, floatfmt=("", ".3f", "", "", ".0f", ".3f"), missingval="-")


def main() -> None:
    """Time, and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=3584, help="rows of a chunk (default: a quarter of a layer)")
    parser.add_argument("--width", type=int, default=4096, help="hidden size")
    parser.add_argument("--vocab", type=int, default=128_256)
    parser.add_argument("--keep", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=25, help="how often each step is timed (default: %(default)s)")
    parser.add_argument("--sweep", action="store_true", help="time other shapes of the programs instead")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("benchmarks.kernels: torch sees no CUDA GPU; run this on a machine with one")
    sizes = Sizes(options.rows, options.width, options.vocab, options.keep, options.rounds)
    # bf16 products are accumulated in float32 throughout, as the map's are (METHOD section 2).
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    found = timings(sweep_steps(sizes) if options.sweep else chunk_steps(sizes), sizes.rounds)
    device = torch.cuda.get_device_properties(0).name
    if options.json:
        machine = {"device": device, "torch": torch.__version__, "cuda": torch.version.cuda}
        print(json.dumps({**machine, **asdict(sizes), "timings": [asdict(t) for t in found]}, indent=2))
    else:
        flops = 2 * sizes.rows * sizes.width * sizes.vocab
        print(f"{device}, {sizes}: the product runs at {flops / found[0].ms / 1e9:.0f} TFLOP/s\n")
        print(_table(found))


if __name__ == "__main__":
    main()
