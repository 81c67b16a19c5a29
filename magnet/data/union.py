"""The three training sets as one, without a picture that any of their evaluation splits shows: data.name "union"."""

from pathlib import Path

import pandas as pd

from magnet.data.family import SPLIT_BY, copies
from magnet.data.refer import read_refer

UNION_SPLIT_BY = "umd"  # the only one; held out is what any of theirs does
PARTS = {"refcoco": "unc", "refcoco+": "unc", "refcocog": "umd"}  # how each is split into train and val
WAYS = [(name, split_by) for name in PARTS for split_by in SPLIT_BY[name]]  # all that models are scored on
STEP = 10**8  # between the ids of one set and the next: theirs overlap


def read_union(
    root: Path, polygon_overlap: str = "hole", on_problem: str = "raise", cache: bool = True
) -> pd.DataFrame:
    """The expression table of the training sentences of RefCOCO, RefCOCO+ and RefCOCOg, and of their val splits.

    Left out of train is every picture that any split but train of any of the three holds, google's splits included: a
    model trained on it has seen no picture that it will be scored on. So are pictures of records outside of train that
    on_problem="list" leaves out. Columns: those of `read_refer`, and dataset; sent_id and ref_id are raised by 10^8 for
    RefCOCO+ and by 2·10^8 for RefCOCOg.
    attrs: also left_out, how many training sentences were, of each set; problems and notes are those of every part.
    Raises FileNotFoundError or ValueError where a refs file is missing, or a copy of another under its name, since
    nobody could then say what leaks.
    """
    tables = {way: read_refer(root, *way, polygon_overlap, on_problem, cache) for way in WAYS}
    if same := copies(tables.values()):
        raise ValueError("; ".join(same))
    shown = (table.loc[table["split"] != "train", "image_id"] for table in tables.values())
    held_out = set().union(*shown, *(table.attrs["held_out"] for table in tables.values()))
    parts, left_out = [], {}
    for number, way in enumerate(PARTS.items()):
        table = tables[way]
        leaks = (table["split"] == "train") & table["image_id"].isin(held_out)
        left_out[way[0]] = int(leaks.sum())
        rows = table[table["split"].isin(("train", "val")) & ~leaks]
        ids = {column: rows[column] + number * STEP for column in ("sent_id", "ref_id")}
        parts.append(rows.assign(**ids, dataset=way[0]))
    union = pd.concat([part for part in parts if len(part)] or parts, ignore_index=True)  # empty ones have no types
    facts = {"name": "union", "split_by": UNION_SPLIT_BY, "left_out": left_out}
    union.attrs = {**tables["refcoco", "unc"].attrs, **facts}
    for kind in ("problems", "notes", "held_out"):  # each once: two ways of splitting share their annotations
        union.attrs[kind] = list(dict.fromkeys(one for table in tables.values() for one in table.attrs[kind]))
    return union
