"""What the loader costs: training on fresh scenes against one cached batch repeated, in turns; and `import magnet`.

python benchmarks/training.py --output results/tables/training.csv      (about 2 minutes; bounds: 0.9 and 0.5 s)
"""

import statistics
import subprocess
import sys
import tempfile
import time
from itertools import repeat
from pathlib import Path

import torch
from accelerate import Accelerator
from measured import parser, report

import magnet
from magnet import runs, train

NUM_ROUNDS, NUM_STEPS = 16, 12  # together the 192 steps of one block of scenes: drawn in the first 32, kept after


def seconds_of_steps(trainer: train.Trainer, batches) -> float:
    began = time.perf_counter()
    for _ in range(NUM_STEPS):
        trainer._train_step([next(batches)])
    return time.perf_counter() - began


def loader_rows(folder: str) -> list[tuple[str, float, str]]:
    runs.ROOT = Path(folder)
    config = magnet.recipe("lavt_tiny")
    trainer = train.Trainer(runs.open_run(config), Accelerator(), None)
    loaded = iter(trainer._loader(trainer._sampler()))
    cached = repeat(next(loaded))
    seconds_of_steps(trainer, cached)  # not counted
    pairs = [(seconds_of_steps(trainer, loaded), seconds_of_steps(trainer, cached)) for _ in range(NUM_ROUNDS)]
    loaded_seconds, cached_seconds = (sum(seconds) for seconds in zip(*pairs))
    batch = config.optim.batch_size * NUM_STEPS
    return [
        ("lavt_tiny training with the loader", batch * NUM_ROUNDS / loaded_seconds, "images/s"),
        ("lavt_tiny training on one cached batch", batch * NUM_ROUNDS / cached_seconds, "images/s"),
        ("speed with the loader / cached, over a block of scenes", cached_seconds / loaded_seconds, "ratio"),
        ("lavt_tiny precision is bfloat16", float(trainer.precision == "bfloat16"), "0 or 1"),
        ("lavt_tiny parameters", sum(p.numel() for p in trainer.objective.parameters()), "count"),
    ]


def import_seconds() -> float:
    """Median of seven fresh interpreters importing magnet, less that of as many importing nothing."""
    medians = []
    for code in ("import magnet", "pass"):
        times = []
        for _ in range(7):
            began = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True)
            times.append(time.perf_counter() - began)
        medians.append(statistics.median(times))
    return medians[0] - medians[1]


def main() -> None:
    options = parser(__doc__).parse_args()
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        rows = loader_rows(folder)
    report([*rows, ("import magnet", import_seconds(), "s")], options.output)


if __name__ == "__main__":
    main()
