"""How long a released file takes to load, and how much memory: a file made to size, 1.19 GB, read once before.

MAGNET_REFERENCE=FOLDER python benchmarks/loading.py --output results/tables/loading.csv      (about a minute)

Its tensors have the names and shapes of the published MagNet (Swin-B, BERT-base) and random values. Each round loads it
in a process of its own; memory is what the process has at most above what it had when its libraries were loaded. A file
of a published name is compared with its published checksum first: that is timed on the same file with its own checksum.
"""

import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from measured import parser, report

from magnet.models.checkpoints import sha256

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from reference.recipe import make_weights, read_shapes

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


def load(path: Path, digest: str = "") -> tuple[float, float]:
    """Seconds and bytes of loading; digest: the published checksum, if there is to be one."""
    command = [sys.executable, "-c", CHILD, str(path), digest]
    said = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    seconds, memory = said.split()[-2:]
    return float(seconds), float(memory)


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--rounds", type=int, default=5)
    options = made.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "magnet.pth"
        torch.save({"model": make_weights(read_shapes("magnet_released_swin-base"))}, path)
        size, digest = path.stat().st_size, sha256(path)
        rounds = [(*load(path), load(path, digest)[0]) for _ in range(options.rounds)]
    seconds, memory, checked = zip(*rounds)
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
