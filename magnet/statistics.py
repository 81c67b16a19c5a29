"""Numbers with their uncertainty: summaries and paired differences, by resampling images.

The expressions of one image share its difficulty, so images are drawn, with replacement, not expressions. Every
metric is a ratio of two sums over expressions; a draw only needs each image's sums and how often it was drawn.
"""

import warnings
from collections.abc import Iterator

import numpy as np
import pandas as pd

from magnet.metrics import ratios

LEVEL = 0.95  # of every interval
CHUNK = 500  # draws at once: a few MB, so it stays in the processor's cache


def summarize(
    table: pd.DataFrame, groups: str | list[str] | None = None, num_draws: int = 10_000, seed: int = 0
) -> dict[str, float] | pd.DataFrame:
    """oIoU, mIoU, P@0.5 ... P@0.9 in percent, each with `_low` and `_high`, and "n", the number of expressions.

    Intervals are 95 % percentile intervals over `num_draws` resamples of the images; NaN, with a warning, where there
    is one image only; `num_draws=0` leaves them NaN. Under `gres`, oIoU is the cIoU and mIoU the gIoU of its tables,
    and N-acc and T-acc join.

    Args:
        table: results of `evaluate` or `score`; attrs["protocol"] decides between ≥ and > in P@X.
        groups: column or columns: a DataFrame with one row per group instead of a dict.
    Raises ValueError for a table without rows or without a needed column.
    """
    _check(table, [groups] if isinstance(groups, str) else groups or [])
    if groups is None:
        return _summary(table, num_draws, seed)
    parts = table.groupby(groups, dropna=False, observed=True).indices
    rows = {key: _summary(table.iloc[index], num_draws, seed) for key, index in parts.items()}
    summary = pd.DataFrame.from_dict(rows, orient="index")
    return summary.rename_axis([groups] if isinstance(groups, str) else groups)


def compare(table_a: pd.DataFrame, table_b: pd.DataFrame, num_draws: int = 10_000, seed: int = 0) -> pd.DataFrame:
    """Two results on the same expressions: metric, a, b, difference = a - b, low, high (percent), and n.

    Paired on sent_id; both sides of a draw use the same images, so what is hard for both cancels.
    Raises ValueError where expressions, truth or protocol differ.
    """
    for table in (table_a, table_b):
        _check(table, ["sent_id"])
    table_a, table_b = _paired(table_a, table_b)
    metrics_a, metrics_b = ratios(table_a), ratios(table_b)
    draws = bootstrap(table_a["image_id"], [*metrics_a.values(), *metrics_b.values()], num_draws, seed)
    draws_a, draws_b = np.split(draws, 2, axis=1)
    low, high = interval(draws_a - draws_b)
    a, b = _values(metrics_a), _values(metrics_b)
    columns = {"metric": list(metrics_a), "a": a, "b": b, "difference": a - b, "low": low, "high": high}
    return pd.DataFrame({**columns, "n": len(table_a)})


def bootstrap(
    image_ids: pd.Series, terms: list[tuple[np.ndarray, np.ndarray]], num_draws: int = 10_000, seed: int = 0
) -> np.ndarray:
    """Resampled values, percent (num_draws, K), of K ratios of sums.

    Args:
        image_ids: (N,), the image of each row.
        terms: K pairs (numerator, denominator), each (N,) float.
    """
    images, position = np.unique(np.asarray(image_ids), return_inverse=True)
    if len(images) == 1 and num_draws:
        warnings.warn("one image only: intervals need at least two and are NaN", stacklevel=4)
        return np.full((num_draws, len(terms)), np.nan)
    columns = [column for pair in terms for column in pair]
    sums = np.stack([np.bincount(position, column) for column in columns], axis=1)  # (M, 2K)
    chunks = [counts @ sums for counts in image_counts(len(images), num_draws, seed)]
    totals = np.concatenate([np.empty((0, sums.shape[1])), *chunks])
    return _percent(totals[:, 0::2], totals[:, 1::2])


def interval(draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Low and high end (K,) of the 95 % percentile interval of each of K values over draws (num_draws, K); NaN without
    draws."""
    if not len(draws):
        return np.full((2, draws.shape[1]), np.nan)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN slice")
        low, high = np.nanquantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return low, high


def image_counts(num_images: int, num_draws: int, seed: int) -> Iterator[np.ndarray]:
    """How often each image is in each draw: float64 (up to CHUNK, num_images) at a time, rows sum to num_images."""
    generator = np.random.default_rng(seed)
    for start in range(0, num_draws, CHUNK):
        shape = min(CHUNK, num_draws - start), num_images
        drawn = generator.integers(num_images, size=shape) + num_images * np.arange(shape[0])[:, None]
        yield np.bincount(drawn.ravel(), minlength=shape[0] * num_images).reshape(shape).astype(float)


def _summary(table: pd.DataFrame, num_draws: int, seed: int) -> dict[str, float]:
    metrics = ratios(table)
    low, high = interval(bootstrap(table["image_id"], list(metrics.values()), num_draws, seed))
    columns = {"": _values(metrics), "_low": low, "_high": high}
    summary = {name + end: float(column[i]) for i, name in enumerate(metrics) for end, column in columns.items()}
    return summary | {"n": len(table)}


def _values(metrics: dict) -> np.ndarray:
    return np.array([_percent(top.sum(), bottom.sum()) for top, bottom in metrics.values()])


def _percent(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):  # nothing to count, as N-acc without a no-target expression: NaN
        return 100 * np.asarray(top) / bottom


def _check(table: pd.DataFrame, columns: list[str]) -> None:
    missing = [name for name in ("image_id", "I", "U", "iou", *columns) if name not in table]
    if missing:
        raise ValueError(f"the results table has no column {', '.join(missing)}; it has {', '.join(table.columns)}")
    if table.empty:
        raise ValueError("the results table has no rows: nothing to summarise")


def _paired(table_a: pd.DataFrame, table_b: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Both tables in one order, or ValueError naming what keeps them from being compared."""
    protocols = [table.attrs.get("protocol", "original") for table in (table_a, table_b)]
    if protocols[0] != protocols[1]:
        raise ValueError(f"a was scored under {protocols[0]!r}, b under {protocols[1]!r}; evaluate both under one")
    for name, own, other in (("a", table_a, table_b), ("b", table_b, table_a)):
        check_ids(name, own["sent_id"], other["sent_id"])
    pair = [table.iloc[table["sent_id"].argsort()].reset_index(drop=True) for table in (table_a, table_b)]
    for column in {"image_id", "area"} & set(table_a) & set(table_b):
        differs = (pair[0][column] != pair[1][column]).to_numpy()
        if differs.any():
            first = pair[0]["sent_id"][differs].head().tolist()
            raise ValueError(f"the truth differs: another {column} for sent_id {first}; score both on the same data")
    return pair[0], pair[1]


def check_ids(name: str, own: pd.Series, other: pd.Series) -> None:
    """ValueError where the sent_ids of the table `name` come twice, or lack some of the other table's."""
    twice = own[own.duplicated()]
    if len(twice):
        raise ValueError(f"{name} holds {len(twice)} expressions twice, first sent_id {twice.head().tolist()}")
    missing = sorted(set(other) - set(own))
    if missing:
        raise ValueError(f"{name} lacks {len(missing)} expressions of the other table, first sent_id {missing[:5]}")
