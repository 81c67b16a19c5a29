"""Which sentences go wrong more often than the others?

wrong_by_tag(failures.table)                         # points, with 95 % intervals over pictures
difference_bars(wrong_by_tag(failures.table), "with the tag", "without", "wrong answers")
"""

import numpy as np
import pandas as pd

from magnet.explore.filters import tag_masks
from magnet.statistics import bootstrap, interval

FEWEST = 20  # sentences with and without a tag, below which nothing can be said


def wrong_by_tag(table: pd.DataFrame, num_draws: int = 10_000) -> pd.DataFrame:
    """The share of wrong answers among sentences with a tag less that among those without, the largest first.

    value, low, high (points, 95 % interval over pictures); with_tag, without (percent); n (sentences with the tag).
    Tags that fewer than 20 sentences have, or lack, are left out; of two that the same sentences have, one is. Each
    interval is that of one tag: of twenty tags without a difference, about one excludes 0 by chance. And tags overlap,
    so one may stand in for another.
    Args: table: with error, of `read_failures`.
    """
    wrong = (table["error"] != "right").to_numpy(float)
    rows = {tag: _difference(wrong, has, table["image_id"], num_draws) for tag, has in _usable(table).items()}
    columns = ["value", "low", "high", "with_tag", "without", "n"]
    found = pd.DataFrame.from_dict(rows, orient="index", columns=columns)
    return found.sort_values("value", ascending=False, kind="stable")


def _usable(table: pd.DataFrame) -> dict[str, np.ndarray]:
    masks = {tag: has for tag, has in tag_masks(table).items() if FEWEST <= has.sum() <= len(has) - FEWEST}
    same = {has.tobytes(): tag for tag, has in reversed(masks.items())}  # "ordinal" and "kind: ordinal": the first
    return {tag: has for tag, has in masks.items() if tag in same.values()}


def _difference(wrong: np.ndarray, has: np.ndarray, image_ids: pd.Series, num_draws: int) -> tuple:
    terms = [(wrong * part, part.astype(float)) for part in (has, ~has)]
    with_tag, without = (100 * top.sum() / bottom.sum() for top, bottom in terms)
    draws = bootstrap(image_ids, terms, num_draws)
    (low,), (high,) = interval(draws[:, :1] - draws[:, 1:])
    return with_tag - without, low, high, with_tag, without, int(has.sum())
