"""How long the checks take once everything is set up.

python benchmarks/tests.py --output results/tables/tests.csv      (bound: 12 minutes)
"""

import subprocess
import time

from measured import parser, report


def main() -> None:
    options = parser(__doc__).parse_args()
    began = time.perf_counter()
    subprocess.run(["make", "test"], check=True)
    report([("make test after set-up", (time.perf_counter() - began) / 60, "min")], options.output)


if __name__ == "__main__":
    main()
