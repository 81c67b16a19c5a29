"""How many ways of servers, archives and disks to misbehave are tried: each must end in a clear error or a recovery.

python benchmarks/hostile.py --output results/tables/hostile.csv        (half a minute)

Runs the tests that are marked `hostile("server")`, `hostile("archive")` or `hostile("disk")` and counts them, and those
that pass. A case is a test with one set of its parameters.
"""

from collections import Counter

import pytest
from measured import parser, report

FILES = "tests/unit/test_fetch.py", "tests/unit/test_download.py"


class Count:
    """A plugin of pytest: which cases there were, and which of them passed."""

    def __init__(self):
        self.what, self.passed = {}, []

    def pytest_collection_finish(self, session):
        self.what = {item.nodeid: item.get_closest_marker("hostile").args[0] for item in session.items}

    def pytest_runtest_logreport(self, report):
        if report.when == "call" and report.passed:
            self.passed.append(self.what[report.nodeid])


def main() -> None:
    options, count = parser(__doc__).parse_args(), Count()
    pytest.main(["-m", "hostile", *FILES], plugins=[count])
    rows = [("cases", len(count.what), "count"), ("passed", len(count.passed), "count")]
    for what, number in sorted(Counter(count.passed).items()):
        rows.append((f"passed, {what}", number, "count"))
    report(rows, options.output)


if __name__ == "__main__":
    main()
