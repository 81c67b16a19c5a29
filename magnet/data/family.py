"""The RefCOCO family: what its data sets hold when they are whole, which refs file is not what its name says, and
which pictures would leak."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations

import pandas as pd

SPLIT_BY = {"refcoco": ("unc", "google"), "refcoco+": ("unc",), "refcocog": ("umd", "google"), "grefcoco": ("unc",)}
COUNTS = {  # objects, images, expressions of each split; None: nobody published it
    ("refcoco", "unc"): {"train": (42404, 16994, 120624), "val": (3811, 1500, 10834), "testA": (1975, 750, 5657),
                         "testB": (1810, 750, 5095)},
    ("refcoco+", "unc"): {"train": (42278, 16992, 120191), "val": (3805, 1500, 10758), "testA": (1975, 750, 5726),
                          "testB": (1798, 750, 4889)},
    ("refcocog", "umd"): {"train": (42226, 21899, 80512), "val": (2573, 1300, 4896), "test": (5023, 2600, 9602)},
    ("refcocog", "google"): {"train": (44822, 24698, None), "val": (5000, 4650, 9536)},
}  # fmt: skip
COUNTED = {"objects": ("ref_id", "nunique"), "images": ("image_id", "nunique"), "expressions": ("sent_id", "size")}


def count(table: pd.DataFrame) -> pd.DataFrame:
    """Objects, images and expressions of each split, a row each, in the table's order."""
    return table.groupby("split", sort=False).agg(**COUNTED)


def miscounted(table: pd.DataFrame) -> list[str]:
    """Where an expression table has other numbers than the data set has, a line each; nothing for unknown sets."""
    known, found = COUNTS.get((table.attrs.get("name"), table.attrs.get("split_by")), {}), count(table)
    lines = [
        f"split {split!r} is not one of {', '.join(known)}" for split in found.index if known and split not in known
    ]
    for split, numbers in known.items():
        for what, number in zip(COUNTED, numbers):
            here = int(found.at[split, what]) if split in found.index else 0
            if number not in (None, here):
                lines.append(f"{split}: {here:,} {what}, not {number:,}")
    return lines


def copies(tables: Iterable[pd.DataFrame]) -> list[str]:
    """Ways of splitting a data set that are one and the same, a line for each two: a leak would not be seen."""
    pairs = combinations((table for table in tables if len(table)), 2)
    return [
        f"{one.attrs['refs']} and {other.attrs['refs']} put the same objects into the same splits: one is a copy of the"
        f" other under a wrong name; move both away, `magnet data download {one.attrs['name']} --root"
        f" {one.attrs['root']}` fetches them"
        for one, other in pairs
        if one.attrs["name"] == other.attrs["name"] and _assignment(one) == _assignment(other)
    ]


def _assignment(table: pd.DataFrame) -> set[tuple[int, str]]:
    return set(zip(table["ref_id"], table["split"]))


def shared_images(table: pd.DataFrame, train_splits: Sequence[str] = ("train",)) -> dict[str, int]:
    """Split -> how many of its images are training images, too, of the same table; only those with any."""
    seen = set(table.loc[table["split"].isin(train_splits), "image_id"])
    others = table[~table["split"].isin(train_splits) & table["image_id"].isin(seen)]
    return others.groupby("split", sort=False)["image_id"].nunique().to_dict()


def leaks(table: pd.DataFrame, others: Mapping[str, pd.DataFrame], train_split: str = "train") -> dict[str, int]:
    """Name of another table and its split -> how many of this table's training images it shows there; only those with
    any. A model trained here has seen them when it is scored there."""
    seen, found = set(table.loc[table["split"] == train_split, "image_id"]), {}
    for name, other in others.items():
        shown = other[(other["split"] != train_split) & other["image_id"].isin(seen)]
        counts = shown.groupby("split", sort=False)["image_id"].nunique()
        found |= {f"{name} {split}": int(number) for split, number in counts.items()}
    return found


def num_repeated(table: pd.DataFrame) -> int:
    """How many sentences say of an object what another sentence has said of it already, word by word."""
    return int(table.assign(text=table["text"].str.lower().str.strip()).duplicated(["ref_id", "text"]).sum())
