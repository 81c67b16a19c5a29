"""How many RefShapes scenes a second one core makes: in memory, as training draws them, and written to disk.

    python benchmarks/refshapes.py --output results/tables/refshapes.csv     (half a minute; bound: 500 scenes/s, 96 px)

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

NUM_SCENES, NUM_REPEATS, WRITTEN = 1_000, 5, 72


def rate(function: Callable[[int], object], num_calls: int, num_scenes: int = 1) -> float:
    """Scenes per second of processor time: the median of five rounds of calls, each with its number."""
    rates = []
    for repeat in range(NUM_REPEATS):
        start = time.process_time()
        for number in range(num_calls):
            function(repeat * num_calls + number)
        rates.append(num_calls * num_scenes / (time.process_time() - start))
    return statistics.median(rates)


def write_small(number: int) -> None:
    """The mini set: its splits in other proportions than small's, the same work for each scene."""
    with tempfile.TemporaryDirectory() as root:
        write_refshapes(root, "mini", seed=number, progress=False)


def main() -> None:
    options = parser(__doc__).parse_args()
    rows = [
        ("scene, picture, masks and six expressions, 96 px", rate(lambda k: sample(0, k), NUM_SCENES), "scenes/s"),
        ("the same with one expression", rate(lambda k: sample(0, k, num_expressions=1), NUM_SCENES), "scenes/s"),
        ("the same with one expression, 224 px", rate(lambda k: sample(0, k, "train", 224, 1), 200), "scenes/s"),
        ("objects alone", rate(lambda k: draw_scene(0, k), NUM_SCENES), "scenes/s"),
        ("REFER files and pictures on disk, 96 px, one worker", rate(write_small, 5, WRITTEN), "scenes/s"),
    ]
    report(rows, options.output)


if __name__ == "__main__":
    main()
