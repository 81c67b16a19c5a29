"""How long the image-level bootstrap takes on a table of RefCOCO val's size: 10,834 expressions, 1,500 images.

python benchmarks/bootstrap.py --output results/tables/bootstrap.csv      (a few seconds; bound: 2 s)
"""

import statistics
import time

import numpy as np
import pandas as pd
from measured import parser, report

from magnet.metrics import PROTOCOLS
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


def main() -> None:
    options = parser(__doc__).parse_args()
    size = f"{NUM_DRAWS} draws, {NUM_ROWS} rows, {NUM_IMAGES} images"
    first, second = made_up_results(0), made_up_results(1)
    rows = [
        (f"summarize: oIoU, mIoU and P@X, {size}", seconds(summarize, first), "s"),
        (f"compare: the same, paired, {size}", seconds(compare, first, second), "s"),
    ]
    report(rows, options.output)


if __name__ == "__main__":
    main()
