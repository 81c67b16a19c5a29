"""Two models on the same expressions: where one is right and the other wrong, and for which tags they differ.

rows = outcomes(a.table, b.table)                         # "a alone", "b alone", "both", "neither" of each row of a
differences_by_tag(a.table, b.table)                      # mIoU a − b, points, with 95 % intervals over pictures
"""

import numpy as np
import pandas as pd

import magnet
from magnet.explore.filters import distinct, tag_masks
from magnet.metrics import find_protocol
from magnet.workbench.errors import RIGHT
from magnet.workbench.intervals import with_intervals

OUTCOMES = ("a alone", "b alone", "both", "neither")  # who is right


def outcomes(table_a: pd.DataFrame, table_b: pd.DataFrame) -> np.ndarray:
    """One of OUTCOMES (N,) for each row of `table_a`: who has P@0.5's right under the tables' protocol.

    Raises ValueError where expressions, truth or protocol differ.
    """
    other = aligned(table_a, table_b)
    protocol = find_protocol(table_a.attrs.get("protocol", "original"))
    a, b = (protocol.hits(table["iou"], RIGHT) for table in (table_a, other))
    return np.select([a & ~b, b & ~a, a & b], OUTCOMES[:3], OUTCOMES[3])


def differences_by_tag(table_a: pd.DataFrame, table_b: pd.DataFrame, num_draws: int = 10_000) -> pd.DataFrame:
    """mIoU of a less that of b, all and by tag, most in favour of b first: value, low, high (points), n (expressions).
    Of tags that the same sentences have, the first stands for all.

    Paired: both sides of a draw use the same pictures. Intervals are those of single tags: of twenty tags without a
    difference, about one excludes 0 by chance.
    Raises ValueError where expressions, truth or protocol differ.
    """
    other = aligned(table_a, table_b)
    gain = table_a["iou"].to_numpy(float) - other["iou"].to_numpy(float)
    tags = {tag: has for tag, has in distinct(tag_masks(table_a)).items() if has.any()}
    masks = {"all": np.ones(len(gain), bool)} | tags
    found = with_intervals({tag: (gain * has, has) for tag, has in masks.items()}, table_a["image_id"], num_draws)
    found["n"] = [int(has.sum()) for has in masks.values()]
    return pd.concat([found.iloc[:1], found.iloc[1:].sort_values("value", kind="stable")])


def aligned(table_a: pd.DataFrame, table_b: pd.DataFrame) -> pd.DataFrame:
    """`table_b` in the order of `table_a`."""
    magnet.compare(table_a, table_b, num_draws=0)  # its checks
    return table_b.set_index("sent_id").loc[table_a["sent_id"]].reset_index()
