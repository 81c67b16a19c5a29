"""How long a released file takes to load, and how much memory: a file made to size, 1.19 GB, read once before.

python benchmarks/loading.py --shapes $MAGNET_REFERENCE/magnet_released_swin-base_state_dict.json

Its tensors have the names and shapes of the published MagNet (Swin-B, BERT-base) and random values. Each round loads it
in a process of its own; memory is what the process has at most above what it had when its libraries were loaded.
"""

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd

from magnet.workbench.benchmark import write_table

CHILD = """
import resource, sys, time
import psutil
import magnet, magnet.models.released
before, began = psutil.Process().memory_info().rss, time.perf_counter()
magnet.load_released(sys.argv[1])
print(time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before)
"""


def make_file(shapes: Path, path: Path) -> int:
    """Write the checkpoint; its size in bytes."""
    import torch

    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for name, (shape, kind) in json.loads(shapes.read_text()).items():
        dtype = getattr(torch, kind.removeprefix("torch."))
        tensors[name] = torch.zeros(shape, dtype=dtype)
        if dtype.is_floating_point:
            tensors[name].normal_(std=0.02, generator=generator)
    torch.save({"model": tensors}, path)
    return path.stat().st_size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, default=Path("results/tables/loading.csv"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "magnet.pth"
        size, rows = make_file(options.shapes, path), []
        for _ in range(options.rounds):
            found = subprocess.run([sys.executable, "-c", CHILD, str(path)], capture_output=True, text=True, check=True)
            seconds, memory = map(float, found.stdout.split()[-2:])
            rows.append({"seconds": seconds, "memory_gb": memory / 1e9})
    table = pd.DataFrame(rows)
    summary = pd.DataFrame(
        [{"file_gb": size / 1e9, "rounds": len(table), "seconds_least": table["seconds"].min(),
          "seconds_median": table["seconds"].median(), "memory_gb": table["memory_gb"].max(),
          "memory_over_file": table["memory_gb"].max() * 1e9 / size}]
    )  # fmt: skip
    print(summary.round(3).T.to_string())
    command = shlex.join(["python", "benchmarks/loading.py", "--shapes", options.shapes.name])
    write_table(summary, options.output, command)


if __name__ == "__main__":
    main()
