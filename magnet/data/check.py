"""A data set looked at as a whole: all that is wrong with it, and what is worth knowing before it is used."""

import warnings
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from magnet.data.dataset import check_images
from magnet.data.family import SPLIT_BY, copies, leaks, miscounted, num_repeated, shared_images
from magnet.data.files import find_refs
from magnet.data.refer import data_root, read_refer
from magnet.data.union import WAYS


class Findings(NamedTuple):
    """What `check_data` found: the table of the records that fit, problems of each kind, and notes."""

    table: pd.DataFrame
    problems: dict[str, list[str]]  # "files", "numbers", "records", "pictures" -> a line each
    notes: list[str]


def check_data(root: str | Path | None, name: str, split_by: str) -> Findings:
    """Read a data set past every record that does not fit, compare its numbers, and open every picture.

    root, name, split_by: as in `read_refer`. Of the union the numbers are those of its parts. Raises FileNotFoundError
    or ValueError where a whole file is missing or damaged, or one of the union's is a copy of another.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"\d+ records ")  # what they say is in the lists
        table = read_refer(root, name, split_by, on_problem="list")
        others, notes = _others(root, name, split_by)
        numbers = _numbers(root, table)
    siblings = [other for other in others.values() if other.attrs["name"] == name]
    problems = {
        "files": copies([table, *siblings]),
        "numbers": numbers,
        "records": table.attrs["problems"],
        "pictures": check_images(table),
    }
    shared = (shared_images(table) | leaks(table, others)).items()
    notes += [f"{number:,} images of {other} are training images, too" for other, number in shared]
    if repeated := num_repeated(table):
        notes.append(f"{repeated:,} sentences repeat another about the same object; all are scored, as is usual")
    return Findings(table, problems, notes + table.attrs["notes"])


def _numbers(root: str | Path | None, table: pd.DataFrame) -> list[str]:
    if table.attrs["name"] != "union":
        return miscounted(table)
    parts = {" ".join(way): read_refer(root, *way, on_problem="list") for way in WAYS}
    return [f"{part}: {line}" for part in parts for line in miscounted(parts[part])]


def _others(root: str | Path | None, name: str, split_by: str) -> tuple[dict[str, pd.DataFrame], list[str]]:
    """The other tables of the RefCOCO family that are there, where this is one of the family; notes about the rest."""
    ways = [(other, by) for other in SPLIT_BY for by in SPLIT_BY[other]] if name in SPLIT_BY else []
    there = [way for way in ways if way != (name, split_by) and find_refs(data_root(root) / way[0], way[1])]
    tables, notes = {}, []
    for label, way in ((" ".join(way), way) for way in there):
        try:
            tables[label] = read_refer(root, *way, on_problem="list")
        except (ValueError, OSError) as error:
            notes.append(f"which images {label} is scored on is unknown: {error}")
        else:
            num = len(tables[label].attrs["problems"])
            notes += [f"{label} has {num} problems of its own: magnet data check lists them"] if num else []
    return tables, notes
