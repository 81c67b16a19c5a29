"""How many RefShapes scenes a second one core makes: in memory, as training draws them, and written to disk.

    python benchmarks/refshapes.py --output results/tables/refshapes.csv     (a minute; bound: 500 scenes/s, 96 px)

Processor time of this process alone, so that other work on the machine does not count; OMP_NUM_THREADS is set to 1.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"

import statistics
import tempfile
import time
from collections.abc import Callable

from measured import parser, report

from magnet.refshapes import sample, write_refshapes
from magnet.refshapes.scene import draw_scene
from magnet.refshapes.write import SIZES

NUM_SCENES, NUM_REPEATS = 1_000, 5


def rate(function: Callable[[int], object], num_calls: int) -> float:
    """Calls per second of processor time: the median of five rounds, each call with its own number."""
    rates = []
    for repeat in range(NUM_REPEATS):
        start = time.process_time()
        for number in range(num_calls):
            function(repeat * num_calls + number)
        rates.append(num_calls / (time.process_time() - start))
    return statistics.median(rates)


def rate_on_disk() -> float:
    """The set `small`, written once by this process alone."""
    with tempfile.TemporaryDirectory() as root:
        start = time.process_time()
        write_refshapes(root, "small", progress=False)
        return sum(SIZES["small"].scenes.values()) / (time.process_time() - start)


def main() -> None:
    options = parser(__doc__).parse_args()
    rows = [
        ("scene, picture, masks and six expressions, 96 px", rate(lambda k: sample(0, k), NUM_SCENES), "scenes/s"),
        ("the same with one expression", rate(lambda k: sample(0, k, num_expressions=1), NUM_SCENES), "scenes/s"),
        ("the same with one expression, 224 px", rate(lambda k: sample(0, k, "train", 224, 1), 200), "scenes/s"),
        ("objects alone", rate(lambda k: draw_scene(0, k), NUM_SCENES), "scenes/s"),
        ("small on disk, REFER files and JPEG pictures, one worker", rate_on_disk(), "scenes/s"),
    ]
    report(rows, options.output)


if __name__ == "__main__":
    main()
