"""How fast the failure explorer is on a table of RefCOCO val's size: 10,834 answers from a data set of its size.

    python benchmarks/explorer.py --output results/tables/explorer.csv      (minutes; bounds: opens 2 s, filters 0.1 s)

The data set is that of benchmarks/data_index.py, with 142,210 expressions and no picture files, so grey stands in for
pictures of 640 x 480. Each answer is the truth of another expression. Opening is timed in fresh processes, libraries
loaded: once with nothing computed yet, then from the files that the first one leaves. Seconds are processor time, so
other work on the machine does not count.
"""

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from data_index import make
from measured import parser, report

from magnet.data import read_refer, select_split

NUM_ROWS, NUM_ROUNDS, NUM_OPENED = 10_834, 20, 3

CHILD = """
import json, statistics, sys, time
from pathlib import Path
from magnet.data import read_refer
from magnet.evaluate import read_results
from magnet.explore import FailureExplorer
from magnet.explore.failures import read_failures

path, root, num_rounds = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
began = time.process_time()
failures = read_failures(read_results(path), read_refer(root, "made", "unc"), folder=path.parent, progress=False)
explorer = FailureExplorer(failures)
opened = time.process_time() - began
draw, filters, drawn = explorer._draw, [], []
explorer._draw = lambda row: None
for number in range(num_rounds):
    began = time.process_time()
    explorer.filters.text.value = f"word{number}"
    filters.append(time.process_time() - began)
for row in explorer.rows[1:num_rounds + 1].tolist() or range(1, num_rounds + 1):
    began = time.process_time()
    draw(row)
    drawn.append(time.process_time() - began)
middle, most = statistics.median(filters), max(filters)
found = {"opened": opened, "filter": middle, "most": most, "drawn": statistics.median(drawn)}
print(json.dumps(found))
"""


def make_results(root: str, path: Path) -> None:
    """Answers to the first 10,834 expressions of val, each the truth of the one three places on."""
    expressions = select_split(read_refer(root, "made", "unc"), "val").iloc[:NUM_ROWS]
    rng = np.random.default_rng(0)
    results = expressions.drop(columns=["ann_id", "category_id", "split", "file"])
    results = results.assign(rle=np.roll(expressions["rle"], -3), iou=rng.beta(2, 1, len(expressions)))
    results.attrs = {key: expressions.attrs[key] for key in ("name", "split_by", "polygon_overlap")} | {"split": "val"}
    results.to_parquet(path)


def measure() -> list[tuple[str, float, str]]:
    with tempfile.TemporaryDirectory() as root:
        folder, path = Path(root) / "made", Path(root) / "explore" / "results.parquet"
        folder.mkdir()
        path.parent.mkdir()
        make(folder)
        make_results(root, path)
        command = [sys.executable, "-c", CHILD, str(path), root, str(NUM_ROUNDS)]
        said = (subprocess.run(command, check=True, capture_output=True).stdout for _ in range(NUM_OPENED + 1))
        first, *others = [json.loads(line) for line in said]
    median = {name: statistics.median(one[name] for one in others) for name in first}
    return [
        (f"opens, error kinds computed, {NUM_ROWS} rows", first["opened"], "s"),
        (f"opens, error kinds kept, {NUM_ROWS} rows", median["opened"], "s"),
        ("filters, median", median["filter"], "s"),
        ("filters, most", max(one["most"] for one in others), "s"),
        ("draws an answer of 640 x 480", median["drawn"], "s"),
    ]


def main() -> None:
    output = parser(__doc__).parse_args().output
    report(measure(), output)


if __name__ == "__main__":
    main()
