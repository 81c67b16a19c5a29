"""Which rows of a table of answers are shown, in which order, and on which page.

rows = select(table, Filter(kinds=("wrong_instance",), tags=("relation",), high=0.1))     # positions in the table
page(rows, 0, 20)                                                                         # the first twenty
"""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import pandas as pd

MOST_VALUES = 100  # a column of words with more is no tag
NOT_TAGS = ("text", "rle", "error", "file", "other_reading", "program", "split", "picked_right")


@dataclass(frozen=True, kw_only=True)
class Filter:
    """All of it must hold; left out, everything does.

    text: part of the sentence, in any case. kinds: one of these error kinds. tags: all of these (see `tag_masks`).
    low, high: IoU, 0 to 1, both ends included. sent_ids: only these, or None. sort: a column of the table; rows with
    the same value keep the table's order.
    """

    text: str = ""
    kinds: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    low: float = 0.0
    high: float = 1.0
    sent_ids: Collection[int] | None = None
    sort: str = "iou"
    descending: bool = False


def tag_masks(table: pd.DataFrame) -> dict[str, np.ndarray]:
    """Tag -> which rows have it, bool (N,): "relation" for has_relation, "area size: small", "kind: location".

    Tags are the table's columns of truth values, and its columns of words with at most 100 different ones.
    """
    columns = [column for column in table if column not in NOT_TAGS]
    yes_no = [column for column in columns if pd.api.types.is_bool_dtype(table[column])]
    masks = {_spoken(column): table[column].to_numpy(bool) for column in yes_no}
    for column in columns:
        if not pd.api.types.is_string_dtype(table[column]) or table[column].nunique() > MOST_VALUES:
            continue
        for value in sorted(table[column].dropna().unique()):
            masks[f"{_spoken(column)}: {value}"] = (table[column] == value).to_numpy(bool)
    return masks


def distinct(masks: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Of tags that the same rows have ("ordinal", "kind: ordinal") the first."""
    first = {has.tobytes(): tag for tag, has in reversed(masks.items())}
    return {tag: has for tag, has in masks.items() if first[has.tobytes()] == tag}


def select(table: pd.DataFrame, wanted: Filter, masks: dict[str, np.ndarray] | None = None) -> np.ndarray:
    """Positions (n,) of the rows that a filter lets through, in its order.

    Args: masks: those of `tag_masks`, where they are at hand.
    Raises ValueError for a tag, or a column to sort by, that the table does not have.
    """
    chosen = table["iou"].between(wanted.low, wanted.high).to_numpy(bool, copy=True)
    if wanted.text.strip():
        chosen &= table["text"].str.contains(wanted.text.strip(), case=False, regex=False).to_numpy(bool)
    if wanted.kinds:
        chosen &= _column(table, "error").isin(wanted.kinds).to_numpy()
    if wanted.sent_ids is not None:
        chosen &= table["sent_id"].isin(list(wanted.sent_ids)).to_numpy()
    masks = tag_masks(table) if masks is None and wanted.tags else masks
    for tag in wanted.tags:
        chosen &= _found(masks, tag)
    rows = np.flatnonzero(chosen)
    keys = _column(table, wanted.sort).to_numpy()[rows]
    order = np.argsort(-keys if wanted.descending else keys, kind="stable")
    return rows[order]


def num_pages(rows: np.ndarray, size: int) -> int:
    """At least 1: of nothing, the one page is empty."""
    return max(1, -(-len(rows) // size))


def page(rows: np.ndarray, number: int, size: int) -> np.ndarray:
    """The rows of page `number`, counted from 0."""
    return rows[number * size : (number + 1) * size]


def _spoken(column: str) -> str:
    return column.removeprefix("has_").replace("_", " ")


def _column(table: pd.DataFrame, name: str) -> pd.Series:
    if name not in table:
        raise ValueError(f"the table has no column {name!r}; it has {', '.join(table.columns)}")
    return table[name]


def _found(masks: dict[str, np.ndarray], tag: str) -> np.ndarray:
    if tag not in masks:
        raise ValueError(f"no tag {tag!r}; there are {', '.join(masks)}")
    return masks[tag]
