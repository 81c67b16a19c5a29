"""How long what must pass before a change lands takes, set-up included: .ci/run in a fresh clone.

python benchmarks/tests.py --output results/tables/tests.csv      (half an hour; bounds: tests 12, the whole 40 minutes)

What is committed is checked, nothing else. Set MAGNET_REAL_DATA and MAGNET_REFERENCE for the tests that need them.
"""

import re
import subprocess
import tempfile
import time
from pathlib import Path

import pandas as pd
from measured import parser, report

ROOT = Path(__file__).parents[1]


def check(clone: Path) -> tuple[float, float]:
    """Minutes of the whole, and of its tests by pytest's own last line."""
    subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=True)
    began, said = time.perf_counter(), []
    with subprocess.Popen(["bash", ".ci/run"], cwd=clone, stdout=subprocess.PIPE, text=True) as running:
        for line in running.stdout:
            print(line, end="", flush=True)
            said.append(line)
    if running.returncode:
        raise SystemExit(running.returncode)
    (seconds,) = re.findall(r"passed.* in ([\d.]+)s", "".join(said))
    return (time.perf_counter() - began) / 60, float(seconds) / 60


def main() -> None:
    output = parser(__doc__).parse_args().output
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "main"
        whole, tests = check(clone)
        notebooks = pd.read_csv(clone / "results" / "tables" / "notebooks.csv").query("smoke")
    rows = [
        (".ci/run in a fresh clone", whole, "min"),
        ("tests", tests, "min"),
        ("notebooks and solutions, smoke mode", notebooks["minutes"].sum(), "min"),
        ("the same, the largest peak of a kernel's memory", notebooks["peak_gb"].max(), "GB"),
    ]
    report(rows, output)


if __name__ == "__main__":
    main()
