"""How long a released file takes to load, and how much memory: a file made to size, 1.19 GB, read once before.

python benchmarks/loading.py --shapes $MAGNET_REFERENCE/magnet_released_swin-base_state_dict.json --output FILE

Its tensors have the names and shapes of the published MagNet (Swin-B, BERT-base) and random values. Each round loads it
in a process of its own; memory is what the process has at most above what it had when its libraries were loaded. Files
of a published name are compared with the published checksum first: timed on the same file, with its own as published.
"""

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from measured import parser, report

from magnet.models.checkpoints import sha256

CHILD = """
import resource, sys, time
import psutil
import magnet, magnet.models.released
from magnet.models.checkpoints import KNOWN, Known
KNOWN["magnet.pth"] = Known(sys.argv[2] or None, "refcoco", "unc")
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


def load(path: Path, digest: str = "") -> tuple[float, float]:
    """Seconds and bytes of loading; digest: its published checksum, if it shall be compared."""
    command = [sys.executable, "-c", CHILD, str(path), digest]
    said = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds, memory = said.stdout.split()[-2:]
    return float(seconds), float(memory)


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--shapes", type=Path, required=True)
    made.add_argument("--rounds", type=int, default=5)
    options = made.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "magnet.pth"
        size, digest = make_file(options.shapes, path), sha256(path)
        rounds = [(*load(path), load(path, digest)[0]) for _ in range(options.rounds)]
    seconds, memory, checked = zip(*rounds)
    sys.argv[sys.argv.index(str(options.shapes))] = options.shapes.name  # where it lies is nobody's business
    rows = [
        ("size of the file", size / 1e9, "GB"),
        ("loading, median", statistics.median(seconds), "s"),
        ("loading, most", max(seconds), "s"),
        ("with its checksum, median", statistics.median(checked), "s"),
        ("with its checksum, most", max(checked), "s"),
        ("memory, most", max(memory) / 1e9, "GB"),
        ("memory over the size of the file, most", max(memory) / size, "ratio"),
    ]
    report(rows, options.output)


if __name__ == "__main__":
    main()
