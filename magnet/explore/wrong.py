"""Which sentences go wrong more often than the others, and in which way?

wrong_by_tag(failures.table)                                                    # points, with 95 % intervals
kinds_by(failures.table, pd.cut(failures.table["num_words"], 3), ["merged"])    # percent of each group
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from magnet.explore.filters import distinct, tag_masks
from magnet.statistics import bootstrap, interval
from magnet.workbench.intervals import with_intervals

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
    usable = {tag: has for tag, has in distinct(tag_masks(table)).items() if FEWEST <= has.sum() <= len(has) - FEWEST}
    rows = {tag: _difference(wrong, has, table["image_id"], num_draws) for tag, has in usable.items()}
    columns = ["value", "low", "high", "with_tag", "without", "n"]
    found = pd.DataFrame.from_dict(rows, orient="index", columns=columns)
    return found.sort_values("value", ascending=False, kind="stable")


def kinds_by(
    table: pd.DataFrame, groups: pd.Series, kinds: Sequence[str], num_draws: int = 10_000
) -> dict[str, pd.DataFrame]:
    """How often each kind of error comes in each group of sentences: kind -> value, low, high (percent of the group's
    sentences, 95 % intervals over pictures) and n (sentences), a row a group.

    Args: table: with error, of `read_failures`; groups: (N,), categories, whose order the rows have.
    """
    there = {group: groups == group for group in groups.cat.categories if (groups == group).any()}
    found = {}
    for kind in kinds:
        ratios = {group: (has & (table["error"] == kind), has) for group, has in there.items()}
        found[kind] = with_intervals(ratios, table["image_id"], num_draws)
        found[kind]["n"] = [int(has.sum()) for has in there.values()]
    return found


def _difference(wrong: np.ndarray, has: np.ndarray, image_ids: pd.Series, num_draws: int) -> tuple:
    terms = [(wrong * part, part.astype(float)) for part in (has, ~has)]
    with_tag, without = (100 * top.sum() / bottom.sum() for top, bottom in terms)
    draws = bootstrap(image_ids, terms, num_draws)
    (low,), (high,) = interval(draws[:, :1] - draws[:, 1:])
    return with_tag - without, low, high, with_tag, without, int(has.sum())
