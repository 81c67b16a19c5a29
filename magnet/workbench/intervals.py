"""Ratios of sums with their 95 % intervals over pictures, as one table."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from magnet.statistics import bootstrap, interval


def with_intervals(
    ratios: Mapping[str, tuple[np.ndarray, np.ndarray]], image_ids: pd.Series, num_draws: int = 10_000
) -> pd.DataFrame:
    """One row for each ratio: value, low, high (percent) and n, the number of rows; pictures are resampled.

    Args: ratios: name -> (numerator, denominator), each (N,); image_ids: (N,), the picture of each row.
    A ratio is NaN where its denominator sums to 0; the interval is NaN, with a warning, where there is one picture.
    """
    terms = [(np.asarray(top, float), np.asarray(bottom, float)) for top, bottom in ratios.values()]
    with np.errstate(invalid="ignore", divide="ignore"):
        values = [100 * top.sum() / bottom.sum() for top, bottom in terms]
    low, high = interval(bootstrap(image_ids, terms, num_draws))
    columns = {"value": values, "low": low, "high": high, "n": len(image_ids)}
    return pd.DataFrame(columns, index=list(ratios))
