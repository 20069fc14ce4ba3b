"""What the commands that need no model cost, from start to end, beside the import of torch and of NumPy.

Run it as ``python -m benchmarks.start_up``: each command runs in fresh processes, all in turn, and the table gives the
median of its processor seconds, and its ratio to the import of torch of the same round. A first round, which is not
counted, compiles and reads the files. ``--before`` runs the commands of another checkout, too.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from tabulate import tabulate

from fixtures.build import built
from flashinterp.decoding.decode import decode
from flashinterp.models.checkpoint import open_checkpoint

HERE = Path(__file__).parents[1]
TORCH, NUMPY = "import torch", "import numpy"
_START = "import flashinterp.runs.verify.verify, flashinterp.runs.verify.known_derivations as k; k.import_all()"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.start_up", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--before", type=Path, metavar="CHECKOUT", help="another checkout, measured beside this one")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        saved = Path(folder) / "map.safetensors"
        decode(open_checkpoint(built() / "planted")).save(saved)
        commands = _commands(saved, HERE / "fixtures" / "runs" / "v1-decoys", Path(folder))
        checkouts = [HERE, *([asked.before.resolve()] if asked.before else [])]
        found: dict[tuple[str, Path], list[float | None]] = {}
        for _ in range(asked.rounds + 1):
            for name, command in commands.items():
                for checkout in checkouts:
                    found.setdefault((name, checkout), []).append(_seconds(command, checkout, Path(folder)))
    headers = ["command", "CPU s", "ratio to `import torch`"]
    headers += ["before the change, CPU s", "ratio"] if asked.before else []
    rows = [[f"`{name}`", *(cell for one in checkouts for cell in _cells(found, name, one))] for name in commands]
    where = f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, Python {sys.version.split()[0]}"
    print(f"{where}; medians of {asked.rounds} rounds\n")
    print(tabulate(rows, headers, tablefmt="github", floatfmt=".2f", missingval="–"))


def _commands(saved: Path, run: Path, folder: Path) -> dict[str, list[str]]:
    """Name to Python's arguments."""
    given: dict[str, list[str]] = {
        "--help": ["--help"],
        "find --help": ["find", "--help"],
        "completion bash": ["completion", "bash"],
        "find MAP WORD": ["find", str(saved), " dog"],
        "neuron MAP NEURON": ["neuron", str(saved), "L1N17"],
        "compare MAP MAP": ["compare", str(saved), str(saved)],
        "export MAP": ["export", str(saved), "-o", str(folder / "labels.csv")],
        "diff RUN RUN": ["diff", str(run), str(run)],
        "report RUN": ["report", str(run)],
        "verify RUN": ["verify", str(run)],
    }
    commands = {TORCH: ["-c", TORCH], NUMPY: ["-c", NUMPY]}
    commands |= {name: ["-m", "flashinterp", *arguments] for name, arguments in given.items()}
    return commands | {"verify, its imports": ["-c", _START]}


def _seconds(arguments: list[str], checkout: Path, folder: Path) -> float | None:
    """The processor's seconds of one process, its own and the system's; None where it failed."""
    environment = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    process = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return used.ru_utime + used.ru_stime if process.returncode == 0 else None


def _cells(found: dict[tuple[str, Path], list[float | None]], name: str, checkout: Path) -> list[float | None]:
    """The median of a command, and of its ratios to the import of torch; the first round is left out."""
    both = list(zip(found[name, checkout][1:], found[TORCH, checkout][1:], strict=True))
    pairs = [(own, torch) for own, torch in both if own is not None and torch is not None]
    return [median(own for own, _ in pairs), median(own / torch for own, torch in pairs)] if pairs else [None, None]


if __name__ == "__main__":
    main()
