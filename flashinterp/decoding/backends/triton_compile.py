"""Compile every kernel for a named architecture, without a GPU, and report what it takes of the register file.

``python -m flashinterp.decoding.backends.triton_compile`` prints the table. A kernel that spills still gives the right
answer, only slowly, and no test of values can see it; this is where it shows.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
import triton
from tabulate import tabulate
from torch import Tensor
from triton import JITFunction
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from flashinterp.decoding.backends.triton_select import Launch, Plan, Workspace, launches

ARCHITECTURES = (80, 89, 90)  # A100; RTX 4090 and L40S; H100 and H200
PRODUCTION = {
    "Llama 3.1": Plan(vocab=128_256, keep=100),
    "Llama 3.1, one pole": Plan(vocab=128_256, keep=100, poles=1),
    "Llama 2": Plan(vocab=32_000, keep=100),
    "Gemma 3": Plan(vocab=262_144, keep=100),
}
"""The sizes that must compile well; keep = 10 takes the same code, because a score needs 100 tokens."""
_TYPES = {torch.float32: "*fp32", torch.int32: "*i32", torch.int64: "*i64"}
_ROWS = 3584  # as launched for Llama 3.1: a quarter of a layer


@dataclass(frozen=True)
class Compiled:
    """One kernel for one architecture.

    Attributes:
        kernel: its name.
        plan: the first of the named sizes that takes this code.
        arch: compute capability times ten.
        warps: per program.
        registers: per thread.
        stack: bytes per thread; not 0 where registers spill.
        local: bytes of local memory per thread.
        spills: instructions that store to or load from local memory.
        shared: bytes of shared memory per program.
        instructions: in the whole kernel, each loop body once.
    """

    kernel: str
    plan: str
    arch: int
    warps: int
    registers: int
    stack: int
    local: int
    spills: int
    shared: int
    instructions: int


def compile_all(arch: int, plans: dict[str, Plan] | None = None) -> list[Compiled]:
    """Compile each kernel that `select` launches for the given plans (default: PRODUCTION), equal code once.

    Args:
        arch: compute capability times ten, as in 90.
        plans: named sizes.

    Raises:
        RuntimeError: the kernels were imported under TRITON_INTERPRET, or a tool of Triton's package failed.
    """
    done: dict[str, Compiled] = {}
    for name, plan in (plans or PRODUCTION).items():
        for launch in _launches(plan):
            source = _source(launch)
            key = f"{source.hash()} {launch.warps}"
            if key not in done:
                done[key] = _compile(source, launch, name, arch)
    return list(done.values())


def _launches(plan: Plan) -> tuple[Launch, ...]:
    """What `select` would launch, on tensors without storage."""
    z = torch.empty(_ROWS, plan.n_blocks * 32, device="meta")
    return launches(z, Workspace.allocate(_ROWS, plan, "meta"))


def _source(launch: Launch) -> Any:
    """The kernel specialised as a launch specialises it: 1 is a constant, multiples of 16 and pointers are marked."""
    if not isinstance(launch.kernel, JITFunction):
        raise RuntimeError("the kernels were imported under TRITON_INTERPRET: unset it to compile them")
    signature, constants, attributes = {}, {}, {}
    for number, parameter in enumerate(launch.kernel.params):
        value = launch.arguments[parameter.name]
        plain = parameter.do_not_specialize
        if parameter.is_constexpr or (isinstance(value, int) and value == 1 and not plain):
            signature[parameter.name], constants[parameter.name] = "constexpr", value
            continue
        signature[parameter.name] = _TYPES[value.dtype] if isinstance(value, Tensor) else "i32"
        if isinstance(value, Tensor) or (value % 16 == 0 and not plain):
            attributes[(number,)] = [["tt.divisibility", 16]]
    return ASTSource(launch.kernel, signature, constants, attributes)


def _compile(source: Any, launch: Launch, plan: str, arch: int) -> Compiled:
    options = {"num_warps": launch.warps, "enable_fp_fusion": True}
    binary = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernel.cubin"
        cubin.write_bytes(binary.asm["cubin"])
        usage, code = _tool("--dump-resource-usage", cubin), _tool("--dump-sass", cubin)
    counts = {key: int(value) for key, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", usage)}
    operations = re.findall(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@\S+\s+)?([A-Z]\w*)", code, re.MULTILINE)
    return Compiled(
        kernel=launch.kernel.__name__,
        plan=plan,
        arch=arch,
        warps=launch.warps,
        registers=counts["REG"],
        stack=counts["STACK"],
        local=counts["LOCAL"],
        spills=sum(operation in ("LDL", "STL") for operation in operations),
        shared=binary.metadata.shared,
        instructions=len(operations),
    )


def _tool(option: str, cubin: Path) -> str:
    """What the cuobjdump of Triton's own package says about a binary."""
    program = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    run = subprocess.run([str(program), option, str(cubin)], capture_output=True, text=True, check=False)
    if run.returncode:
        raise RuntimeError(f"cuobjdump {option} failed: {(run.stderr or run.stdout).strip()}; check the triton package")
    return run.stdout


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table for the given architectures, or for 80, 89 and 90."""
    chosen = [int(a) for a in (sys.argv[1:] if arguments is None else arguments)] or ARCHITECTURES
    found = [row for arch in chosen for row in compile_all(arch)]
    names = [field.name for field in fields(Compiled)]
    print(tabulate([[getattr(row, name) for name in names] for row in found], headers=names))


if __name__ == "__main__":
    main()
