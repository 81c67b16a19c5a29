"""How long the image-level bootstrap takes on a table of RefCOCO val's size: 10,834 expressions, 1,500 images.

python benchmarks/bootstrap.py --output results/tables/bootstrap.csv      (a few seconds; bound: 2 s)
"""

import argparse
import csv
import shlex
import statistics
import sys
import time
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd

from magnet.metrics import PROTOCOLS
from magnet.runs import environment
from magnet.statistics import compare, summarize

NUM_ROWS, NUM_IMAGES, NUM_DRAWS, NUM_REPEATS = 10_834, 1_500, 10_000, 5


def made_up_results(seed: int) -> pd.DataFrame:
    generator = np.random.default_rng(seed)
    union = generator.integers(100, 100_000, NUM_ROWS)
    intersection = (union * generator.beta(2, 1, NUM_ROWS)).astype(int)
    iou = PROTOCOLS["original"].iou(intersection, union)
    table = pd.DataFrame({"sent_id": np.arange(NUM_ROWS), "I": intersection, "U": union, "iou": iou})
    return table.assign(image_id=np.arange(NUM_ROWS) % NUM_IMAGES)


def seconds(function, *arguments) -> float:
    """The median of five calls, after one that is not counted."""
    times = []
    for _ in range(NUM_REPEATS + 1):
        start = time.perf_counter()
        function(*arguments, num_draws=NUM_DRAWS)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def measure() -> list[dict]:
    size = f"{NUM_DRAWS} draws, {NUM_ROWS} rows, {NUM_IMAGES} images"
    first, second = made_up_results(0), made_up_results(1)
    values = {
        f"summarize: oIoU, mIoU and P@X, {size}": seconds(summarize, first),
        f"compare: the same, paired, {size}": seconds(compare, first, second),
    }
    about = {
        "command": shlex.join(["python", *sys.argv]),
        "date": date.today().isoformat(),
        "hardware": environment()["processor"],
    }
    return [{"what": what, "value": round(value, 3), "unit": "s", **about} for what, value in values.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="write a CSV with one row per measurement")
    output = parser.parse_args().output
    rows = measure()
    for row in rows:
        print(f"{row['what']}: {row['value']} {row['unit']}")
    if output:
        output.parent.mkdir(parents=True, exist_ok=True)
        with output.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
