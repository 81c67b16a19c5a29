"""What every benchmark shares: its command line and the CSV it leaves, one row a measurement."""

import argparse
import csv
import shlex
import sys
from datetime import date
from pathlib import Path

from magnet.runs import environment


def parser(description: str) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--output", type=Path, help="write a CSV with one row per measurement")
    return made


def report(rows: list[tuple[str, float, str]], output: Path | None) -> None:
    """Print (what, value, unit) rows and, with `output`, write them with command, date, hardware and commit."""
    about = environment()
    made = {
        "command": shlex.join(["python", *sys.argv]),
        "date": date.today().isoformat(),
        "hardware": ", ".join([about["processor"], *about["gpus"]]),
        "torch": about["packages"]["torch"],
        "commit": about["commit"],
    }
    for what, value, unit in rows:
        print(f"{what}: {value:.4g} {unit}")
    if output:
        output.parent.mkdir(parents=True, exist_ok=True)
        with output.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["what", "value", "unit", *made])
            writer.writeheader()
            writer.writerows(
                {"what": what, "value": f"{value:.4g}", "unit": unit, **made} for what, value, unit in rows
            )
